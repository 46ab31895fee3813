"""Keys of tensors: the prefixes that wrappers add, and names that are near a given one.

A *key* is a parameter's full name, parts joined with ``.``. Wrapping a module inserts a part anywhere in the path and
in any order (``module._orig_mod.``, ``layers.0._checkpoint_wrapped_module.``); the canonical key has none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["WRAPPER_PARTS", "canonical_key", "near_names", "plain_keys", "plain_prefix"]

# Parts that torch's own wrappers insert: DataParallel and DDP, torch.compile, FSDP1, activation checkpointing.
WRAPPER_PARTS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")

_ANYWHERE = frozenset(WRAPPER_PARTS[1:])
# `module` may be somebody's own name inside a path; these are not.
_INSERTED = frozenset((*WRAPPER_PARTS[1:], "_dmp_wrapped_module", "_forward_module"))


def canonical_key(key: str) -> str:
    """Return the key without the parts that wrappers insert.

    ``module`` is removed only at the front (behind other wrappers too): inside a path it may be a user's own name.

    Example:
        >>> canonical_key("module._orig_mod.layer1.0.weight")
        'layer1.0.weight'
    """
    parts = key.split(".")
    kept: list[str] = []
    for part in parts[:-1]:
        if part in _ANYWHERE or (part == "module" and not kept):
            continue
        kept.append(part)
    return ".".join([*kept, parts[-1]])


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
        parts = [part for part in path.split(".") if part not in _INSERTED]
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
    return ".".join((*(part for part in parts if part not in _INSERTED), last))


def near_names(name: str, candidates: Iterable[str], count: int = 4) -> list[str]:
    """Return at most `count` candidates that resemble the name, nearest first; empty where none does."""
    from difflib import get_close_matches  # noqa: PLC0415 - only errors need it

    return get_close_matches(name, list(candidates), n=count, cutoff=0.6)
