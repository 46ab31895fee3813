"""`rekindle prove`: see `rekindle.run.prove`."""

from __future__ import annotations

import argparse
import signal
import sys

SUMMARY = "show that a run killed anywhere ends with the same bits"
EXAMPLE = "rekindle prove --kills 3 -- python train.py --epochs 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--kills", type=int, default=5, metavar="N", help="how often to kill (5)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="where the kills hit (0)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="longest that one start may take")
    parser.add_argument(
        "--keep", metavar="DIR", help="keep both runs, their output and the evidence in this new folder"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="what trains, with rekindle.Run"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command straight and under kills; 0 proven, 1 not proven."""
    from rekindle.cli import FINE, NO
    from rekindle.errors import RekindleError
    from rekindle.run.prove import prove
    from rekindle.run.verdict import as_json, as_text

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise RekindleError("rekindle prove: no command given", do=EXAMPLE)
    # Ended from outside, it must not leave the command running: unwinding ends it.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _frame: sys.exit(128 + number))
    proof = prove(
        command,
        kills=args.kills,
        seed=args.seed,
        timeout_s=args.timeout,
        keep=args.keep,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if args.json:
        import json

        print(json.dumps(as_json(proof)))
    else:
        print(as_text(proof))
    return FINE if proof.proven else NO
