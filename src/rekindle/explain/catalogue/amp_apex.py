"""NVIDIA's Apex is not there, and PyTorch has what it was for."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-AMP-01", "amp-apex", "0.2"
TITLE = "ModuleNotFoundError: No module named 'apex'"
RAISES = ("ModuleNotFoundError", "ImportError", "RuntimeError", "AttributeError")
NEEDLES = (
    "No module named 'apex",
    "install apex from",
    "cannot import name 'amp' from 'apex'",
    "from 'apex'",
    "cannot find -lpthread",
    "expected torch.cuda.",
)
PATTERNS = (
    r"No module named 'apex(?:\.(?P<part>[\w.]+))?'",
    r"Please install apex from",
    r"cannot import name '(?P<name>\w+)' from (?:partially initialized module )?'(?P<other>apex)'",
    r"(?P<link>cannot find -lpthread)",
    r"Found param (?P<param>[\w.]+) with type torch\.(?:\w+Tensor), expected torch\.cuda\.",
)
OLD = (
    "ImportError: Please install apex from https://www.github.com/nvidia/apex to use distributed and fp16 training.",
    "ImportError: cannot import name 'amp' from 'apex' (/usr/lib/python3/site-packages/apex/__init__.py)",
    "RuntimeError: Found param conv1.weight with type torch.FloatTensor, expected torch.cuda.FloatTensor.",
    "ERROR: compiler_compat/ld: cannot find -lpthread -lc",
)
WHY = (
    "Apex brought mixed precision before PyTorch had it. Its `amp` is not developed any more, `torch.amp` does the same, and with"
    " bfloat16 without a scaler. `pip install apex` installs another package of that name. Apex's fused kernels (`FusedAdam`,"
    " `FusedLayerNorm`) are to be built from source; the link error `cannot find -lpthread` comes of a conda environment whose"
    " linker does not know where the system's libraries are."
)
CHECK = "The file that imports it; `pip show apex`, which should not be there."
_FUSED = ("optimizers", "normalization", "contrib", "transformer", "multi_tensor_apply")


def explain(event: Event) -> Iterator[Cause]:
    """Missing, another package of the name, the link error, or its old order of calls."""
    facts = event.facts
    autocast = (
        'with torch.autocast("cuda", dtype=torch.bfloat16): loss = criterion(model(x), y)   # nothing else is needed'
    )
    scaler = 'scaler = torch.amp.GradScaler("cuda")   # with dtype=torch.float16: scale(loss).backward(), step(optimizer), update()'
    if facts.get("link"):
        what, why = (
            "the linker does not find the system's libraries while Apex is built",
            "conda brings a linker of its own, which does not look there",
        )
        fix: tuple[str, ...] = ("LDFLAGS=-L/usr/lib/x86_64-linux-gnu pip install ...   # the build again", autocast)
    elif facts.get("param"):
        what, why = (
            f"amp.initialize wants the model on the GPU, and {facts['param']} is on the CPU",
            "Apex's amp is to be called after model.cuda() and before the model is wrapped for several GPUs",
        )
        fix = ("model.cuda()   # in front of amp.initialize", autocast)
    elif facts.get("other"):
        what, why = (
            f"the installed package apex has no {facts['name']}",
            "pip install apex gives another package of the same name",
        )
        fix = ("pip uninstall apex", autocast, scaler)
    else:
        part = facts.get("part", "")
        what, why = (
            f"apex{f'.{part}' if part else ''} is not installed",
            "it is no dependency of PyTorch, and its mixed precision has been part of PyTorch since 1.6",
        )
        fused = part.startswith(_FUSED)
        replaced = "torch.optim.AdamW(model.parameters(), fused=True)   # in place of FusedAdam; nn.LayerNorm in place of FusedLayerNorm"
        fix = (
            (replaced, autocast)
            if fused
            else (autocast, scaler, "pip uninstall apex   # if pip install apex was tried: that is another package")
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
from apex import amp
"""
MENDED = """
import torch
from torch import nn

model = nn.Linear(2, 2)
with torch.autocast("cpu", dtype=torch.bfloat16):
    loss = model(torch.ones(1, 2)).sum()
loss.backward()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
