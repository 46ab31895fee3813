"""The head of a classifier: finding the layer that gives the class scores, and putting another in its place.

Found by what the model itself says first (`get_classifier`, Hugging Face's names), then by the names of the usual
families, then as the last layer registered that can be one; it is always said how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rekindle.errors import ConfigError
from rekindle.tune.named import module_named, modules_by_key

__all__ = ["Head", "Replaced", "find_head", "replace_head"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# In torchvision, timm, Hugging Face and most code of one's own.
_NAMES = ("fc", "classifier", "head", "heads", "score", "last_linear", "fc_out", "output", "out", "linear", "fc3")


@dataclass(frozen=True, slots=True)
class Head:
    """The layer that gives the class scores.

    Attributes:
        name: its name in the model.
        layer: a `Linear` or a convolution.
        how: how it was found.
    """

    name: str
    layer: nn.Module
    how: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """What `replace_head` did; `str` says it.

    Attributes:
        name: of the layer.
        how: how it was found.
        before, after: what it was and what it is.
    """

    name: str
    how: str
    before: str
    after: str

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.name} ({self.how}): {self.before} -> {self.after}"


def find_head(model: nn.Module) -> Head | None:
    """Return the layer that gives the class scores; None where nothing in the model can be one."""
    modules = modules_by_key(model)
    own = _said_by_model(model, modules)
    if own is not None:
        return own
    for name in _NAMES:
        module = modules.get(name)
        if module is None:
            continue
        inner = _last_layer(name, module)
        if inner is not None:
            return Head(inner[0], inner[1], f"by the name `{name}`")
    last = None
    for name, module in modules.items():
        if isinstance(module, _LAYERS):
            last = Head(name, module, "the last layer registered that can be one")
    return last


def replace_head(
    model: nn.Module, classes: int, *, name: str | None = None, init: Callable[[nn.Module], object] | None = None
) -> Replaced:
    """Give a classifier a new last layer for another number of classes.

    The new layer has the same kind, inputs, bias, dtype and device; its weights are drawn anew as torch draws them
    (`init`: applied to it afterwards). The number of classes that the model notes elsewhere (timm's `num_classes`,
    Hugging Face's `config.num_labels` and labels) is changed with it.

    Args:
        model: changed in place.
        classes: K, at least 1.
        name: of the layer, where it is not to be found by itself.
        init: function of the new layer.

    Returns:
        Which layer, how it was found, what it was and is: ``print`` it.

    Raises:
        ConfigError: no such layer; the nearest names are given.

    Example:
        print(rk.replace_head(model, 2))
    """
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
        raise ConfigError(f"replace_head: {classes!r} is not a number of classes")
    if name is not None:
        inner = _last_layer(name, module_named(model, name))
        if inner is None:
            raise ConfigError(
                f"{name!r} is a {type(module_named(model, name)).__name__}, and holds no Linear or convolution",
                do="name the layer that gives the class scores",
            )
        head = Head(inner[0], inner[1], "as named")
    else:
        found = find_head(model)
        if found is None:
            raise ConfigError("no layer of the model can be its head", do="rk.replace_head(model, classes, name=...)")
        head = found
    new = _like(head.layer, classes)
    if init is not None:
        init(new)
    new.train(head.layer.training)
    _replace(model, head.layer, new)
    _note_classes(model, classes)
    return Replaced(head.name, head.how, _words(head.layer), _words(new))


def _said_by_model(model: nn.Module, modules: dict[str, nn.Module]) -> Head | None:
    ask = getattr(model, "get_classifier", None)  # timm
    if not callable(ask):
        return None
    answer = ask()
    name = next((name for name, module in modules.items() if module is answer), None)
    inner = None if name is None else _last_layer(name, answer)
    return None if inner is None else Head(inner[0], inner[1], "the model's own get_classifier()")


def _last_layer(name: str, module: nn.Module) -> tuple[str, nn.Module] | None:
    """Return the last layer in a module that can be a head, with its full name: `classifier.6` of a VGG."""
    if isinstance(module, _LAYERS):
        return name, module
    found = None
    for inner, part in module.named_modules():
        if isinstance(part, _LAYERS):
            found = f"{name}.{inner}", part
    return found


def _like(layer: nn.Module, classes: int) -> nn.Module:
    weight = layer.weight
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, classes, bias=layer.bias is not None, **place)
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        raise TypeError(f"{type(layer).__name__} cannot be a head")
    return type(layer)(
        layer.in_channels,
        classes,
        layer.kernel_size,  # type: ignore[arg-type]  # that of the very class
        stride=layer.stride,  # type: ignore[arg-type]  # as above
        padding=layer.padding,  # type: ignore[arg-type]  # as above
        dilation=layer.dilation,  # type: ignore[arg-type]  # as above
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
        **place,
    )


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another wherever it is registered: a shared one has several owners."""
    for owner in list(model.modules()):
        for name, child in list(owner._modules.items()):  # noqa: SLF001 - torch has no public list that names shared ones twice
            if child is old:
                setattr(owner, name, new)


def _note_classes(model: nn.Module, classes: int) -> None:
    for owner in model.modules():
        for name in ("num_classes", "num_labels", "n_classes"):
            if isinstance(vars(owner).get(name), int):
                setattr(owner, name, classes)
        config = vars(owner).get("config")
        labels = getattr(config, "id2label", None)
        # Its setter makes new labels, which must not take away named ones of the right number.
        if config is not None and labels is not None and len(labels) != classes:
            config.num_labels = classes


def _words(layer: nn.Module) -> str:
    return repr(layer) if not isinstance(layer.weight, torch.nn.UninitializedParameter) else type(layer).__name__
