"""Parts of a model by name: modules up to one, or parameters by patterns; wrong names are answered with near ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from rekindle.errors import ConfigError
from rekindle.keys import canonical_key, near_names
from rekindle.selection import Choice

__all__ = ["NORMS", "keys_until", "module_named", "modules_by_key", "picked_keys"]

# Layers whose running statistics or scales are not weights of a product: no weight decay, eval while frozen.
NORMS = (
    nn.modules.batchnorm._NormBase,  # noqa: SLF001 - the base of every batch and instance norm; torch has no public one
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)

_DO = "correct the name; print(model) shows all of them"


def modules_by_key(model: nn.Module) -> dict[str, nn.Module]:
    """Return canonical name -> module, without wrappers; the model itself is not among them."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if name:
            plain = canonical_key(f"{name}.x")[:-2]
            if plain:
                found.setdefault(plain, module)
    return found


def module_named(model: nn.Module, name: str) -> nn.Module:
    """Return a part of a model by its name.

    Raises:
        ConfigError: there is none; the nearest names are given.
    """
    modules = modules_by_key(model)
    if name not in modules:
        raise ConfigError(f"the model has no layer {name!r}", why=_near(name, modules), do=_DO)
    return modules[name]


def keys_until(model: nn.Module, name: str) -> list[str]:
    """Return the keys of the parameters registered before a module or parameter, and of those in it.

    The module may be one without parameters, such as a ReLU.

    Raises:
        ConfigError: there is no such part, or neither it nor what comes before it has parameters.
    """
    keys = [canonical_key(key) for key, _ in model.named_parameters()]
    modules = modules_by_key(model)
    if name not in modules and name not in keys:
        raise ConfigError(f"the model has no layer {name!r}", why=_near(name, [*modules, *keys]), do=_DO)
    known = list(modules)
    before = known[: known.index(name) + 1] if name in modules else []
    last = max(
        (
            at
            for at, key in enumerate(keys)
            if key == name or key.startswith(f"{name}.") or key.rpartition(".")[0] in before
        ),
        default=-1,
    )
    if last < 0:
        raise ConfigError(
            f"neither {name!r} nor what comes before it has parameters",
            why=f"the first is {keys[0]}" if keys else "",
            do=_DO,
        )
    return keys[: last + 1]


def picked_keys(model: nn.Module, patterns: str | Sequence[str], but: str | Sequence[str] = ()) -> list[str]:
    """Return the keys of the parameters that patterns fit: whole keys with ``*``, or names of modules for all in them.

    Raises:
        ConfigError: a pattern fits none.
    """
    choice = Choice(_several(patterns), _several(but))
    keys = [canonical_key(key) for key, _ in model.named_parameters()]
    chosen = [key for key in keys if choice.keeps(key)]
    # A pattern of `but` may name what `patterns` leaves out anyway; one that names nothing at all is a mistake.
    wrong = [pattern for pattern in sorted(choice.unused) if not any(Choice((pattern,)).keeps(key) for key in keys)]
    if wrong:
        raise ConfigError(
            f"{wrong[0]!r} fits no parameter of the model",
            why=_near(wrong[0], [*modules_by_key(model), *keys]),
            do=_DO,
        )
    return chosen


def _several(patterns: str | Sequence[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _near(name: str, names: Iterable[str]) -> str:
    known = list(names)
    near = near_names(name, known)
    if near:
        return f"nearest: {', '.join(near)}"
    return f"its parts are {', '.join(dict.fromkeys(part.partition('.')[0] for part in known))}"
