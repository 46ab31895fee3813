"""The GPU has no bfloat16."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-AMP-05", "amp-bf16-unsupported", "0.2"
TITLE = "Current CUDA Device does not support bfloat16. Please switch dtype to float16."
RAISES = ("RuntimeError", "ValueError")
NEEDLES = (
    "does not support bfloat16",
    "setup doesn't support bf16",
    "bfloat16 is only supported on GPUs with compute capability",
    "Bfloat16 is only supported on GPUs",
)
PATTERNS = (
    r"Current CUDA Device does not support bfloat16",
    r"Your setup doesn't support bf16",
    r"[Bb]float16 is only supported on GPUs with compute capability of at least (?P<least>[\d.]+)\.(?: Your (?P<name>[^\n]{1,60}?) GPU has compute capability (?P<has>[\d.]+))?",
)
OLD = (
    "ValueError: Your setup doesn't support bf16/gpu.",
    (
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has compute"
        " capability 7.5."
    ),
)
WHY = (
    "GPUs of NVIDIA have bfloat16 since Ampere (compute capability 8.0: A100, RTX 30xx). T4, V100, P100 and RTX 20xx have float16"
    " alone, which needs a scaler because its largest number is 65504. Transformers says the same where it finds no GPU at all."
)
CHECK = "`torch.cuda.is_bf16_supported()`, `torch.cuda.get_device_capability()`."


def explain(event: Event) -> Iterator[Cause]:
    """With the card's name, where the message has it."""
    card = (
        f"{event.facts['name']} (compute capability {event.facts['has'].rstrip('.')})"
        if event.facts.get("name")
        else "this GPU"
    )
    trainer = "setup" in event.message
    autocast = 'torch.autocast("cuda", dtype=torch.float16)   # with scaler = torch.amp.GradScaler("cuda")'
    arguments = "TrainingArguments(..., fp16=True, bf16=False)"
    yield Cause(
        CODE,
        NAME,
        what=f"{card} has no bfloat16",
        why="it is older than Ampere (compute capability 8.0), or no GPU is seen at all"
        if trainer
        else "bfloat16 came with Ampere, compute capability 8.0",
        fix=(arguments, autocast, "rekindle gpus   # is a GPU seen, and which")
        if trainer
        else (autocast, arguments + "   # Transformers"),
        likelihood="certain",
    )


EXAMPLE = ""
MENDED = ""
REQUIRES = ("cuda",)
MESSAGE = "RuntimeError: Current CUDA Device does not support bfloat16. Please switch dtype to float16."
