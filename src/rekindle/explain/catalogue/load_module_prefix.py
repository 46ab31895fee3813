"""The keys of the file carry a wrapper's name (`module.`), those of the model do not, or the reverse."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, stem_of
from rekindle.explain.catalogue._state_dicts import Refused, fault_of, refused_of, wrapper_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event
from rekindle.keys import canonical_key

CODE, NAME, SINCE = "RK-LOAD-07", "load-module-prefix", "0.2"
TITLE = 'Missing key(s) in state_dict: "features.weight". Unexpected key(s) in state_dict: "module.features.weight"'
RAISES = ("RuntimeError", "KeyError")
NEEDLES = ("Error(s) in loading state_dict for", 'unexpected key "module.')
PATTERNS = (
    r"Error\(s\) in loading state_dict for (?P<model>[\w.]+):",
    r"unexpected key \"(?P<old>module\.[^\"\n]+)\" in state_dict",
)
OLD = ("KeyError: 'unexpected key \"module.conv1.weight\" in state_dict'",)
WHY = (
    "`DataParallel`, `DistributedDataParallel` and FSDP hold the model as a child, so that the wrapper's state dict has"
    " the child's name in front of every key: `module.fc.weight`. Saved from the wrapper and loaded into the plain model"
    " (or the reverse), every key is missing and every key is unexpected. Wrapping the new model too makes the message go"
    " away and leaves the next reader of the file with the same trouble."
)
CHECK = "`rekindle doctor FILE` says which wrapper's name the keys carry; `rekindle inspect FILE` lists them."

_WRAPPERS = {
    "module": "DataParallel or DistributedDataParallel",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "activation checkpointing",
}


def explain(event: Event) -> Iterator[Cause]:
    """Which side has the prefix, with one key of this case."""
    old = event.facts.get("old", "")
    refused = Refused("", (old.removeprefix("module."),), (old,), ()) if old else refused_of(event)
    if fault_of(refused) != "wrapper":
        return
    parts = wrapper_of(refused)
    file, stem = checkpoint_of(event), stem_of(event)
    wrapper = _WRAPPERS.get(parts[0], "a wrapper")
    missing = set(refused.missing)
    key = next((key for key in refused.unexpected if canonical_key(key) != key and canonical_key(key) in missing), "")
    model = refused.model or "the model"
    if key:
        prefix = f"{parts[0]}."
        yield Cause(
            CODE,
            NAME,
            what=f"the keys of the file carry {prefix!r}, those of {model} do not: {key} for {canonical_key(key)}",
            why=f"the state dict was taken from {wrapper}, not from the model inside it",
            fix=(
                f'torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "{prefix}")   # then load_state_dict(state)'
                if parts == ("module",)
                else f"rekindle doctor {file} --fix {stem}.plain.pth   # the weights under plain keys",
                f"rekindle convert {file} {stem}.plain.pth --strip {prefix}   # once, in the file",
                "torch.save(wrapped.module.state_dict(), path)   # where it is written",
            ),
            likelihood="certain",
        )
        return
    key = next(key for key in refused.missing if canonical_key(key) != key)
    yield Cause(
        CODE,
        NAME,
        what=f"the model is wrapped and the file is not: {key} is wanted, {canonical_key(key)} is there",
        why=f"load_state_dict was called on {wrapper}, whose keys have {parts[0]!r} in front; the file was saved from the"
        " plain model",
        fix=(
            f"model.{parts[0]}.load_state_dict(state)",
            "model.load_state_dict(state)   # before the model is wrapped",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Linear(2, 2)

parallel = nn.DataParallel(Net())
torch.save(parallel.state_dict(), "net.pt")
Net().load_state_dict(torch.load("net.pt"))
"""
MENDED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Linear(2, 2)

parallel = nn.DataParallel(Net())
torch.save(parallel.module.state_dict(), "net.pt")
Net().load_state_dict(torch.load("net.pt"))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
