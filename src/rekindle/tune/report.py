"""What a fit did, as a value: each tensor of the model and of the source exactly once, and the table people read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rekindle.keys import near_names
from rekindle.render import escape
from rekindle.tensors import element_count

__all__ = ["FitReport", "FitRow", "State", "Unexpected", "nearest"]

Shape: TypeAlias = tuple[int, ...]
State: TypeAlias = Literal["loaded", "adapted", "tied", "other-shape", "missing", "left-out"]

_SHOWN = 24


@dataclass(frozen=True, slots=True)
class FitRow:
    """A tensor of the model.

    Attributes:
        key: without wrappers.
        shape, dtype: the model's.
        state: ``loaded``; ``adapted`` (loaded after a change that was asked for); ``tied`` (the same tensor as one that
            was loaded); ``other-shape`` and ``missing`` (as it was); ``left-out`` (not asked for).
        sources: keys in the source, empty for a missing one.
        source_shape, source_dtype: of the first of them.
        how: why the names belong together, empty where they are the same.
        change: what was done to the values, or what would make them fit.
        near: keys of the source that resemble a missing one.
    """

    key: str
    shape: Shape
    dtype: str
    state: State
    sources: tuple[str, ...] = ()
    source_shape: Shape | None = None
    source_dtype: str | None = None
    how: str = ""
    change: str = ""
    near: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unexpected:
    """A tensor of the source that the model has no place for."""

    key: str
    shape: Shape
    dtype: str


@dataclass(frozen=True, slots=True)
class FitReport:
    """What came of fitting a source into a model; `str` of it is a table.

    Attributes:
        source: the path, or what kind of object it was.
        taken: keys that lead to the weights inside the source.
        model: name of the model's class.
        rows: every tensor of the model's state dict, in its order.
        unexpected: every tensor of the source that was not used.
        notes: how it was matched, and what else is worth knowing.
        confidence: 1.0 for names; the share that aligns in one way only for ``match="structure"``.
    """

    source: str
    taken: tuple[str, ...]
    model: str
    rows: tuple[FitRow, ...]
    unexpected: tuple[Unexpected, ...] = ()
    notes: tuple[str, ...] = ()
    confidence: float = 1.0

    def of(self, *states: State) -> tuple[FitRow, ...]:
        """Return the rows in these states."""
        return tuple(row for row in self.rows if row.state in states)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Keys of the model that have the source's values now."""
        return tuple(row.key for row in self.of("loaded", "adapted", "tied"))

    @property
    def renamed(self) -> Mapping[str, tuple[str, ...]]:
        """Key of the model -> keys of the source, of those that were called otherwise there."""
        return {row.key: row.sources for row in self.of("loaded", "adapted") if row.sources != (row.key,)}

    @property
    def missing(self) -> tuple[str, ...]:
        """Keys of the model that the source has nothing for."""
        return tuple(row.key for row in self.of("missing"))

    @property
    def other_shape(self) -> tuple[str, ...]:
        """Keys that both have, with shapes that do not fit."""
        return tuple(row.key for row in self.of("other-shape"))

    @property
    def whole(self) -> bool:
        """Whether every tensor that was asked for was loaded, and every tensor of the source used."""
        return not self.unexpected and not self.of("missing", "other-shape")

    def to_json(self) -> dict[str, object]:
        """Return the report for programs."""
        return {
            "source": self.source,
            "taken": list(self.taken),
            "model": self.model,
            "confidence": round(self.confidence, 4),
            "tensors": [
                {
                    "key": row.key,
                    "state": row.state,
                    "shape": list(row.shape),
                    "dtype": row.dtype,
                    "sources": list(row.sources),
                    "source_shape": None if row.source_shape is None else list(row.source_shape),
                    "source_dtype": row.source_dtype,
                    "how": row.how,
                    "change": row.change,
                    "near": list(row.near),
                }
                for row in self.rows
            ],
            "unexpected": [{"key": row.key, "shape": list(row.shape), "dtype": row.dtype} for row in self.unexpected],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Return the table."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        loaded = self.of("loaded", "adapted", "tied")
        values = sum(element_count(row.shape) for row in loaded)
        yield (
            f"{escape(self.source)} -> {self.model}: {len(loaded):,} of {len(self.rows):,} tensors loaded "
            f"({values:,} values)"
        )
        if self.taken:
            yield f"  taken from   {''.join(f'[{part!r}]' for part in self.taken)}"
        for how, count in _counted(row.how for row in loaded if row.how):
            yield f"  renamed      {count:,}: {how}"
        casts = _counted(
            f"{row.source_dtype} to {row.dtype}" for row in loaded if row.source_dtype not in {None, row.dtype}
        )
        for cast, count in casts:
            yield f"  cast         {count:,}: {cast}"
        yield from _rows("adapted", [(row.key, row.change) for row in self.of("adapted")])
        yield from _rows("other shape", [(row.key, _shapes(row)) for row in self.of("other-shape")])
        yield from _rows("missing", [(row.key, _missing(row)) for row in self.of("missing")])
        left_out = self.of("left-out")
        if left_out:
            yield f"  left out     {len(left_out):,} as asked: {', '.join(row.key for row in left_out[:3])}" + (
                ", ..." if len(left_out) > 3 else ""
            )
        yield from _rows("unexpected", [(row.key, f"{list(row.shape)} there") for row in self.unexpected])
        for note in self.notes:
            yield f"  note         {note}"


def _shapes(row: FitRow) -> str:
    words = f"{list(row.shape)} here, {list(row.source_shape or ())} there"
    return f"{words}; {row.change}" if row.change else words


def _missing(row: FitRow) -> str:
    words = str(list(row.shape))
    return f"{words}; nearest there: {', '.join(row.near)}" if row.near else words


def _counted(texts: Iterable[str]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    return list(counts.items())


def _rows(title: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    width = min(56, max((len(escape(key)) for key, _ in rows[:_SHOWN]), default=0))
    for key, text in rows[:_SHOWN]:
        yield f"  {title:<12} {escape(key):<{width}}  {text}"
    if len(rows) > _SHOWN:
        yield f"  {title:<12} and {len(rows) - _SHOWN:,} more"


def nearest(key: str, unexpected: Mapping[str, Shape], shape: Shape) -> tuple[str, ...]:
    """Return the unused keys of a source that a missing one may mean: alike in name, of the same shape first."""
    near = near_names(key, unexpected, 4)
    return tuple(sorted(near, key=lambda name: unexpected[name] != shape)[:2])
