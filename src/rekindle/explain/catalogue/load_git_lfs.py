"""The file is a pointer of Git LFS: the text that stands in for the file in a clone."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import bytes_of, checkpoint_of, named, really
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-18", "load-git-lfs", "0.2"
TITLE = "UnpicklingError: invalid load key, 'v'. / WeightsUnpickler error: Unsupported operand 118"
RAISES = ("UnpicklingError",)
NEEDLES = ("invalid load key, 'v'", "Unsupported operand 118")
PATTERNS = (r"invalid load key, 'v'", r"Unsupported operand 118\b")
OLD = ("_pickle.UnpicklingError: invalid load key, 'v'.",)
WHY = (
    "Large files of a repository are kept outside of it, and a clone made without Git LFS holds a pointer of three lines in"
    " their place: `version https://git-lfs...`, a digest, a size. `torch.load` takes its first letter for an instruction"
    " of pickle; 118 is `v`."
)
CHECK = "`rekindle doctor FILE` says so and how large the real file is; the pointer has about 130 bytes."


def explain(event: Event) -> Iterator[Cause]:
    """One cause: `v` begins no pickle."""
    size = bytes_of(event)
    yield Cause(
        CODE,
        NAME,
        what=f"{named(event)} is a Git LFS pointer, not the checkpoint"
        + (f" ({size:,} bytes)" if size is not None else ""),
        why="the repository was cloned or downloaded without Git LFS; the text begins with 'version', and no checkpoint"
        " begins with 'v'" + really(event),
        fix=(
            "git lfs install && git lfs pull   # in the clone",
            f"rekindle doctor {checkpoint_of(event)}   # how large the real file is, and its digest",
        ),
        likelihood="certain" if size is None or size < 1024 else "possible",
    )


EXAMPLE = """
import torch

with open("model.pth", "w") as file:
    file.write("version https://git-lfs.github.com/spec/v1\\noid sha256:4d7a\\nsize 12345\\n")
torch.load("model.pth")
"""
MENDED = """
import torch

torch.save({"weight": torch.zeros(2)}, "model.pth")
torch.load("model.pth")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
