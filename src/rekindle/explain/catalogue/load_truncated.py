"""The file ends before its end, or its bytes were changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rekindle.explain.catalogue._files import (
    asked,
    bytes_of,
    checkpoint_of,
    is_buffer,
    is_loading,
    named,
    really,
    stem_of,
)
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-16", "load-truncated", "0.2"
TITLE = "PytorchStreamReader failed reading zip archive: failed finding central directory"
RAISES = ("RuntimeError", "OSError", "EOFError", "UnpicklingError", "BadZipFile", "SafetensorError")
NEEDLES = (
    "failed reading zip archive",
    "unexpected EOF",
    "pickle data was truncated",
    "storage has wrong size",
    "is not a zip file",
    "Errno 22] Invalid argument",
    "file not fully covered",
    "MetadataIncompleteBuffer",
    "EOFError",
)
PATTERNS = (
    r"PytorchStreamReader failed reading (?:zip archive|file)[^:\n]*: (?P<zip>[^\n.]+)",
    r"unexpected EOF(?:, expected (?P<more>\d+) more bytes)?",
    r"UnpicklingError: (?P<pickle>pickle data was truncated)",
    r"storage has wrong size: expected (?P<wanted>-?\d+) got (?P<got>\d+)",
    r"BadZipFile: (?P<bad>File is not a zip file)",
    r"(?P<safetensors>incomplete metadata, file not fully covered|MetadataIncompleteBuffer)",
    r"OSError: (?P<os>\[Errno 22\] Invalid argument)$",
    r"^(?P<eof>EOFError)(?:: Ran out of input)?$",
)
OLD = (
    "RuntimeError: unexpected EOF. The file might be corrupted.",
    "RuntimeError: unexpected EOF, expected 1046528 more bytes. The file might be corrupted.",
    (
        "RuntimeError: [enforce fail at inline_container.cc:145] . PytorchStreamReader failed reading zip archive: failed"
        " finding central directory"
    ),
    "RuntimeError: storage has wrong size: expected 0 got 64",
)
WHY = (
    "A download or a copy that stopped early, a disk that filled up, or a job that was killed while it was saving leave a"
    " file whose end is missing. The zip container keeps its list of contents at the end, so that nothing is found even"
    " when nearly all of the tensors are there. `weights_only=False` changes nothing here."
)
CHECK = (
    "`rekindle doctor FILE` says where the file ends and what is missing; `rekindle verify FILE` compares every checksum."
    " Compare its size with the source's."
)


def explain(event: Event) -> Iterator[Cause]:
    """How many bytes are missing, and the tools that save what is there."""
    facts = defaultdict(str, event.facts)
    vague = facts["os"] or facts["eof"] or facts["bad"]
    if vague and (not is_loading(event) or (facts["eof"] and (is_buffer(event) or bytes_of(event) == 0))):
        return
    file, stem = checkpoint_of(event), stem_of(event)
    name = named(event)
    if facts["more"]:
        what = f"{name} ends at least {int(facts['more']):,} bytes too early"
    elif "central directory" in facts["zip"]:
        what = f"{name} has no directory at its end: the archive is cut short"
    elif facts["zip"]:
        what = f"the archive {name} is damaged: {facts['zip']}".replace("the archive the file", "the archive")
    else:
        what = f"{name} is cut short or damaged"
    size = bytes_of(event)
    yield Cause(
        CODE,
        NAME,
        what=what + (f" ({size:,} bytes are there)" if size else ""),
        why="a download or copy stopped early, the disk was full, or the job was killed while it saved" + really(event),
        fix=(
            *_commands(event, file, stem),
            "copy or download it again and compare the size; for a run, take its checkpoint before this one",
        ),
        likelihood="possible" if facts["eof"] and not size else "certain",
    )


def _commands(event: Event, file: str, stem: str) -> tuple[str, ...]:
    """Return the commands that help with this very file where it is at hand; else those that help with most."""
    found = asked(event)
    if found is not None and found.findings:
        return found.commands
    return (
        f"rekindle salvage {file} -o {stem}.rescued.safetensors   # every tensor that is whole",
        f"rekindle doctor {file}   # what is missing, and where",
    )


EXAMPLE = """
import torch

torch.save({"weight": torch.zeros(100_000)}, "net.pt")
with open("net.pt", "rb+") as file:  # a copy that stops half way
    file.truncate(200_000)
torch.load("net.pt")
"""
MENDED = """
import torch

torch.save({"weight": torch.zeros(100_000)}, "net.pt")
torch.load("net.pt")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
