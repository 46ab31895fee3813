"""Probabilities to sample from are NaN, infinite, negative, or all 0."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-11", "sample-multinomial", "0.2"
TITLE = "probability tensor contains either `inf`, `nan` or element < 0"
RAISES = ("RuntimeError",)
NEEDLES = (
    "probability tensor contains either",
    "invalid multinomial distribution",
    "cannot sample n_sample > prob_dist.size(-1)",
)
PATTERNS = (
    r"probability tensor contains either",
    r"invalid multinomial distribution \((?P<zero>sum of probabilities <= 0|with replacement=False, not enough non-negative category to sample)",
    r"invalid multinomial distribution \(encountering probability entry < 0",
    r"(?P<many>cannot sample n_sample > prob_dist\.size\(-1\)) samples without replacement",
)
OLD = (
    (
        "RuntimeError: invalid argument 2: invalid multinomial distribution (encountering probability entry < 0) at"
        " ../aten/src/TH/generic/THTensorRandom.cpp:325"
    ),
    "RuntimeError: invalid multinomial distribution (sum of probabilities <= 0)",
    (
        "/pytorch/aten/src/ATen/native/cuda/TensorCompare.cu:110: _assert_async_cuda_kernel: block: [0,0,0], thread: [0,0,0]"
        " Assertion `probability tensor contains either `inf`, `nan` or element < 0` failed."
    ),
)
WHY = (
    "`multinomial` takes probabilities, and these hold NaN, infinity or a negative number, or are all 0. For a text model:"
    " logits that overflowed in float16, a temperature of 0 (a division by 0), every token masked, or a checkpoint that is broken"
    " or badly quantised. Logits given in place of their softmax are negative too."
)
CHECK = "`torch.isfinite(logits).all()`, the smallest value, the temperature, and `all(p.isfinite().all() for p in model.parameters())`."


def explain(event: Event) -> Iterator[Cause]:
    """Which of the four, where the values can be seen."""
    fact = next((fact for fact in tensors_in_line(event) if "float" in fact.dtype), None)
    name = fact.name if fact else "probs"
    seen = f"{fact.name} {shape_text(fact.shape)} in {fact.dtype}" if fact else "the probabilities"
    softmax = f"torch.multinomial(torch.softmax({name}.float(), -1), 1)   # if {name} are logits: their softmax first, in float32"
    greedy = "do_sample=False   # in place of temperature 0"
    weights = "print(all(p.isfinite().all() for p in model.parameters()))   # False: the weights; rekindle doctor looks into the file"
    if event.facts.get("many"):
        what, why = (
            f"more samples were asked for than {seen} has entries",
            "without replacement each entry comes once at most",
        )
        fix: tuple[str, ...] = (f"torch.multinomial({name}, n, replacement=True)",)
    elif event.facts.get("zero"):
        what, why = (
            f"{seen} {'are' if not fact else 'is'} all 0",
            "every choice was masked, or the probabilities underflowed",
        )
        fix = (f"print({name}.sum(-1))   # which rows are 0: at least one choice has to be left", softmax)
    elif fact and fact.low is not None and fact.low < 0:
        what, why = (
            f"{seen} holds {fact.low:g}, and a probability is not negative",
            "these are logits, or scores that were subtracted from each other",
        )
        fix = (softmax,)
    else:
        what, why = (
            f"{seen} {'hold' if not fact else 'holds'} nan, inf or a negative number",
            "overflow in float16, a temperature of 0, every token masked, or broken weights",
        )
        fix = (
            "torch.bfloat16   # or float32, in place of float16, for the model or the logits",
            greedy,
            softmax,
            weights,
        )
    yield Cause(
        CODE,
        NAME,
        what=what,
        why=why,
        fix=fix,
        likelihood="certain" if event.facts.get("many") or event.facts.get("zero") else "likely",
    )


EXAMPLE = """
import torch

logits, temperature = torch.tensor([[2.0, 0.5, 0.0]]), 0.0
probs = torch.softmax(logits / temperature, -1)
torch.multinomial(probs, 1)
"""
MENDED = """
import torch

logits, temperature = torch.tensor([[2.0, 0.5, 0.0]]), 0.0
if temperature:
    token = torch.multinomial(torch.softmax(logits / temperature, -1), 1)
else:
    token = logits.argmax(-1, keepdim=True)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
