"""Two names of the state dict are one tensor, which safetensors does not write."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._words import listed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-38", "st-shared-tensors", "0.2"
TITLE = "RuntimeError: Some tensors share memory, this will lead to duplicate memory on disk"
RAISES = ("RuntimeError",)
NEEDLES = ("Some tensors share memory",)
PATTERNS = (r"Some tensors share memory[^\[]{0,300}\[(?P<groups>[^\n]{0,5000})",)
OLD: tuple[str, ...] = ()
WHY = (
    "Tied weights (an output layer that is the embedding) are one tensor under two names. A safetensors file gives each name"
    " its own bytes and cannot say that two are one, so that its writer refuses rather than write them twice."
)
CHECK = (
    "`a.data_ptr() == b.data_ptr()` of the two names; `rekindle inspect FILE` of a torch file shows shared storages."
)

_GROUP = re.compile(r"\{([^{}]{1,2000})\}")
_NAME = re.compile(r"'([^']{1,300})'")


def explain(event: Event) -> Iterator[Cause]:
    """The names that are one tensor."""
    groups = [sorted(_NAME.findall(group)) for group in _GROUP.findall(event.facts["groups"])]
    names = groups[0] if groups and groups[0] else ["a", "b"]
    more = f", and {len(groups) - 1} more groups" if len(groups) > 1 else ""
    yield Cause(
        CODE,
        NAME,
        what=f"{' and '.join(names) if len(names) == 2 else listed(names)} are one tensor, and safetensors gives each name its own bytes{more}",
        why="the weights are tied in the model; a state dict lists them under both names",
        fix=(
            "safetensors.torch.save_model(model, path)   # keeps one of each group; load_model ties them again",
            f'del state["{names[-1]}"]   # or leave one out by hand, and load with strict=False into a model that ties them',
            "rekindle convert model.pth model.safetensors   # or torch.save, then convert: every name gets its bytes",
        ),
        likelihood="certain",
    )


EXAMPLE = """
from safetensors.torch import save_file
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 2)
        self.lm_head = nn.Linear(2, 4, bias=False)
        self.lm_head.weight = self.embed.weight

save_file(Net().state_dict(), "net.safetensors")
"""
MENDED = """
from safetensors.torch import save_model
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 2)
        self.lm_head = nn.Linear(2, 4, bias=False)
        self.lm_head.weight = self.embed.weight

save_model(Net(), "net.safetensors")
"""
REQUIRES = ("safetensors",)
MESSAGE = ""
