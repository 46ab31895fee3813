"""What the recipes' loops have in common: sums over an epoch, a loss that may be no number, and the learning curve."""

from __future__ import annotations

import os
from typing import Final

import torch

from rekindle.errors import RunError
from rekindle.recipes.folder import elsewhere
from rekindle.run.loop import Run
from rekindle.view.curves import draw_curve, read_metrics

__all__ = ["CURVE", "backward", "count_batch", "draw_run", "means_of_epoch"]

CURVE: Final = "curve.png"
_PANELS = {"loss": ("train_loss", "val_loss"), "accuracy": ("train_accuracy", "val_accuracy"), "learning rate": ("lr",)}


def backward(run: Run, loss: torch.Tensor, lr: float) -> None:
    """Add the gradients.

    Raises:
        RunError: the loss is no number any more; said in the terms of the command, with a tenth of the learning rate.
    """
    try:
        run.backward(loss)
    except RunError as error:
        raise RunError(
            error.what,
            why=error.why,
            do=f"train more slowly, in a folder of its own: --lr {lr / 10:g} {elsewhere(os.fspath(run.folder))}",
        ) from None


def count_batch(run: Run, epoch: int, scores: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor) -> None:
    """Add a batch to the epoch's sums, which are state: a resumed epoch logs what an undisturbed one would."""
    right = (scores.argmax(1) == labels).sum()
    count = torch.tensor(len(labels), dtype=torch.float64, device=scores.device)
    sums = run.state.get("sums")
    if sums is None or run.state.get("sums_of") != epoch:
        run.state["sums_of"] = epoch
        run.state["sums"] = sums = torch.zeros(3, dtype=torch.float64, device=scores.device)
    elif sums.device != scores.device:  # a snapshot gives it back on the CPU
        run.state["sums"] = sums = sums.to(scores.device)
    sums += torch.stack([loss.to(torch.float64) * count, right.to(torch.float64), count])
    run.show(loss=loss, accuracy=right / len(labels))


def means_of_epoch(run: Run) -> dict[str, float]:
    """Return mean loss and accuracy of the epoch's batches, as they are logged."""
    loss, right, count = run.state["sums"].tolist()
    return {"train_loss": loss / count, "train_accuracy": right / count}


def draw_run(folder: str) -> str | None:
    """Draw what was logged so far, and return the picture's path; None without matplotlib, or with nothing logged."""
    path = os.path.join(folder, CURVE)
    try:
        drawn = draw_curve(read_metrics(os.path.join(folder, "metrics.jsonl")), path, groups=_PANELS)
    except (FileNotFoundError, ModuleNotFoundError):  # nothing logged yet; no matplotlib
        return None
    return path if drawn else None
