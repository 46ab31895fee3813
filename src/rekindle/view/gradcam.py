"""Grad-CAM: which region of a picture spoke for a class.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization". With A the
output of a layer, (B, C, h, w), and y the score of the class: the weight of a channel is the mean of dy/dA over the
places, the map is the ReLU of the weighted sum of the channels.

Shapes: B batch, C channels, H rows, W columns; h, w of the layer's output; K classes.

Law: the model is as before, whatever happens: its mode, its gradients, its hooks, its running statistics.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rekindle.bare_model import bare_model
from rekindle.errors import ConfigError
from rekindle.keys import near_names
from rekindle.tune.named import modules_by_key
from rekindle.view.passes import hooked, in_eval, place_of

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Cam", "grad_cam", "overlay"]

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, nn.LazyConv2d)


@dataclass(frozen=True, slots=True)
class Cam:
    """Maps of what spoke for a class, one for each picture.

    Attributes:
        heat: float32 (B, H, W), from 0 to 1, as large as the pictures; the highest place of each is 1, or all is 0
            where nothing spoke for the class.
        maps: float32 (B, h, w), as the layer gave them, not scaled.
        layer: name of the layer.
        chosen: whether the layer was chosen here.
        classes: the class that each map is for.
        scores: the model's score of that class for each picture.
        predicted: the class with the highest score, for each picture.
    """

    heat: torch.Tensor
    maps: torch.Tensor
    layer: str
    chosen: bool
    classes: tuple[int, ...]
    scores: tuple[float, ...]
    predicted: tuple[int, ...]

    def __str__(self) -> str:
        """Say what the maps are of."""
        size = "x".join(map(str, self.maps.shape[1:]))
        how = "chosen: the last with a convolution in it and places in its output" if self.chosen else "as asked"
        lines = [f"layer {self.layer} ({size} places; {how})"]
        for number, (kind, score) in enumerate(zip(self.classes, self.scores, strict=True)):
            words = f"picture {number}: class {kind}, score {score:.4g}"
            if self.predicted[number] != kind:
                words += f" (the model says {self.predicted[number]})"
            lines.append(words if float(self.heat[number].max()) > 0 else f"{words}; nothing spoke for it")
        return "\n".join(lines)

    def overlay(self, picture: Image | torch.Tensor, number: int = 0, *, strength: float = 0.5) -> Image:
        """Return a picture with the map of the `number`-th laid over it, as `overlay` does."""
        return overlay(picture, self.heat[number], strength=strength)


def grad_cam(
    model: nn.Module,
    picture: torch.Tensor,
    class_index: int | Sequence[int] | torch.Tensor | None = None,
    layer: str | None = None,
) -> Cam:
    """Return which places of each picture spoke for a class.

    Args:
        model: a classifier with convolutions; may be wrapped, in any mode, frozen or not.
        picture: (B, C, H, W) or (C, H, W), as the model takes it: scaled and normalised; also `channels_last`. It is
            brought to the model's device and dtype.
        class_index: the class, or one for each picture; the model's own answer by default.
        layer: a layer with an output (B, C, h, w), by name. By default the last part of the model that holds a
            convolution and whose output has more than one place.

    Raises:
        ConfigError: no such layer (near names are given); the model has no convolution; the layer's output has no
            places; there is no such class; the picture does not fit.

    Example:
        cam = rk.grad_cam(model, picture)
        print(cam)
        cam.overlay(picture_shown).save("cam.png")
    """
    model = bare_model(model)
    device, dtype = place_of(model)
    if picture.dim() not in {3, 4}:
        raise ConfigError(f"grad_cam: a picture is (C, H, W) or (B, C, H, W), not {tuple(picture.shape)}")
    # A clone that autograd may use, also where the caller is in inference mode.
    with torch.inference_mode(False), torch.enable_grad(), in_eval(model):
        x_BCHW = (picture if picture.dim() == 4 else picture[None]).detach().to(device, dtype, copy=True)
        name = layer if layer is not None else _last_with_places(model, x_BCHW)
        held, scores_BK = _scores_and_output(model, x_BCHW, name)
        classes = _classes(class_index, scores_BK)
        picked = scores_BK[torch.arange(len(scores_BK), device=scores_BK.device), classes]
        (slope,) = torch.autograd.grad(picked.sum(), held, allow_unused=True)
        if slope is None:
            raise ConfigError(
                f"grad_cam: the scores do not depend on the output of {name!r}",
                why="the model does not use it, or cuts the gradient behind it",
                do="name another layer",
            )
        output, slope = held.detach().float(), slope.float()
        maps = (output * slope.mean((2, 3), keepdim=True)).sum(1).relu()
        heat = nn.functional.interpolate(maps[:, None], x_BCHW.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        top = heat.amax((1, 2), keepdim=True)
        heat = torch.where(top > 0, heat / top.clamp_min(torch.finfo(torch.float32).tiny), 0)
    return Cam(
        heat.cpu(),
        maps.cpu(),
        name,
        layer is None,
        tuple(classes.tolist()),
        tuple(picked.detach().float().tolist()),
        tuple(scores_BK.argmax(1).tolist()),
    )


def overlay(picture: Image | torch.Tensor, heat: torch.Tensor, *, strength: float = 0.5) -> Image:
    """Return a picture with a map laid over it: the higher, the more it is covered, from blue over green to red.

    Args:
        picture: a PIL picture of any mode and size, or a tensor (C, H, W) as of `rk.to_pil`.
        heat: (h, w), from 0 to 1; brought to the picture's size.
        strength: how much of the picture is covered where the map is 1, from 0 to 1.

    Returns:
        Mode RGB, of the picture's size.
    """
    import numpy as np  # noqa: PLC0415 - with the libraries for pictures
    from matplotlib import colormaps  # noqa: PLC0415 - a quarter of a second
    from PIL import Image  # noqa: PLC0415

    from rekindle.view.convert import to_pil  # noqa: PLC0415

    if not 0 <= strength <= 1:
        raise ConfigError(f"overlay: strength={strength} is not from 0 to 1")
    base = (to_pil(picture, clip=True) if isinstance(picture, torch.Tensor) else picture).convert("RGB")
    large = nn.functional.interpolate(
        heat[None, None].float(), (base.height, base.width), mode="bilinear", align_corners=False
    )[0, 0]
    values = large.clamp(0, 1).numpy()[..., None]
    colours = colormaps["jet"](values[..., 0])[..., :3] * 255
    cover = strength * values
    mixed = np.asarray(base, dtype=np.float64) * (1 - cover) + colours * cover
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def save_overlay(picture: Image, path: str | os.PathLike[str]) -> None:
    """Write a picture as PNG; an existing file is replaced in one piece."""
    import io  # noqa: PLC0415

    from rekindle.store.atomic import write_beside  # noqa: PLC0415

    data = io.BytesIO()
    picture.save(data, format="PNG")
    with write_beside(path) as out:
        out.write(data.getbuffer())


def _last_with_places(model: nn.Module, x_BCHW: torch.Tensor) -> str:
    """Return the name of the module that ends last, of those with a convolution and an output with places."""
    with_convolution = {
        name: module
        for name, module in modules_by_key(model).items()
        if any(isinstance(part, _CONVOLUTIONS) for part in module.modules())
    }
    if not with_convolution:
        raise ConfigError(
            f"grad_cam: {type(model).__name__} has no convolution",
            why="Grad-CAM weighs the channels of a layer whose output has rows and columns",
            do="it works for convolutional networks only",
        )
    last: list[str] = []

    def after(name: str, _: nn.Module, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
            last.append(name)

    with torch.no_grad(), hooked(with_convolution, after):
        _called(model, x_BCHW)
    if not last:
        raise ConfigError(
            f"grad_cam: no layer of {type(model).__name__} gives an output with more than one place",
            why=f"for a picture of {x_BCHW.shape[2]}x{x_BCHW.shape[3]} every convolution ends in one value a channel",
            do="give a larger picture",
        )
    return last[-1]


def _scores_and_output(model: nn.Module, x_BCHW: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the layer's output, cut off from what comes before it, and the scores made of it."""
    modules = modules_by_key(model)
    if name not in modules:
        near = near_names(name, modules)
        parts = dict.fromkeys(known.partition(".")[0] for known in modules)
        raise ConfigError(
            f"the model has no layer {name!r}",
            why=f"nearest: {', '.join(near)}" if near else f"its parts are {', '.join(parts)}",
            do="rekindle summary lists all names; without a name the layer is chosen",
        )
    held: list[torch.Tensor] = []

    def after(_: str, __: nn.Module, output: Any) -> torch.Tensor:
        if not isinstance(output, torch.Tensor) or output.dim() != 4:
            kind = str(list(output.shape)) if isinstance(output, torch.Tensor) else type(output).__name__
            raise _NoPlaces(kind)
        held.append(output.detach().requires_grad_())
        return held[-1].clone()  # what follows may change it in place

    try:
        with hooked({name: modules[name]}, after):
            scores = _called(model, x_BCHW)
    except _NoPlaces as error:
        raise ConfigError(
            f"grad_cam: the output of {name!r} is {error}, without rows and columns",
            why="a map needs an output (batch, channels, height, width)",
            do="name a layer before the pictures are flattened",
        ) from None
    if not held:
        raise ConfigError(f"grad_cam: the model did not call the layer {name!r}", do="name another layer")
    return held[-1], scores


