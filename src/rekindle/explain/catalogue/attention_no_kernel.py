"""The kernels of attention that were allowed cannot do this input."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-36", "attention-no-kernel", "0.2"
TITLE = "RuntimeError: No available kernel. Aborting execution."
RAISES = ("RuntimeError",)
NEEDLES = ("No available kernel. Aborting execution", "No viable backend for scaled_dot_product_attention")
PATTERNS = (r"No available kernel\. Aborting execution", r"No viable backend for scaled_dot_product_attention")
OLD = ("RuntimeError: No available kernel. Aborting execution.",)
WHY = "`sdpa_kernel(...)` allows only the named kernels. Flash attention takes float16 and bfloat16 on a GPU, no mask of one's own, and head sizes up to 256; cuDNN's has limits of its own. What is left cannot do this input."
CHECK = (
    "The warnings in front of the error name, for each kernel, what it cannot do: dtype, device, mask, size of a head."
)


def explain(event: Event) -> Iterator[Cause]:
    """The dtype and device, where they are known."""
    met = event.live.find_tensor("query", "q") if event.live else None
    seen = f": query {shape_text(met.shape)} {met.dtype} on {met.device}" if met else ""
    yield Cause(
        CODE,
        NAME,
        what=f"no kernel of attention that is allowed can do this input{seen}",
        why="flash attention wants float16 or bfloat16 on a GPU and no mask of one's own; sdpa_kernel left nothing else",
        fix=(
            "with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):   # the first that can",
            "query.to(torch.bfloat16)   # and key and value, if it is the dtype",
        ),
        likelihood="certain" if "ernel" in event.message or met else "likely",
    )


EXAMPLE = """
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

query = torch.ones(1, 2, 4, 8)
with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
    F.scaled_dot_product_attention(query, query, query)
"""
MENDED = """
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

query = torch.ones(1, 2, 4, 8)
with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]):
    F.scaled_dot_product_attention(query, query, query)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
