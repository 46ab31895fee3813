"""The data sets of `rekindle train`: scikit-learn's handwritten digits, or tensors from a file of one's own.

Shapes: N samples, C channels, H rows, W columns. A data set is split by a permutation that follows from `data.split`,
so that the test part is the same for every seed. Augmentation draws from the global generators, which `run.loader`
keys by (seed, epoch, sample), so that a sample is moved the same way however many workers load it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset, TensorDataset

from rekindle.errors import ConfigError
from rekindle.keys import near_names
from rekindle.recipes.config import Settings

__all__ = ["Data", "Moved", "batches_of", "load_data"]


_SAVING = 'rk.save({{"inputs": inputs, "labels": labels}}, "{path}")    makes such a file'


@dataclass(frozen=True, slots=True)
class Data:
    """A data set in its three parts.

    Attributes:
        train: yields (input, label); pictures are moved at random where `data.shift` says so.
        validation: inputs and labels, as they are.
        test: inputs and labels, as they are.
        shape: shape of one input: (C, H, W) for pictures, (features,) otherwise.
        classes: number of classes.
    """

    train: Dataset[tuple[torch.Tensor, ...]]
    validation: TensorDataset
    test: TensorDataset
    shape: tuple[int, ...]
    classes: int


class Moved(Dataset[tuple[torch.Tensor, ...]]):
    """Pictures, each moved by up to `shift` pixels in both directions, drawn from Python's global generator.

    Args:
        inputs_NCHW: the pictures; what moves in at the edge has the value `fill`.
        labels_N: their labels.
        shift: pixels.
        fill: value of the ground.
    """

    def __init__(self, inputs_NCHW: torch.Tensor, labels_N: torch.Tensor, shift: int, fill: float) -> None:
        """Pad once, so that moving a picture is taking a window of it."""
        self._padded = torch.nn.functional.pad(inputs_NCHW, (shift,) * 4, value=fill)
        self._labels = labels_N
        self._shift = shift
        self._size = inputs_NCHW.shape[-2:]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        down, right = random.randint(0, 2 * self._shift), random.randint(0, 2 * self._shift)
        height, width = self._size
        return self._padded[index, :, down : down + height, right : right + width], self._labels[index]


def load_data(settings: Settings) -> Data:
    """Load, check and split the data set that the settings name.

    Raises:
        ConfigError: it is empty, too small to split, of the wrong shape, or has labels out of range.
        UnreadableFile: the file of tensors cannot be read.
    """
    name = settings["data.name"]
    inputs, labels = _digits() if name == "digits" else _tensors(name.removeprefix("tensors:"))
    subject = name.removeprefix("tensors:")
    classes = _check(subject, inputs, labels, settings["data.classes"] or None)
    labels = labels.to(torch.int64)
    inputs = _as_float(inputs)
    train, validation, test = _split(subject, len(labels), settings)
    inputs, fill = _normalised(inputs, train)
    shift = settings["data.shift"] if inputs.dim() == 4 else 0
    train_set: Dataset[tuple[torch.Tensor, ...]] = (
        Moved(inputs[train], labels[train], shift, fill) if shift else TensorDataset(inputs[train], labels[train])
    )
    return Data(
        train=train_set,
        validation=TensorDataset(inputs[validation], labels[validation]),
        test=TensorDataset(inputs[test], labels[test]),
        shape=tuple(inputs.shape[1:]),
        classes=classes,
    )


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """1,797 pictures of 8 by 8 pixels, from the UCI test set of handwritten digits, as scikit-learn carries it."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - a second to import, and only this data set needs it

    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels).to(torch.float32).view(-1, 1, 8, 8) / 16, torch.from_numpy(labels)


def _tensors(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    from rekindle.load import load  # noqa: PLC0415 - only this kind of data needs it

    found = load(path)
    names = [str(key) for key in found] if isinstance(found, dict) else []
    for wanted in ("inputs", "labels"):
        if not isinstance(found, dict) or not isinstance(found.get(wanted), torch.Tensor):
            if isinstance(found, dict) and wanted in found:
                raise ConfigError(
                    f"{path}: `{wanted}` is there, but {_kind(found[wanted])}",
                    why="a tensor is wanted",
                    do=_SAVING.format(path=path),
                )
            near = near_names(wanted, names)
            there = f"nearest: {', '.join(near)}" if near else f"there is: {', '.join(names[:8]) or 'no named tensor'}"
            raise ConfigError(
                f"{path}: no tensor named `{wanted}`",
                why=there,
                do=_SAVING.format(path=path),
            )
    return found["inputs"], found["labels"]


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "a text"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value):,}"
    return f"of the type {type(value).__name__}"


