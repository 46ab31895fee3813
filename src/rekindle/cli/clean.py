"""`rekindle clean`: see `rekindle.verbs.clean`."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rekindle.verbs.clean import CleanPlan

SUMMARY = "show what can go from runs (leftovers of crashes, old snapshots), and delete it with --yes"
EXAMPLE = "rekindle clean runs --keep-last 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", nargs="?", default="runs", metavar="DIR", help="a run, or a folder of runs (runs)")
    parser.add_argument("--keep-last", type=int, metavar="N", help="let older snapshots go than the newest N that hold")
    parser.add_argument("--keep-every", type=int, metavar="K", help="of these, keep those at multiples of K steps")
    parser.add_argument("--keep-best", metavar="METRIC", help="keep the best by a metric; min:METRIC for the least")
    parser.add_argument("--damaged", action="store_true", help="let snapshots go that do not hold")
    parser.add_argument("--yes", action="store_true", help="delete; without it nothing is changed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Show or delete; 0 done, 1 a run was left out because it is in use, 2 it could not be done."""
    from rekindle.cli import FINE, NO
    from rekindle.errors import ConfigError, RekindleError
    from rekindle.verbs.clean import Rules, clean_run, plan_cleaning
    from rekindle.verbs.runs import find_runs

    if args.keep_last is None and (args.keep_every is not None or args.keep_best is not None):
        raise ConfigError(
            "--keep-every and --keep-best need --keep-last",
            why="they say what else stays when old snapshots go",
            do=f"rekindle clean {shlex.quote(args.folder)} --keep-last 2 ...",
        )
    rules = Rules(args.keep_last, args.keep_every, args.keep_best, args.damaged)
    paths = find_runs(args.folder)
    if not paths:
        raise RekindleError(f"{args.folder}: no run of rekindle's in it", why="nothing was touched")
    # All plans before the first deletion: a rule that cannot be meant stops it in time.
    plans = [plan_cleaning(path, rules) for path in paths]
    if args.yes:
        plans = [plan if plan.locked else clean_run(plan.path, rules) for plan in plans]
    if args.json:
        from rekindle.render import to_json

        print(to_json({"folder": args.folder, "deleted": args.yes, "runs": [_as_json(plan) for plan in plans]}))
    else:
        print("\n".join(_lines(plans, done=args.yes)))
        if not args.yes and any(plan.items for plan in plans):
            print(f"delete with: {shlex.join(_again())} --yes", file=sys.stderr)
    return NO if any(plan.locked for plan in plans) else FINE


def _again() -> list[str]:
    return ["rekindle", *sys.argv[1:]] if sys.argv[1:2] == ["clean"] else ["rekindle", "clean", "..."]


def _lines(plans: list[CleanPlan], *, done: bool) -> list[str]:
    from rekindle.render import escape, human_bytes

    lines = []
    for plan in plans:
        if plan.locked:
            lines.append(f"{escape(plan.path)}  left alone: {escape(plan.locked)}")
        elif not plan.items:
            lines.append(f"{escape(plan.path)}  nothing to delete")
        else:
            kept = f"; {len(plan.keeps)} snapshot{'s' * (len(plan.keeps) != 1)} stay"
            kept += "s" * (len(plan.keeps) == 1)
            verb = "deleted" if done else "would delete"
            lines.append(f"{escape(plan.path)}  {verb} {human_bytes(plan.size_bytes)}{kept}")
        for item in plan.items:
            name = escape(item.path[len(plan.path) :].lstrip("/\\"))
            lines.append(f"  {item.kind:<8}  {name}  {human_bytes(item.size_bytes)}  {escape(item.why)}")
    total = sum(plan.size_bytes for plan in plans)
    if len(plans) > 1 and total:
        lines.append(f"{human_bytes(total)} in {len(plans)} runs")
    return lines


def _as_json(plan: CleanPlan) -> dict[str, object]:
    return {
        "path": plan.path,
        "locked": plan.locked,
        "bytes": plan.size_bytes,
        "keeps": list(plan.keeps),
        "items": [
            {"path": item.path, "kind": item.kind, "bytes": item.size_bytes, "why": item.why} for item in plan.items
        ],
    }
