"""`rekindle convert`: write a checkpoint into another container."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from rekindle.cli._losses import losses_json, print_losses
from rekindle.cli._progress import megabytes_a_second, progress_line

if TYPE_CHECKING:
    from rekindle.verbs.convert import Conversion

SUMMARY = "write a checkpoint, a run or a snapshot as .pth, .safetensors or an old torch stream"
EXAMPLE = "rekindle convert runs/digits digits.pth"

_SHOWN = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("source", metavar="SRC", nargs="?", help="a checkpoint file, or a run or snapshot folder")
    parser.add_argument(
        "target",
        metavar="DST",
        nargs="?",
        help="the new file; .pth, .pt, .bin, .ckpt and .safetensors name the container",
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="the same as DST")
    parser.add_argument(
        "--average", metavar="FILE", nargs="+", help="write the mean of these checkpoints of one model to OUT"
    )
    parser.add_argument(
        "--to",
        metavar="CONTAINER",
        choices=("torch-zip", "torch-stream", "safetensors"),
        help="torch-zip, torch-stream (for torch before 1.6) or safetensors, whatever the suffix",
    )
    parser.add_argument("--legacy", action="store_true", help="the same as --to torch-stream: for torch before 1.6")
    parser.add_argument(
        "--take", "--part", dest="part", metavar="KEY", help="only what lies under this key, such as model"
    )
    parser.add_argument(
        "--best", action="store_true", help="of a run: the best snapshot by its keep_best, not the newest"
    )
    parser.add_argument(
        "--all", action="store_true", help="of a run, snapshot or program: everything, not only the weights"
    )
    for option, name, words in (
        ("--only", "PATTERN", "keep these keys, such as 'layer1.*'; repeatable"),
        ("--drop", "PATTERN", "leave these keys out; repeatable"),
        ("--strip", "PREFIX", "take this prefix off the keys; repeatable"),
        ("--rename", "OLD=NEW", "parts of keys; OLD.=NEW. the beginning, /OLD/NEW/ a regular expression; repeatable"),
    ):
        parser.add_argument(option, metavar=name, action="append", default=[], help=words)
    parser.add_argument("--add", metavar="PREFIX", default="", help="put this prefix in front of all keys")
    parser.add_argument(
        "--dtype",
        metavar="TYPE",
        help="float64, float32, float16, bfloat16, float8_e4m3fn or float8_e5m2 of floating-point tensors; needs NumPy",
    )
    parser.add_argument(
        "--data-only", action="store_true", help="turn objects of any class into the plain data that they hold"
    )
    parser.add_argument("--untie", action="store_true", help="give each tensor its own bytes, keep no sharing")
    parser.add_argument("--slim", action="store_true", help="keep only the bytes that tensors show")
    parser.add_argument("--shard", metavar="SIZE", help="write files of at most this size, such as 2GB, and an index")
    parser.add_argument("--values", action="store_true", help="also write the plain values, to DST.values.json")
    parser.add_argument("--no-verify", action="store_true", help="do not compare the new file with the source")
    parser.add_argument("--force", action="store_true", help="replace DST if it is there; it may be SRC")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Convert; 0 all tensors are there, 1 tensors were lost, 2 nothing was written."""
    from rekindle.errors import CannotWrite
    from rekindle.verbs.convert import convert

    if args.legacy and args.to not in {None, "torch-stream"}:
        raise CannotWrite(f"--legacy and --to {args.to} name two containers", do="leave out one of them")
    to = "torch-stream" if args.legacy else args.to
    if args.average is not None:
        done = _average(args, to)
        return _told(args, done)
    target = args.output if args.target is None else args.target
    if args.source is None or target is None or (args.output is not None and args.target is not None):
        raise CannotWrite(
            "convert needs one file to read and one to write",
            do=f"rekindle convert {args.source or 'SRC'} {target or 'DST'}",
        )
    done = convert(
        _best_of(args.source) if args.best else args.source,
        target,
        to=to,
        part=args.part,
        everything=args.all,
        only=args.only,
        drop=args.drop,
        rename=args.rename,
        strip=args.strip,
        add=args.add,
        dtype=args.dtype,
        data_only=args.data_only,
        untie=args.untie,
        slim=args.slim,
        shard=args.shard,
        values=args.values,
        verify=not args.no_verify,
        force=args.force,
        progress=progress_line(megabytes_a_second),
    )
    return _told(args, done)


