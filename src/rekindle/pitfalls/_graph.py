"""What a loss was made of, read from torch's graph of operations: names of operations, nothing is computed.

The graph stays readable after `backward`; only what the operations had saved is gone. So a loss that lies around in
the loop is enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch

from rekindle.pitfalls._seen import Loss

__all__ = ["added_up", "describe_loss"]

_LEAF = "torch::autograd::AccumulateGrad"
_MOST = 200
# The operation that a loss is known by -> its name. Cross entropy is the log_softmax in it.
_KINDS = {
    "LogSoftmax": "cross entropy",
    "NllLoss": "NLLLoss",
    "NllLoss2D": "NLLLoss",
    "BinaryCrossEntropyWithLogits": "BCEWithLogitsLoss",
    "BinaryCrossEntropy": "BCELoss",
    "MseLoss": "MSELoss",
    "SmoothL1Loss": "SmoothL1Loss",
    "HuberLoss": "HuberLoss",
}
# Operations that only look at the same numbers in another shape, dtype or place.
_VIEWS = {
    "View", "UnsafeView", "_UnsafeView", "ReshapeAlias", "_ReshapeAlias", "Unsqueeze", "Squeeze", "Transpose",
    "Permute", "T", "ToCopy", "Clone", "Alias", "Slice", "Select", "Expand", "Contiguous", "_DDPSink", "Index",
}  # fmt: skip


def describe_loss(name: str, loss: torch.Tensor, names: Mapping[int, str]) -> Loss | None:
    """Return how a loss was made; None where it has no graph.

    Args:
        name: as the script calls it.
        loss: one number, before or after `backward`.
        names: id of a parameter -> its qualified name.
    """
    if loss.grad_fn is None:
        return None
    start, kind = _loss_operation(loss.grad_fn)
    if start is None:
        return Loss(name, "", (), "")
    before: list[str] = []
    node, last = _down(start), ""
    while node is not None and len(before) < 4:
        word = _word(node)
        if word not in _VIEWS:
            before.append(word)
        last = _layer(node, names)
        if last or len(_inputs(node)) > 1:
            break
        node = _down(node)
    return Loss(name, kind, tuple(before), last)


def added_up(value: torch.Tensor) -> int:
    """Return of how many terms a sum consists that was built by one addition after the other."""
    node, count = value.grad_fn, 0
    while node is not None and _word(node) == "Add" and count < 10_000:
        count += 1
        deeper = [each for each, _ in node.next_functions if each is not None and _word(each) == "Add"]
        node = deeper[0] if deeper else None
    return count


def _loss_operation(top: Any) -> tuple[Any, str]:
    """Return the operation nearest to the loss that it is known by, and its name."""
    waiting, seen = deque([top]), 0
    while waiting and seen < _MOST:
        node = waiting.popleft()
        seen += 1
        word = _word(node)
        if word in {"NllLoss", "NllLoss2D"}:
            below = _skip_views(_down(node))
            if below is not None and _word(below) == "LogSoftmax":
                return below, "cross entropy"
        if word in _KINDS:
            return node, _KINDS[word]
        if any(_word(each) == "Leaf" for each in _inputs(node)):
            continue  # a layer: below it is the model
        waiting.extend(_inputs(node))
    return None, ""


def _skip_views(node: Any) -> Any:
    while node is not None and _word(node) in _VIEWS:
        node = _down(node)
    return node


def _inputs(node: Any) -> list[Any]:
    return [each for each, _ in node.next_functions if each is not None]


def _down(node: Any) -> Any:
    """Return the operation that the first input came from; None at the end."""
    return next((each for each in _inputs(node) if _word(each) != "Leaf"), None)


def _word(node: Any) -> str:
    name = node.name()
    return "Leaf" if name == _LEAF else name.rpartition("Backward")[0] or name


def _layer(node: Any, names: Mapping[int, str]) -> str:
    """Return the name of the layer whose parameters an operation uses."""
    for each in _inputs(node):
        if _word(each) in {"T", "ToCopy"}:
            each = next(iter(_inputs(each)), None)  # noqa: PLW2901 - what was transposed or cast
        variable = getattr(each, "variable", None)
        if variable is not None and id(variable) in names:
            return names[id(variable)].rpartition(".")[0]
    return ""
