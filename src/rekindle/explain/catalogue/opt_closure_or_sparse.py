"""The optimizer needs a closure, or cannot take the sparse gradients of an embedding."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-31", "opt-closure-or-sparse", "0.2"
TITLE = "TypeError: LBFGS.step() missing 1 required positional argument: 'closure'"
RAISES = ("TypeError", "RuntimeError")
NEEDLES = ("required positional argument: 'closure'", "does not support sparse gradients")
PATTERNS = (
    r"(?P<name>\w{1,60})\.step\(\) missing 1 required positional argument: '(?P<closure>closure)'",
    r"(?:^|\s)step\(\) missing 1 required positional argument: '(?P<closure>closure)'",
    r"(?P<name>\w{1,60}) does not support sparse gradients(?:, please consider (?P<instead>\w+) instead)?",
)
OLD: tuple[str, ...] = ()
WHY = "`LBFGS` computes the loss several times in a step, so it has to be given a function that does it. `nn.Embedding(sparse=True)` makes sparse gradients, which `SGD`, `SparseAdam` and `Adagrad` take."
CHECK = "`sparse=True` of an embedding; the class of the optimizer."


def explain(event: Event) -> Iterator[Cause]:
    """The closure, or the optimizer for sparse gradients."""
    facts = event.facts
    if facts.get("closure"):
        yield Cause(
            CODE,
            NAME,
            what=f"step() of {facts.get('name') or 'LBFGS'} was called without a function that computes the loss",
            why="this optimizer computes loss and gradients several times in a step",
            fix=(
                "def closure():\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n    loss.backward()\n    return loss",
                "optimizer.step(closure)",
            ),
            likelihood="certain",
        )
        return
    yield Cause(
        CODE,
        NAME,
        what=f"sparse gradients were given to {facts['name']}",
        why="an nn.Embedding with sparse=True makes them",
        fix=(
            "nn.Embedding(count, width)   # without sparse=True",
            f"torch.optim.{facts.get('instead') or 'SparseAdam'}(embedding.parameters())   # an optimizer of its own for the embedding",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

model = nn.Embedding(10, 4, sparse=True)
optimizer = torch.optim.Adam(model.parameters())
model(torch.tensor([3])).sum().backward()
optimizer.step()
"""
MENDED = """
import torch
from torch import nn

model = nn.Embedding(10, 4, sparse=True)
optimizer = torch.optim.SparseAdam(model.parameters())
model(torch.tensor([3])).sum().backward()
optimizer.step()
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