def _best_of(run: str) -> str:
    """Return the folder of a run's best snapshot."""
    import shlex

    from rekindle.errors import CannotWrite
    from rekindle.verbs.runs import summarise_run

    newest = f"the newest: rekindle convert {shlex.quote(run)} OUT"
    if not os.path.isdir(run):
        raise CannotWrite(f"{run}: --best is for the folder of a run", do=newest)
    one = summarise_run(run)
    if one.best is None:
        raise CannotWrite(
            f"{run}: it knows of no best snapshot",
            why="a run remembers one where it is told by which metric: rk.Run(..., keep_best='accuracy')",
            do=newest,
        )
    step = one.best[1]
    found = next((snapshot for snapshot in one.snapshots if snapshot.step == step), None)
    if found is None or found.damage:
        raise CannotWrite(
            f"{run}: its best snapshot, of step {step}, {'is gone' if found is None else 'does not hold'}",
            why=found.damage if found is not None else "",
            do=newest,
        )
    return found.path


def _average(args: argparse.Namespace, to: str | None) -> Conversion:
    import shlex

    from rekindle.errors import CannotWrite
    from rekindle.verbs.average import average_files

    if args.output is None or args.source is not None:
        files = [*([args.source] if args.source is not None else []), *args.average]
        raise CannotWrite(
            "--average takes all files to read, and -o the one to write",
            do=f"rekindle convert --average {shlex.join(files)} -o {args.output or 'MEAN.pth'}",
        )
    unused = ("best", "only", "drop", "strip", "rename", "add", "data_only", "untie", "slim", "values")
    asked = [f"--{name.replace('_', '-')}" for name in unused if getattr(args, name)]
    if asked:
        raise CannotWrite(
            f"{asked[0]} does not go together with --average",
            do=f"average first, then: rekindle convert {args.output} OUT {asked[0]} ...",
        )
    return average_files(
        args.average,
        args.output,
        to=to,
        part=args.part,
        everything=args.all,
        dtype=args.dtype,
        shard=args.shard,
        verify=not args.no_verify,
        force=args.force,
        progress=progress_line(megabytes_a_second),
    )


def _told(args: argparse.Namespace, done: Conversion) -> int:
    if args.json:
        from rekindle.render import to_json

        print(to_json(_as_json(done)))
    else:
        _print(done)
    return 1 if any(loss.is_tensor for loss in done.lost) else 0


def _as_json(done: Conversion) -> dict[str, object]:
    from rekindle.render import findings_json

    return {
        "source": done.source,
        "target": done.target,
        "container": done.container,
        "bytes": done.size_bytes,
        "files": list(done.files),
        "verified": done.verified,
        "written": [{"key": row.key, "dtype": row.dtype, "shape": list(row.shape)} for row in done.written],
        "lost": losses_json(done.lost),
        "findings": findings_json(done.findings),
    }


def _print(done: Conversion) -> None:
    from rekindle.render import Paint, escape, finding_lines, human_bytes

    checked = "checked against the source" if done.verified else "not checked"
    print(
        f"{escape(done.target)}: {done.container}, {len(done.written):,} tensors, "
        f"{human_bytes(done.size_bytes)}, {checked}"
    )
    if len(done.files) > 1:
        print(f"files: {', '.join(escape(path, 400) for path in done.files[:_SHOWN])}", end="")
        print(f" ... {len(done.files):,} in all" if len(done.files) > _SHOWN else "")
    tensors = [loss for loss in done.lost if loss.is_tensor]
    values = [loss for loss in done.lost if not loss.is_tensor]
    for name, lost in (("tensors", tensors), ("other values", values)):
        print_losses(f"not written: {len(lost):,} {name}", lost)
    paint = Paint(on=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    for finding in done.findings:
        print("\n".join(finding_lines(finding, paint=paint)))
    index = [path for path in done.files if path.endswith(".index.json")]
    print(f"next: rekindle inspect {escape(index[0] if index else done.target, 400)}")
