"""A learning rate schedule was given arguments that it no longer, or never, takes."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-32", "opt-scheduler-verbose", "0.2"
TITLE = "TypeError: ReduceLROnPlateau.__init__() got an unexpected keyword argument 'verbose'"
RAISES = ("TypeError", "ValueError")
NEEDLES = (
    "got an unexpected keyword argument 'verbose'",
    "is not an Optimizer",
    "must define either total_steps OR",
    "required positional argument: 'T_max'",
    "required positional argument: 'step_size'",
)
PATTERNS = (
    r"(?:(?P<name>\w{1,60})\.)?__init__\(\) got an unexpected keyword argument '(?P<verbose>verbose)'",
    r"^(?:TypeError: )?(?P<given>[\w.]{1,80}) is not an Optimizer",
    r"must define either (?P<total>total_steps) OR \(?epochs AND steps_per_epoch",
    r"(?P<name>\w{1,60})\.__init__\(\) missing 1 required positional argument: '(?P<missing>T_max|step_size)'",
)
OLD: tuple[str, ...] = ()
WHY = "`verbose` was deprecated in PyTorch 2.2 and taken away in 2.7; `scheduler.get_last_lr()` says what it printed. A schedule takes the optimizer, not the model, and must know how long it is to last."
CHECK = "`torch.__version__` and the first argument."
_SCHEDULES = {
    "StepLR",
    "MultiStepLR",
    "LambdaLR",
    "ReduceLROnPlateau",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "OneCycleLR",
    "CyclicLR",
    "LinearLR",
    "ConstantLR",
    "PolynomialLR",
    "SequentialLR",
    "MultiplicativeLR",
    "ChainedScheduler",
}


def explain(event: Event) -> Iterator[Cause]:
    """Which argument of which schedule."""
    fix: tuple[str, ...]
    facts = event.facts
    name = facts.get("name") or "the schedule"
    if facts.get("verbose"):
        if name not in _SCHEDULES and "LR(" not in code_of(event) and "lr_scheduler" not in code_of(event):
            return
        what = f"{name} no longer takes verbose"
        why = "it was deprecated in PyTorch 2.2 and taken away in 2.7"
        fix = (
            f"{name}(optimizer, ...)   # without verbose",
            "print(scheduler.get_last_lr())   # after scheduler.step()",
        )
    elif facts.get("given"):
        what = f"a schedule was given an object of the class {facts['given']} in place of an optimizer"
        why = "it changes the learning rates of an optimizer's groups"
        fix = ("torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)",)
    elif facts.get("total"):
        what = "OneCycleLR was not told how long it is to last"
        why = "its cycle has a fixed number of steps"
        fix = (
            "OneCycleLR(optimizer, max_lr=0.1, total_steps=epochs * len(loader))   # and scheduler.step() after each batch",
        )
    else:
        what = f"{name} was not given {facts['missing']}"
        why = "the length of its period has no default"
        fix = (
            f"{name}(optimizer, {facts['missing']}={'epochs' if facts['missing'] == 'T_max' else '30'})   # counted in calls of scheduler.step()",
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import torch
from torch import nn

optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3, verbose=True)
"""
MENDED = """
import torch
from torch import nn

optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