def _check_kind(subject: str, name: str, tensor: torch.Tensor) -> None:
    """Refuse tensors that are no plain arrays of real numbers."""
    layout = str(tensor.layout).removeprefix("torch.")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided:
        what, do = f"sparse ({layout})", f"{name} = {name}.to_dense()"
    elif tensor.is_quantized:
        what, do = f"quantized ({dtype})", f"{name} = {name}.dequantize()"
    elif tensor.dtype.is_complex:
        what, do = dtype, f"{name} = torch.view_as_real({name}).flatten(1)"
    elif not tensor.dim():
        what, do = "a single number, without a dimension of samples", f"{name} = {name}[None] where it is one sample"
    else:
        return
    raise ConfigError(
        f"{subject}: `{name}` is {what}", why="wanted: a dense tensor of real numbers, a row a sample", do=do
    )


def _check(subject: str, inputs: torch.Tensor, labels: torch.Tensor, classes: int | None) -> int:
    """Refuse what cannot be learnt from; return the number of classes."""
    _check_kind(subject, "inputs", inputs)
    _check_kind(subject, "labels", labels)
    if not len(inputs):
        raise ConfigError(f"{subject}: the data set is empty", why="`inputs` holds 0 samples", do="look at the file")
    if labels.dim() != 1 or len(labels) != len(inputs):
        raise ConfigError(
            f"{subject}: {len(inputs):,} inputs and labels of shape {tuple(labels.shape)}",
            why="there must be one label for each input, as a number of its class",
            do="labels = labels.argmax(1) where they are one-hot",
        )
    if labels.dtype.is_floating_point:
        raise ConfigError(
            f"{subject}: the labels are {str(labels.dtype).removeprefix('torch.')}",
            why="a label is the number of a class, counted from 0",
            do="labels = labels.to(torch.int64)",
        )
    if inputs.dim() not in (2, 4):
        raise ConfigError(
            f"{subject}: the inputs have shape {tuple(inputs.shape)}",
            why="wanted: (samples, features), or (samples, channels, height, width) for pictures",
            do="inputs = inputs[:, None] where pictures have no channel dimension",
        )
    _check_range(subject, labels.to(torch.int64), classes)
    broken = 0
    if inputs.dtype.is_floating_point:
        broken = int((~torch.isfinite(inputs.flatten(1))).any(1).sum())
    if broken:
        raise ConfigError(
            f"{subject}: {broken:,} of {len(inputs):,} inputs hold NaN or infinity",
            why="one such sample makes every weight NaN",
            do="inputs = torch.nan_to_num(inputs), or leave these samples out",
        )
    count = classes or max(2, int(labels.max()) + 1)
    if count > max(2, len(labels)):
        raise ConfigError(
            f"{subject}: {count:,} classes, and {len(labels):,} samples",
            why="data.classes says so" if classes else f"the largest label is {count - 1:,}, and classes count from 0",
            do="labels = torch.unique(labels, return_inverse=True)[1]    numbers the classes from 0 without gaps",
        )
    return count


def _check_range(subject: str, labels: torch.Tensor, classes: int | None) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and (classes is None or high < classes):
        return
    outside = int(((labels < 0) | (labels >= (classes or high + 1))).sum())
    allowed = f"0 to {classes - 1}" if classes else "0 and up"
    one_based = low == 1 and classes is not None and high == classes
    raise ConfigError(
        f"{subject}: {outside:,} of {len(labels):,} labels are out of range",
        why=f"labels go from {low} to {high}, with {classes or high + 1} classes they may be {allowed}",
        do="labels = labels - 1" if one_based else "correct these labels, leave the samples out, or set data.classes",
    )


def _split(subject: str, count: int, settings: Settings) -> tuple[torch.Tensor, ...]:
    validation, test = round(count * settings["data.validation"]), round(count * settings["data.test"])
    train = count - validation - test
    if min(train, validation, test) < 1:
        raise ConfigError(
            f"{subject}: {count} samples cannot be split into three parts",
            why=f"that would be {train} to train on, {validation} to validate and {test} to test",
            do="take more samples, or change data.validation and data.test",
        )
    generator = torch.Generator().manual_seed(settings["data.split"])
    order = torch.randperm(count, generator=generator)
    return order[:train], order[train : train + validation], order[train + validation :]


def _as_float(inputs: torch.Tensor) -> torch.Tensor:
    if inputs.dtype == torch.uint8:
        return inputs.to(torch.float32) / 255
    return inputs.to(torch.float32)


def _normalised(inputs: torch.Tensor, train: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return inputs of mean 0 and deviation 1 over the training part, and what became of 0."""
    known = inputs[train].to(torch.float64)
    mean, deviation = float(known.mean()), float(known.std(unbiased=False)) or 1.0
    return (inputs - mean) / deviation, -mean / deviation


def batches_of(part: TensorDataset, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (inputs, labels) of a part in order, without workers."""
    inputs, labels = part.tensors
    return zip(torch.split(inputs, batch_size), torch.split(labels, batch_size), strict=True)
