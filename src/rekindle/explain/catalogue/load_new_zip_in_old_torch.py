"""The file was saved by PyTorch 1.6 or later and is read by an earlier one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, named, stem_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-20", "load-new-zip-in-old-torch", "0.2"
TITLE = "model.pth is a zip archive (did you mean to use torch.jit.load()?)"
RAISES = ("RuntimeError",)
NEEDLES = (
    "is a zip archive (did you mean",
    "kMaxSupportedFileFormatVersion",
    "Attempted to read a PyTorch file with version",
)
PATTERNS = (
    r"(?P<path>[^\s:]{1,300}) is a zip archive \(did you mean to use torch\.jit\.load\(\)\?\)",
    r"Attempted to read a PyTorch file with version (?P<version>\d+), but the maximum supported version for reading is (?P<most>\d+)",
    r"kMaxSupportedFileFormatVersion INTERNAL ASSERT FAILED",
)
OLD = (
    "RuntimeError: model.pth is a zip archive (did you mean to use torch.jit.load()?)",
    (
        "RuntimeError: version_ <= kMaxSupportedFileFormatVersion INTERNAL ASSERT FAILED at"
        " /pytorch/caffe2/serialize/inline_container.cc:132, please report a bug to PyTorch."
    ),
)
WHY = (
    "Since 1.6 `torch.save` writes a zip archive; earlier releases read only the stream they wrote themselves and take a"
    " zip for TorchScript. What the file is called (`.pth.tar`) does not matter."
)
CHECK = "`rekindle inspect FILE` says `torch-zip` and which torch wrote it; `python -c 'import torch; print(torch.__version__)'`."


def explain(event: Event) -> Iterator[Cause]:
    """The two versions of the format where the message has them."""
    path = event.facts.get("path", "")
    known = path if path and path != "PytorchStreamReader" else ""
    file = shlex.quote(known) if known else checkpoint_of(event)
    stem = "old" if known or stem_of(event) == "new" else f"{stem_of(event)}.old"
    versions = (
        f" (version {event.facts['version']}, this reader knows {event.facts['most']})"
        if "version" in event.facts
        else ""
    )
    yield Cause(
        CODE,
        NAME,
        what=f"{known or named(event)} was saved by a newer PyTorch than this one{versions}",
        why="PyTorch changed its container to a zip archive in 1.6; earlier releases cannot read it",
        fix=(
            f"rekindle convert --legacy {file} {stem}.pth   # writes the container that torch before 1.6 reads",
            "pip install --upgrade torch",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

torch.load("model.pth")
"""
MENDED = """
import torch

torch.save({"weight": torch.zeros(2)}, "model.pth", _use_new_zipfile_serialization=False)
torch.load("model.pth")
"""
REQUIRES = ("old torch",)
MESSAGE = (
    "RuntimeError: version_ <= kMaxSupportedFileFormatVersion INTERNAL ASSERT FAILED at"
    " /pytorch/caffe2/serialize/inline_container.cc:132, please report a bug to PyTorch. Attempted to read a PyTorch file"
    " with version 3, but the maximum supported version for reading is 2. Your PyTorch installation may be too old."
)
