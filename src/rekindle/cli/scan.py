"""`rekindle scan`: what loading a file would run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rekindle.cli._progress import progress_line
from rekindle.errors import RekindleError

if TYPE_CHECKING:
    from rekindle.render import Paint
    from rekindle.verbs.scan import Scan

SUMMARY = "say what loading a file would import and call, without loading it"
EXAMPLE = "rekindle scan model.pth downloads/"

_CODES = {"clean": 0, "dangerous": 1, "not-analysed": 2, "notice": 3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file, or a folder that is searched to its leaves")
    parser.add_argument("--only-models", action="store_true", help="pass over files that are text or pictures")
    parser.add_argument("--sarif", metavar="FILE", help="also write the findings as SARIF 2.1.0, for code hosts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Scan each path; 0 clean, 1 dangerous, 2 not all of it could be analysed, 3 something unknown is imported."""
    from rekindle.finding import Finding, Severity
    from rekindle.render import escape, to_json
    from rekindle.verbs.scan import Scan, scan, worst_verdict

    progress = progress_line(lambda _, path: f"looking at {escape(path, 60)}")
    scans = []
    for path in args.paths:
        try:
            scans.append(scan(path, only_models=args.only_models, progress=progress))
        except (RekindleError, OSError) as error:
            # One path that cannot be read is an error of the command; among others it must not hide their dangers.
            if len(args.paths) == 1:
                raise
            what = error.what if isinstance(error, RekindleError) else f"{path}: {(error.strerror or '').lower()}"
            finding = Finding("RK-SCAN-20", "unreadable-file", Severity.ERROR, what, "it was not looked at")
            scans.append(Scan(path, "not-a-model", "not-analysed", (finding,)))
    if progress is not None:
        progress.clear()
    verdict = worst_verdict(one.verdict for one in scans)
    if args.sarif:
        _write_sarif(args.sarif, scans)
    if args.json:
        value = _json(scans[0]) if len(scans) == 1 else {"verdict": verdict, "files": [_json(one) for one in scans]}
        print(to_json(value))
    else:
        _print(scans)
    return _CODES[verdict]


def _write_sarif(path: str, scans: list[Scan]) -> None:
    from rekindle.render import to_json
    from rekindle.scanning.sarif import sarif
    from rekindle.store.atomic import write_beside

    with write_beside(path) as file:
        file.write((to_json(sarif(scans)) + "\n").encode())


def _json(scan: Scan) -> dict[str, object]:
    from rekindle.render import findings_json

    value: dict[str, object] = {
        "path": scan.path,
        "format": scan.format,
        "verdict": scan.verdict,
        "findings": findings_json(scan.findings),
    }
    if scan.format == "folder":
        value["files"] = [_json(one) for one in scan.files]
        value["passed_over"] = scan.passed_over
    return value


def _print(scans: list[Scan]) -> None:
    from dataclasses import replace

    from rekindle.render import MAX_LINES, Paint, escape, finding_lines

    paint = Paint(on=sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb")
    rows = [row for one in scans for row in _rows(one)]
    width = max((len(row.format) for row in rows), default=0)
    for row in rows:
        print(f"{_painted(row.verdict, paint)}  {escape(row.format):<{width}}  {escape(row.path, 400)}")
    passed_over = sum(one.passed_over for one in scans)
    if passed_over:
        print(paint.dim(f"{passed_over:,} other files are text or pictures, in which nothing runs"))
    lines = 0
    for row in rows:
        for finding in row.findings:
            print()
            where = finding.where
            place = f" > {where.member}" if where.member is not None else ""
            place += f", byte {where.offset:,}" if where.offset is not None else ""
            head = f"{row.path}{place}: {finding.what.removeprefix(f'{row.path}: ')}"
            said = finding_lines(replace(finding, what=head), row.path, paint)
            print("\n".join(said))
            lines += len(said)
            if lines > MAX_LINES:
                print("… and more (--json has all)")
                return
    _print_end(scans, paint)


def _print_end(scans: list[Scan], paint: Paint) -> None:
    files = [row for one in scans for row in _rows(one) if row.format != "folder"]
    if files and all(row.verdict == "clean" for row in files):
        refused = sum(any(finding.code == "RK-SCAN-22" for finding in row.findings) for row in files)
        print()
        print(
            paint.dim(
                "clean: followed to the last byte; nothing is imported but what torch.load(weights_only=True) takes"
                + (f"; of {refused:,} of them it refuses the opcodes" if refused and len(files) > 1 else "")
                + (", which refuses its opcodes" if refused and len(files) == 1 else "")
            )
        )


def _rows(scan: Scan) -> Iterator[Scan]:
    if scan.format != "folder" or scan.findings or not scan.files:
        yield scan
    for one in scan.files:
        yield from _rows(one)


def _painted(verdict: str, paint: Paint) -> str:
    from rekindle.finding import Severity

    severity = {"dangerous": Severity.DANGER, "not-analysed": Severity.ERROR, "notice": Severity.WARNING}.get(verdict)
    text = f"{verdict:<12}"
    return paint.severity(severity, text) if severity is not None else text
