"""The file was saved with a newer pickle protocol than weights_only=True reads."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, danger_of, named, stem_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-40", "load-pickle-protocol", "0.2"
TITLE = "Weights only load failed. WeightsUnpickler error: Unsupported operand 149"
RAISES = ("UnpicklingError",)
NEEDLES = ("Unsupported operand 149", "unsupported pickle protocol: ")
PATTERNS = (r"Unsupported operand (?P<operand>149)\b", r"unsupported pickle protocol: (?P<protocol>\d+)")
OLD: tuple[str, ...] = ()
WHY = (
    "torch writes pickles of protocol 2, and its restricted reader (`weights_only=True`, the default since 2.6) knows the"
    " instructions of that one. A file of `torch.save(..., pickle_protocol=4)` begins with an instruction of protocol 4,"
    " which has the number 149. So does a file of `pickle.dump`, which is no file of torch at all."
)
CHECK = "`rekindle inspect FILE` says `torch-zip` for a checkpoint and `pickle` for a file of `pickle.dump`, and reads both."


def explain(event: Event) -> Iterator[Cause]:
    """One cause, two kinds of file, and one command that reads both."""
    file, stem = checkpoint_of(event), stem_of(event)
    protocol = event.facts.get("protocol") or "4 or 5"
    yield Cause(
        CODE,
        NAME,
        what=f"{named(event)} is a pickle of protocol {protocol}, and torch.load reads protocol 2 by default",
        why="it was saved with pickle_protocol=4 or later, or by pickle.dump; the restricted reader does not know its instructions",
        fix=(
            f"rekindle convert {file} {stem}.new.pth --data-only   # the same content as torch writes it; runs nothing of the file",
            "torch.save(state, path)   # where it is written: without pickle_protocol=",
            *(
                ()
                if danger_of(event)
                else ("torch.load(..., weights_only=False)   # runs code from the file: only if you know who made it",)
            ),
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

torch.save({"weight": torch.zeros(2)}, "model.pth", pickle_protocol=4)
torch.load("model.pth")
"""
MENDED = """
import torch

torch.save({"weight": torch.zeros(2)}, "model.pth")
torch.load("model.pth")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
