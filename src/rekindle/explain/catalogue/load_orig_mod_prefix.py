"""The keys of the file carry the name that `torch.compile` puts in front (`_orig_mod.`)."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, stem_of
from rekindle.explain.catalogue._state_dicts import NEEDLES as LOADING
from rekindle.explain.catalogue._state_dicts import PATTERN, fault_of, refused_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-08", "load-orig-mod-prefix", "0.2"
TITLE = 'Missing key(s) in state_dict: "fc.weight". Unexpected key(s) in state_dict: "_orig_mod.fc.weight"'
RAISES = ("RuntimeError",)
NEEDLES = LOADING
PATTERNS = (PATTERN,)
OLD: tuple[str, ...] = ()
WHY = (
    "`torch.compile(model)` returns a module that holds the model under the name `_orig_mod`; its state dict therefore"
    " has `_orig_mod.` in front of every key. Under DDP `module.` comes too, in either order."
)
CHECK = "`rekindle doctor FILE` says which wrapper's name the keys carry; `rekindle inspect FILE` lists them."


def explain(event: Event) -> Iterator[Cause]:
    """Which side was compiled, with one key of this case."""
    refused = refused_of(event)
    if fault_of(refused) != "compiled":
        return
    file, stem = checkpoint_of(event), stem_of(event)
    key = next((key for key in refused.unexpected if "_orig_mod" in key.split(".")), "")
    if key:
        front = key.partition("_orig_mod.")[0] + "_orig_mod."
        yield Cause(
            CODE,
            NAME,
            what=f"the keys of the file carry '_orig_mod.', those of {refused.model or 'the model'} do not: {key}",
            why="the state dict was taken from the module that torch.compile returns, not from the model inside it",
            fix=(
                f'torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "{front}")   # then load_state_dict(state)',
                f"rekindle doctor {file} --fix {stem}.plain.pth   # once, in the file: the weights under plain keys",
                "model.compile()   # where it is written: compiles in place and leaves the keys alone",
            ),
            likelihood="certain",
        )
        return
    key = next(key for key in refused.missing if "_orig_mod" in key.split("."))
    yield Cause(
        CODE,
        NAME,
        what=f"the model is compiled and the file is of the plain model: {key} is wanted",
        why="torch.compile returns a module that holds the model as _orig_mod, and load_state_dict was called on that one",
        fix=(
            "model._orig_mod.load_state_dict(state)",
            "model.load_state_dict(state)   # before torch.compile(model)",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

compiled = torch.compile(nn.Linear(2, 2))
torch.save(compiled.state_dict(), "net.pt")
nn.Linear(2, 2).load_state_dict(torch.load("net.pt"))
"""
MENDED = """
import torch
from torch import nn

compiled = torch.compile(nn.Linear(2, 2))
torch.save(compiled._orig_mod.state_dict(), "net.pt")
nn.Linear(2, 2).load_state_dict(torch.load("net.pt"))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
