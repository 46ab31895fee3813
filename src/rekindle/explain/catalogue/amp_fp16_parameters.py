"""The parameters themselves are float16, and the scaler wants float32 ones."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._sources import last_line_with
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-AMP-06", "amp-fp16-parameters", "0.2"
TITLE = "ValueError: Attempting to unscale FP16 gradients."
RAISES = ("ValueError",)
NEEDLES = ("Attempting to unscale FP16 gradients",)
PATTERNS = (r"Attempting to unscale FP16 gradients",)
OLD = ("ValueError: Attempting to unscale FP16 gradients.",)
WHY = (
    "Mixed precision keeps the weights in float32 and computes in half precision under autocast. Here the weights are float16"
    " already (`model.half()`, `torch_dtype=torch.float16`), so that the gradients are too: small updates would be rounded away, and"
    " the scaler refuses. With LoRA it is the adapters that have to be float32."
)
CHECK = "`{p.dtype for p in model.parameters() if p.requires_grad}`."


def explain(event: Event) -> Iterator[Cause]:
    """Where the model was made half, if the user's source tells."""
    line = last_line_with(event, r"\.half\(\)|torch\.float16|torch_dtype|\.to\(torch\.half")
    seen = f" ({line})" if line else ""
    yield Cause(
        CODE,
        NAME,
        what=f"the parameters are float16{seen}, and so are their gradients",
        why="mixed precision keeps weights in float32; autocast computes in half precision, the scaler is for those gradients",
        fix=(
            "model.float()   # and torch.autocast around the forward pass, in place of model.half()",
            "for p in model.parameters(): p.data = p.data.float() if p.requires_grad else p.data   # LoRA: only what is trained",
            "model.bfloat16()   # or everything in bfloat16, without a scaler",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Linear(2, 1).half()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu")
loss = model(torch.ones(1, 2).half()).float().sum()
scaler.scale(loss).backward()
scaler.step(optimizer)
"""
MENDED = """
import torch
from torch import nn

model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu")
with torch.autocast("cpu", dtype=torch.float16):
    loss = model(torch.ones(1, 2)).float().sum()
scaler.scale(loss).backward()
scaler.step(optimizer)
scaler.update()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
