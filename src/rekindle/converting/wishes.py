"""What `convert` is asked to change on the way, understood once, and done to one object in one order.

The order is: take a part, make it plain data, choose, rename, cast. Each step returns or changes a tree that holds the
very tensors of the source; no bytes are read here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rekindle.casting import TARGETS, CastReport, cast_tensors
from rekindle.errors import CannotWrite
from rekindle.keys import near_names
from rekindle.plain_data import AsData, as_data
from rekindle.reshape import Reshaped, Rules, flattened, reshape, without_modules
from rekindle.selection import Choice
from rekindle.writers.shards import bytes_of_text

if TYPE_CHECKING:
    from rekindle.source import Bytes
    from rekindle.tensors import Storage
    from rekindle.tree import Value

__all__ = ["Wishes", "understood"]


@dataclass(slots=True)
class Wishes:
    """Changes on the way.

    Attributes:
        choice: which keys are kept.
        rules: how keys are changed.
        dtype: the type that floating-point tensors get; empty to leave them.
        data_only: objects of any class become plain data.
        untie: each tensor gets its own bytes.
        slim: storages are cut down to the bytes that tensors show.
        shard_bytes: bytes of one file at most; 0 for a single file.
        values: plain values are written beside, as JSON.
        verify: the new file is compared with the source before it takes its place.
    """

    choice: Choice
    rules: Rules
    dtype: str
    data_only: bool
    untie: bool
    slim: bool
    shard_bytes: int
    values: bool
    verify: bool

    @property
    def reshapes(self) -> bool:
        """Whether keys are chosen or changed."""
        rules = self.rules
        return bool(self.choice.only or self.choice.drop or rules.strip or rules.renames or rules.add)

    def plain(self, tree: Value) -> AsData:
        """Return the tree as plain data."""
        return as_data(tree)

    def reshaped(self, tree: Value, *, flat: bool) -> Reshaped:
        """Return the tree with other keys; of one level where the target has one level only.

        Raises:
            CannotWrite: nothing is left, or two tensors would get one key.
        """
        plain = without_modules(tree)
        return reshape(flattened(plain) if flat else plain, self.choice, self.rules)

    def chosen(self, tree: Value) -> Value:
        """Return what the choice keeps, under its old keys; None where that is nothing."""
        try:
            return reshape(without_modules(tree), self.choice, Rules()).tree
        except CannotWrite:
            return None

    def cast(self, tree: Value, bytes_of: Callable[[Storage], Bytes | None]) -> CastReport:
        """Cast the tensors of the tree in place."""
        return cast_tensors(tree, self.dtype, bytes_of)


def understood(
    *,
    only: tuple[str, ...],
    drop: tuple[str, ...],
    rename: tuple[str, ...],
    strip: tuple[str, ...],
    add: str,
    dtype: str | None,
    data_only: bool,
    untie: bool,
    slim: bool,
    shard: str | int | None,
    values: bool,
    verify: bool,
) -> Wishes:
    """Return the wishes.

    Raises:
        CannotWrite: one of them cannot be meant as it is written.
    """
    if dtype is not None and dtype not in TARGETS:
        near = near_names(dtype, TARGETS)
        raise CannotWrite(
            f"{dtype!r} is not a type that convert casts to",
            why=f"closest: {', '.join(near)}" if near else "",
            do=f"--dtype {' or --dtype '.join(TARGETS)}",
        )
    size = 0 if shard is None else shard if isinstance(shard, int) else bytes_of_text(shard)
    if shard is not None and size < 1:
        raise CannotWrite(f"{shard!r} is not a size", do="such as --shard 2GB")
    return Wishes(
        Choice(only, drop), Rules(strip, rename, add), dtype or "", data_only, untie, slim, size, values, verify
    )
