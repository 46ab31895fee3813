"""The input of a recurrent layer has another dtype than its weights."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._dtypes import LOW, name_of_dtype
from rekindle.explain.catalogue._modules import called, running
from rekindle.explain.catalogue._words import dtype_name
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-12", "dtype-rnn", "0.2"
TITLE = "RNN input dtype (torch.float64) does not match weight dtype (torch.float32)"
RAISES = ("ValueError", "RuntimeError")
NEEDLES = ("RNN input dtype (", "Input and parameter tensors are not the same dtype")
PATTERNS = (
    r"RNN input dtype \((?P<input>[\w.]+)\) does not match weight dtype \((?P<weight>[\w.]+)\)",
    r"Input and parameter tensors are not the same dtype, found input tensor with (?P<input>\w+) and parameter tensor with (?P<weight>\w+)",
)
OLD = (
    (
        "RuntimeError: Input and parameter tensors are not the same dtype, found input tensor with Double and parameter tensor"
        " with Float"
    ),
)
WHY = (
    "A recurrent layer does not convert its input. NumPy's numbers are float64, the weights float32; or the model was made"
    " half by hand and the input was not."
)
CHECK = "`x.dtype` and `next(model.parameters()).dtype`."


def explain(event: Event) -> Iterator[Cause]:
    """Both dtypes and the side to convert."""
    have, want = dtype_name(event.facts["input"]), dtype_name(event.facts["weight"])
    name = name_of_dtype(event, have)
    low = LOW & {have, want}
    fix = [f"{name} = {name}.float()" if want == "float32" else f"{name} = {name}.to(torch.{want})"]
    if have == "float64":
        fix.append('torch.from_numpy(array.astype("float32"))   # where it is made')
    if low:
        fix.append("keep the whole forward inside torch.autocast, and do not call model.half() as well")
    yield Cause(
        CODE,
        NAME,
        what=f"{called(running(event), 'a recurrent layer')} has {want} weights and was given {have}",
        why="one side is in half precision: the model was cast by hand, or a tensor left autocast"
        if low
        else "arrays of NumPy are float64; the weights of a model are float32"
        if have == "float64"
        else "the layer does not convert its input",
        fix=tuple(fix),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

signal = torch.ones(2, 1, 3, dtype=torch.float64)
nn.LSTM(3, 2)(signal)
"""
MENDED = """
import torch
from torch import nn

signal = torch.ones(2, 1, 3, dtype=torch.float64)
nn.LSTM(3, 2)(signal.float())
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
