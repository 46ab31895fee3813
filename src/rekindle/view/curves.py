"""The learning curve of a run, from what it logged, as a picture.

Reads `metrics.jsonl` (one JSON object a line, with `step` and `epoch`) and draws what is there: losses, accuracies,
and the learning rate. matplotlib is used through its objects, never through pyplot, so that no global figure, no
window system and no backend of the user's choosing takes part. The picture is written beside the target and renamed
over it: a viewer never sees half of one.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rekindle.store.atomic import write_beside

__all__ = ["draw_curve", "read_metrics"]


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
            axis.plot(steps, values, label=name, marker="." if len(steps) < 60 else None, linewidth=1.2)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if len(series) > 1:
            axis.legend(frameon=False)
    axes[-1].set_xlabel("step")
    if title:
        figure.suptitle(title)
    picture = io.BytesIO()
    canvas.print_png(picture, metadata={"Software": "rekindle"})  # type: ignore[no-untyped-call] # matplotlib's own
    with write_beside(path) as out:
        out.write(picture.getbuffer())
    return True


def _series(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, tuple[list[int], list[float]]]:
    found: dict[str, tuple[list[int], list[float]]] = {}
    for name in names:
        points = [(line["step"], line[name]) for line in metrics if _is_point(line, name)]
        if points:
            found[name] = [step for step, _ in points], [value for _, value in points]
    return found


def _is_point(line: Mapping[str, Any], name: str) -> bool:
    step, value = line.get("step"), line.get(name)
    return isinstance(step, int) and isinstance(value, (int, float)) and not isinstance(value, bool)
