"""`rekindle runs`: see `rekindle.verbs.runs`."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rekindle.verbs.runs import RunSummary, SnapshotSummary

SUMMARY = "list runs and their snapshots: whole or not, how far, in use or not, and how to go on"
EXAMPLE = "rekindle runs runs --deep"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", nargs="?", default="runs", metavar="DIR", help="a run, or a folder of runs (runs)")
    parser.add_argument("--deep", action="store_true", help="read every file and compare its digest")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """List the runs; 0 all whole, 1 a snapshot does not hold or there are no runs, 2 the folder cannot be read."""
    from rekindle.cli import FINE, NO
    from rekindle.cli._progress import progress_line
    from rekindle.errors import RekindleError
    from rekindle.verbs.runs import find_runs, summarise_run

    line = progress_line(lambda _, name: f"looking at {name}")
    found = [summarise_run(path, deep=args.deep, progress=line) for path in find_runs(args.folder)]
    if line is not None:
        line.clear()
    if args.json:
        from rekindle.render import to_json

        print(to_json({"folder": args.folder, "deep": args.deep, "runs": [_as_json(one) for one in found]}))
    elif found:
        now = time.time()
        print("\n\n".join("\n".join(_lines(one, now, deep=args.deep)) for one in found))
    else:
        error = RekindleError(f"{args.folder}: no run of rekindle's in it", do="rekindle runs DIR")
        print(error, file=sys.stderr)
    whole = found and not any(one.fault or any(snapshot.damage for snapshot in one.snapshots) for one in found)
    return FINE if whole else NO


def _lines(one: RunSummary, now: float, *, deep: bool) -> list[str]:
    from rekindle.render import escape, human_bytes

    count = len(one.snapshots)
    lines = [f"{escape(one.path)}  {_state(one)}; {count} snapshot{'s' * (count != 1)}, {human_bytes(one.size_bytes)}"]
    if one.fault:
        lines.append(f"  damaged  {escape(one.fault)}")
    if one.metrics:
        lines.append(f"  logged   {_metrics(one)}")
    best = one.best[1] if one.best is not None else None
    rows = [_row(snapshot, now, best, deep=deep) for snapshot in one.snapshots]
    widths = [max(len(row[column]) for row in rows) for column in range(4)] if rows else []
    for row in rows:
        shown = "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=False))
        lines.append(f"  {shown}  {row[4]}".rstrip())
    if one.leftovers:
        crashed = len(one.leftovers)
        lines.append(f"  left     {crashed} unfinished file{'s' * (crashed != 1)}; the next start removes them")
    if one.in_use:
        lines.append(f"  in use   {escape(one.holder or 'a process holds its lock')}")
    elif one.in_use is None and one.holder:
        lines.append(f"  in use?  {escape(one.holder)} took its lock last; from here nobody can tell")
    if one.command and not one.in_use:
        lines.append(f"  {'again   ' if _finished(one) else 'go on   '} {escape(shlex.join(one.command), 400)}")
    return lines


def _finished(one: RunSummary) -> bool:
    return one.newest is not None and one.newest.finished


def _state(one: RunSummary) -> str:
    newest = one.newest
    if newest is None:
        return "nothing that holds" if one.snapshots else "no snapshot yet"
    done = "finished" if newest.finished else "unfinished"
    return f"{done}, step {newest.step:,}" + ("" if newest.epoch is None else f", epoch {newest.epoch}")


def _metrics(one: RunSummary) -> str:
    from rekindle.render import escape

    parts = []
    for name, value in one.metrics.items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        parts.append(f"{escape(name, 40)} {escape(shown, 40)}")
    best = ""
    if one.best is not None:
        best = f"; best {escape((one.best_rule or 'value').removeprefix('min:'), 40)} {one.best[0]:.6g}"
        best += f" at step {one.best[1]:,}"
    return ", ".join(parts[:8]) + best


def _row(snapshot: SnapshotSummary, now: float, best: int | None, *, deep: bool) -> tuple[str, str, str, str, str]:
    from rekindle.render import escape, human_bytes

    words = [escape(snapshot.damage)] if snapshot.damage else []
    if snapshot.step == best:
        words.append("best")
    if snapshot.finite is False:
        words.append("holds NaN or infinity")
    mark = "damaged" if snapshot.damage else "whole" if deep else "present"
    age = f"{_age(now - snapshot.saved_at)} ago"
    return f"{mark:<7}", snapshot.name, human_bytes(snapshot.size_bytes), age, ", ".join(words)


def _age(seconds: float) -> str:
    """Return a time span in its largest unit; a clock that was set back gives no negative one."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count > 0:
            return f"{count} {unit}{'s' * (count != 1)}"
    count = max(0, int(seconds))
    return f"{count} second{'s' * (count != 1)}"


def _as_json(one: RunSummary) -> dict[str, object]:
    from dataclasses import asdict

    newest = one.newest
    return {
        "path": one.path,
        "newest": None if newest is None else newest.name,
        "finished": _finished(one),
        "in_use": one.in_use,
        "holder": one.holder,
        "command": list(one.command),
        "metrics": dict(one.metrics),
        "best": None if one.best is None else {"metric": one.best_rule, "value": one.best[0], "step": one.best[1]},
        "leftovers": list(one.leftovers),
        "bytes": one.size_bytes,
        "fault": one.fault,
        "snapshots": [{**asdict(snapshot), "whole": not snapshot.damage} for snapshot in one.snapshots],
    }
