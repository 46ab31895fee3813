"""The model is wrapped; its attributes live one level down."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-01", "dp-attribute", "0.2"
TITLE = "AttributeError: 'DataParallel' object has no attribute 'linear'"
RAISES = ("AttributeError", "ModuleAttributeError")
NEEDLES = (
    "'DataParallel' object has no attribute",
    "'DistributedDataParallel' object has no attribute",
    "'FullyShardedDataParallel' object has no attribute",
)
PATTERNS = (
    r"'(?P<wrapper>DataParallel|DistributedDataParallel|FullyShardedDataParallel)' object has no attribute '(?P<name>\w+)'",
)
OLD = ("torch.nn.modules.module.ModuleAttributeError: 'DataParallel' object has no attribute 'fc'",)
WHY = "`DataParallel` and `DistributedDataParallel` hold the model as their child `module` and pass on the call, not the attributes. Own methods and layers are reached through `.module`."
CHECK = "`type(model)`; the attribute exists on `model.module`."


def explain(event: Event) -> Iterator[Cause]:
    """The user's own variable, where the line that failed shows it."""
    wrapper, name = event.facts["wrapper"], event.facts["name"]
    found = re.search(rf"([A-Za-z_][\w.]*?)\.{name}\b", code_of(event))
    variable = found[1] if found else "model"
    yield Cause(
        CODE,
        NAME,
        what=f"{name} was asked of the wrapper {wrapper}, not of the model in it",
        why=f"{wrapper} holds the model as its child module; attributes and methods of the model are not passed on",
        fix=(
            f"{variable}.module.{name}   # of the model inside",
            f'plain = {variable}.module if hasattr({variable}, "module") else {variable}   # for code that runs with and without the wrapper',
        ),
        likelihood="certain",
    )


EXAMPLE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

net = nn.DataParallel(Net())
print(net.linear.weight.shape)
"""
MENDED = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

net = nn.DataParallel(Net())
print(net.module.linear.weight.shape)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
