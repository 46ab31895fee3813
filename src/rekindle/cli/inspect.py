"""`rekindle inspect`: list what is in a checkpoint."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, TextIO

from rekindle.cli._progress import progress_line
from rekindle.errors import RekindleError

if TYPE_CHECKING:
    from rekindle.verbs.inspect import Inspection

SUMMARY = "list the tensors, values and structure of a checkpoint, without running anything in it"
EXAMPLE = "rekindle inspect model.pth --tree"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a checkpoint file, or a run or snapshot folder")
    parser.add_argument("--tree", action="store_true", help="show the object's structure, modules as PyTorch does")
    parser.add_argument("--digest", action="store_true", help="read the tensors and give the SHA-256 of each")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Inspect each path; 0 fine, 1 something in a file is damaged, 2 a path could not be listed."""
    from rekindle.render import inspection_json, to_json

    if len(args.paths) == 1:
        inspection, code = _inspect(args.paths[0], args)
        if args.json:
            print(to_json(inspection_json(inspection)))
        return code
    worst = 0
    reports = []
    for number, path in enumerate(args.paths):
        if number and not args.json:
            print()
        try:
            inspection, code = _inspect(path, args)
        except (RekindleError, OSError) as error:
            code = 2
            reports.append({"path": path, "error": _words(path, error)})
            if not args.json:
                print(_words(path, error), file=sys.stderr)
        else:
            reports.append(inspection_json(inspection))
        worst = max(worst, code)
    if args.json:
        print(to_json({"files": reports}))
    return worst


def _inspect(path: str, args: argparse.Namespace) -> tuple[Inspection, int]:
    """Inspect one path and, unless JSON is wanted, print it."""
    from rekindle.finding import Severity
    from rekindle.verbs.inspect import inspect

    inspection = inspect(
        path, digest=args.digest, progress=progress_line(lambda _, done, total: f"{done:,} of {total:,} tensors")
    )
    if not args.json:
        _print(inspection, args)
    if not inspection.listed:
        return inspection, 2
    bad = any(finding.severity.rank <= Severity.ERROR.rank for finding in inspection.findings)
    return inspection, 1 if bad else 0


def _print(inspection: Inspection, args: argparse.Namespace) -> None:
    from rekindle.render import Paint, finding_lines, inspection_lines

    if not inspection.listed:
        # What could not be done belongs to the errors; stdout stays empty for the program behind a pipe.
        for finding in inspection.findings:
            print("\n".join(finding_lines(finding, inspection.path, Paint(on=_colours(sys.stderr)))), file=sys.stderr)
        return
    paint = Paint(on=_colours(sys.stdout))
    for line in inspection_lines(inspection, paint, tree=args.tree):
        print(line)


def _colours(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _words(path: str, error: RekindleError | OSError) -> str:
    from rekindle.render import escape

    if isinstance(error, OSError) and error.strerror:
        return f"{escape(path)}: {error.strerror.lower()}"
    return "\n".join(escape(line, 400) for line in str(error).splitlines())
