"""The loss does not depend on anything that is trained."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.catalogue._sources import last_line_with
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-04", "grad-no-grad-fn", "0.2"
TITLE = "element 0 of tensors does not require grad and does not have a grad_fn"
RAISES = ("RuntimeError",)
NEEDLES = (
    "does not require grad and does not have a grad_fn",
    "no graph nodes that require computing gradients",
    "Inference tensors cannot be saved for backward",
)
PATTERNS = (
    r"element \d+ of (?:tensors|variables) does not require grad and does not have a grad_fn",
    r"there are no graph nodes that require computing gradients",
    r"(?P<inference>Inference tensors cannot be saved for backward)",
)
OLD = (
    "RuntimeError: element 0 of variables does not require grad and does not have a grad_fn",
    "RuntimeError: there are no graph nodes that require computing gradients",
)
WHY = (
    "`backward()` follows the graph from the loss to the parameters, and here there is none: the loss was computed under"
    " `torch.no_grad()` or `inference_mode()`, from `argmax`, `.item()`, `.detach()`, `.data` or NumPy values, wrapped anew with"
    " `torch.tensor(loss)`, with every layer frozen, or after `torch.set_grad_enabled(False)` was left on (in a notebook: by"
    " another cell)."
)
CHECK = "`loss.requires_grad`, `loss.grad_fn`, `torch.is_grad_enabled()`, and `sum(p.requires_grad for p in model.parameters())`."
_BREAKS = (
    (r"torch\.no_grad\(|inference_mode\(|set_grad_enabled\(False", "gradients are switched off"),
    (r"\.argmax\(|\.max\(\w*\)\[1\]|\.round\(|\.long\(\)|\.int\(\)", "a whole number has no gradient"),
    (
        r"torch\.(?:tensor|FloatTensor|as_tensor)\(\s*\w*loss|Variable\(\s*loss",
        "torch.tensor(loss) makes a new tensor, without history",
    ),
    (r"\.detach\(\)|\.data\b|\.item\(\)|\.numpy\(\)", "the value was taken out of the graph"),
    (
        r"requires_grad_\(False|requires_grad\s*=\s*False",
        "parameters were frozen; if all are, nothing is left to train",
    ),
)


def explain(event: Event) -> Iterator[Cause]:
    """Where the graph ends, as far as the user's source tells."""
    if event.facts.get("inference"):
        yield _inference()
        return
    if event.live and not event.live.is_grad_enabled:
        yield _switched_off()
        return
    found = next(((line, words) for pattern, words in _BREAKS if (line := last_line_with(event, pattern))), None)
    code = code_of(event)
    if found is None and code:
        found = next((("this line", words) for pattern, words in _BREAKS if re.search(pattern, code)), None)
    name = next((fact.name for fact in tensors_in_line(event)), "") or (
        code.partition(".backward")[0] if code.partition(".backward")[0].isidentifier() else "the loss"
    )
    yield Cause(
        CODE,
        NAME,
        what=f"{name} does not depend on any parameter that requires gradients",
        why=f"in {found[0]}: {found[1]}"
        if found
        else "it was computed without gradients (no_grad, inference_mode), from argmax, .item(), .detach() or .data, or every"
        " layer is frozen",
        fix=(
            "loss = criterion(model(x), y)   # from the raw output of the model, outside of no_grad; .item() only to print it",
            "print(torch.is_grad_enabled(), sum(p.requires_grad for p in model.parameters()))   # False, or 0: there it is",
            "for p in model.fc.parameters(): p.requires_grad_(True)   # unfreeze at least the head",
        ),
    )


def _switched_off() -> Cause:
    return Cause(
        CODE,
        NAME,
        what="gradients are switched off for the whole program, so that no loss has a graph",
        why="torch.set_grad_enabled(False) was called and never undone (in a notebook: perhaps in another cell)",
        fix=(
            "torch.set_grad_enabled(True)",
            "with torch.no_grad():   # in place of set_grad_enabled(False): it ends with the block",
        ),
        likelihood="certain",
    )


def _inference() -> Cause:
    return Cause(
        CODE,
        NAME,
        what="a tensor made under inference_mode is used where gradients are recorded",
        why="inference_mode() makes tensors that can never be part of a graph; no_grad() makes ordinary ones",
        fix=(
            "features = features.clone()   # outside of inference_mode: an ordinary tensor",
            "with torch.no_grad():   # in place of inference_mode, where its results are trained on",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Linear(2, 1)
with torch.no_grad():
    loss = model(torch.ones(1, 2)).sum()
loss.backward()
"""
MENDED = """
import torch
from torch import nn

model = nn.Linear(2, 1)
loss = model(torch.ones(1, 2)).sum()
loss.backward()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
