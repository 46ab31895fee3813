"""`rekindle diff`: compare two checkpoints, whatever containers they are in."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rekindle.cli._progress import megabytes_a_second, progress_line

if TYPE_CHECKING:
    from rekindle.verbs.diff import Changed, Difference, Figures, OneSided

SUMMARY = "say what differs between two checkpoints: keys, shapes, types and values"
EXAMPLE = "rekindle diff before.pth after.safetensors --values"

# Rows of a section that are shown one by one; longer ones are gathered by the beginnings of their keys.
_ROWS = 24
_KEY_COLUMN = 56


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("a", metavar="A", help="a checkpoint of any kind")
    parser.add_argument("b", metavar="B", help="another, in the same container or another one")
    parser.add_argument("--values", action="store_true", help="also say how far values lie apart (needs NumPy)")
    parser.add_argument("--shapes-only", action="store_true", help="compare keys, types and shapes; read no tensor")
    parser.add_argument("--any-names", action="store_true", help="other keys with the same bits are no difference")
    parser.add_argument("--take", metavar="KEY", help="compare only what lies under this key, in both")
    parser.add_argument("--take-a", metavar="KEY", help="compare only what lies under this key of A")
    parser.add_argument("--take-b", metavar="KEY", help="compare only what lies under this key of B")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Compare; 0 the same, 1 different, 2 could not."""
    from rekindle.verbs.diff import diff

    found = diff(
        args.a,
        args.b,
        values=args.values,
        shapes_only=args.shapes_only,
        any_names=args.any_names,
        part_a=args.take_a or args.take,
        part_b=args.take_b or args.take,
        progress=progress_line(megabytes_a_second),
    )
    if args.json:
        from rekindle.render import to_json

        print(to_json(_as_json(found)))
    else:
        for line in _lines(found):
            print(line)
    return 0 if found.same else 1


def _as_json(found: Difference) -> dict[str, object]:
    return {
        "a": found.a,
        "b": found.b,
        "same": found.same,
        "only_a": [_one(row) for row in found.only_a],
        "only_b": [_one(row) for row in found.only_b],
        "changed": [_changed_json(row) for row in found.changed],
        "renamed": [{"a": row.a, "b": row.b, "how": row.how} for row in found.renamed],
        "values": [{"key": row.key, "a": row.a, "b": row.b} for row in found.values],
        "equal": found.equal,
        "compared": found.compared,
    }


def _one(row: OneSided) -> dict[str, object]:
    return {"key": row.key, "dtype": row.dtype, "shape": list(row.shape)}


def _changed_json(row: Changed) -> dict[str, object]:
    found: dict[str, object] = {"key": row.key, "a": row.a, "b": row.b, "what": list(row.what)}
    if row.key_b != row.key:
        found["key_b"] = row.key_b
    if row.figures is not None:
        figures = row.figures
        found |= {
            "max_abs": _number(figures.max_abs),
            "mean_abs": _number(figures.mean_abs),
            "cosine": _number(figures.cosine),
            "differing": figures.differing,
            "not_finite": figures.not_finite,
        }
    return found


def _number(value: float | None) -> float | str | None:
    """JSON has no infinity; the difference of two finite float64 may be one."""
    return str(value) if value is not None and value - value != 0 else value


def _lines(found: Difference) -> Iterator[str]:
    """Yield the comparison as text: a headline, then a section for each kind of difference."""
    from rekindle.render import escape

    yield _headline(found)
    for title, rows in (("A", found.only_a), ("B", found.only_b)):
        if rows:
            path = found.a if title == "A" else found.b
            yield f"\nonly in {title}, {escape(path, 400)}: {len(rows):,}"
            yield from _section([(row.key, f"{row.dtype} {list(row.shape)}") for row in rows])
    if found.changed:
        yield f"\nchanged: {len(found.changed):,}"
        yield from _section([(row.key, _change(row)) for row in found.changed])
    if found.renamed:
        yield f"\nother names: {len(found.renamed):,}"
        yield from _renames(found)
    if found.values:
        yield f"\nplain values: {len(found.values):,}"
        yield from _section([(row.key, f"{escape(row.a, 60)} -> {escape(row.b, 60)}") for row in found.values])


