"""Groups of parameters for an optimizer: a small learning rate for the backbone, none of the decay on norms and biases.

Layer-wise decay after Clark et al., "ELECTRA" (2020) and Bao et al., "BEiT" (2021): the k-th layer below the head gets
the rate times ``layer_decay`` to the power k. Layers are the blocks of the model as registered: the children of its
containers of blocks (`nn.Sequential`, `nn.ModuleList`), and what stands beside these.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from rekindle.errors import ConfigError
from rekindle.keys import canonical_key
from rekindle.tune.heads import find_head
from rekindle.tune.named import NORMS, keys_until, module_named, modules_by_key

__all__ = ["param_groups"]


def param_groups(
    model: nn.Module,
    lr: float,
    *,
    backbone_lr: float | None = None,
    layer_decay: float | None = None,
    weight_decay: float = 0.0,
    head: str | None = None,
) -> list[dict[str, Any]]:
    """Return groups of a model's parameters for any torch optimizer.

    Frozen parameters are in the groups too: they cost an optimizer nothing, and may be thawed later.

    Args:
        model: may be wrapped.
        lr: learning rate of the head, and of everything where neither of the next two is given.
        backbone_lr: learning rate of everything but the head.
        layer_decay: the rate falls by this factor with each layer away from the head; at most 1.
        weight_decay: of weights; norms, biases and other vectors get none.
        head: name of the head; found by itself otherwise (see `replace_head`).

    Returns:
        Dicts with ``params``, ``lr``, ``weight_decay`` and ``name``, in the order of the model.

    Raises:
        ConfigError: numbers that cannot be meant, or no head was found or is there by that name.

    Example:
        optimizer = torch.optim.AdamW(rk.param_groups(model, 1e-3, backbone_lr=1e-4, weight_decay=0.05))
    """
    _check(lr=lr, backbone_lr=backbone_lr, weight_decay=weight_decay)
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay={layer_decay!r} is not a factor from 0 to 1")
    if backbone_lr is not None and layer_decay is not None:
        raise ConfigError("both backbone_lr and layer_decay say how fast the backbone learns", do="give one of them")
    plain = backbone_lr is None and layer_decay is None and head is None
    head_keys = set() if plain else _keys_of_head(model, head)
    no_decay = _without_decay(model)
    depth_of = _depths(model, head_keys)
    deepest = max(depth_of.values(), default=0)
    groups: dict[tuple[float, float, str], dict[str, Any]] = {}
    for key, parameter in model.named_parameters():
        name = canonical_key(key)
        rate, label = lr, "head" if name in head_keys else "all"
        if name not in head_keys and not plain:
            label = "backbone"
            if layer_decay is not None:
                below = deepest - depth_of[name] + 1
                rate, label = lr * layer_decay**below, f"layer {depth_of[name]}"
            elif backbone_lr is not None:
                rate = backbone_lr
        decay = 0.0 if name in no_decay else weight_decay
        if weight_decay and not decay:
            label += ", no decay"
        group = groups.setdefault(
            (rate, decay, label), {"params": [], "lr": rate, "weight_decay": decay, "name": label}
        )
        group["params"].append(parameter)
    return list(groups.values())


def _check(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and (
            isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number) or number < 0
        ):
            words = "a number such as 1e-3"
            if isinstance(number, str):
                words += "; YAML reads 1e-3 as a text, 1.0e-3 as a number"
            raise ConfigError(f"{name}={number!r} is not {words}")


def _keys_of_head(model: nn.Module, head: str | None) -> set[str]:
    if head is None:
        found = find_head(model)
        if found is None:
            raise ConfigError(
                "no head was found in the model",
                why="no layer that ends it is a Linear or a convolution",
                do="head='name'",
            )
        head = found.name
    module_named(model, head)
    before = keys_until(model, head)
    return {key for key in before if key == head or key.startswith(f"{head}.")}


def _without_decay(model: nn.Module) -> set[str]:
    """Return the keys of norms' parameters, of biases, and of everything else that has one dimension at most."""
    norms = {name for name, module in modules_by_key(model).items() if isinstance(module, NORMS)}
    found = set()
    for key, parameter in model.named_parameters():
        name = canonical_key(key)
        owner, _, last = name.rpartition(".")
        if owner in norms or parameter.ndim <= 1 or last == "bias" or last in {"cls_token", "pos_embed"}:
            found.add(name)
    return found


def _depths(model: nn.Module, head_keys: set[str]) -> dict[str, int]:
    """Return key -> number of its layer, from the input on; without the head."""
    containers = {
        name for name, module in modules_by_key(model).items() if isinstance(module, (nn.Sequential, nn.ModuleList))
    }
    depths: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for key, _ in model.named_parameters():
        name = canonical_key(key)
        if name in head_keys:
            continue
        parts = name.split(".")
        # The outermost container of blocks decides: `layer2.1`, `encoder.layers.3`.
        block = parts[0]
        for at in range(1, len(parts) - 1):
            if ".".join(parts[:at]) in containers:
                block = ".".join(parts[: at + 1])
                break
        depths[name] = numbers.setdefault(block, len(numbers))
    return depths
