"""The optimizer has other parameters than the one that was saved."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-23", "load-optimizer-groups", "0.2"
TITLE = "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
RAISES = ("ValueError",)
NEEDLES = (
    "loaded state dict contains a parameter group",
    "loaded state dict has a different number of parameter groups",
)
PATTERNS = (
    r"loaded state dict contains a parameter group that (?P<size>doesn't match the size) of optimizer's group",
    r"loaded state dict has a different (?P<count>number) of parameter groups",
)
OLD: tuple[str, ...] = ()
WHY = (
    "An optimizer keeps its state by position: group by group, parameter by parameter. It fits only an optimizer with the"
    " same groups and the same number of parameters in each. A layer that was added, one that was frozen and left out, or"
    " other groups end here. The same number in another order is worse: it loads, and the state belongs to other"
    " parameters."
)
CHECK = "`[len(g['params']) for g in optimizer.param_groups]` against the same of the saved `state['param_groups']`."


def explain(event: Event) -> Iterator[Cause]:
    """Whether the groups differ in number or in size."""
    groups = bool(event.facts.get("count"))
    yield Cause(
        CODE,
        NAME,
        what="the saved optimizer has another number of "
        + ("parameter groups" if groups else "parameters in a group")
        + " than this one",
        why="the groups were made in another way than when it was saved"
        if groups
        else "a layer was added or removed, or parameters were frozen or unfrozen, since it was saved",
        fix=(
            "print([len(g['params']) for g in optimizer.param_groups], [len(g['params']) for g in state['param_groups']])",
            "build the model and the optimizer as they were when it was saved, load, and change them afterwards",
            "model.load_state_dict(...)   # if the change is meant: the weights alone; the optimizer starts anew, with a warm-up",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

body, head = nn.Linear(2, 2), nn.Linear(2, 2)
saved = torch.optim.Adam(body.parameters()).state_dict()

optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()])
optimizer.load_state_dict(saved)
"""
MENDED = """
import torch
from torch import nn

body, head = nn.Linear(2, 2), nn.Linear(2, 2)
saved = torch.optim.Adam(body.parameters()).state_dict()

optimizer = torch.optim.Adam(body.parameters())
optimizer.load_state_dict(saved)
optimizer.add_param_group({"params": list(head.parameters())})
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
