"""Keys of tensors: the prefixes that wrappers add, and names that are near a given one.

A *key* is a parameter's full name, parts joined with ``.``. Wrapping a module inserts a part anywhere in the path and
in any order (``module._orig_mod.``, ``layers.0._checkpoint_wrapped_module.``); the canonical key has none of them.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["WRAPPER_PARTS", "canonical_key", "near_names"]

# Parts that torch's own wrappers insert: DataParallel and DDP, torch.compile, FSDP1, activation checkpointing.
WRAPPER_PARTS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")

_ANYWHERE = frozenset(WRAPPER_PARTS[1:])


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


def near_names(name: str, candidates: Iterable[str], count: int = 4) -> list[str]:
    """Return at most `count` candidates that resemble the name, nearest first; empty where none does."""
    from difflib import get_close_matches  # noqa: PLC0415 - only errors need it

    return get_close_matches(name, list(candidates), n=count, cutoff=0.6)
