"""The hidden state of a recurrent layer has another size than this batch needs."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import called, first_input, is_in, running
from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event, ModuleFact

CODE, NAME, SINCE = "RK-SHAPE-23", "shape-lstm-hidden", "0.2"
TITLE = "RuntimeError: Expected hidden[0] size (1, 4, 20), got [1, 8, 20]"
RAISES = ("RuntimeError", "IndexError")
NEEDLES = ("Expected hidden", "doesn't match hidden", "should also be ", "is out of bounds for dimension 0 with size")
PATTERNS = (
    r"Expected hidden(?:\[(?P<part>[01])\])? size \((?P<want>[\d, ]+)\), got [\[(](?P<have>[\d, ]+)[\])]",
    r"Input batch size (?P<batch>\d+) doesn't match hidden(?P<part>\d?) batch size (?P<made>\d+)",
    r"For (?P<batched>batched 3-D|unbatched 2-D) input, hx(?: and cx)? should also be (?P<rank>\d)-D but got (?P<got>[\d\-D(), ]+) tensor",
    r"index 1 is out of bounds for dimension 0 with size (?P<single>\d+)",
)
OLD = ("RuntimeError: Expected hidden[0] size (1, 4, 20), got (1, 8, 20)",)
WHY = (
    "A hidden state has the size (layers * directions, batch, hidden). Made once for a full batch, it does not fit the last,"
    " shorter one; made with the sizes in another order, it fits none. `batch_first=True` turns the input round and not the"
    " hidden state. An LSTM takes a pair (h, c), the others one tensor."
)
CHECK = "`x.shape`, `batch_first`, and where the hidden state is made."


def explain(event: Event) -> Iterator[Cause]:
    """Wanted and given sizes; the part that differs: batch, layers or hidden size."""
    facts = event.facts
    module = running(event)
    layer = called(module, "the recurrent layer")
    if "single" in facts:
        if is_in(event, "torch/nn/modules/rnn.py"):
            yield Cause(
                CODE,
                NAME,
                what=f"{layer} wants a pair (h, c) as its hidden state and was given one tensor",
                why="an LSTM keeps two: the hidden state h and the cell state c",
                fix=("output, (h, c) = lstm(x, (h, c))",),
                likelihood="certain",
            )
        return
    if "rank" in facts:
        yield Cause(
            CODE,
            NAME,
            what=f"the hidden state has {facts['got'].strip()} and the input is {'a batch' if facts['batched'].startswith('batched') else 'one sequence'}: it needs {facts['rank']}-D",
            why="the hidden state is (layers * directions, batch, hidden), with the batch only where the input has one",
            fix=(_made(module),),
            likelihood="certain",
        )
        return
    if "batch" in facts:
        yield _batch(layer, int(facts["batch"]), int(facts["made"]), module)
        return
    want, have = numbers(facts["want"]), numbers(facts["have"])
    if len(want) == len(have) == 3 and want[0] == have[0] and want[2] == have[2]:
        yield _batch(layer, want[1], have[1], module)
        return
    if len(want) == len(have) == 3 and (want[1], want[0], want[2]) == have:
        why = "layers and batch have changed places; batch_first=True does not turn the hidden state round"
    elif len(want) == len(have) == 3 and want[0] != have[0] and want[1:] == have[1:]:
        why = f"layers * directions is {want[0]} (num_layers, times 2 if bidirectional), and it was made for {have[0]}"
    elif len(want) == len(have) == 3 and want[:2] == have[:2]:
        why = f"it was made for a hidden size of {have[2]} and the layer has {want[2]}"
    else:
        why = "the size is (layers * directions, batch, hidden)"
    yield Cause(
        CODE,
        NAME,
        what=f"{layer} needs a hidden state {shape_text(want)} and got {shape_text(have)}",
        why=why,
        fix=(_made(module), "output, hidden = rnn(x)   # or none: it then starts with zeros of the right size"),
        likelihood="certain",
    )


def _batch(layer: str, batch: int, made: int, module: ModuleFact | None) -> Cause:
    given = first_input(module)
    shape = f" (input {shape_text(given.shape)})" if given is not None else ""
    return Cause(
        CODE,
        NAME,
        what=f"{layer} has a batch of {batch} in front of it and a hidden state for {made}{shape}",
        why="the hidden state was made for another batch: the last one of an epoch is shorter, or time and batch have"
        " changed places (batch_first)",
        fix=(_made(module), "DataLoader(..., drop_last=True)   # if only the last, shorter batch fails"),
        likelihood="certain",
    )


def _made(module: ModuleFact | None) -> str:
    if module is not None and module.kind.endswith("Cell"):
        return "torch.zeros(x.size(0), hidden, device=x.device)   # made from the batch that is there"
    first = module is not None and "batch_first=True" in module.settings
    size = "x.size(0)" if first else "x.size(1)"
    other = "" if module is not None else "; x.size(0) with batch_first=True"
    return f"torch.zeros(layers, {size}, hidden, device=x.device)   # made from the batch that is there{other}"


EXAMPLE = """
import torch
from torch import nn

lstm = nn.LSTM(10, 20)
state = (torch.zeros(1, 8, 20), torch.zeros(1, 8, 20))
lstm(torch.ones(5, 4, 10), state)  # the last batch has 4 samples
"""
MENDED = """
import torch
from torch import nn

lstm = nn.LSTM(10, 20)
batch = torch.ones(5, 4, 10)
state = (torch.zeros(1, batch.size(1), 20), torch.zeros(1, batch.size(1), 20))
lstm(batch, state)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
