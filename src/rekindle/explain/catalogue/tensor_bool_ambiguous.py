"""A tensor of several elements stands where one truth value is wanted."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, is_in, tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-09", "tensor-bool-ambiguous", "0.2"
TITLE = "RuntimeError: Boolean value of Tensor with more than one value is ambiguous"
RAISES = ("RuntimeError", "ValueError", "TypeError")
NEEDLES = ("ool value of Tensor with", "oolean value of Tensor with")
PATTERNS = (r"[Bb]ool(?:ean)? value of Tensor with (?P<how>more than one|no) values?",)
OLD = (
    "RuntimeError: bool value of Tensor with more than one value is ambiguous",
    "RuntimeError: Boolean value of Tensor with no values is ambiguous",
)
WHY = (
    "`if`, `while`, `and`, `or`, `not` and `x in list` want one truth value, a tensor of several elements has one for each."
    " Also the constructor of a loss ends here when it is given data: `nn.CrossEntropyLoss(output, target)` makes a loss with"
    " these as its settings; it is `nn.CrossEntropyLoss()(output, target)`."
)
CHECK = "The shape of the tensor in the line; is it `if`, `and`, `in`, or the constructor of a loss?"


def explain(event: Event) -> Iterator[Cause]:
    """The constructor of a loss, a membership test, or a condition."""
    code = code_of(event)
    loss = re.search(r"(?:nn\.)?(?P<name>\w+Loss)\((?P<given>[^()\n]+)\)", code)
    tensors = [fact for fact in tensors_in_line(event) if fact.shape not in ((), (1,))]
    name = tensors[0].name if tensors else "x"
    shape = f" {shape_text(tensors[0].shape)}" if tensors else ""
    if loss:
        yield Cause(
            CODE,
            NAME,
            what=f"{loss['name']} was made with data ({loss['given']}), not called with it",
            why="the constructor takes settings (weight, reduction); the loss that it makes takes output and target",
            fix=(f"nn.{loss['name']}()({loss['given']})   # make it first, then call it",),
            likelihood="certain",
        )
        return
    if is_in(event, "torch/nn/_reduction.py"):
        made = re.search(r"\b([A-Za-z_]\w*)\(", code)
        name_said = made[1] if made else "a loss"
        yield Cause(
            CODE,
            NAME,
            what=f"{name_said} is the class of a loss, and was given data in place of settings",
            why="the constructor takes settings (weight, reduction); the loss that it makes takes output and target",
            fix=("criterion = nn.CrossEntropyLoss()   # the parentheses make it", "loss = criterion(output, target)"),
            likelihood="certain",
        )
        return
    if event.facts["how"] == "no":
        yield Cause(
            CODE,
            NAME,
            what="a tensor without elements stands where one truth value is wanted",
            why="nothing was selected or found, so there is no value to decide by",
            fix=(f"{name}.numel() > 0   # is there any",),
            likelihood="certain",
        )
        return
    member = re.search(r"\b(?:not )?in\b", code) is not None and "for " not in code
    fix = [f"any(torch.equal({name}, other) for other in tensors)   # in place of in"] if member else []
    fix += [
        "condition.any()   # or .all(): one value of many",
        "torch.equal(a, b)   # are two tensors the same",
        "(a > 0) & (b > 0)   # element by element, in place of and; | for or, ~ for not",
    ]
    yield Cause(
        CODE,
        NAME,
        what=f"{name if tensors else 'a tensor'}{shape} stands where one truth value is wanted",
        why="in looks through a list with ==, which gives a tensor of truth values"
        if member
        else "if, and, or and not decide by one value; a tensor has one for each element",
        fix=tuple(fix),
        likelihood="certain",
    )


EXAMPLE = """
import torch

scores = torch.tensor([0.1, 0.9])
if scores > 0.5:
    print("found")
"""
MENDED = """
import torch

scores = torch.tensor([0.1, 0.9])
if (scores > 0.5).any():
    print("found")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
