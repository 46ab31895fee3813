"""Labels: are they classes of the model, and as one-hot vectors.

A wrong label is found on the CPU as an index error far from its cause, and on a GPU as a device-side assert that kills
the process. `check_labels` says which labels, how many and where, before that.
"""

from __future__ import annotations

import torch

from rekindle.errors import ConfigError

__all__ = ["check_labels", "one_hot"]

IGNORED = -100  # what torch's cross-entropy leaves out by default


def check_labels(labels: torch.Tensor, classes: int, *, ignore_index: int | None = IGNORED) -> torch.Tensor:
    """Return how many labels each class has, or say which labels are none of 0 to classes - 1.

    Args:
        labels: class numbers of any shape and any integer dtype; floats that are whole numbers are refused too, as the
            loss refuses them.
        classes: how many there are.
        ignore_index: a label that the loss leaves out, or None.

    Returns:
        int64 of shape (classes,), on the labels' device.

    Raises:
        ConfigError: a label is outside of the classes, or the dtype is none that a loss takes.

    Example:
        rk.check_labels(batch["label"], classes=10)
    """
    if classes < 1:
        raise ConfigError(f"{classes} classes: at least one is wanted")
    if labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise ConfigError(
            f"the labels have dtype {str(labels.dtype).removeprefix('torch.')}",
            why="class numbers are integers; floats are probabilities to a loss, one for each class",
            do="labels.long(), if these are class numbers",
        )
    flat = labels.reshape(-1).long()
    counted = torch.ones_like(flat, dtype=torch.bool) if ignore_index is None else flat != ignore_index
    wrong = ((flat < 0) | (flat >= classes)) & counted
    if bool(wrong.any()):
        raise _outside(flat, wrong, labels.shape, classes)
    return torch.bincount(flat[counted], minlength=classes)


def one_hot(
    labels: torch.Tensor,
    classes: int,
    *,
    dim: int = -1,
    dtype: torch.dtype = torch.float32,
    ignore_index: int | None = None,
) -> torch.Tensor:
    """Return labels as vectors with a one at the class and zeros elsewhere.

    Args:
        labels: class numbers of any shape, any integer dtype, on any device.
        classes: length of a vector.
        dim: where the classes go; -1 gives (*labels.shape, classes), 1 gives (B, classes, H, W) of (B, H, W).
        dtype: of the result.
        ignore_index: a label whose vector is all zeros.

    Raises:
        ConfigError: as of `check_labels`.
        IndexError: there is no such `dim`.
    """
    check_labels(labels, classes, ignore_index=ignore_index)
    places = labels.long().unsqueeze(dim)
    shape = list(places.shape)
    shape[dim] = classes
    made = torch.zeros(shape, dtype=dtype, device=labels.device)
    if ignore_index is None:
        return made.scatter_(dim, places, 1)
    kept = places != ignore_index
    return made.scatter_(dim, places.where(kept, 0), kept.to(dtype))


def _outside(flat: torch.Tensor, wrong: torch.Tensor, shape: torch.Size, classes: int) -> ConfigError:
    bad = flat[wrong]
    values = sorted(set(bad.tolist()))
    shown = ", ".join(str(value) for value in values[:8]) + (", ..." if len(values) > 8 else "")
    first = int(wrong.nonzero()[0])
    place = tuple(int(part) for part in torch.unravel_index(torch.tensor(first), shape)) if shape else ()
    low, high = int(flat.min()), int(flat.max())
    if low == 1 and high == classes:
        do = "labels - 1: these count from 1, and classes count from 0"
    elif low >= 0:
        do = f"give the model {high + 1} classes, or correct the labels"
    else:
        do = "correct the labels; one that the loss shall leave out is named by ignore_index"
    return ConfigError(
        f"{len(bad):,} of {flat.numel():,} labels are outside of the classes 0 to {classes - 1}: {shown}",
        why=f"the first of them is labels{list(place) if place else ''}; all labels lie from {low} to {high}",
        do=do,
    )
