"""The networks of `rekindle train`: LeNet, a multilayer perceptron, or a function of the user's own.

Shapes: B batch, C channels, H rows, W columns, K classes. All return class scores (logits), without a softmax: the
cross-entropy takes them as they are. LeNet after LeCun et al., "Gradient-based learning applied to document
recognition" (1998), with ReLU, maximum pooling and a dropout before the dense layers.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from rekindle.errors import ConfigError
from rekindle.factories import model_from
from rekindle.recipes.config import Settings

__all__ = ["LeNet", "Mlp", "build_model", "scores_in", "scores_of"]


class LeNet(nn.Module):
    """Two convolutions and three dense layers.

    Args:
        shape: (C, H, W) of one picture; H and W at least 4.
        classes: K.
        dropout: part of the features dropped in training.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, dropout: float = 0.1) -> None:
        """Build the layers; their first weights come from torch's global generator."""
        super().__init__()
        channels, height, width = shape
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(32 * (height // 4) * (width // 4), 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the scores, (B, K)."""
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x_BCHW)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = self.dropout(x.flatten(1))
        x = torch.relu(self.fc2(torch.relu(self.fc1(x))))
        return cast("torch.Tensor", self.fc3(x))


class Mlp(nn.Sequential):
    """Dense layers with ReLU between them; pictures are flattened.

    Args:
        features: numbers in one input.
        hidden: widths of the hidden layers.
        classes: K.
        dropout: part of the features dropped in training.
    """

    def __init__(self, features: int, hidden: list[int], classes: int, dropout: float = 0.1) -> None:
        """Build the layers; their first weights come from torch's global generator."""
        layers: list[nn.Module] = [nn.Flatten()]
        for width in hidden:
            layers += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
            features = width
        super().__init__(*layers, nn.Linear(features, classes))


def build_model(settings: Settings, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Build the network that the settings name.

    Args:
        settings: `model.name` and what belongs to it.
        shape: shape of one input.
        classes: K.

    Raises:
        UserCodeFailed: the function, or the module that it is in, raised.
        ConfigError: the name leads to no function that returns a module, or the network does not fit the data.
    """
    name = settings["model.name"]
    if name == "lenet":
        if len(shape) != 3 or min(shape[1:]) < 4:
            raise ConfigError(
                f"the model `lenet` does not fit inputs of shape {shape}",
                why="it wants pictures (channels, height, width) of at least 4 by 4 pixels",
                do='model = "mlp" takes any shape',
            )
        return _checked(name, LeNet((shape[0], shape[1], shape[2]), classes, settings["model.dropout"]), shape, classes)
    if name == "mlp":
        features = torch.Size(shape).numel()
        return _checked(
            name, Mlp(features, settings["model.hidden"], classes, settings["model.dropout"]), shape, classes
        )
    return _checked(name, model_from(name, settings.arguments), shape, classes)


def _checked(name: str, model: nn.Module, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Try the model on an input of zeros, before anything is trained or written."""
    scores = scores_of(name, model, shape, do="change the model or [model.arguments] so that it does")
    if scores.dim() != 2 or scores.shape[1] < classes:
        raise ConfigError(
            f"model `{name}` returns scores of shape {tuple(scores.shape)} for 2 inputs and {classes} classes",
            why=f"wanted: (2, {classes}); labels go from 0 to {classes - 1}",
            do=f"give its last layer {classes} outputs",
        )
    return model


def scores_of(name: str, model: nn.Module, shape: tuple[int, ...], *, do: str) -> torch.Tensor:
    """Return what a model gives for two inputs of zeros; the model and all generators are as they were.

    Args:
        name: of the model, for messages.
        model: on the CPU.
        shape: of one input.
        do: what to change where it does not take them.

    Raises:
        ConfigError: it does not take such inputs, or gives no tensor.
    """
    was_training = [(module, module.training) for module in model.modules()]
    model.eval()  # two zeros must not move the averages of a BatchNorm, nor draw from a generator
    try:
        with torch.no_grad():
            found = model(torch.zeros(2, *shape))
    except RuntimeError as error:
        raise ConfigError(
            f"model `{name}` does not take inputs of shape {shape}", why=str(error).splitlines()[0], do=do
        ) from error
    finally:
        for module, training in was_training:
            module.training = training
    scores = scores_in(found)
    if scores is None:
        raise ConfigError(
            f"model `{name}` returns {type(found).__name__} for 2 inputs",
            why="wanted: a tensor of class scores, without a softmax",
            do="return the scores",
        )
    return scores


def scores_in(found: object) -> torch.Tensor | None:
    """Return the class scores in what a model returned: a tensor, or the `logits` of Hugging Face's outputs."""
    found = getattr(found, "logits", found)
    return found if isinstance(found, torch.Tensor) else None
