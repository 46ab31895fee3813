"""All keys of the file have one more part in front than those of the model, or one less."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of
from rekindle.explain.catalogue._state_dicts import NEEDLES as LOADING
from rekindle.explain.catalogue._state_dicts import PATTERN, Refused, common_prefix, fault_of, refused_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-37", "load-lightning-prefix", "0.2"
TITLE = 'Missing key(s) in state_dict: "weight". Unexpected key(s) in state_dict: "model.weight"'
RAISES = ("RuntimeError",)
NEEDLES = LOADING
PATTERNS = (PATTERN,)
OLD: tuple[str, ...] = ()
WHY = (
    "A LightningModule (or any class around the network) holds the network as an attribute, and the names of its state dict"
    " begin with that attribute: `model.`, `net.`, `encoder.`. The network alone does not know that part. Lightning's file"
    " has the weights under `state_dict`, with hyper-parameters and optimizers beside it."
)
CHECK = "`rekindle doctor FILE` says whether Lightning wrote it; `rekindle inspect FILE` lists the keys."


def explain(event: Event) -> Iterator[Cause]:
    """The prefix of this file, taken from its own keys."""
    refused = refused_of(event)
    if fault_of(refused) != "prefix":
        return
    prefix = common_prefix(refused.unexpected, refused.missing)
    if not prefix:
        yield _inner(refused)
        return
    key = next(
        key for key in refused.unexpected if key.startswith(prefix) and key.removeprefix(prefix) in refused.missing
    )
    file = checkpoint_of(event)
    others = [key for key in refused.unexpected if not key.startswith(prefix)]
    kept = f' if key.startswith("{prefix}")' if others else ""
    yield Cause(
        CODE,
        NAME,
        what=f"the keys of the file begin with {prefix!r}, those of {refused.model or 'the model'} do not: {key}",
        why=f"the file was saved from a class that holds the network as its attribute {prefix[:-1]!r}, as a LightningModule does",
        fix=(
            f'state = {{key.removeprefix("{prefix}"): value for key, value in state.items(){kept}}}   # then load_state_dict(state)',
            f"rekindle doctor {file}   # for a file of Lightning: the line that takes the weights out under plain keys",
        ),
        likelihood="certain",
    )


def _inner(refused: Refused) -> Cause:
    """Explain the reverse: the file is of the network alone, and the model holds the network as an attribute."""
    prefix = common_prefix(refused.missing, refused.unexpected)
    key = next(key for key in refused.missing if key.removeprefix(prefix) in refused.unexpected)
    return Cause(
        CODE,
        NAME,
        what=f"the keys of {refused.model or 'the model'} begin with {prefix!r}, those of the file do not: {key} is wanted, {key.removeprefix(prefix)} is there",
        why=f"the file was saved from the network alone, and the model holds the network as its attribute {prefix[:-1]!r}",
        fix=(
            f"model.{prefix[:-1]}.load_state_dict(state)",
            f'state = {{"{prefix}" + key: value for key, value in state.items()}}   # or the names as the model has them',
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

class Lit(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)

torch.save({"state_dict": Lit().state_dict()}, "lit.ckpt")
nn.Linear(2, 2).load_state_dict(torch.load("lit.ckpt")["state_dict"])
"""
MENDED = """
import torch
from torch import nn

class Lit(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)

torch.save({"state_dict": Lit().state_dict()}, "lit.ckpt")
state = torch.load("lit.ckpt")["state_dict"]
nn.Linear(2, 2).load_state_dict({key.removeprefix("net."): value for key, value in state.items()})
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
