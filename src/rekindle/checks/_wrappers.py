"""The keys of weights without what wrappers put into them: DataParallel, DDP, torch.compile, FSDP, checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rekindle.keys import WRAPPER_PARTS

__all__ = ["plain_keys", "plain_prefix"]

# `module` may be somebody's own name inside a path; these are not.
_ANYWHERE = frozenset((*WRAPPER_PARTS[1:], "_dmp_wrapped_module", "_forward_module"))


def plain_keys(keys: Iterable[str]) -> dict[str, str]:
    """Return key -> key without wrappers; ``module.`` only goes where every key has it.

    Example:
        >>> plain_keys(["module._orig_mod.fc.weight", "module._orig_mod.fc.bias"])
        {'module._orig_mod.fc.weight': 'fc.weight', 'module._orig_mod.fc.bias': 'fc.bias'}
    """
    plain = {key: _without(key) for key in keys}
    for _ in range(_leading_modules(plain.values())):
        plain = {key: name.removeprefix("module.") for key, name in plain.items()}
    return plain


def plain_prefix(keys: Iterable[str]) -> Callable[[str], str]:
    """Return the function that does to a module's path what `plain_keys` does to the keys below it.

    Example:
        >>> plain_prefix(["module.fc.weight"])("module.fc")
        'fc'
    """
    count = _leading_modules([_without(key) for key in keys])

    def plain(path: str) -> str:
        parts = [part for part in path.split(".") if part not in _ANYWHERE]
        return ".".join(parts[min(count, len(parts)) :] if parts[:1] == ["module"] else parts)

    return plain


def _leading_modules(keys: Iterable[str]) -> int:
    """Return how often all keys start with ``module.``, one inside the other."""
    fewest: int | None = None
    for key in keys:
        parts = key.split(".")[:-1]
        count = next((index for index, part in enumerate(parts) if part != "module"), len(parts))
        fewest = count if fewest is None else min(fewest, count)
    return fewest or 0


def _without(key: str) -> str:
    *parts, last = key.split(".")
    return ".".join((*(part for part in parts if part not in _ANYWHERE), last))
