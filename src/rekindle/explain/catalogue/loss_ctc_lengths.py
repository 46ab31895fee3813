"""The lengths given to a CTC loss are longer than its inputs or targets."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-17", "loss-ctc-lengths", "0.2"
TITLE = "Expected input_lengths to have value at most 50, but got value 60 (while checking arguments for ctc_loss_cpu)"
RAISES = ("RuntimeError",)
NEEDLES = ("input_lengths to have value at most", "for ctc_loss", "arguments for ctc_loss")
PATTERNS = (
    r"Expected input_lengths to have value at most (?P<most>\d+), but got value (?P<got>\d+)",
    r"Expected tensor to have size at least (?P<want>\d+) at dimension 1, but got size (?P<have>\d+) for argument #2 'targets'",
)
OLD: tuple[str, ...] = ()
WHY = "`CTCLoss` takes scores of `[T, N, C]`, time first. `input_lengths` counts time steps as they come out of the model, after its strides; `target_lengths` counts labels. Both are at most the size they are padded to."
CHECK = "`log_probs.shape` (T, N, C), `input_lengths.max()`, `targets.shape`, `target_lengths.max()`."


def explain(event: Event) -> Iterator[Cause]:
    """Which of both lengths, and by how much."""
    facts = event.facts
    if facts.get("most"):
        yield Cause(
            CODE,
            NAME,
            what=f"an input length of {facts['got']}, and the scores have {facts['most']} time steps",
            why="the lengths count what went into the model, and its strides made it shorter; or the scores are [N, T, C] and have to be [T, N, C]",
            fix=(
                "input_lengths = lengths // 4   # by the strides of the model",
                "ctc(log_probs.transpose(0, 1), ...)   # if the batch comes first",
            ),
            likelihood="certain",
        )
        return
    yield Cause(
        CODE,
        NAME,
        what=f"a target length of {facts['want']}, and the targets have {facts['have']} labels",
        why="target_lengths counts the labels of each sample before the padding",
        fix=("print(targets.shape, target_lengths.max())",),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

log_probs = torch.zeros(50, 2, 10).log_softmax(2)
targets = torch.ones(2, 8, dtype=torch.long)
nn.CTCLoss()(log_probs, targets, torch.tensor([200, 200]), torch.tensor([8, 6]))
"""
MENDED = """
import torch
from torch import nn

log_probs = torch.zeros(50, 2, 10).log_softmax(2)
targets = torch.ones(2, 8, dtype=torch.long)
nn.CTCLoss()(log_probs, targets, torch.tensor([200, 200]) // 4, torch.tensor([8, 6]))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
