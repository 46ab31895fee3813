"""What torch's SummaryWriter needs help with: `rk.tensorboard.histograms(writer, model, step)` and its friends.

Each function takes a `SummaryWriter` first, yours or a run's (`run.tensorboard`). That of a run is None where nothing
is to be written, as on other ranks than 0: then nothing is. Law: models, figures and generators are as before; a value
that the writer would fail on (empty, NaN, bfloat16) is written as far as it can be, and counted.

Shapes: B samples, K classes, C channels, H rows, W columns, D features.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rekindle.bare_model import bare_model
from rekindle.errors import ConfigError
from rekindle.keys import canonical_key
from rekindle.selection import Choice
from rekindle.view.labels import check_labels
from rekindle.view.passes import arguments_of, place_of, untouched

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["embeddings", "figure", "graph", "histograms", "learning_rates", "pictures", "pr_curves", "text"]


def histograms(
    writer: SummaryWriter | None,
    model: nn.Module,
    step: int,
    *,
    gradients: bool = True,
    only: str | Sequence[str] = (),
) -> None:
    """Write a histogram of each parameter as ``weights/KEY`` and of each gradient as ``gradients/KEY``.

    Call it after `backward` and before the gradients are set to zero. Values that are not finite are left out of a
    histogram and counted in the scalar ``not_finite/weights/KEY``, which is there only where there are some.

    Args:
        writer: torch's.
        model: may be wrapped; names are without wrappers.
        step: the number of the step.
        gradients: also those; a parameter without one is left out.
        only: keys to write, with ``*``, or names of modules; all by default.
    """
    if writer is None:
        return
    choice = Choice((only,) if isinstance(only, str) else tuple(only))
    for key, parameter in bare_model(model).named_parameters():
        name = canonical_key(key)
        if not choice.keeps(name):
            continue
        _histogram(writer, f"weights/{name}", parameter, step)
        if gradients and parameter.grad is not None:
            _histogram(writer, f"gradients/{name}", parameter.grad, step)


def learning_rates(writer: SummaryWriter | None, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write the learning rate of each parameter group as ``lr/NAME``: the group's ``name``, or its number."""
    if writer is None:
        return
    for number, group in enumerate(optimizer.param_groups):
        writer.add_scalar(f"lr/{group.get('name', number)}", float(group["lr"]), step)


def pr_curves(
    writer: SummaryWriter | None,
    scores_BK: torch.Tensor,
    labels_B: torch.Tensor,
    step: int,
    *,
    classes: Sequence[str] | None = None,
    name: str = "pr",
) -> None:
    """Write a precision-recall curve of each class against all others, as ``pr/CLASS``.

    Args:
        writer: torch's.
        scores_BK: class scores (logits); a softmax is taken here.
        labels_B: class numbers.
        step: the number of the step.
        classes: names for the curves; numbers by default.
        name: stands before them.

    Raises:
        ConfigError: shapes that do not fit, or labels outside of the classes.
    """
    if writer is None:
        return
    if scores_BK.dim() != 2 or labels_B.shape != scores_BK.shape[:1]:
        raise ConfigError(
            f"pr_curves: scores {list(scores_BK.shape)} and labels {list(labels_B.shape)} do not belong together",
            do="give scores (samples, classes) and one class number for each sample",
        )
    count = scores_BK.shape[1]
    names = [str(number) for number in range(count)] if classes is None else list(classes)
    if len(names) != count:
        raise ConfigError(f"pr_curves: {len(names)} names for {count} classes")
    check_labels(labels_B, count, ignore_index=None)
    chance = scores_BK.detach().float().softmax(1).cpu()
    for number, called in enumerate(names):
        writer.add_pr_curve(f"{name}/{called}", labels_B.cpu() == number, chance[:, number], step)


