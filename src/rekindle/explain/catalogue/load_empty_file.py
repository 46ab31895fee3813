"""The file is empty, or the buffer was not wound back to its start."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import bytes_of, checkpoint_of, is_buffer, is_loading, named
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-19", "load-empty-file", "0.2"
TITLE = "EOFError: Ran out of input (torch.load)"
RAISES = ("EOFError", "SafetensorError")
NEEDLES = ("EOFError", "header too small", "HeaderTooSmall")
PATTERNS = (r"^(?P<eof>EOFError)(?:: Ran out of input)?$", r"(?P<small>header too small|HeaderTooSmall)")
OLD: tuple[str, ...] = ()
WHY = (
    "There was nothing to read. Either the file has no bytes (a save that died before its first byte, a full disk, a"
    " placeholder), or `torch.load` was given an open file or a buffer that stands at its end because it was just written."
    " An old checkpoint that is cut within its first bytes reads the same."
)
CHECK = "`os.path.getsize(path)`; for a buffer `buffer.tell()`."


def explain(event: Event) -> Iterator[Cause]:
    """The file's size and the kind of what was given decide, where they are known."""
    if not event.facts.get("small") and not is_loading(event):
        return
    if is_buffer(event):
        yield Cause(
            CODE,
            NAME,
            what="torch.load was given a buffer that stands at its end",
            why="after writing, the position is behind the last byte; reading begins where the position is",
            fix=("buffer.seek(0)   # before torch.load(buffer)",),
            likelihood="certain",
        )
        return
    size = bytes_of(event)
    if size:
        return  # cut short, not empty: load-truncated
    yield Cause(
        CODE,
        NAME,
        what=f"{named(event)} is empty"
        + ("" if size == 0 or event.facts.get("small") else ", or was read from its end"),
        why="the save stopped before its first byte (killed, or the disk was full); a buffer without seek(0) looks the same",
        fix=(
            f"rekindle doctor {checkpoint_of(event)}   # is it empty, and what else is there",
            "take the checkpoint before this one, or copy it again",
            *(
                ("buffer.seek(0)   # if torch.load was given a buffer",)
                if size is None and not event.facts.get("small")
                else ()
            ),
        ),
        likelihood="certain" if size == 0 else "likely",
    )


EXAMPLE = """
import torch

open("last.pt", "wb").close()
torch.load("last.pt")
"""
MENDED = """
import torch

torch.save({"weight": torch.zeros(2)}, "last.pt")
torch.load("last.pt")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
