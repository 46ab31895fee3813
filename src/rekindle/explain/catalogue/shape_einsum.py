"""The letters of an einsum and the shapes it was given do not agree."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-28", "shape-einsum", "0.2"
TITLE = "einsum(): subscript j has size 5 for operand 1 which does not broadcast with previously seen size 4"
RAISES = ("RuntimeError",)
NEEDLES = ("einsum():",)
PATTERNS = (
    r"einsum\(\): subscript (?P<letter>\w) has size (?P<b>\d+) for operand (?P<operand>\d+) which does not broadcast with previously seen size (?P<a>\d+)",
    r"einsum\(\): the number of subscripts in the equation \((?P<letters>\d+)\) (?:does not match|is more than) the number of dimensions \((?P<dims>\d+)\) for operand (?P<operand>\d+)",
    r"einsum\(\): (?P<count>fewer|more) operands were provided than specified in the equation",
    r"einsum\(\): output subscript (?P<output>\w) does not appear in the equation",
    r"einsum\(\): (?:invalid subscript given at index \d+ in the equation string, )?subscripts must be in \[a-zA-Z\](?P<letter_bad>)",
)
OLD: tuple[str, ...] = ()
WHY = (
    "Every letter of the equation is one dimension, and a letter that stands twice has to have one size. Letters are given to the"
    " dimensions of each operand from the left, so a transposed tensor, a missing batch dimension, or a letter too many shows up here."
)
CHECK = "Write the shape of each operand under its letters: `print([t.shape for t in operands])`."
_EQUATION = re.compile(r"einsum\(\s*[rb]?[\"']([^\"'\n]{1,200})[\"']")


def explain(event: Event) -> Iterator[Cause]:
    """The letter and both sizes, with the shapes of the operands where they are known."""
    fix: tuple[str, ...]
    facts = event.facts
    found = _EQUATION.search(code_of(event))
    equation = found[1].replace(" ", "") if found else ""
    met = tensors_in_line(event)
    seen = f" ({', '.join(f'{fact.name} {shape_text(fact.shape)}' for fact in met[:4])})" if met else ""
    terms = equation.partition("->")[0].split(",") if equation else []
    term = terms[int(facts["operand"])] if facts.get("operand") and int(facts["operand"]) < len(terms) else ""
    of = f" of {equation!r}" if equation else ""
    show = "print([t.shape for t in operands])   # and write the letters under the sizes"
    if facts.get("letter"):
        what = f"the letter {facts['letter']}{of} stands for {facts['a']} in one operand and for {facts['b']} in operand {facts['operand']}{seen}"
        why = (
            "a letter that stands twice is one size; a tensor is transposed, or two different dimensions got one letter"
        )
        fix = (
            show,
            f"another letter than {facts['letter']} for one of them   # if they are different dimensions",
        )
    elif facts.get("letters"):
        what = f"operand {facts['operand']}{of} has {facts['dims']} dimensions and {facts['letters']} letters{seen}"
        why = "each dimension needs one letter"
        batch = (
            f'"...{term}"   # in place of "{term}": whatever dimensions stand in front are kept'
            if term
            else '"..."   # in front of the letters: whatever dimensions stand there are kept'
        )
        fix = (batch, show) if int(facts["dims"]) > int(facts["letters"]) else (show,)
    elif facts.get("count"):
        what = f"the equation{of} names {'more' if facts['count'] == 'fewer' else 'fewer'} tensors than it was given"
        why = "commas separate the operands: one term for each tensor"
        fix = (f'torch.einsum("{equation or "ij,jk->ik"}", a, b)   # as many tensors as terms in front of ->',)
    elif facts.get("output"):
        what = f"the letter {facts['output']} stands behind -> and in no operand{of}"
        why = "the result can only have dimensions that an operand has"
        fix = (f"take {facts['output']} away, or give that letter to a dimension of an operand",)
    else:
        what = f"the equation{of} has a sign that is no letter"
        why = "dimensions are single letters a-z and A-Z, operands are separated by commas"
        fix = ('torch.einsum("bij,bjk->bik", a, b)   # the form of an equation',)
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import torch

query, key = torch.ones(2, 5, 16), torch.ones(2, 7, 16)
torch.einsum("bij,bjk->bik", query, key)
"""
MENDED = """
import torch

query, key = torch.ones(2, 5, 16), torch.ones(2, 7, 16)
torch.einsum("bqd,bkd->bqk", query, key)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
