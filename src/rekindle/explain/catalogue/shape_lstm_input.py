"""The last dimension of a recurrent layer's input is not its input_size."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import called, first_input, running
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-15", "shape-lstm-input", "0.2"
TITLE = "input.size(-1) must be equal to input_size. Expected 10, got 5"
RAISES = ("RuntimeError", "ValueError")
NEEDLES = (
    "input.size(-1) must be equal to input_size",
    "input has inconsistent input_size",
    ": Expected input to be ",
    "input must have ",
)
PATTERNS = (
    r"input\.size\(-1\) must be equal to input_size\. Expected (?P<want>\d+), got (?P<have>\d+)",
    r"input has inconsistent input_size: got (?P<have>\d+),? expected (?P<want>\d+)",
    r"(?P<kind>LSTM|GRU|RNN|LSTMCell|GRUCell|RNNCell): Expected input to be (?P<ranks>[\dD or,]+), got (?P<rank>\d+)D",
    r"input must have (?P<old_want>\d+) dimensions, got (?P<old_have>\d+)",
)
OLD = ("RuntimeError: input must have 3 dimensions, got 2",)
WHY = (
    "A recurrent layer reads (time, batch, features), or (batch, time, features) with `batch_first=True`; the last dimension"
    " has to be `input_size`. Audio and signals often come as (batch, features, time), as convolutions want them."
)
CHECK = "`x.shape`, the layer's `input_size` and `batch_first`."


def explain(event: Event) -> Iterator[Cause]:
    """Both sizes; where the wanted one stands elsewhere in the shape, the transpose that brings it to the end."""
    facts = event.facts
    module = running(event)
    given = first_input(module)
    layer = called(module, facts.get("kind") or "the recurrent layer")
    shape = f" (input {shape_text(given.shape)})" if given is not None else ""
    if "want" not in facts:
        rank = int(facts.get("rank") or facts.get("old_have", "0"))
        ranks = facts.get("ranks", "").replace("D", "") or facts.get("old_want", "")
        yield Cause(
            CODE,
            NAME,
            what=f"{layer} takes an input of {ranks} dimensions and got {rank}{shape}",
            why="it reads (time, batch, features), or (batch, time, features) with batch_first=True",
            fix=(
                "x.flatten(2)   # joins what stands behind batch and time into features"
                if rank > 3
                else "x.unsqueeze(...)   # adds the dimension that is missing: batch, time or features",
            ),
            likelihood="certain",
        )
        return
    want, have = int(facts["want"]), int(facts["have"])
    kind = module.kind if module and module.kind in {"LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"} else "LSTM"
    at = given.shape.index(want) if given is not None and want in given.shape else None
    turn = f"x.transpose({at}, -1)" if at is not None else "x.transpose(1, 2)"
    fix = [f"nn.{kind}({have}, ...)   # if {have} is the number of features"]
    if not kind.endswith("Cell") and (at is not None or given is None or len(given.shape) == 3):
        fix.insert(
            0,
            f"{turn}   # brings the {want} to the end"
            if at is not None
            else f"{turn}   # if x is (batch, features, time)",
        )
    yield Cause(
        CODE,
        NAME,
        what=f"{layer} takes {want} features at each step and got {have}{shape}",
        why=f"the last dimension has to be input_size; the {want} stands in dimension {at} of this input"
        if at is not None
        else "the last dimension has to be input_size; features and time may have changed places",
        fix=tuple(fix),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

sounds = torch.ones(8, 10, 50)  # batch, features, time
nn.LSTM(10, 20, batch_first=True)(sounds)
"""
MENDED = """
import torch
from torch import nn

sounds = torch.ones(8, 10, 50)  # batch, features, time
nn.LSTM(10, 20, batch_first=True)(sounds.transpose(1, 2))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
