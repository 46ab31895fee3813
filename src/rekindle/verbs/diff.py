"""`diff`: what two checkpoints have in common, whatever containers they are in and however their keys are called.

Tensors are paired in four rounds, each taking what the rounds before left: the same key; the same key but for what
stands before it (``module.``, the name of a wrapper dict); the same content; the same shape and type at the same turn.
Only the first round is beyond doubt, so the others are told apart as *renamed*, each with how it was found. Pairs are
then compared bit by bit, streaming both files side by side; figures about how far values lie apart are computed where
they are asked for.

Law: ``same`` is said only of tensors whose every bit was read and compared. Memory does not grow with the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from rekindle.formats import open_path
from rekindle.gather import gather
from rekindle.keys import canonical_key
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.listing import table_of
from rekindle.source import ByteRange
from rekindle.strict import refuse_damaged
from rekindle.tree import Map, Record, Value, children
from rekindle.writers import PIECE_BYTES

if TYPE_CHECKING:
    from rekindle.opened import Opened
    from rekindle.source import Bytes
    from rekindle.tensors import TensorEntry

__all__ = ["Changed", "Difference", "Figures", "OneSided", "Renamed", "ValueChange", "diff"]

Progress = Callable[[int, int], None]

# Plain values that are compared; a checkpoint has dozens, a hostile file any number.
_MAX_VALUES = 20_000
_MAX_VISITS = 200_000
# Beginnings of keys that are tried as the prefix of a side.
_MAX_PREFIXES = 64
# Elements that figures are computed for at a time.
_STEP = 1 << 18

_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class OneSided:
    """A tensor that only one side has.

    Attributes:
        key: its name there.
        dtype: torch's name.
        shape: its sizes.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """How far the values of two tensors of one shape lie apart.

    Attributes:
        max_abs: largest absolute difference where both are finite; None where no element is.
        mean_abs: mean of them.
        cosine: cosine of the angle between both, as vectors; None where one is all zeros.
        differing: elements with another value.
        not_finite: elements that are NaN or infinite on one side and not the same on the other.
    """

    max_abs: float | None
    mean_abs: float | None
    cosine: float | None
    differing: int
    not_finite: int


@dataclass(frozen=True, slots=True)
class Changed:
    """A tensor that both sides have, and that is not the same.

    Attributes:
        key: its name in A.
        key_b: its name in B.
        a: type and shape in A, such as ``float32 [64, 3, 7, 7]``.
        b: the same of B.
        what: ``shape``, ``dtype`` or ``values``, as many as differ; ``unread`` where one side has no bytes.
        figures: how far the values lie apart, where that was asked for and can be said.
    """

    key: str
    key_b: str
    a: str
    b: str
    what: tuple[str, ...]
    figures: Figures | None = None


@dataclass(frozen=True, slots=True)
class Renamed:
    """A tensor that has another name on the other side.

    Attributes:
        a: its name in A.
        b: its name in B.
        how: how the pair was found: ``prefix``, ``content`` or ``shape and order``; the last is a guess.
    """

    a: str
    b: str
    how: str


