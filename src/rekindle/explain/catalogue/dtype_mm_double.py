"""Data in float64 (or whole numbers) meets weights in float32."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rekindle.explain.catalogue._dtypes import LOW, is_integer, name_of_dtype, place_of
from rekindle.explain.catalogue._modules import called, is_in, running
from rekindle.explain.catalogue._words import dtype_name
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-01", "dtype-mm-double", "0.2"
TITLE = "mat1 and mat2 must have the same dtype, but got Double and Float"
RAISES = ("RuntimeError",)
NEEDLES = (
    "must have the same dtype",
    "to have the same dtype",
    "to have same dtype",
    "expected scalar type ",
    "of scalar type ",
    "Found dtype ",
    "mixed dtype (",
    "can't be cast to the desired output type",
)
PATTERNS = (
    r"mat1 and mat2 must have the same dtype, but got (?P<a>\w+) and (?P<b>\w+)",
    r"expected m1 and m2 to have the same dtype, but got: (?P<a>[\w: ]+?) != (?P<b>[\w:]+(?: int)?)",
    r"expected both vectors to have same dtype, but found (?P<a>\w+) and (?P<b>\w+)",
    r"input tensors must have the same dtype, but got (?P<c>\w+), (?P<a>\w+), and (?P<b>\w+)",
    r"to have the same dtype, but got query\.dtype: (?P<a>[\w:]+) key\.dtype: (?P<b>[\w:]+)",
    r"expected scalar type (?P<a>\w+) but found (?P<b>\w+)",
    r"Expected object of scalar type (?P<a>\w+) but got scalar type (?P<b>\w+) for (?:sequence element \d+|argument #\d+ '(?P<argument>\w+)')",
    r"Found dtype (?P<b>\w+) but expected (?P<a>\w+)",
    r"result type (?P<a>\w+) can't be cast to the desired output type (?P<b>\w+)",
    r"mixed dtype \((?P<mixed>CPU|CUDA|\w+)\): ",
)
OLD = (
    "RuntimeError: Expected object of scalar type Double but got scalar type Float for argument #2 'mat2'",
    "RuntimeError: Expected object of scalar type Float but got scalar type Double for argument #2 'target'",
    "RuntimeError: expected scalar type Double but found Float",
    "RuntimeError: Found dtype Double but expected Float",
)
WHY = (
    "NumPy's numbers are float64, and `torch.from_numpy` keeps that; torch's own tensors and all weights are float32. Torch"
    " does not convert in the middle of a product, since that would cost time and memory unseen. Whole numbers (labels, ids,"
    " images in 0-255) end here too where they were meant to be floats."
)
CHECK = "`x.dtype` and `next(model.parameters()).dtype`; where x was made: `torch.from_numpy`, `torch.tensor(array)`."


def explain(event: Event) -> Iterator[Cause]:
    """Both dtypes and which side is to be converted; half precision, labels and convolutions have entries of their own."""
    facts = defaultdict(str, event.facts)
    if facts["mixed"]:
        yield _normalisation(event)
        return
    a, b = dtype_name(facts["a"]), dtype_name(facts["b"])
    if place_of(event, a, b, facts["argument"]) != "product" or LOW & {a, b} or a == b:
        return
    wide = next(
        (dtype for dtype in (a, b) if dtype == "float64"), next((dtype for dtype in (a, b) if is_integer(dtype)), "")
    )
    if not wide:
        return
    module = running(event)
    layer = called(module, "")
    name = name_of_dtype(event, wide)
    in_loss = facts["argument"] == "target" or is_in(
        event, "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss", "l1_loss"
    )
    where = f" in {layer}" if layer and not in_loss else " in a loss" if in_loss else ""
    name = "target" if in_loss and name == "x" else name
    weights = next((fact.dtype for fact in module.parameters), "") if module else ""
    model_is_wide = weights == "float64"
    if wide == "float64":
        why = (
            "the model was made double and the data was not"
            if model_is_wide
            else "arrays of NumPy and numbers read by it are float64; the weights of a model are float32"
        )
    elif in_loss:
        why = f"this loss compares floats with floats; the targets are whole numbers ({wide})"
    elif "can't be cast" in event.message:
        why = f"the result has decimals ({a}), and it was to be written into a tensor of whole numbers ({b}), in place"
    else:
        why = f"whole numbers ({wide}) cannot be multiplied with weights; they were meant to be floats, or to go through an embedding"
    fix = [
        f"{name} = {name}.double()   # the data as the model is"
        if model_is_wide
        else f"{name} = {name}.float()   # float32, as the weights are"
    ]
    if wide == "float64" and not model_is_wide:
        fix.append('torch.from_numpy(array.astype("float32"))   # where it is made')
        fix.append("model.double()   # only if double precision is meant: twice the memory, much slower on a GPU")
    yield Cause(
        CODE,
        NAME,
        what=f"{a} meets {b}{where}",
        why=why,
        fix=tuple(fix),
        likelihood="certain" if facts["a"] and (layer or where) else "likely",
    )


def _normalisation(event: Event) -> Cause:
    return Cause(
        CODE,
        NAME,
        what=f"{called(running(event), 'a normalisation layer')} was given an input of another dtype than its weights",
        why="its weights are float32; data of NumPy is float64, and a model made half or bfloat16 by hand keeps some layers as they were",
        fix=(
            "x = x.float()   # as the weights are",
            "torch.autocast(...)   # for mixed precision, in place of model.half()",
        ),
    )


EXAMPLE = """
import numpy as np
import torch
from torch import nn

measured = torch.from_numpy(np.zeros((4, 3)))  # NumPy's numbers are float64
nn.Linear(3, 2)(measured)
"""
MENDED = """
import numpy as np
import torch
from torch import nn

measured = torch.from_numpy(np.zeros((4, 3))).float()
nn.Linear(3, 2)(measured)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
