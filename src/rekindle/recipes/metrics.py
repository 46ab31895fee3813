"""How well classes are told apart: the confusion matrix, and what follows from it. Needs neither torch nor NumPy.

In a confusion matrix, row i and column j is the number of pictures of class i that were taken for class j. Precision,
recall and F1 as scikit-learn defines them; where nothing was counted they are None instead of 0.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rekindle.render import escape
from rekindle.store.atomic import write_beside

__all__ = ["ClassMetrics", "Metrics", "draw_confusion", "metrics_of"]

_NAMED = 40  # more classes than this, and names and numbers in the picture cannot be read any more


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class.

    Attributes:
        name: of the class.
        count: pictures of it.
        precision: part of what was taken for it that is of it; None where nothing was.
        recall: part of it that was found; None where there is none of it.
        f1: harmonic mean of both; None where there is neither.
    """

    name: str
    count: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """All classes.

    Attributes:
        accuracy: part that is right, 0 to 1.
        loss: mean cross-entropy.
        right, count: pictures.
        macro_f1: mean F1 of the classes that there are pictures of.
        classes: each class, in order.
        confusion: counts by class and answer.
    """

    accuracy: float
    loss: float
    right: int
    count: int
    macro_f1: float
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]

    def lines(self) -> Iterator[str]:
        """Yield the table of the classes."""
        names = [escape(row.name, 40) for row in self.classes]
        width = max(len("class"), *map(len, names))
        yield f"{'class':<{width}}  pictures  precision   recall       F1"
        for name, row in zip(names, self.classes, strict=True):
            yield (
                f"{name:<{width}}  {row.count:>8,}  {_percent(row.precision):>9}  {_percent(row.recall):>7}  "
                f"{_percent(row.f1):>7}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "right": self.right,
            "count": self.count,
            "macro_f1": self.macro_f1,
            "per_class": [
                {"class": row.name, "count": row.count, "precision": row.precision, "recall": row.recall, "f1": row.f1}
                for row in self.classes
            ],
            "confusion": [list(row) for row in self.confusion],
        }


def metrics_of(confusion: Sequence[Sequence[int]], classes: Sequence[str], loss: float) -> Metrics:
    """Return what follows from a confusion matrix.

    Args:
        confusion: counts, row by class and column by answer; not all zero.
        classes: names.
        loss: mean cross-entropy over the pictures.
    """
    count = sum(map(sum, confusion))
    right = sum(row[number] for number, row in enumerate(confusion))
    rows = []
    for number, name in enumerate(classes):
        hits, own = confusion[number][number], sum(confusion[number])
        taken = sum(row[number] for row in confusion)
        rows.append(
            ClassMetrics(
                name,
                own,
                hits / taken if taken else None,
                hits / own if own else None,
                2 * hits / (own + taken) if own + taken else None,
            )
        )
    scores = [row.f1 for row in rows if row.count and row.f1 is not None]
    return Metrics(
        right / count, loss, right, count, sum(scores) / len(scores), tuple(rows), tuple(map(tuple, confusion))
    )


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.1f} %"


def draw_confusion(metrics: Metrics, path: str | os.PathLike[str], *, title: str = "") -> bool:
    """Draw the confusion matrix as PNG: shares of each class by colour, counts as numbers.

    Args:
        metrics: what to draw.
        path: where to write; an existing file is replaced in one piece.
        title: stands above.

    Returns:
        Whether it was drawn: False where matplotlib is not installed.

    Raises:
        OSError: the picture cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - half a second; only for pictures
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ModuleNotFoundError:
        return False
    names = [escape(row.name, 24).replace("$", r"\$") for row in metrics.classes]  # a dollar begins a formula
    shares = [[count / max(1, sum(row)) for count in row] for row in metrics.confusion]
    is_named = len(names) <= _NAMED
    side = min(14.0, 2.6 + 0.45 * len(names))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="share of the class", shrink=0.8)
    axis.set_xlabel("taken for")
    axis.set_ylabel("class")
    if is_named:
        axis.set_xticks(range(len(names)), names, rotation=90 if len(names) > 4 else 0)
        axis.set_yticks(range(len(names)), names)
        for row, counts in enumerate(metrics.confusion):
            for column, count in enumerate(counts):
                colour = "white" if shares[row][column] > 0.5 else "black"
                axis.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    if title:
        axis.set_title(title)
    picture = io.BytesIO()
    canvas.print_png(picture, metadata={"Software": "rekindle"})  # type: ignore[no-untyped-call] # matplotlib's own
    with write_beside(path) as out:
        out.write(picture.getbuffer())
    return True