class _NoPlaces(Exception):
    """The output of the layer is not (B, C, h, w)."""


def _called(model: nn.Module, x_BCHW: torch.Tensor) -> torch.Tensor:
    try:
        found = model(x_BCHW)
    except RuntimeError as error:
        raise ConfigError(
            f"{type(model).__name__} does not take pictures of shape {tuple(x_BCHW.shape[1:])}",
            why=str(error).splitlines()[0],
            do="give a picture of the size and channels that it was trained with",
        ) from error
    scores = _scores_in(found)
    if scores is None:
        raise ConfigError(
            f"grad_cam: {type(model).__name__} returns no class scores of shape (batch, classes)",
            why=f"it returned {list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__}",
            do="wrap it in a module that returns the scores",
        )
    return scores


def _scores_in(found: Any) -> torch.Tensor | None:
    """Return the scores in a model's output: itself, its `logits`, or the first of a tuple or dict that can be it."""
    if isinstance(found, torch.Tensor):
        return found if found.dim() == 2 else found[:, None] if found.dim() == 1 else None
    logits = getattr(found, "logits", None)
    if logits is not None:
        return _scores_in(logits)
    parts = found.values() if isinstance(found, Mapping) else found if isinstance(found, (list, tuple)) else ()
    return next((scores for part in parts if (scores := _scores_in(part)) is not None), None)


def _classes(wanted: int | Sequence[int] | torch.Tensor | None, scores_BK: torch.Tensor) -> torch.Tensor:
    count, known = scores_BK.shape
    if wanted is None:
        return scores_BK.argmax(1)
    listed = [wanted] * count if isinstance(wanted, int) else [int(index) for index in wanted]
    if len(listed) != count:
        raise ConfigError(f"grad_cam: {len(listed)} classes for {count} pictures", do="one class, or one for each")
    wrong = [index for index in listed if not 0 <= index < known]
    if wrong:
        raise ConfigError(f"grad_cam: there is no class {wrong[0]}", why=f"the model has classes 0 to {known - 1}")
    return torch.tensor(listed, device=scores_BK.device)
