"""The learning curve of a run, from what it logged, as a picture.

Reads `metrics.jsonl` (one JSON object a line, with `step` and `epoch`) and draws what is there: losses, accuracies,
and the learning rate. The names are those of whoever logged them, so any text is a name. matplotlib is used through
its objects, never through pyplot, so that no global figure, no window system and no backend of the user's choosing
takes part. The picture is written beside the target and renamed over it: a viewer never sees half of one.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rekindle.store.atomic import write_beside

__all__ = ["draw_curve", "panels_of", "read_metrics"]

_RATES = "learning rate"
_PARTS_OF_DATA = ("train_", "val_", "valid_", "validation_", "test_", "eval_")


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the logged lines of a run, in order; a line that a crash cut short is left out.

    Raises:
        OSError: the file cannot be read.
    """
    lines: list[dict[str, Any]] = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                lines.append(found)
    return lines


def panels_of(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return what would be drawn of these lines: label of a panel -> names of the values in it.

    Values of several parts of the data share a panel (``train_loss`` and ``val_loss``), and so do all learning rates
    (``lr``, and ``lr_...`` of several optimizers and groups), which come last. What is never a number is left out.
    """
    names = dict.fromkeys(name for line in metrics for name in line if name not in {"step", "epoch"})
    panels: dict[str, list[str]] = {}
    for name in names:
        if any(_point(line, name) for line in metrics):
            panels.setdefault(_panel_of(name), []).append(name)
    rates = panels.pop(_RATES, None)
    return panels if rates is None else {**panels, _RATES: rates}


def _panel_of(name: str) -> str:
    if name == "lr" or name.startswith("lr_"):
        return _RATES
    return next((name[len(part) :] for part in _PARTS_OF_DATA if name.startswith(part) and name != part), name)


def draw_curve(
    metrics: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    groups: Mapping[str, Sequence[str]],
    title: str = "",
) -> bool:
    """Draw logged values against the step and write the picture as PNG.

    Args:
        metrics: logged lines, each with `step` and any other values.
        path: where to write; an existing file is replaced in one piece.
        groups: label of a panel -> names of the values in it, from top to bottom. Values nobody logged are left out.
        title: stands above.

    Returns:
        Whether there was anything to draw; nothing is written where there was not.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: the picture cannot be written.
    """
    panels = {label: series for label, names in groups.items() if (series := _series(metrics, names))}
    if not panels:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - half a second; only pictures need it
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7, 1 + 2.2 * len(panels)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, series) in zip(axes, panels.items(), strict=True):
        for name, (steps, values) in series.items():
            axis.plot(steps, values, label=_plain(name), marker="." if len(steps) < 60 else None, linewidth=1.2)
        axis.set_ylabel(_plain(label))
        axis.grid(alpha=0.3)
        if list(series) != [label]:
            axis.legend(frameon=False)
    axes[-1].set_xlabel("step")
    if title:
        figure.suptitle(_plain(title))
    picture = io.BytesIO()
    canvas.print_png(picture, metadata={"Software": "rekindle"})  # type: ignore[no-untyped-call] # matplotlib's own
    with write_beside(path) as out:
        out.write(picture.getbuffer())
    return True


def _series(
    metrics: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    found: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for name in names:
        points = [point for line in metrics if (point := _point(line, name)) is not None]
        if points:
            found[name] = [step for step, _ in points], [value for _, value in points]
    return found


def _point(line: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Return (step, value) where both are finite numbers, None otherwise."""
    step, value = line.get("step"), line.get(name)
    if not isinstance(step, int) or not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        at, high = float(step), float(value)
    except OverflowError:
        return None
    return (at, high) if math.isfinite(high) else None


def _plain(text: str) -> str:
    """Return a text that matplotlib shows as it is: no formula between dollars, no hidden name, no control code."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text).replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown  # it leaves names that begin with _ out of legends
