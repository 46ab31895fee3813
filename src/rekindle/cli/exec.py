"""`rekindle exec`: run a script as python does, and explain the exception that ends it."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress

from rekindle.errors import RekindleError

SUMMARY = "run a script as python does, and explain the exception that ends it"
EXAMPLE = "rekindle exec train.py --epochs 3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--report", metavar="FILE", help="also write the explanation to FILE, as one JSON object")
    parser.add_argument(
        "-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a module, as python -m"
    )
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT ...", help="the script and its own words")


def run(args: argparse.Namespace) -> int:
    """Run it; its own exit code, 1 after an exception as python has it."""
    from rekindle.explain.running import run_module, run_script

    words = args.module or args.script
    if words and words[0] == "--":
        words = words[1:]
    if not words:
        raise RekindleError("no script to run", why="exec runs a script or, with -m, a module", do=EXAMPLE)
    if not args.module and not os.path.exists(words[0]):
        raise RekindleError(
            f"{words[0]}: there is no such script",
            why="the first word is the script, those after it are its own",
            do="ls *.py",
        )
    report = os.path.abspath(args.report) if args.report else ""
    done = run_module(words[0], words[1:]) if args.module else run_script(words[0], words[1:])
    if done.error is not None and report:
        _write(report, done.error)
    if isinstance(done.error, KeyboardInterrupt):
        _end_by_interrupt()
    return done.code


def _write(path: str, error: BaseException) -> None:
    from rekindle.explain.hooks import explain_exception
    from rekindle.explain.report import Report
    from rekindle.explain.words import report_json
    from rekindle.render import to_json

    found = explain_exception(error)
    report = Report((found,) if found.causes else (), () if found.causes else (found.event,), 0, 1)
    with open(path, "w", encoding="utf-8") as file:
        file.write(to_json(report_json(report)) + "\n")


def _end_by_interrupt() -> None:
    """End by the signal itself, so that a shell sees what it sees of python."""
    import signal

    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if hasattr(os, "kill") and os.name == "posix":
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
