"""What was seen of a training, as plain values: all that the pitfalls look at. No torch is needed to read this.

A part that nobody could see is None or empty, and the pitfalls that need it are silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rekindle.explain.catalogue._words import attribute
from rekindle.finding import Finding, Severity, Where

__all__ = [
    "Call",
    "Gradient",
    "Group",
    "Input",
    "Layer",
    "Loss",
    "Samples",
    "Seen",
    "Weight",
    "at",
    "found",
    "listed",
]


@dataclass(frozen=True, slots=True)
class Layer:
    """A module of the model.

    Attributes:
        name: qualified name, without wrappers; empty for the model itself.
        kind: the class's name.
        training: its flag.
        weights: its own parameters, children left out.
        trained: those of them that want gradients.
        statistics: whether it keeps running statistics of batches.
        p: probability of a dropout, None where it is none.
    """

    name: str
    kind: str
    training: bool
    weights: int = 0
    trained: int = 0
    statistics: bool = False
    p: float | None = None


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter: `held` by an optimizer, or None where that cannot be told."""

    name: str
    shape: tuple[int, ...]
    trained: bool
    held: bool | None = None
    all_zero: bool | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A param group: `rate` now, `base` where a schedule begins (None without one), `trained` parameters in it."""

    optimizer: str
    number: int
    kind: str
    rate: float
    base: float | None
    trained: int


@dataclass(frozen=True, slots=True)
class Gradient:
    """A gradient: root of the mean square, None where there was none; `finite` tells of NaN and infinities."""

    size: float | None
    finite: bool = True


@dataclass(frozen=True, slots=True)
class Loss:
    """How a loss was made.

    Attributes:
        name: as the script calls it; empty where unknown.
        kind: ``cross entropy``, ``NLLLoss``, ``BCEWithLogitsLoss``, ``MSELoss``...; empty where unknown.
        before: operations from that loss down to the last layer, views left out: ``("Softmax", "Addmm")``.
        last: qualified name of the last layer.
    """

    name: str
    kind: str
    before: tuple[str, ...]
    last: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A loss function's arguments.

    Attributes:
        function: ``cross_entropy``, ``mse_loss``...
        scores, target: shapes.
        target_dtype: as torch prints it, without ``torch.``.
        low, high: smallest and largest target; None where there is none.
        classes: of cross entropy and NLLLoss, how many scores a sample has.
        ignored: the label that is left out.
        place: the user's line.
    """

    function: str
    scores: tuple[int, ...]
    target: tuple[int, ...]
    target_dtype: str
    low: float | None = None
    high: float | None = None
    classes: int | None = None
    ignored: int = -100
    place: str = ""


@dataclass(frozen=True, slots=True)
class Input:
    """What reached the first layer with weights: its name and kind, shape, dtype, and range of the values."""

    layer: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    mean: float
    spread: float


@dataclass(frozen=True, slots=True)
class Samples:
    """What is known of the data.

    Attributes:
        highest: largest label of the training set, `lowest` the smallest; None where unknown.
        classes: number of class names that the data set has.
        shared: samples of the validation set that are trained on as well, and of how many.
        generators: where in the data set generators of its own are kept, while worker processes fetch.
        workers: how many.
        frozen_order: why every epoch has the same order; empty where it has not.
    """

    lowest: int | None = None
    highest: int | None = None
    classes: int | None = None
    shared: int = 0
    validated: int = 0
    generators: tuple[str, ...] = ()
    workers: int = 0
    frozen_order: str = ""


@dataclass(slots=True)
class Seen:
    """All that was seen, at one moment.

    Attributes:
        model: what the script calls the model.
        losses: each loss that could be seen; `calls` to loss functions.
        gradients: name -> gradient, of the parameters that an optimizer was about to use.
        looks: how many updates were looked at; `never` the names without any gradient but None or 0 in all of them.
        values: name of a loss -> what it was, at the moments that were looked at.
        strangers: shapes of what an optimizer holds and no model has; `elsewhere` names of parameters whose state in
            the optimizer is on another device.
        updates: name of an optimizer -> size of the step against the size of the weights; only of plain SGD.
        rates: (optimizer, group) -> the rates at all moments.
        is_epoch_over: whether an epoch was seen whole.
        made_batch: samples in the batch.
        kept: what holds losses with their graphs: name, how many, user's line.
        drew_in_eval: name of the layer and the user's line where dropout worked in eval mode.
        moved_outside: norms whose statistics moved in the part of an epoch that made no update.
        dropping_outside: layers that were in training mode while no gradients were recorded.
        unscheduled: optimizers that a schedule was made for which the run does not track.
        carried: the optimizer before whose update gradients were still those of the update before.
        raised: words of what the model or the loss raised.
    """

    model: str = "model"
    layers: tuple[Layer, ...] = ()
    weights: tuple[Weight, ...] = ()
    groups: tuple[Group, ...] = ()
    losses: tuple[Loss, ...] = ()
    calls: tuple[Call, ...] = ()
    inputs: tuple[Input, ...] = ()
    samples: Samples = field(default_factory=Samples)
    gradients: Mapping[str, Gradient] = field(default_factory=dict)
    looks: int = 0
    never: tuple[str, ...] = ()
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    strangers: tuple[tuple[int, ...], ...] = ()
    elsewhere: tuple[str, ...] = ()
    updates: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[tuple[str, int], tuple[float, ...]] = field(default_factory=dict)
    is_epoch_over: bool = False
    is_training: bool = False
    batch_size: int | None = None
    kept: tuple[tuple[str, int, str], ...] = ()
    drew_in_eval: tuple[tuple[str, str], ...] = ()
    moved_outside: tuple[str, ...] = ()
    dropping_outside: tuple[str, ...] = ()
    unscheduled: tuple[str, ...] = ()
    carried: str = ""
    raised: tuple[str, str, str] | None = None
    places: Mapping[str, str] = field(default_factory=dict)


def found(
    pitfall: tuple[str, str], what: str, *, why: str, do: str, where: str = "", severity: Severity = Severity.WARNING
) -> Finding:
    """Return a finding of a pitfall.

    Args:
        pitfall: its code and name.
        what: what was seen, with this case's names and numbers.
        why: why it goes wrong without an error.
        do: the line to write.
        where: the layer or parameter, by its qualified name.
        severity: NOTE for what may be meant.
    """
    code, name = pitfall
    return Finding(code, name, severity, what, why=why, do=do, where=Where(key=where or None))


def at(model: str, name: str, unnamed: str = "the last layer") -> str:
    """Return a layer as Python takes it: ``model.layer1[0]``; `unnamed` where no name is known."""
    if not name:
        return unnamed
    path = attribute(name)
    return f"{model}{path}" if path.startswith("[") else f"{model}.{path}"


def listed(names: Iterable[str], most: int = 3) -> str:
    """Return names in one line: ``a, b, c and 4 more``."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
