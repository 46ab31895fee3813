"""torch.jit.load was given a checkpoint that torch.save wrote."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-46", "load-jit-of-checkpoint", "0.2"
TITLE = "PytorchStreamReader failed locating file constants.pkl: file not found (torch.jit.load)"
RAISES = ("RuntimeError",)
NEEDLES = ("failed locating file constants.pkl", "file not found: archive/constants.pkl")
PATTERNS = (
    r"PytorchStreamReader failed locating file constants\.pkl",
    r"\[enforce fail at inline_container[^\n]{0,80}file not found: [\w-]{1,80}/constants\.pkl",
)
OLD = ("RuntimeError: [enforce fail at inline_container.cc:209] . file not found: archive/constants.pkl",)
WHY = "`torch.jit.load` and C++'s `torch::jit::load` read TorchScript: a model with its code. `torch.save(model.state_dict(), path)` writes weights alone, in a zip archive that looks the same from outside. The file is whole."
CHECK = "`rekindle inspect FILE` says which of both it is."


def explain(event: Event) -> Iterator[Cause]:
    """The file, and both ways on."""
    path = event.live.find_plain("f", function="load") if event.live else None
    file = path if isinstance(path, str) else "model.pt"
    name = "the file" if not isinstance(path, str) else file
    yield Cause(
        CODE,
        NAME,
        what=f"{name} is a checkpoint of torch.save, and torch.jit.load reads TorchScript",
        why="it holds tensors without a program; nothing is broken in it",
        fix=(
            f'model.load_state_dict(torch.load("{file}", weights_only=True))   # into a model of your code',
            f'torch.jit.script(model).save("{file.rpartition(".")[0] or file}.ts")   # makes the file that torch.jit.load and C++ read',
            f"rekindle inspect {file}   # what is in it",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

torch.save(nn.Linear(2, 2).state_dict(), "model.pt")
torch.jit.load("model.pt")
"""
MENDED = """
import torch
from torch import nn

torch.save(nn.Linear(2, 2).state_dict(), "model.pt")
model = nn.Linear(2, 2)
model.load_state_dict(torch.load("model.pt", weights_only=True))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
