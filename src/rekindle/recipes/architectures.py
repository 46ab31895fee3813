"""Networks for pictures by name: our own, those of timm and torchvision where these are installed, and the user's.

`lenet`, `resnet18`, `resnet34` and `resnet50` are here; ``timm:NAME`` and ``torchvision:NAME`` are theirs;
``package.module:factory`` is a function of the user's own.

Law: a name that comes from a file leads to a network of a fixed list, never to a function that the file chose: only a
name that the user typed imports the user's code.
"""

from __future__ import annotations

import importlib
import inspect
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from rekindle.errors import ConfigError
from rekindle.factories import UserCodeFailed, model_from
from rekindle.keys import near_names
from rekindle.recipes.networks import LeNet, scores_of
from rekindle.recipes.pictures import Preprocessing
from rekindle.recipes.resnet import RESNETS, resnet
from rekindle.tune.heads import find_head, replace_head

__all__ = ["Built", "build_architecture", "is_users_code"]

_OWN = ("lenet", *RESNETS)
_LENET_MOST = 256


@dataclass(frozen=True, slots=True)
class Built:
    """A network for pictures.

    Attributes:
        model: takes (B, C, H, W), gives (B, K) scores.
        head: name of the layer that gives the scores; empty where none was found.
        preprocessing: as asked for, with the mean and deviation that the network was made for.
        notes: what was changed.
    """

    model: nn.Module
    head: str
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()


def is_users_code(arch: str) -> bool:
    """Tell whether a name leads to a function of the user's own."""
    family, colon, _ = arch.partition(":")
    return bool(colon) and family not in {"timm", "torchvision"}


def build_architecture(
    arch: str, classes: int, preprocessing: Preprocessing, arguments: Mapping[str, Any] | None = None
) -> Built:
    """Return a new network with a score for each class; its first weights come from torch's global generator.

    Args:
        arch: ``resnet18``, ``timm:NAME``, ``torchvision:NAME`` or ``package.module:factory``.
        classes: K.
        preprocessing: size and channels of the pictures.
        arguments: keyword arguments of the user's own function; ``classes`` or ``num_classes`` is given to it where it
            takes that and is not among them.

    Raises:
        UserCodeFailed: the user's module, function or network raised.
        ConfigError: there is no such network, or it does not take such pictures.
    """
    given = dict(arguments or {})
    notes: list[str] = []
    if given and not is_users_code(arch):
        raise ConfigError(
            f"{arch} takes no arguments of its own",
            why="--arguments is for a function of yours: --arch package.module:factory",
            do="leave --arguments out",
        )
    if arch == "lenet":
        if preprocessing.size > _LENET_MOST:
            raise ConfigError(
                f"lenet takes pictures of up to {_LENET_MOST} pixels, not {preprocessing.size}",
                why="its first dense layer grows with their area",
                do="--arch resnet18",
            )
        model: nn.Module = LeNet((preprocessing.channels, preprocessing.size, preprocessing.size), classes, 0.25)
    elif arch in RESNETS:
        model = resnet(arch, classes=classes, channels=preprocessing.channels)
    elif arch.startswith("timm:"):
        model = _from_timm(arch, classes, preprocessing.channels)
        preprocessing = _as_made_for(model, preprocessing)
    elif arch.startswith("torchvision:"):
        model = _from_torchvision(arch, classes, preprocessing.channels)
    elif ":" in arch:
        model = model_from(arch, _with_classes(arch, given, classes))
    else:
        near = near_names(arch, _OWN)
        raise ConfigError(
            f"{arch}: no such network",
            why=f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(_OWN)}",
            do="--arch timm:NAME and torchvision:NAME take theirs, package.module:factory a function of yours",
        )
    shape = (preprocessing.channels, preprocessing.size, preprocessing.size)
    outputs = _outputs(arch, model, shape)
    if outputs != classes:
        replaced = replace_head(model, classes)
        notes.append(f"new head: {replaced}")
        outputs = _outputs(arch, model, shape)
    if outputs != classes:
        raise ConfigError(
            f"model `{arch}` gives {outputs} scores, and there are {classes} classes",
            why="its last layer was replaced, and that did not change the number",
            do="have the function take `classes` and build the last layer from it",
        )
    head = find_head(model)
    return Built(model, "" if head is None else head.name, preprocessing, tuple(notes))


