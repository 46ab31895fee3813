"""A mean, a deviation or a softmax was asked of whole numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.catalogue._words import dtype_name
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-07", "dtype-mean-long", "0.2"
TITLE = "mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. Got: Long"
RAISES = ("RuntimeError", "NotImplementedError")
NEEDLES = (
    "could not infer output dtype",
    "nput dtype should be either floating point or complex",
    "mean of floating types",
    "std and var only support floating point",
    "Expected a floating point or complex tensor as input",
    "not implemented for '",
)
PATTERNS = (
    r"(?P<call>\w{1,60})\(\): could not infer output dtype\. Input dtype must be either a floating point or complex dtype\. Got: (?P<dtype>\w+)",
    r"(?P<call>\w{1,60})\(\): input dtype should be either floating point or complex dtypes\. Got (?P<dtype>\w+)",
    r"Can only calculate the (?P<call>mean) of floating types\. Got (?P<dtype>\w+)",
    r"(?P<call>std and var) only support floating point",
    r"(?P<call>[\w.]{1,60}): Expected a floating point or complex tensor as input\. Got (?P<dtype>\w+)",
    r"\"(?P<call>(?:log_)?softmax|mse|smooth_l1|sigmoid|tanh|sqrt|exp|log|erf|gelu|silu|normal|norm|uniform|bernoulli|binary_cross_entropy)\w*\" not implemented for '(?P<dtype>Long|Int|Short|Char|Byte|Bool)'",
)
OLD = (
    "RuntimeError: mean(): input dtype should be either floating point or complex dtypes. Got Long instead.",
    "RuntimeError: Can only calculate the mean of floating types. Got Long instead.",
)
WHY = (
    "A mean of whole numbers is no whole number, and torch does not choose a type for it. It is mostly an accuracy,"
    " `(pred == target).mean()`, whose truth values have to become floats first; a softmax or a root is the same."
)
CHECK = "`x.dtype`."


def explain(event: Event) -> Iterator[Cause]:
    """The operation and the dtype; an accuracy is known by its comparison."""
    facts = defaultdict(str, event.facts)
    call = facts["call"].rpartition(".")[2].replace("vector_norm", "norm")
    dtype = dtype_name(facts["dtype"]) or "whole numbers"
    if call in {"normal", "uniform"}:
        yield Cause(
            CODE,
            NAME,
            what=f"random numbers with decimals were to be written into {dtype}",
            why="rand, randn, normal_ and uniform_ make floats",
            fix=(
                "torch.randint(low, high, size)   # whole random numbers",
                "torch.randn(size)   # floats: without dtype",
            ),
            likelihood="certain",
        )
        return
    compares = "==" in code_of(event) or dtype == "bool"
    method = "mean" if call == "mean" else "std" if "std" in call else call
    asked = "a deviation" if "std" in call else call
    yield Cause(
        CODE,
        NAME,
        what=f"{asked} was asked of a tensor of {dtype}",
        why="its result has decimals, and torch does not choose a type for it",
        fix=("(pred == target).float().mean()   # an accuracy",)
        if compares
        else (
            f"x.float().{method}(...)"
            if method in {"mean", "std", "norm", "softmax", "log_softmax"}
            else "x.float()   # in front of it",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

pred, target = torch.tensor([1, 2, 3]), torch.tensor([1, 2, 0])
(pred == target).mean()
"""
MENDED = """
import torch

pred, target = torch.tensor([1, 2, 3]), torch.tensor([1, 2, 0])
(pred == target).float().mean()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
