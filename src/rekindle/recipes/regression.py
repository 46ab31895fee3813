"""The small regression: y = x² + noise, saved in both ways, restored in both ways, three identical plots.

The net is trained under a run like any other. Then it is saved as a whole module (`torch.save(net)`) and as weights;
both files are opened by `rekindle.load`, which executes nothing of a whole module and gives its weights, and each goes
into a new net. The three nets must predict the same bits.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn
from torch.utils.data import TensorDataset

from rekindle.load import load
from rekindle.recipes.folder import check_folder
from rekindle.run.loop import Run
from rekindle.save import save
from rekindle.store.atomic import write_beside

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Net", "RegressionResult", "restored", "same_bits", "train_regression"]

_POINTS = 100
_NOISE = 0.1
_BATCH = 20


@dataclass(frozen=True, slots=True)
class RegressionResult:
    """What the regression came to.

    Attributes:
        folder: the run's folder.
        epochs: epochs in all.
        steps: optimizer updates in all.
        loss: mean squared error over the points.
        whole: the file that holds the whole module.
        weights: the file that holds the weights.
        picture: the three plots; None where matplotlib is not installed.
        equal: whether the three predictions are equal, bit for bit.
        was_complete: whether there was nothing left to train.
    """

    folder: str
    epochs: int
    steps: int
    loss: float
    whole: str
    weights: str
    picture: str | None
    equal: bool
    was_complete: bool


class Net(nn.Module):
    """One hidden layer of 20 units."""

    def __init__(self) -> None:
        """Build the two layers."""
        super().__init__()
        self.hidden = nn.Linear(1, 20)
        self.predict = nn.Linear(20, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, 1) for (B, 1)."""
        return cast("torch.Tensor", self.predict(torch.relu(self.hidden(x))))


def train_regression(
    *,
    out: str = "runs/regression",
    epochs: int = 100,
    lr: float = 0.05,
    seed: int = 0,
    resume: Literal["auto", "never", "must"] = "auto",
    progress: bool | None = None,
    on_start: Callable[[str], object] = lambda _: None,
) -> RegressionResult:
    """Train, save in both ways, restore in both ways, compare and draw.

    Args:
        out: the run's folder.
        epochs: passes over the 100 points.
        lr: learning rate.
        seed: of noise, order and first weights.
        resume: as `rk.Run` takes it.
        progress: whether to show progress on stderr; None for: where it is a terminal.
        on_start: told one line before the first step.

    Raises:
        ConfigError: the folder cannot be a run's.
        RunError: the loss is not a number any more, another process writes the run, ...
    """
    check_folder(out)
    x = torch.linspace(-1, 1, _POINTS)[:, None]
    y = x.square() + _NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    on_start(f"y = x² + noise: {_POINTS} points, {sum(p.numel() for p in Net().parameters())} parameters")
    run = Run(out, seed=seed, save_every="10 epochs", keep_last=2, resume=resume, progress=progress)
    with run:
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
        run.track(model=net, optimizer=optimizer)
        before = run.steps_done
        batches = run.loader(TensorDataset(x, y), batch_size=_BATCH)
        is_complete = run.finished and run.epoch >= epochs  # the command says so, and how to go on
        for _ in () if is_complete else run.epochs(epochs):
            for inputs, targets in run.batches(batches):
                loss = nn.functional.mse_loss(net(inputs), targets)
                optimizer.zero_grad()
                run.backward(loss)
                optimizer.step()
                run.show(loss=loss.detach())
                run.step()
            with run.evaluating(net):
                run.log(loss=nn.functional.mse_loss(net(x), y))
        folder = os.fspath(run.folder)
        whole, weights = os.path.join(folder, "net.pth"), os.path.join(folder, "weights.pth")
        _save_whole(net, whole)
        save(net.state_dict(), weights)
        nets = {"trained": net, "from the whole module": restored(whole), "from the weights": restored(weights)}
        with torch.no_grad():
            predictions = {name: each.eval()(x) for name, each in nets.items()}
        first, *others = predictions.values()
        return RegressionResult(
            folder=folder,
            epochs=epochs,
            steps=run.steps_done,
            loss=float(nn.functional.mse_loss(first, y)),
            whole=whole,
            weights=weights,
            picture=_draw(x, y, predictions, os.path.join(folder, "regression.png")),
            equal=all(same_bits(first, other) for other in others),
            was_complete=run.steps_done == before,
        )


def restored(path: str) -> Net:
    """Return a new net with the weights of a file, whether it holds the whole module or the weights alone."""
    net = Net()
    net.load_state_dict(cast("Any", load(path)))
    return net


def _save_whole(net: Net, path: str) -> None:
    content = io.BytesIO()
    torch.save(net, content)
    with write_beside(path) as out:
        out.write(content.getbuffer())


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two float32 tensors are equal, bit for bit; NaN equals the same NaN, 0.0 does not equal -0.0."""
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def _draw(x: torch.Tensor, y: torch.Tensor, predictions: dict[str, torch.Tensor], path: str) -> str | None:
    """Draw each prediction by itself and put the panels side by side, so that equal ones are equal in every pixel."""
    try:
        import numpy as np  # noqa: PLC0415 - only for pictures
        from PIL import Image  # noqa: PLC0415 - comes with matplotlib
    except ModuleNotFoundError:
        return None
    try:
        panels = [_panel(x, y, name, prediction) for name, prediction in predictions.items()]
    except ModuleNotFoundError:  # no matplotlib
        return None
    picture = io.BytesIO()
    Image.fromarray(np.concatenate(panels, axis=1)).save(picture, "PNG")
    with write_beside(path) as out:
        out.write(picture.getbuffer())
    return path


def _panel(x: torch.Tensor, y: torch.Tensor, name: str, prediction: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return the plot of one prediction as pixels, (320, 340, 4) in uint8."""
    import numpy as np  # noqa: PLC0415 - only for pictures
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - half a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(3.4, 3.2), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_axes((0.14, 0.1, 0.83, 0.8))
    axis.scatter(x[:, 0].tolist(), y[:, 0].tolist(), s=8, alpha=0.5)
    axis.plot(x[:, 0].tolist(), prediction[:, 0].tolist(), color="tab:red")
    axis.set_title(name)
    canvas.draw()  # type: ignore[no-untyped-call] # matplotlib's own
    return np.array(canvas.buffer_rgba())  # type: ignore[no-untyped-call] # as above
