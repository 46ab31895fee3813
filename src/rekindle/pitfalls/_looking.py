"""Live objects into plain values: modules, parameters, optimizers, data sets. Nothing is changed or drawn."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Subset, TensorDataset

from rekindle.keys import canonical_key
from rekindle.pitfalls._seen import Group, Layer, Samples, Weight

__all__ = [
    "groups_of",
    "held_by",
    "labels_of",
    "layers_of",
    "own_generators",
    "sampler_of",
    "samples_of",
    "shared_samples",
    "state_elsewhere",
    "weights_of",
]

_MOST_LABELS = 10_000_000
_MOST_ROWS = 200_000
_DROPOUTS = nn.modules.dropout._DropoutNd  # noqa: SLF001 - the base of all dropouts; torch has no public one


def layers_of(model: nn.Module) -> tuple[Layer, ...]:
    """Return the modules, the model itself first."""
    return tuple(_layer(name, module) for name, module in model.named_modules())


def _layer(name: str, module: nn.Module) -> Layer:
    own = [parameter for parameter in module._parameters.values() if parameter is not None]  # noqa: SLF001 - `parameters()` costs ten times as much
    p: float | None = None
    if isinstance(module, _DROPOUTS):
        p = float(module.p)
    elif isinstance(module, nn.RNNBase) and module.dropout and module.num_layers > 1:
        p = float(module.dropout)
    return Layer(
        canonical_key(f"{name}.x")[:-2] if name else "",
        type(module).__name__,
        module.training,
        len(own),
        sum(parameter.requires_grad for parameter in own),
        isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None,  # noqa: SLF001 - torch has no public base of norms
        p,
    )


def weights_of(model: nn.Module, held: set[int] | None) -> tuple[Weight, ...]:
    """Return the parameters; `held` are the ids of those in an optimizer, None where that cannot be told."""
    return tuple(
        Weight(
            canonical_key(name),
            tuple(parameter.shape),
            parameter.requires_grad,
            None if held is None else id(parameter) in held,
        )
        for name, parameter in model.named_parameters()
    )


def held_by(optimizers: Iterable[torch.optim.Optimizer]) -> dict[int, torch.Tensor]:
    """Return id -> parameter of all that optimizers hold."""
    return {id(one): one for optimizer in optimizers for group in optimizer.param_groups for one in group["params"]}


def groups_of(name: str, optimizer: torch.optim.Optimizer) -> Iterator[Group]:
    """Yield the param groups of an optimizer."""
    for number, group in enumerate(optimizer.param_groups):
        base = group.get("initial_lr")
        yield Group(
            name,
            number,
            type(optimizer).__name__,
            float(group["lr"]),
            None if base is None else float(base),
            sum(one.requires_grad for one in group["params"]),
        )


def state_elsewhere(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> tuple[str, ...]:
    """Return the names of parameters whose state lies on another device; numbers without dimensions may."""
    return tuple(
        names.get(id(parameter), "a parameter")
        for parameter, state in optimizer.state.items()
        if any(
            isinstance(value, torch.Tensor) and value.dim() and value.device != parameter.device
            for value in state.values()
        )
    )


# ---- data


def _dataset_of(data: Any) -> tuple[Any, int, bool]:
    """Return the data set, the number of workers that fetch from it, and whether they are initialised by the user."""
    if isinstance(data, DataLoader):
        return data.dataset, data.num_workers, data.worker_init_fn is not None
    if hasattr(data, "dataset") and hasattr(data, "num_workers"):  # a loader of run.loader
        settings = getattr(data, "_settings", {})
        return data.dataset, int(data.num_workers), "worker_init_fn" in settings
    return data, 0, False


def samples_of(data: Any, validation: Any = None) -> Samples:
    """Return what is known of the samples without fetching one.

    Args:
        data: the training set, or a loader over it.
        validation: the validation set, or a loader over it.
    """
    dataset, workers, initialised = _dataset_of(data)
    labels = labels_of(dataset)
    lowest, highest = (None, None) if labels is None else (int(labels.min()), int(labels.max()))
    classes = getattr(_innermost(dataset), "classes", None)
    shared, validated = (0, 0) if validation is None else shared_samples(dataset, _dataset_of(validation)[0])
    return Samples(
        lowest=lowest,
        highest=highest,
        classes=len(classes) if isinstance(classes, Sequence) else None,
        shared=shared,
        validated=validated,
        generators=() if initialised or not workers else tuple(own_generators(dataset)),
        workers=workers,
        frozen_order="",
    )


def _innermost(dataset: Any) -> Any:
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return dataset


def labels_of(dataset: Any) -> torch.Tensor | None:
    """Return whole-number labels, int64 of one dimension, where the data set keeps them; None for anything else."""
    chosen = None
    while type(dataset) is Subset:
        own = torch.as_tensor(list(dataset.indices))
        chosen = own if chosen is None else own[chosen]
        dataset = dataset.dataset
    labels: Any = None
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        labels = dataset.tensors[1]
    elif type(dataset) is not TensorDataset:
        labels = getattr(dataset, "targets", None)
    if labels is None or not hasattr(labels, "__len__") or not 0 < len(labels) <= _MOST_LABELS:
        return None
    if isinstance(labels, Sequence) and not all(type(one) is int for one in labels):
        return None
    labels = torch.as_tensor(labels)
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool or labels.device.type != "cpu":
        return None
    whole: torch.Tensor = labels.long()
    return whole if chosen is None else whole[chosen]


def own_generators(value: Any, name: str = "dataset", depth: int = 3) -> Iterator[str]:
    """Yield where in a data set generators are kept that nobody seeds anew in a worker."""
    for key, held in list(getattr(value, "__dict__", {}).items())[:100]:
        place = f"{name}.{key}"
        if _is_generator(held):
            yield place
        elif depth and isinstance(held, (list, tuple)) and len(held) <= 50:
            for number, one in enumerate(held):
                if _is_generator(one):
                    yield f"{place}[{number}]"
                elif hasattr(one, "__dict__") and not isinstance(one, (torch.Tensor, type)):
                    yield from own_generators(one, f"{place}[{number}]", depth - 1)
        elif depth and hasattr(held, "__dict__") and not isinstance(held, (torch.Tensor, nn.Module, type)):
            yield from own_generators(held, place, depth - 1)


def _is_generator(value: Any) -> bool:
    numpy_names = {"numpy.random._generator.Generator", "numpy.random.mtrand.RandomState"}
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return isinstance(value, (random.Random, torch.Generator)) or kind in numpy_names


def shared_samples(first: Any, second: Any, *, only_indices: bool = False) -> tuple[int, int]:
    """Return how many samples of the second data set are in the first, and how many it has; (0, 0) if unknown.

    Two subsets of one data set are compared by their indices, data sets of files by their paths, tensors row by row.

    Args:
        first: the training set.
        second: the validation set.
        only_indices: leave out what reads all of the data.
    """
    left, right = _indices(first), _indices(second)
    if left is not None and right is not None and _innermost(first) is _innermost(second):
        return int(torch.isin(right, left).sum()), len(right)
    if only_indices:
        return 0, 0
    ours, theirs = _prints(first), _prints(second)
    if ours is None or theirs is None:
        return 0, 0
    known = set(ours)
    return sum(one in known for one in theirs), len(theirs)


def _indices(dataset: Any) -> torch.Tensor | None:
    if not hasattr(dataset, "__len__") or len(dataset) > _MOST_LABELS:
        return None
    chosen = torch.arange(len(dataset))
    while type(dataset) is Subset:
        chosen = torch.as_tensor(list(dataset.indices), dtype=torch.int64)[chosen]
        dataset = dataset.dataset
    return chosen


def _prints(dataset: Any) -> list[Any] | None:
    """Return something of each sample that two equal ones share: a path, or the bytes of its tensors."""
    inner, chosen = _innermost(dataset), _indices(dataset)
    if chosen is None or len(chosen) > _MOST_ROWS:
        return None
    if type(inner) is TensorDataset:
        if any(tensor.device.type != "cpu" for tensor in inner.tensors):
            return None
        first = inner.tensors[0].detach().contiguous()
        rows = first[chosen].reshape(len(chosen), -1)
        return [hash(row.tobytes()) for row in rows.view(torch.uint8).numpy()] if rows.numel() else None
    listed = getattr(inner, "samples", None) or getattr(inner, "imgs", None)
    if isinstance(listed, Sequence) and len(listed) == len(inner):
        paths = [one[0] if isinstance(one, tuple) else one for one in listed]
        if all(isinstance(path, str) for path in paths):
            return [paths[index] for index in chosen.tolist()]
    return None


def sampler_of(loader: Any) -> Any:
    """Return the sampler that decides the order of a DataLoader."""
    if not isinstance(loader, DataLoader):
        return None
    batches = loader.batch_sampler
    return batches.sampler if isinstance(batches, BatchSampler) else loader.sampler
