"""The object to be saved holds something that pickle cannot write."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import is_saving
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-31", "save-unpicklable", "0.2"
TITLE = "AttributeError: Can't pickle local object 'Net.__init__.<locals>.<lambda>'"
RAISES = ("AttributeError", "PicklingError", "TypeError")
NEEDLES = ("Can't pickle ", "cannot pickle '", "can't pickle ", "Can't get local object '")
PATTERNS = (
    r"Can't (?:pickle|get) local object '?(?P<name>[^'\n]{1,200})'?",
    r"Can't pickle (?P<name><[^\n]{1,200}>): (?:attribute lookup|it's not)",
    r"(?:cannot|can't) pickle '?(?P<kind>[\w.]+)'? objects?",
)
OLD = (
    "_pickle.PicklingError: Can't pickle <function <lambda> at 0x7f2c78902840>: attribute lookup <lambda> on __main__ failed",
    "AttributeError: Can't get local object 'make.<locals>.Net'",
)
WHY = (
    "`torch.save(model, path)` writes the whole object, with everything that hangs on it. Pickle writes functions and"
    " classes as a name to look up, so that a lambda or anything defined inside a function cannot be written; locks, open"
    " files, generators and loggers have no form on disk at all. The state dict has none of these."
)
CHECK = "`{name: type(value) for name, value in vars(model).items()}`: what hangs on the model beside its layers."


def explain(event: Event) -> Iterator[Cause]:
    """The thing that cannot be written, by the name the message has; only where something was saved."""
    if event.frames and not is_saving(event):
        return  # multiprocessing pickles too: workers of a DataLoader have an entry of their own
    name, kind = event.facts.get("name", ""), event.facts.get("kind", "")
    thing = f"{kind} object" if kind else name
    nature = (
        "a lambda"
        if "lambda" in name
        else "a class or function defined inside a function"
        if "<locals>" in name
        else ""
    )
    yield Cause(
        CODE,
        NAME,
        what=f"the object to save holds something that cannot be pickled: {thing}",
        why="torch.save(model) writes the whole object with all that hangs on it; "
        + (f"{nature} has no name that could be looked up when it is loaded" if nature else "this has no form on disk"),
        fix=(
            "torch.save(model.state_dict(), path)   # the tensors alone; the model comes from its class",
            *(("def act(x): ...   # or a function at the top of the module in its place",) if "lambda" in name else ()),
            *(("del model.attribute   # or take it off the object before saving, and put it back",) if kind else ()),
        ),
        likelihood="certain" if event.frames else "likely",
    )


EXAMPLE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.act = lambda x: x.relu()

torch.save(Net(), "net.pt")
"""
MENDED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.act = lambda x: x.relu()

torch.save(Net().state_dict(), "net.pt")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