def _headline(found: Difference) -> str:
    from rekindle.render import escape

    names = f"{escape(found.a, 400)} and {escape(found.b, 400)}"
    what = "every bit" if found.compared else "keys, types and shapes; no tensor was read"
    if found.same:
        other = f", {len(found.renamed):,} of them under other names" if found.renamed else ""
        return f"{names}: the same, {_count(found.equal)}{other} ({what})"
    return f"{names}: different; {_count(found.equal)} {'is' if found.equal == 1 else 'are'} the same ({what})"


def _count(count: int) -> str:
    return f"{count:,} tensor{'s' if count != 1 else ''}"


def _change(row: Changed) -> str:
    if row.a != row.b:
        text = f"{row.a} -> {row.b}"
    else:
        text = f"{row.a}  {'one side has no bytes' if 'unread' in row.what else 'other values'}"
    return f"{text}{_figures(row.figures)}"


def _figures(figures: Figures | None) -> str:
    if figures is None:
        return ""
    parts = [f"{figures.differing:,} differ"]
    if figures.max_abs is not None and figures.mean_abs is not None:
        parts += [f"max {figures.max_abs:.3g}", f"mean {figures.mean_abs:.3g}"]
    if figures.cosine is not None:
        parts.append(f"cosine {figures.cosine:.6f}")
    if figures.not_finite:
        parts.append(f"{figures.not_finite:,} NaN or infinite")
    return "  " + ", ".join(parts)


def _section(rows: list[tuple[str, str]]) -> Iterator[str]:
    """Yield rows one by one, or gathered by the beginning of their keys where there are many."""
    from rekindle.render import escape

    shown = rows if len(rows) <= _ROWS else _gathered(rows)
    shown = [(escape(key), text) for key, text in shown]
    width = min(max(len(key) for key, _ in shown[:_ROWS]), _KEY_COLUMN)
    for key, text in shown[:_ROWS]:
        yield f"  {key:<{width}}  {text}"
    if len(shown) > _ROWS:
        yield f"  ... and {len(shown) - _ROWS:,} more lines: --json has all"


def _gathered(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return rows under the longest beginnings that make them few: ``layer1.0.*``, with how many and the first."""
    for depth in range(6, 0, -1):
        groups: dict[str, list[tuple[str, str]]] = {}
        for key, text in rows:
            parts = key.split(".")
            groups.setdefault(".".join(parts[:depth]) + (".*" if len(parts) > depth else ""), []).append((key, text))
        if len(groups) <= _ROWS or depth == 1:
            break
    return [
        found[0] if len(found) == 1 else (begin, f"{len(found):,} tensors, the first {found[0][1]}")
        for begin, found in groups.items()
    ]


def _renames(found: Difference) -> Iterator[str]:
    """Yield renamed tensors; those whose names differ by one prefix only are one line."""
    from rekindle.render import escape

    groups: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for row in found.renamed:
        parts_a, parts_b = row.a.split("."), row.b.split(".")
        while len(parts_a) > 1 and len(parts_b) > 1 and parts_a[-1] == parts_b[-1]:
            parts_a.pop()
            parts_b.pop()
        if parts_a[-1] == parts_b[-1]:  # one is the end of the other
            parts_a, parts_b = parts_a[:-1], parts_b[:-1]
        groups.setdefault((".".join(parts_a), ".".join(parts_b), row.how), []).append((row.a, row.b))
    words = {"prefix": "by their endings", "content": "the same bits", "shape and order": "a guess: shape and order"}
    lines = []
    for (begin_a, begin_b, how), pairs in groups.items():
        if len(pairs) == 1:
            lines.append(f"  {escape(pairs[0][0])} = {escape(pairs[0][1])}  ({words[how]})")
        else:
            lines.append(f"  {escape(_any(begin_a))} = {escape(_any(begin_b))}  {len(pairs):,} tensors  ({words[how]})")
    yield from lines[:_ROWS]
    if len(lines) > _ROWS:
        yield f"  ... and {len(lines) - _ROWS:,} more lines: --json has all"


def _any(begin: str) -> str:
    return f"{begin}.*" if begin else "*"
