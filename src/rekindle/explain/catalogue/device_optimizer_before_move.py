"""The optimizer holds other tensors than the model has now."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._devices import seen_devices
from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.catalogue._words import listed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-06", "device-optimizer-before-move", "0.2"
TITLE = "Expected all tensors to be on the same device, raised by optimizer.step()"
RAISES = ("RuntimeError",)
NEEDLES = ("Expected all tensors to be on the same device", "is on CPU, but expected", "expected device c")
PATTERNS = (
    r"Expected all tensors to be on the same device",
    r"is on CPU, but expected (?:it|them) to be on GPU",
    r"expected device [\w:]+ but got device [\w:]+",
)
OLD: tuple[str, ...] = ()
WHY = (
    "The optimizer keeps its own tensors beside the parameters: momentum, averages, steps. `optimizer.load_state_dict` puts"
    " them where the parameters are at that moment; a model that is moved afterwards takes its parameters along and not those."
    "\n\nA change of the model after the optimizer was built can go wrong without any message too: a replaced head,"
    " `load_state_dict(assign=True)`, a layer that was added. The new parameters are then not in the optimizer and are never"
    " trained. `.to(device)` alone keeps the parameters' identity and is harmless. `rekindle.check` finds both"
    " (`parameters-not-in-optimizer`, `optimizer-holds-dead-parameters`)."
)
CHECK = (
    '`{id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}`, and the devices'
    " in `optimizer.state.values()`."
)


def explain(event: Event) -> Iterator[Cause]:
    """Only where the optimizer's step failed."""
    if not is_in(event, "torch/optim/"):
        return
    behind = sorted({f"{fact.name} on {fact.device}" for fact in seen_devices(event)})
    seen = f" ({listed(behind)})" if behind else ""
    yield Cause(
        CODE,
        NAME,
        what=f"the optimizer's state is on another device than the parameters{seen}",
        why="the state was restored (or made) while the model was on another device, and model.to(device) does not move it",
        fix=(
            "model.to(device)   # first",
            "optimizer = torch.optim.AdamW(model.parameters())   # then build it, after the last change of the model",
            'optimizer.load_state_dict(state["optimizer"])   # then restore: it goes where the parameters are',
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Linear(2, 2)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
state = optimizer.state_dict()

optimizer.load_state_dict(state)
model.to("cuda")
optimizer.zero_grad()
model(torch.ones(1, 2, device="cuda")).sum().backward()
optimizer.step()
"""
MENDED = """
import torch
from torch import nn

model = nn.Linear(2, 2)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
state = optimizer.state_dict()

model.to("cuda")
optimizer.load_state_dict(state)
optimizer.zero_grad()
model(torch.ones(1, 2, device="cuda")).sum().backward()
optimizer.step()
"""
REQUIRES = ("cuda",)
MESSAGE = """Traceback (most recent call last):
  File "train.py", line 14, in <module>
    optimizer.step()
  File "/usr/lib/python3/site-packages/torch/optim/optimizer.py", line 517, in wrapper
    out = func(*args, **kwargs)
  File "/usr/lib/python3/site-packages/torch/optim/adam.py", line 520, in _single_tensor_adam
    exp_avg.lerp_(grad, 1 - device_beta1)
RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!
"""