@dataclass(frozen=True, slots=True)
class ValueChange:
    """A plain value that differs: an epoch, a learning rate.

    Attributes:
        key: its path.
        a: its text in A.
        b: its text in B.
    """

    key: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What `diff` found.

    Attributes:
        a: as it was given.
        b: as it was given.
        same: no tensor differs, none has another name, and no plain value that both have differs.
        only_a: tensors of A that B lacks.
        only_b: tensors of B that A lacks.
        changed: tensors of both that differ.
        renamed: tensors of both under different keys.
        values: plain values that both have and that differ.
        equal: pairs whose type, shape and bits are the same.
        compared: whether bits were read at all.
    """

    a: str
    b: str
    same: bool
    only_a: tuple[OneSided, ...]
    only_b: tuple[OneSided, ...]
    changed: tuple[Changed, ...]
    renamed: tuple[Renamed, ...]
    values: tuple[ValueChange, ...]
    equal: int
    compared: bool = True


def diff(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    values: bool = False,
    shapes_only: bool = False,
    any_names: bool = False,
    part_a: str | None = None,
    part_b: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Difference:
    """Compare two checkpoints of any kind.

    Args:
        a: a file or folder that rekindle reads.
        b: another.
        values: also say how far values lie apart; needs NumPy.
        shapes_only: compare keys, types and shapes, and read no tensor; ``same`` then speaks of these only, and renamed
            tensors are not found by content.
        any_names: count tensors with equal bits under different keys as the same.
        part_a: compare only what lies under this key of A.
        part_b: the same for B.
        limits: what reading may cost.
        progress: called with (bytes compared, bytes in all) now and then.

    Raises:
        CannotWrite: nothing lies under `part_a` or `part_b`, or NumPy is missing for `values`.
        UnreadableFile: one of them is damaged, or no model.
        OSError: one of them is missing or may not be read.

    Example:
        >>> import rekindle as rk
        >>> rk.diff("before.pth", "after.pth").same  # doctest: +SKIP
        True
    """
    if values and not shapes_only:
        from rekindle.casting import numpy_for  # noqa: PLC0415 - only where figures are wanted

        numpy_for("comparing values")
    given = os.fspath(a), os.fspath(b)
    with open_path(given[0], limits) as left, open_path(given[1], limits) as right:
        refuse_damaged(left)
        refuse_damaged(right)
        comparison = _Comparison(values=values, reads=not shapes_only, progress=progress)
        sides = _side(left, part_a, limits), _side(right, part_b, limits)
        comparison.tensors(sides[0][1], sides[1][1])
        changes = _value_changes(sides[0][0], sides[1][0])
        names_differ = bool(comparison.renamed) and not any_names
        odd = comparison.only_a or comparison.only_b or comparison.changed or changes
        return Difference(
            *given,
            not odd and not names_differ,
            tuple(map(_one_sided, comparison.only_a)),
            tuple(map(_one_sided, comparison.only_b)),
            tuple(comparison.changed),
            tuple(comparison.renamed),
            tuple(changes),
            comparison.equal,
            not shapes_only,
        )


def _side(opened: Opened, part: str | None, limits: Limits) -> tuple[Value, tuple[TensorEntry, ...]]:
    """Return the object and the tensors that take part."""
    if part is None:
        return opened.tree, opened.table.entries
    from rekindle.selection import take  # noqa: PLC0415

    tree = take(opened.tree, part, opened.path)
    return tree, table_of(tree, limits)[0].entries


def _one_sided(entry: TensorEntry) -> OneSided:
    return OneSided(entry.key, entry.dtype, entry.shape)


@dataclass(slots=True)
class _Comparison:
    """What was found so far."""

    values: bool
    reads: bool
    progress: Progress | None
    only_a: list[TensorEntry] = field(default_factory=list)
    only_b: list[TensorEntry] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)
    renamed: list[Renamed] = field(default_factory=list)
    equal: int = 0
    done: int = 0
    total: int = 0

    def tensors(self, left: Iterable[TensorEntry], right: Iterable[TensorEntry]) -> None:
        """Pair the tensors of both sides and compare each pair."""
        by_key = {entry.key: entry for entry in right}
        pairs: list[tuple[TensorEntry, TensorEntry, str]] = []
        self.only_a = []
        for entry in left:
            other = by_key.pop(entry.key, None)
            if other is None:
                self.only_a.append(entry)
            else:
                pairs.append((entry, other, ""))
        self.only_b = list(by_key.values())
        pairs += self.paired("prefix", _by_prefix)
        self.total = sum(one.size_bytes for one, _, _ in pairs)
        if self.reads:
            self.total += sum(entry.size_bytes for entry in (*self.only_a, *self.only_b))
            for one, other, _ in self.paired("content", self.by_content):
                self.renamed.append(Renamed(one.key, other.key, "content"))
                self.equal += 1
        pairs += self.paired("shape and order", _by_turn)
        for one, other, how in pairs:
            if how:
                self.renamed.append(Renamed(one.key, other.key, how))
            self.compare(one, other)

    def paired(
        self,
        how: str,
        pairing: Callable[[list[TensorEntry], list[TensorEntry]], Iterable[tuple[TensorEntry, TensorEntry]]],
    ) -> list[tuple[TensorEntry, TensorEntry, str]]:
        """Take the pairs that a round finds out of what is left."""
        if not self.only_a or not self.only_b:
            return []
        found = [(one, other, how) for one, other in pairing(self.only_a, self.only_b)]
        taken_a, taken_b = {one.key for one, _, _ in found}, {other.key for _, other, _ in found}
        self.only_a = [entry for entry in self.only_a if entry.key not in taken_a]
        self.only_b = [entry for entry in self.only_b if entry.key not in taken_b]
        return found

    def by_content(
        self, left: list[TensorEntry], right: list[TensorEntry]
    ) -> Iterator[tuple[TensorEntry, TensorEntry]]:
        """Pair tensors of one type and shape by their digests; the first with the first where several are equal."""
        shapes = _grouped(right, lambda entry: (entry.dtype, entry.shape))
        wanted = _grouped(left, lambda entry: (entry.dtype, entry.shape))
        for look, mine in wanted.items():
            theirs = shapes.get(look)
            if theirs is None or not (any(map(_has_bytes, mine)) and any(map(_has_bytes, theirs))):
                continue
            digests = _grouped((e for e in theirs if _has_bytes(e)), self.digest)
            for entry in mine:
                same = digests.get(self.digest(entry)) if _has_bytes(entry) else None
                if same:
                    # Of several that are equal (biases of zeros), the one whose name ends alike.
                    end = entry.key.rpartition(".")[2]
                    at = next((i for i, other in enumerate(same) if other.key.rpartition(".")[2] == end), 0)
                    yield entry, same.pop(at)

    def digest(self, entry: TensorEntry) -> bytes:
        import hashlib  # noqa: PLC0415

        digest = hashlib.sha256()
        for chunk in _elements(entry).chunks():
            digest.update(chunk)
            self.advance(len(chunk))
        return digest.digest()

    def compare(self, one: TensorEntry, other: TensorEntry) -> None:
        what = []
        if one.shape != other.shape:
            what.append("shape")
        if (one.dtype, one.layout) != (other.dtype, other.layout):
            what.append("dtype")
        figures = None
        if self.reads:
            if not (_has_bytes(one) and _has_bytes(other)):
                if _has_bytes(one) or _has_bytes(other):
                    what.append("unread")
            else:
                equal = not what and self.is_equal(one, other)
                if not what and not equal:
                    what.append("values")
                if self.values and not equal and "shape" not in what:
                    figures = self.figures(one, other)
        if what:
            self.changed.append(Changed(one.key, other.key, _words(one), _words(other), tuple(what), figures))
        else:
            self.equal += 1

    def is_equal(self, one: TensorEntry, other: TensorEntry) -> bool:
        """Whether every bit of two tensors of one type and shape is the same."""
        if _is_same_place(one, other):
            self.advance(one.size_bytes)
            return True
        end = self.done + one.size_bytes
        for mine, theirs in _side_by_side(_elements(one).chunks(PIECE_BYTES), _elements(other).chunks(PIECE_BYTES)):
            self.advance(len(mine))
            # Views compare element by element; bytes, a copy away, with the speed of memory.
            if bytes(mine) != bytes(theirs):
                self.done = end
                return False
        return True

    def figures(self, one: TensorEntry, other: TensorEntry) -> Figures | None:
        """Return how far the values lie apart; None for types that are no numbers."""
        from rekindle.casting import as_numbers, numpy_for, whole_elements  # noqa: PLC0415
        from rekindle.tensors import DTYPES  # noqa: PLC0415

        np = numpy_for("comparing values")
        largest, total, count, differing, odd = -1.0, 0.0, 0, 0, 0
        dot, norm_a, norm_b = 0.0, 0.0, 0.0
        sizes = DTYPES[one.dtype].itemsize, DTYPES[other.dtype].itemsize
        pieces_a = whole_elements(_elements(one), sizes[0], _STEP)
        pieces_b = whole_elements(_elements(other), sizes[1], _STEP)
        try:
            for raw_a, raw_b in _side_by_side(pieces_a, pieces_b, *sizes):
                with np.errstate(all="ignore"):
                    mine = as_numbers(raw_a, one.dtype).astype("f8")
                    theirs = as_numbers(raw_b, other.dtype).astype("f8")
                    if mine.shape != theirs.shape:  # complex against real
                        return None
                    finite = np.isfinite(mine) & np.isfinite(theirs)
                    alike = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
                    differing += int(np.count_nonzero(~alike))
                    odd += int(np.count_nonzero(~finite & ~alike))
                    mine, theirs = mine[finite], theirs[finite]
                    if mine.size:
                        apart = np.abs(mine - theirs)
                        largest = max(largest, float(apart.max()))
                        total += float(apart.sum())
                        count += mine.size
                        dot += float(np.dot(mine, theirs))
                        norm_a += float(np.dot(mine, mine))
                        norm_b += float(np.dot(theirs, theirs))
        except KeyError:
            return None
        length = norm_a**0.5 * norm_b**0.5
        cosine = min(max(dot / length, -1.0), 1.0) if 0 < length < float("inf") else None
        return Figures(largest if count else None, total / count if count else None, cosine, differing, odd)

    def advance(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)


def _has_bytes(entry: TensorEntry) -> bool:
    return entry.storage.data is not None or entry.numel == 0


def _elements(entry: TensorEntry) -> Bytes:
    return gather(entry, conj=entry.conj, neg=entry.neg)


def _is_same_place(one: TensorEntry, other: TensorEntry) -> bool:
    """Whether both are the very same bytes of the same file: a file compared with itself."""
    mine, theirs = one.storage.data, other.storage.data
    if not (isinstance(mine, ByteRange) and isinstance(theirs, ByteRange)):
        return False
    places = [
        (os.path.realpath(data.source.path), data.offset, data.size, e.offset, e.stride, e.conj, e.neg)
        for data, e in ((mine, one), (theirs, other))
    ]
    return places[0] == places[1]


def _words(entry: TensorEntry) -> str:
    layout = "" if entry.layout == "strided" else f" {entry.layout}"
    return f"{entry.dtype}{layout} {list(entry.shape)}"


def _side_by_side(
    left: Iterator[memoryview], right: Iterator[memoryview], size_a: int = 1, size_b: int = 1
) -> Iterator[tuple[memoryview, memoryview]]:
    """Yield pieces of two streams with equally many elements each, as long as both go on."""
    mine = theirs = memoryview(b"")
    while True:
        while mine.nbytes == 0:
            piece = next(left, None)
            if piece is None:
                return
            mine = piece
        while theirs.nbytes == 0:
            piece = next(right, None)
            if piece is None:
                return
            theirs = piece
        count = min(len(mine) // size_a, len(theirs) // size_b)
        yield mine[: count * size_a], theirs[: count * size_b]
        mine, theirs = mine[count * size_a :], theirs[count * size_b :]


# --- pairing ----------------------------------------------------------------------------------------------------------


def _grouped(entries: Iterable[TensorEntry], key: Callable[[TensorEntry], _K]) -> dict[_K, list[TensorEntry]]:
    groups: dict[_K, list[TensorEntry]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return groups


def _by_prefix(left: list[TensorEntry], right: list[TensorEntry]) -> Iterator[tuple[TensorEntry, TensorEntry]]:
    """Pair keys that are the same without the parts of wrappers, and without the prefix that fits most of them."""
    keys_a, keys_b = ([canonical_key(entry.key) for entry in side] for side in (left, right))
    best: tuple[int, str, str] = (0, "", "")
    # The prefixes worth trying are those that make the first key of one side one of the other's.
    names_a, names_b = set(keys_a), set(keys_b)
    cuts = [("", ""), *((cut, "") for cut in _prefixes(keys_a, names_b))]
    cuts += [("", cut) for cut in _prefixes(keys_b, names_a)]
    for cut_a, cut_b in cuts:
        fits = len(_without(keys_a, cut_a).keys() & _without(keys_b, cut_b).keys())
        if fits > best[0]:
            best = (fits, cut_a, cut_b)
    mine, theirs = _without(keys_a, best[1]), _without(keys_b, best[2])
    for name, at in mine.items():
        if name in theirs and left[at].shape == right[theirs[name]].shape:
            yield left[at], right[theirs[name]]


def _prefixes(keys: list[str], others: set[str]) -> Iterator[str]:
    """Yield the beginnings of keys whose rest is a key of the other side."""
    seen: set[str] = set()
    for key in keys:
        at = key.find(".")
        while at >= 0:
            cut = key[: at + 1]
            if key[at + 1 :] in others and cut not in seen:
                seen.add(cut)
                yield cut
                if len(seen) >= _MAX_PREFIXES:
                    return
            at = key.find(".", at + 1)


def _without(keys: list[str], prefix: str) -> dict[str, int]:
    """Return key without the prefix -> place, of the keys that have it; the first of those that are then equal."""
    found: dict[str, int] = {}
    for at, key in enumerate(keys):
        if key.startswith(prefix):
            found.setdefault(key[len(prefix) :], at)
    return found


def _by_turn(left: list[TensorEntry], right: list[TensorEntry]) -> Iterator[tuple[TensorEntry, TensorEntry]]:
    """Pair tensors of one shape and type in their order, where both sides have equally many of them."""
    theirs = _grouped(right, lambda entry: (entry.dtype, entry.shape, entry.layout))
    for look, mine in _grouped(left, lambda entry: (entry.dtype, entry.shape, entry.layout)).items():
        others = theirs.get(look, [])
        if len(mine) == len(others):
            yield from zip(mine, others, strict=True)


# --- plain values -----------------------------------------------------------------------------------------------------


def _value_changes(left: Value, right: Value) -> list[ValueChange]:
    """Return the plain values that both sides have under one path and that differ."""
    mine, theirs = _plain_values(left), _plain_values(right)
    return [
        ValueChange(key, repr(value), repr(theirs[key]))
        for key, value in mine.items()
        if key in theirs and repr(value) != repr(theirs[key])
    ]


def _plain_values(tree: Value) -> dict[str, object]:
    found: dict[str, object] = {}
    pending: list[tuple[str, Value]] = [("", tree)]
    entered: set[int] = set()
    visits = 0
    while pending and len(found) < _MAX_VALUES and visits < _MAX_VISITS:
        path, node = pending.pop()
        visits += 1
        if isinstance(node, (bool, int, float, complex, str, bytes)) or node is None:
            found.setdefault(path, node)
        elif isinstance(node, (Map, list, tuple, Record)) and id(node) not in entered:
            entered.add(id(node))
            pending.extend(
                (f"{path}.{name}" if path else name, child)
                for name, child in reversed(children(node.state if isinstance(node, Record) else node))
            )
    return found
