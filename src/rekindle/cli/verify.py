"""`rekindle verify`: compare every checksum of a checkpoint."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from rekindle.cli._progress import progress_line
from rekindle.errors import RekindleError

if TYPE_CHECKING:
    from rekindle.verbs.verify import Verification

SUMMARY = "compare every checksum, size and manifest of a checkpoint, and name the tensors that are damaged"
EXAMPLE = "rekindle verify model.pth"

_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a checkpoint file or folder, a run or a snapshot")
    parser.add_argument(
        "--record",
        action="store_true",
        help="put digests beside it (PATH.rekindle.json), which later runs compare with",
    )
    parser.add_argument(
        "--strict", action="store_true", help="also answer no (exit code 1) where something cannot be verified"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Verify each path; 0 nothing is damaged, 1 something is, 2 a path could not be verified."""
    from rekindle.render import to_json

    if len(args.paths) == 1:
        found, code = _verify(args.paths[0], args)
        if args.json:
            print(to_json(_as_json(found)))
        return code
    worst, reports = 0, []
    for number, path in enumerate(args.paths):
        if number and not args.json:
            print()
        try:
            found, code = _verify(path, args)
        except (RekindleError, OSError) as error:
            from rekindle.render import escape

            code = 2
            words = str(error) if isinstance(error, RekindleError) else f"{path}: {(error.strerror or error)!s}"
            reports.append({"path": path, "error": words})
            if not args.json:
                print("\n".join(escape(line, 400) for line in words.splitlines()), file=sys.stderr)
        else:
            reports.append(_as_json(found))
        worst = max(worst, code)
    if args.json:
        print(to_json({"files": reports}))
    return worst


def _verify(path: str, args: argparse.Namespace) -> tuple[Verification, int]:
    from rekindle.verbs.verify import record, verify

    work = record if args.record else verify
    progress = progress_line(lambda s, done: f"{done / 1e6:,.0f} MB read, {done / s / 1e6:,.0f} MB/s")
    found = work(path, progress=progress)
    if progress is not None:
        progress.clear()
    if not args.json:
        _print(found, recorded=args.record)
    if not found.is_whole or (args.strict and found.unverifiable):
        return found, 1
    return found, 0


def _as_json(found: Verification) -> dict[str, object]:
    from rekindle.render import findings_json

    def named(name: str, *, is_key: bool) -> dict[str, object]:
        return {"key" if is_key else "member": name}

    return {
        "path": found.path,
        "format": found.format,
        "bytes": found.size_bytes,
        "checked": [
            {**named(row.name, is_key=row.is_key), "how": row.how, "ok": row.ok, "bytes": row.size_bytes}
            for row in found.checked
        ],
        "damaged": [
            {**named(row.name, is_key=row.is_key), "why": row.why, "keys": list(row.keys)} for row in found.damaged
        ],
        "unverifiable": [{**named(row.name, is_key=row.is_key), "why": row.why} for row in found.unverifiable],
        "fingerprint": found.fingerprint,
        "findings": findings_json(found.findings),
    }


def _print(found: Verification, *, recorded: bool) -> None:
    import shlex

    from rekindle.finding import Severity
    from rekindle.render import Paint, escape, finding_lines, human_bytes
    from rekindle.verbs.verify import record_path

    paint = Paint(on=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    vouched = sum(row.ok and row.how in {"crc32", "digest"} for row in found.checked)
    answer = "damaged" if not found.is_whole else "not verifiable" if not vouched else "whole"
    print(f"{paint.bold(escape(found.path, 400))}: {found.format}, {human_bytes(found.size_bytes)}, {answer}")
    print(f"  verified by a checksum  {vouched:,} of {len(found.checked):,} parts")
    if found.fingerprint != "absent":
        print(f"  archive's fingerprint   {found.fingerprint}")
    if found.damaged:
        print(f"  damaged                 {len(found.damaged):,}")
        for part in found.damaged[:_SHOWN]:
            print(f"    {paint.severity(Severity.ERROR, escape(part.name))}  {escape(part.why, 400)}")
            if part.keys:
                more = f" and {len(part.keys) - 8:,} more" if len(part.keys) > 8 else ""
                print(f"      tensors: {', '.join(map(escape, part.keys[:8]))}{more}")
        _print_more(len(found.damaged))
    if found.unverifiable:
        print(f"  unverifiable            {len(found.unverifiable):,}")
        reasons: dict[str, list[str]] = {}
        for unknown in found.unverifiable:
            reasons.setdefault(unknown.why, []).append(unknown.name)
        for why, names in reasons.items():
            more = f" and {len(names) - 4:,} more" if len(names) > 4 else ""
            print(f"    {', '.join(map(escape, names[:4]))}{more}: {escape(why, 400)}")
    said = {part.why for part in found.damaged}
    for finding in found.findings:
        if finding.severity is not Severity.NOTE and finding.what not in said:
            print()
            print("\n".join(finding_lines(finding, found.path, paint)))
    path = escape(shlex.quote(found.path), 400)
    if recorded:
        print(f"recorded: {escape(record_path(found.path), 400)}")
    if not found.is_whole and os.path.isfile(found.path):
        print(f"next: rekindle salvage {path}")
    elif found.is_whole and found.unverifiable and not recorded and found.format not in {"run", "snapshot"}:
        print(f"next: rekindle verify --record {path}")


def _print_more(count: int) -> None:
    if count > _SHOWN:
        print(f"    ... and {count - _SHOWN:,} more: --json lists them all")
