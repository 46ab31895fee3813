"""The call and forward disagree about the arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import called, code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-05", "module-forward-arguments", "0.2"
TITLE = "TypeError: Net.forward() missing 1 required positional argument: 'mask'"
RAISES = ("TypeError",)
NEEDLES = ("forward() missing", "forward() takes", "forward() got")
PATTERNS = (
    r"(?:\b(?P<kind>\w{1,60})\.)?\bforward\(\) missing \d+ required (?:positional|keyword-only) arguments?: (?P<missing>[^\n]{1,300})",
    r"(?:\b(?P<kind>\w{1,60})\.)?\bforward\(\) takes (?P<takes>\d+|from \d+ to \d+) positional arguments? but (?P<given>\d+) (?:was|were) given",
    r"(?:\b(?P<kind>\w{1,60})\.)?\bforward\(\) got an unexpected keyword argument '(?P<keyword>\w+)'",
    r"(?:\b(?P<kind>\w{1,60})\.)?\bforward\(\) got multiple values for argument '(?P<twice>\w+)'",
)
OLD = (
    "TypeError: forward() missing 1 required positional argument: 'mask'",
    "TypeError: forward() takes 2 positional arguments but 3 were given",
)
WHY = "`model(a, b)` calls `forward(self, a, b)`. It wants an argument that the call does not give, gets one too many, or `forward` has no `self`. Inside `nn.Sequential` every layer gets exactly one argument: the output of the one before."
CHECK = "The line `def forward(...)` of the class that the message names, beside the call."


def explain(event: Event) -> Iterator[Cause]:
    """The class, what is missing or too many; `self` where that is it."""
    facts = event.facts
    kind = facts.get("kind", "")
    who = f"{kind}.forward" if kind else "forward"
    module = called(event.live.module, "") if event.live and event.live.module else ""
    code = code_of(event)
    if event.frames and _OWN.search(code) and not any("torch" in frame.path for frame in event.frames):
        return  # a function of the user's own that is called forward
    fix: tuple[str, ...]
    if facts.get("missing"):
        names = facts["missing"].replace("'", "").replace(" and ", ", ").strip()
        what, why = (
            f"{who} wants {names}, which the call does not give",
            "the call gives fewer arguments than forward names",
        )
        fix = (
            f"model(x, {names})   # what forward names, in its order",
            f"def forward(self, x, {names.split(',')[0]}=None):   # if it may be left out",
        )
        if module and "Sequential" in module + "".join(fact.kind for fact in event.live.modules if event.live):  # type: ignore[union-attr] # live where module is
            why = "inside nn.Sequential every layer gets one argument, the output of the one before"
    elif facts.get("takes"):
        takes = int(facts["takes"].rpartition(" ")[2]) - 1
        given = int(facts["given"]) - 1
        if takes == 0:
            what, why = (
                f"{who} takes no input, the call gives {given}",
                "def forward(x) without self takes the module itself as x; def forward(self) takes nothing",
            )
            fix = ("def forward(self, x):   # self first",)
        else:
            what = f"{who} takes {takes} {'argument' if takes == 1 else 'arguments'}, the call gives {given}"
            why = "a batch that was unpacked with *, a mask or a hidden state that this layer does not take, or another layer than was meant"
            fix = (f"{code or 'model(...)'}   # give {takes}", "print(model)   # is it the layer that was meant")
    elif facts.get("twice"):
        what, why = f"{who} gets {facts['twice']} twice", "by its place and by its name"
        fix = (f"leave out {facts['twice']}=   # or give all of them by name",)
    else:
        keyword = facts["keyword"]
        what, why = (
            f"{who} has no argument {keyword}",
            "the model is of another class, wrapped, or of another version than the caller thinks",
        )
        fix = (
            f"model(..., )   # without {keyword}=",
            "import inspect; print(inspect.signature(model.forward))   # what it takes",
        )
        if keyword in {"labels", "input_ids", "attention_mask", "token_type_ids", "return_dict"}:
            fix = (f'batch.pop("{keyword}", None)   # before model(**batch)', *fix[1:])
    yield Cause(
        CODE,
        NAME,
        what=what,
        why=why,
        fix=fix,
        likelihood="certain" if not event.frames or any("torch" in frame.path for frame in event.frames) else "likely",
    )


_OWN = re.compile(r"(?<![\w.])forward\(")

EXAMPLE = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x, mask):
        return x * mask

Net()(torch.ones(1))
"""
MENDED = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x, mask):
        return x * mask

Net()(torch.ones(1), torch.ones(1))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
