"""`rekindle curve`: what a run logged, the learning rate included, as a picture; see `rekindle.view.curves`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

SUMMARY = "draw what a run logged: losses, metrics, learning rates"
EXAMPLE = "rekindle curve runs/digits --only lr,val_loss -o rates.png"

_PICTURE = "curve.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--only", metavar="NAME,NAME", help="draw these values alone, as they were logged")
    parser.add_argument("-o", "--output", metavar="PNG", help=f"where to write (RUN/{_PICTURE})")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Draw the picture; 0, 1 where nothing that could be drawn was logged, 2 where it could not be made."""
    import os
    import sys

    from rekindle.cli import FINE, NO
    from rekindle.errors import ConfigError, RekindleError
    from rekindle.render import escape, to_json
    from rekindle.view.curves import draw_curve, panels_of

    target = args.output or os.path.join(args.run, _PICTURE)
    if not target.lower().endswith(".png"):
        raise ConfigError(f"{target}: the curve is a PNG picture", do="give a name that ends in .png")
    metrics = _metrics_of(args.run)
    panels = panels_of(metrics)
    if args.only is not None:
        panels = _chosen(panels, args.only.split(","), args.run)
    if not panels:
        why = "the run has written no line yet" if not metrics else "its lines hold no number"
        words = RekindleError(f"{args.run}: there is nothing to draw", why=why, do="log values: run.log(loss=loss)")
        print("\n".join(escape(line, 400) for line in str(words).splitlines()), file=sys.stderr)
        return NO
    _need_matplotlib()
    draw_curve(metrics, target, groups=panels, title=os.path.basename(os.path.normpath(args.run)))
    if args.json:
        print(to_json({"run": args.run, "picture": target, "panels": panels, "lines": len(metrics)}))
        return FINE
    print(f"{escape(target, 400)}: {len(panels)} panel{'s' * (len(panels) != 1)} from {len(metrics):,} logged lines")
    width = max(len(escape(label, 40)) for label in panels)
    for label, names in panels.items():
        print(f"  {escape(label, 40):<{width}}  {', '.join(escape(name, 40) for name in names)}")
    return FINE


def _metrics_of(run: str) -> list[dict[str, Any]]:
    import os

    from rekindle.errors import RunError
    from rekindle.store.layout import METRICS_NAME, is_run_folder
    from rekindle.view.curves import read_metrics

    os.stat(run)
    try:
        return read_metrics(os.path.join(run, METRICS_NAME))
    except (FileNotFoundError, NotADirectoryError):
        if is_run_folder(run):
            return []
        raise RunError(
            f"{run}: this is no run of rekindle's", why=f"it has no {METRICS_NAME}", do="rekindle runs DIR"
        ) from None


def _chosen(panels: Mapping[str, Sequence[str]], names: Sequence[str], run: str) -> dict[str, list[str]]:
    import shlex

    from rekindle.errors import ConfigError
    from rekindle.keys import near_names

    wanted = [name.strip() for name in names]
    there = [name for group in panels.values() for name in group]
    for name in wanted:
        if name not in there:
            near = near_names(name, there) or there[:8]
            raise ConfigError(
                f"--only {name}: no number was logged under this name in {run}",
                why=f"nearest: {', '.join(near)}" if near else "nothing was logged there",
                do=f"rekindle curve {shlex.quote(run)}    draws all there is",
            )
    kept = {label: [name for name in group if name in wanted] for label, group in panels.items()}
    return {label: group for label, group in kept.items() if group}


def _need_matplotlib() -> None:
    import sys
    from importlib.util import find_spec

    from rekindle.errors import ConfigError

    if find_spec("matplotlib") is None:
        raise ConfigError(
            "the curve is drawn by matplotlib, which is not installed in this Python",
            do=f"{sys.executable} -m pip install matplotlib    or look at: tensorboard --logdir RUN/tensorboard",
        )
