"""`rekindle salvage`: what is whole in a damaged file, into a new one."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from rekindle.cli._losses import losses_json, print_losses
from rekindle.cli._progress import progress_line

if TYPE_CHECKING:
    from rekindle.verbs.salvage import Salvage

SUMMARY = "write every tensor that is whole in a cut or overwritten file into a new file"
EXAMPLE = "rekindle salvage cut.pth -o rescued.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("source", metavar="FILE", help="the damaged file: torch.save, safetensors or .distcp")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="the new file, .safetensors or .pth; without it, FILE.rescued.safetensors beside the damaged file",
    )
    parser.add_argument(
        "--like", metavar="OTHER", help="another file of the same model: names and shapes, where those of FILE are lost"
    )
    parser.add_argument(
        "--keep-damaged", action="store_true", help="also write tensors whose checksum is wrong, and say in OUT which"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Salvage; 0 all tensors are whole, 1 some are lost, 2 nothing could be rescued."""
    from rekindle.verbs.salvage import salvage

    progress = progress_line(lambda _, done: f"{done / 1e6:,.0f} MB written")
    done = salvage(
        args.source,
        args.output,
        like=args.like,
        keep_damaged=args.keep_damaged,
        force=args.force,
        progress=progress,
    )
    if progress is not None:
        progress.clear()
    if args.json:
        from rekindle.render import to_json

        print(to_json(_as_json(done)))
    else:
        _print(done)
    return 0 if done.is_whole else 1


def _as_json(done: Salvage) -> dict[str, object]:
    from rekindle.render import findings_json

    return {
        "source": done.source,
        "target": done.target,
        "format": done.format,
        "container": done.container,
        "bytes": done.size_bytes,
        "described": done.described,
        "written": [
            {
                "key": row.key,
                "dtype": row.dtype,
                "shape": list(row.shape),
                "proven": row.proven,
                **({"damaged": row.damaged} if row.damaged else {}),
            }
            for row in done.written
        ],
        "lost": losses_json(done.lost),
        "proven": sum(row.proven for row in done.written),
        "findings": findings_json(done.findings),
    }


def _print(done: Salvage) -> None:
    import shlex

    from rekindle.render import Paint, escape, finding_lines, human_bytes

    proven = sum(row.proven for row in done.written)
    tensors = [loss for loss in done.lost if loss.is_tensor]
    values = [loss for loss in done.lost if not loss.is_tensor]
    damaged = sum(bool(row.damaged) for row in done.written)
    whole = len(done.written) - damaged
    print(
        f"{escape(done.target, 400)}: {whole:,} of {len(done.written) + len(tensors):,} tensors are whole, "
        f"{human_bytes(done.size_bytes)}"
    )
    print(f"  proven by a checksum  {proven:,}")
    print(f"  whole, not provable   {whole - proven:,}")
    if damaged:
        print(f"  damaged, kept         {damaged:,}")
    print(f"  lost                  {len(tensors):,}")
    print_losses("lost:", tensors)
    print_losses("left out:", values)
    paint = Paint(on=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    for finding in done.findings:
        print()
        print("\n".join(finding_lines(finding, paint=paint)))
    print()
    print(f"next: rekindle inspect {escape(shlex.quote(done.target), 400)}")
