"""`rekindle doctor`: what is wrong with a checkpoint, and what to type."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rekindle.cli._progress import progress_line
from rekindle.errors import RekindleError

if TYPE_CHECKING:
    from rekindle.verbs.doctor import Diagnosis, Fixed

SUMMARY = "say what is wrong with a checkpoint, why, and what to type"
EXAMPLE = "rekindle doctor model.pth"

_SHOWN = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("paths", nargs="+", metavar="FILE", help="any file or folder that is meant to be a checkpoint")
    parser.add_argument(
        "--values", action="store_true", help="read the tensors too: NaN, zeros, copies, bytes that changed"
    )
    parser.add_argument("--for", dest="torch", metavar="torch==VERSION", help="what that version of torch will say")
    parser.add_argument(
        "--fix", metavar="OUT", help="write the weights alone, under plain keys, as plain data, for the CPU"
    )
    parser.add_argument("--force", action="store_true", help="with --fix: replace OUT if it is there")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Examine each file; 0 nothing but notes, 1 findings, 2 a file could not be examined or fixed."""
    from rekindle.render import to_json

    if args.fix is not None:
        return _fix(args)
    if len(args.paths) == 1:
        diagnosis = _examine(args.paths[0], args)
        if args.json:
            print(to_json(_as_json(diagnosis)))
        return _code(diagnosis)
    worst = 0
    reports: list[dict[str, object]] = []
    for number, path in enumerate(args.paths):
        if number and not args.json:
            print()
        try:
            diagnosis = _examine(path, args)
        except (RekindleError, OSError) as error:
            words = _words(path, error)
            reports.append({"path": path, "error": words})
            if not args.json:
                print(words, file=sys.stderr)
            worst = 2
        else:
            reports.append(_as_json(diagnosis))
            worst = max(worst, _code(diagnosis))
    if args.json:
        print(to_json({"files": reports}))
    return worst


def _examine(path: str, args: argparse.Namespace) -> Diagnosis:
    """Examine one file and, unless JSON is wanted, print what was found."""
    from rekindle.verbs.doctor import doctor

    progress = progress_line(_percent)
    diagnosis = doctor(path, values=args.values, torch=args.torch, progress=progress)
    if not args.json:
        for line in _lines(diagnosis):
            print(line)
    return diagnosis


def _code(diagnosis: Diagnosis) -> int:
    from rekindle.finding import Severity

    return 1 if any(finding.severity is not Severity.NOTE for finding in diagnosis.findings) else 0


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    from rekindle.checks import counted
    from rekindle.render import MAX_LINES, Paint, escape, finding_lines, human_bytes

    paint = Paint(on=sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb")
    parts = [diagnosis.format, *([diagnosis.kind] if diagnosis.listed else []), human_bytes(diagnosis.size_bytes)]
    if diagnosis.tensors:
        parts.append(counted(diagnosis.tensors, "tensor"))
    yield f"{paint.bold(escape(diagnosis.path, 400))}: {', '.join(parts)}: {_counted(diagnosis)}"
    for finding in diagnosis.findings[:MAX_LINES]:
        yield ""
        yield from finding_lines(finding, diagnosis.path, paint)
    commands = list(diagnosis.commands)
    if diagnosis.listed and not diagnosis.values:
        import shlex

        commands.append(f"rekindle doctor {shlex.quote(diagnosis.path)} --values")
    if commands:
        yield ""
        yield paint.dim("next")
        for command in dict.fromkeys(commands):
            yield f"  {escape(command, 800)}"


def _counted(diagnosis: Diagnosis) -> str:
    from rekindle.checks import counted
    from rekindle.finding import Severity

    counts = dict.fromkeys(Severity, 0)
    for finding in diagnosis.findings:
        counts[finding.severity] += 1
    said = [counted(count, severity.value) for severity, count in counts.items() if count]
    return ", ".join(said) or "nothing wrong was found"


def _as_json(diagnosis: Diagnosis) -> dict[str, object]:
    from rekindle.render import findings_json

    return {
        "path": diagnosis.path,
        "format": diagnosis.format,
        "findings": findings_json(diagnosis.findings),
        "commands": list(diagnosis.commands),
    }


def _fix(args: argparse.Namespace) -> int:
    from rekindle.render import to_json
    from rekindle.verbs.doctor import fix

    if len(args.paths) != 1:
        raise RekindleError(
            f"--fix writes one file, and {len(args.paths)} were given",
            why="each needs a name of its own",
            do=f"rekindle doctor {args.paths[0]} --fix {args.fix}",
        )
    done = fix(args.paths[0], args.fix, force=args.force, progress=progress_line(_percent))
    if args.json:
        print(to_json(_fixed_json(done)))
    else:
        _print_fixed(done)
    return 0 if done.is_whole else 1


def _fixed_json(done: Fixed) -> dict[str, object]:
    return {
        "source": done.source,
        "target": done.target,
        "bytes": done.size_bytes,
        "done": list(done.done),
        "written": [{"key": key, "dtype": dtype, "shape": list(shape)} for key, dtype, shape in done.written],
        "lost": [{"key": key, "why": why} for key, why in done.lost],
        "findings": [],
    }


def _print_fixed(done: Fixed) -> None:
    import shlex

    from rekindle.checks import counted
    from rekindle.render import escape, human_bytes

    print(
        f"{escape(done.target)}: {counted(len(done.written), 'tensor')}, {human_bytes(done.size_bytes)}, "
        "equal to the source, bit for bit"
    )
    for line in done.done or (() if done.lost else ("nothing had to be mended; the copy is plain data",)):
        print(f"  {escape(line, 400)}")
    if done.lost:
        print(f"not written: {counted(len(done.lost), 'value')}")
        for key, why in done.lost[:_SHOWN]:
            print(f"  {escape(key) or '(the whole object)'}  {escape(why)}")
        if len(done.lost) > _SHOWN:
            print(f"  ... and {len(done.lost) - _SHOWN:,} more: --json lists them all")
    print(f"next: rekindle doctor {escape(shlex.quote(done.target), 400)}")


def _words(path: str, error: RekindleError | OSError) -> str:
    from rekindle.render import escape

    if isinstance(error, OSError) and error.strerror:
        return f"{escape(path)}: {error.strerror.lower()}"
    return "\n".join(escape(line, 400) for line in str(error).splitlines())


def _percent(_seconds: float, done: int, total: int) -> str:
    return f"{100 * done // max(total, 1)} %"