def _outputs(arch: str, model: nn.Module, shape: tuple[int, int, int]) -> int:
    do = "give pictures of another --size, or --grey where it takes one channel"
    try:
        scores = scores_of(arch, model, shape, do=do)
    except ConfigError:
        raise
    except Exception as error:
        if not is_users_code(arch):  # a library's own check of the size, such as a vision transformer's
            raise ConfigError(
                f"model `{arch}` does not take inputs of shape {shape}",
                why=(str(error).splitlines() or [type(error).__name__])[0],
                do=_size_of(model, do),
            ) from error
        raise UserCodeFailed(f"model `{arch}` raised {type(error).__name__} on a picture", error) from error
    if scores.dim() != 2:
        raise ConfigError(
            f"model `{arch}` returns scores of shape {tuple(scores.shape)} for 2 pictures",
            why="a classifier of whole pictures gives (2, classes)",
            do="use the classifier of this network",
        )
    return int(scores.shape[1])


def _size_of(model: nn.Module, do: str) -> str:
    """Return the size that a network says it was made for, as an option; `do` where it says none."""
    known = getattr(model, "pretrained_cfg", None)
    size = known.get("input_size") if isinstance(known, Mapping) else None
    side = size[-1] if isinstance(size, tuple | list) and size else getattr(model, "image_size", None)
    return f"--size {side}" if isinstance(side, int) else do


def _with_classes(arch: str, given: dict[str, Any], classes: int) -> dict[str, Any]:
    """Return the arguments, with the number of classes where the user's function asks for it."""
    module_name, _, factory_name = arch.partition(":")
    if "classes" in given or "num_classes" in given:
        return given
    try:  # model_from imports it again, from memory, and says what is wrong
        known = inspect.signature(getattr(_imported(module_name), factory_name)).parameters
    except Exception:  # noqa: BLE001 - the user's module may raise anything
        return given
    name = next((name for name in ("classes", "num_classes") if name in known), None)
    return given if name is None else {**given, name: classes}


def _imported(module_name: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(module_name)


def _from_timm(arch: str, classes: int, channels: int) -> nn.Module:
    timm = _library("timm", arch)
    name = arch.removeprefix("timm:")
    if not timm.is_model(name.partition(".")[0]):  # a list: no hub names, no paths
        raise _unknown(arch, name, timm.list_models())
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)
    return model


def _as_made_for(model: nn.Module, preprocessing: Preprocessing) -> Preprocessing:
    """Return the preprocessing with timm's mean and deviation of this network."""
    known = getattr(model, "pretrained_cfg", None)
    if not isinstance(known, Mapping) or preprocessing.channels != 3:
        return preprocessing
    return Preprocessing.from_json(
        {**preprocessing.to_json(), **{name: list(known[name]) for name in ("mean", "std") if known.get(name)}}
    )


def _from_torchvision(arch: str, classes: int, channels: int) -> nn.Module:
    models = _library("torchvision.models", arch)
    name = arch.removeprefix("torchvision:")
    if name not in models.list_models(module=models):
        raise _unknown(arch, name, models.list_models(module=models))
    if channels != 3:
        raise ConfigError(f"{arch} takes RGB pictures", do="leave --grey out: grey pictures become RGB")
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return model


def _library(module: str, arch: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise ConfigError(
                f"{arch}: {package} cannot be imported",
                why=f"{error.name} is missing",
                do=f"{shlex.quote(sys.executable)} -m pip install {error.name}",
            ) from None
        raise ConfigError(
            f"{arch}: {package} is not installed in this Python",
            why=f"without it there are: {', '.join(_OWN)}",
            do=f"{shlex.quote(sys.executable)} -m pip install {package}",
        ) from None
    except (ImportError, RuntimeError) as error:  # built for another torch
        raise ConfigError(
            f"{arch}: {module} cannot be imported",
            why=str(error).splitlines()[0][:160],
            do="install the one that belongs to this torch",
        ) from None


def _unknown(arch: str, name: str, known: list[str]) -> ConfigError:
    near = near_names(name, known)
    return ConfigError(
        f"{arch}: no such network",
        why=f"nearest: {', '.join(near)}" if near else f"there are {len(known):,}, none with a name like it",
        do="correct the name behind the colon",
    )
