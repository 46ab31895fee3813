"""Where the weights are in a saved object: the state dict or module that somebody wants to load into a model.

A training script keeps them under one of a few names beside the optimizer, the epoch and the rest. What has the shape
of a state dict (texts to tensors) is a candidate; an optimizer's buffers are not. Looked for at most three levels down,
so that a hostile object costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from rekindle.listing import state_dict_of
from rekindle.tree import Map, Module, SparseTensor, Tensor, Value

__all__ = ["Weights", "find_weights", "weights_in"]

# The usual names, the likeliest first.
_NAMES = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params"),
    *("generator", "encoder", "ema", "ema_state_dict", "model_ema", "state_dict_ema"),
)
_NOT_WEIGHTS = ("optim", "sched", "scaler", "callback", "loops", "hyper", "rng")
_DEPTH = 3
_MAX_VISITS = 10_000


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a model.

    Attributes:
        path: keys that lead to them; empty where the object itself is the state dict or the module.
        value: the dict or the module.
        state: key -> tensor, as ``load_state_dict`` would be given them.
        others: paths of other state dicts and modules in the object, such as averaged weights.
    """

    path: tuple[str, ...]
    value: Map | Module
    state: dict[str, Tensor | SparseTensor]
    others: tuple[tuple[str, ...], ...] = ()


def find_weights(tree: Value) -> Weights | None:
    """Return where the weights are; None where nothing has their shape, or nothing tells which of several it is."""
    found = _candidates(tree)
    if not found:
        return None
    best = min(found, key=lambda item: _rank(item[0]))
    if len(found) > 1 and _rank(best[0])[0] == len(_NAMES):
        return None
    return Weights(best[0], best[1], _state(best[1]), tuple(path for path, _ in found if path != best[0]))


def weights_in(tree: Value) -> list[tuple[tuple[str, ...], dict[str, Tensor | SparseTensor]]]:
    """Return the path and the state dict of everything in an object that has the shape of weights."""
    return [(path, _state(node)) for path, node in _candidates(tree)]


def _candidates(tree: Value) -> list[tuple[tuple[str, ...], Map | Module]]:
    found: list[tuple[tuple[str, ...], Map | Module]] = []
    level: list[tuple[tuple[str, ...], Value]] = [((), tree)]
    visits = 0
    for _ in range(_DEPTH):
        below: list[tuple[tuple[str, ...], Value]] = []
        for path, node in level:
            if isinstance(node, Module) or (isinstance(node, Map) and _is_state(node)):
                found.append((path, node))
            elif isinstance(node, Map):
                for key, child in node.pairs:
                    visits += 1
                    if visits > _MAX_VISITS:
                        break
                    if isinstance(key, str) and isinstance(child, (Map, Module)) and not _is_other(key):
                        below.append(((*path, key), child))
        level = below
    return found


def _is_other(key: str) -> bool:
    lower = key.lower()
    return any(word in lower for word in _NOT_WEIGHTS)


def _rank(path: tuple[str, ...]) -> tuple[int, int]:
    name = path[-1] if path else "state_dict"
    return (_NAMES.index(name) if name in _NAMES else len(_NAMES)), len(path)


def _is_state(node: Map) -> bool:
    """Tell whether a dict reads as a state dict: texts to tensors, perhaps with a few plain values among them."""
    tensors = sum(isinstance(child, (Tensor, SparseTensor)) and isinstance(key, str) for key, child in node.pairs)
    dicts = sum(isinstance(child, (Map, Module)) for _, child in node.pairs)
    return tensors > 0 and not dicts and tensors * 2 >= len(node.pairs)


def _state(node: Map | Module) -> dict[str, Tensor | SparseTensor]:
    return {
        key: child
        for key, child in state_dict_of(node).pairs
        if isinstance(key, str) and isinstance(child, (Tensor, SparseTensor))
    }
