"""The file names a class or function that `torch.load` refuses since its default is weights_only=True."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.checks._allowing import allowing_line, is_dangerous
from rekindle.explain.catalogue._files import asked, checkpoint_of, danger_of, stem_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-01", "load-weights-only-global", "0.2"
TITLE = "Weights only load failed. WeightsUnpickler error: Unsupported global: GLOBAL __main__.Net was not an allowed global"
RAISES = ("UnpicklingError",)
NEEDLES = ("Unsupported global: GLOBAL", "unsupported GLOBAL", "Unsupported class ")
PATTERNS = (
    r"Unsupported global: GLOBAL (?P<name>[\w.]+)",
    r"Trying to load unsupported GLOBAL (?P<blocked>[\w.]+) whose module",
    r"Unsupported class (?P<name>[\w.]+)",
)
OLD = (
    (
        "_pickle.UnpicklingError: Weights only load failed. Re-running `torch.load` with `weights_only` set to `False` will"
        " likely succeed, but it can result in arbitrary code execution.Do it only if you get the file from a trusted source."
        " WeightsUnpickler error: Unsupported global: GLOBAL __main__.Net was not an allowed global by default."
    ),
    "_pickle.UnpicklingError: Weights only load failed. Unsupported class __main__.Net",
)
WHY = (
    "A checkpoint of `torch.save` is a pickle: a small program that may name any class or function of Python, which"
    " loading then imports and calls. Since torch 2.6 `torch.load` has `weights_only=True` as its default and takes"
    " tensors and plain values only; the first other name ends it. Mostly the whole model was saved"
    " (`torch.save(model, path)`) or a settings object lies beside the weights."
)
CHECK = (
    "`rekindle scan FILE` lists every class and function that the file names and says which are dangerous;"
    " `rekindle inspect FILE --tree` shows where they stand. Neither runs anything of the file."
)


def explain(event: Event) -> Iterator[Cause]:
    """The name that was refused; a dangerous one is called that, and never offered to be allowed."""
    name = event.facts.get("name", "") or event.facts.get("blocked", "")
    module, _, last = name.rpartition(".")
    danger = danger_of(event)
    if module.startswith("numpy") and not danger:
        return  # load-weights-only-numpy
    file, stem = checkpoint_of(event), stem_of(event)
    found = asked(event)
    if danger or event.facts.get("blocked") or is_dangerous(module or "builtins", last):
        yield Cause(
            CODE,
            NAME,
            what=f"the file would run code while it loads: {danger}"
            if danger
            else f"the file would have called {name} while it loads",
            why="no weights need that: it is how a file runs commands on the machine that loads it; torch refused it, and"
            " weights_only=False would let it run",
            fix=(f"rekindle scan {file}   # what it would import and call, without loading it",),
            likelihood="certain",
        )
        return
    plain = f"rekindle convert {file} {stem}.weights.pth --data-only   # the tensors as plain data; runs nothing of the file"
    short = module.partition(".")[0]
    own = "a class of your own script" if short == "__main__" else f"a name of the package {short}"
    yield Cause(
        CODE,
        NAME,
        what=f"the file holds {name}, which torch.load refuses by default since torch 2.6",
        why=f"it was saved as a Python object ({own}), not as tensors alone; weights_only=True takes tensors and plain"
        " values only",
        fix=(
            next(iter(found.commands), plain) if found else plain,
            f"{allowing_line([name.removeprefix('__main__.')])}   # before torch.load: allows this one name, if you trust the file",
            "torch.load(..., weights_only=False)   # runs code from the file: only if you know who made it",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

torch.save(nn.Linear(2, 2), "model.pt")
model = torch.load("model.pt")
"""
MENDED = """
import torch
from torch import nn

torch.save(nn.Linear(2, 2).state_dict(), "model.pt")
model = nn.Linear(2, 2)
model.load_state_dict(torch.load("model.pt"))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