def embeddings(
    writer: SummaryWriter | None,
    vectors_BD: torch.Tensor,
    step: int,
    *,
    labels: Sequence[Any] | torch.Tensor | None = None,
    pictures_BCHW: torch.Tensor | None = None,
    name: str = "embedding",
) -> None:
    """Write vectors for the projector, with a label and a small picture at each point.

    Args:
        writer: torch's.
        vectors_BD: one vector for each sample.
        step: the number of the step.
        labels: one for each sample.
        pictures_BCHW: one for each sample, square, 1 or 3 channels, uint8 or from 0 to 1.
        name: of this set of points.

    Raises:
        ConfigError: their numbers differ, or the pictures are not square.
    """
    if writer is None:
        return
    vectors = vectors_BD.detach().float().cpu()
    if vectors.dim() != 2:
        raise ConfigError(f"embeddings: vectors are (samples, features), not {list(vectors.shape)}")
    for what, given in (("labels", labels), ("pictures", pictures_BCHW)):
        if given is not None and len(given) != len(vectors):
            raise ConfigError(f"embeddings: {len(given)} {what} for {len(vectors)} vectors")
    sprites = None
    if pictures_BCHW is not None:
        if pictures_BCHW.dim() != 4 or pictures_BCHW.shape[2] != pictures_BCHW.shape[3]:
            raise ConfigError(
                f"embeddings: pictures of shape {list(pictures_BCHW.shape)} are not square",
                why="the projector cuts one large picture into squares",
                do="crop or resize them to (samples, channels, side, side)",
            )
        sprites = _brightness(pictures_BCHW)
        sprites = sprites.expand(-1, 3, -1, -1) if sprites.shape[1] == 1 else sprites
    tags = None
    if labels is not None:
        tags = [str(part) for part in (labels.tolist() if isinstance(labels, torch.Tensor) else labels)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard speaks of a folder that it has already
        writer.add_embedding(vectors, tags, sprites, step, name)


def text(writer: SummaryWriter | None, name: str, words: str, step: int, *, verbatim: bool = False) -> None:
    """Write a text whose line breaks are kept, which TensorBoard's Markdown swallows.

    Args:
        writer: torch's.
        name: of the text.
        words: Markdown, unless `verbatim`.
        step: the number of the step.
        verbatim: show it letter by letter, in columns: tables, tracebacks, settings.
    """
    if writer is None:
        return
    if verbatim:
        # Indented by four is code in Markdown whatever stands in it, also a fence.
        shown = "\n".join(f"    {line}" for line in words.splitlines())
    else:
        shown = words.replace("\r\n", "\n").replace("\n", "  \n")
    writer.add_text(name, shown, step)


def figure(writer: SummaryWriter | None, name: str, drawing: Figure, step: int) -> None:
    """Write a matplotlib figure as it looks now; it is neither closed nor changed, and pyplot is not used.

    TensorBoard shows ten steps of pictures unless it is started with ``--samples_per_plugin images=0``.
    """
    if writer is None:
        return
    import numpy as np  # noqa: PLC0415 - with the libraries for pictures
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415

    before = drawing.canvas
    try:
        canvas = FigureCanvasAgg(drawing)
        canvas.draw()  # type: ignore[no-untyped-call] # matplotlib's own
        picture = np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call] # the same
    finally:
        drawing.canvas = before  # a window goes on showing it
    writer.add_image(name, picture, step, dataformats="HWC")


def pictures(
    writer: SummaryWriter | None,
    name: str,
    pictures_BCHW: torch.Tensor,
    step: int,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Write a batch of pictures as one grid.

    Args:
        writer: torch's.
        name: of the grid.
        pictures_BCHW: 1 or 3 channels; uint8, or floats from 0 to 1 after `std` and `mean` are undone; what lies
            outside is cut.
        step: the number of the step.
        mean: what was subtracted from each channel.
        std: what each channel was divided by.

    Raises:
        ConfigError: another shape.
    """
    if writer is None:
        return
    if pictures_BCHW.dim() != 4 or pictures_BCHW.shape[1] not in {1, 3}:
        raise ConfigError(f"pictures: (samples, 1 or 3 channels, H, W) are wanted, not {list(pictures_BCHW.shape)}")
    shown = _brightness(pictures_BCHW)
    if std is not None:
        shown = shown * torch.tensor(std).reshape(1, -1, 1, 1)
    if mean is not None:
        shown = shown + torch.tensor(mean).reshape(1, -1, 1, 1)
    writer.add_images(name, shown.nan_to_num(0).clamp(0, 1), step)


def graph(writer: SummaryWriter | None, model: nn.Module, inputs: Any) -> None:
    """Write the graph of a model, with its modules as boxes.

    Tracing runs the model once, in eval mode: running statistics stay, and every module is back in its mode after it.

    Args:
        writer: torch's.
        model: may be wrapped.
        inputs: as of `rk.summary`; named inputs are not traced by torch.

    Raises:
        ConfigError: the model does not take the inputs, or cannot be traced.
    """
    if writer is None:
        return
    model = bare_model(model)
    device, dtype = place_of(model)
    args, kwargs = arguments_of(model, inputs, device, dtype)
    if kwargs:
        raise ConfigError("graph: torch traces inputs by their order", do="give a list of inputs in place of a dict")
    devices = [device] if device.type == "cuda" else []
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices), untouched(model):
            warnings.simplefilter("ignore")  # of tracing: what depends on values is traced as it went this time
            # torch puts the model into eval mode itself, and prints what it also raises.
            with redirect_stdout(io.StringIO()):
                writer.add_graph(model, args, use_strict_trace=False)
    except Exception as error:
        raise ConfigError(
            f"graph: {type(model).__name__} cannot be traced",
            why=next((line for line in str(error).splitlines() if line.strip()), type(error).__name__),
            do="give inputs of the right shapes; a model that returns anything but tensors cannot be traced",
        ) from error


def _histogram(writer: SummaryWriter, name: str, values: torch.Tensor, step: int) -> None:
    flat = values.detach()
    flat = flat.coalesce().values() if flat.layout == torch.sparse_coo else flat
    flat = flat.abs() if flat.is_complex() else flat
    flat = flat.float().reshape(-1).cpu()
    whole = flat[flat.isfinite()]
    if len(whole) < len(flat):
        writer.add_scalar(f"not_finite/{name}", len(flat) - len(whole), step)
    if len(whole):
        writer.add_histogram(name, whole, step)


def _brightness(pictures_BCHW: torch.Tensor) -> torch.Tensor:
    plain = pictures_BCHW.detach().cpu()
    return plain.float() / 255 if plain.dtype == torch.uint8 else plain.float()
