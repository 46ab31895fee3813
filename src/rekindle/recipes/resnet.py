"""ResNet-18, -34 and -50 with the names and shapes of torchvision's, so that well-known weight files fit as they are.

Shapes: B batch, C channels, H rows, W columns, K classes. After He et al., "Deep residual learning for image
recognition" (2016); the stride of a bottleneck lies on its 3 by 3 convolution, as in the weights that people have
("ResNet v1.5"). First weights: normal after He for convolutions, torch's own for the last layer.
"""

from __future__ import annotations

from typing import Final, cast

import torch
from torch import nn

__all__ = ["RESNETS", "ResNet", "resnet"]


class _Basic(nn.Module):
    """Two 3 by 3 convolutions."""

    expansion: Final = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return cast("torch.Tensor", self.relu(out + (x if self.downsample is None else self.downsample(x))))


class _Bottleneck(nn.Module):
    """A 3 by 3 convolution between two of 1 by 1."""

    expansion: Final = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width * self.expansion, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return cast("torch.Tensor", self.relu(out + (x if self.downsample is None else self.downsample(x))))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """A residual network over pictures of any size from 32 by 32 pixels.

    Args:
        blocks: how many in each of the four stages.
        bottleneck: whether the blocks are bottlenecks.
        classes: K.
        channels: C of the pictures.
    """

    def __init__(
        self, blocks: tuple[int, int, int, int], *, bottleneck: bool, classes: int = 1000, channels: int = 3
    ) -> None:
        """Build the layers; their first weights come from torch's global generator."""
        super().__init__()
        kind = _Bottleneck if bottleneck else _Basic
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        width = 64
        for number, count in enumerate(blocks):
            stage = nn.Sequential()
            for block in range(count):
                stride = 2 if number and not block else 1
                stage.append(kind(width, 64 << number, stride))
                width = (64 << number) * kind.expansion
            self.add_module(f"layer{number + 1}", stage)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the scores, (B, K)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x_BCHW))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = cast("nn.Module", stage)(x)
        return cast("torch.Tensor", self.fc(self.avgpool(x).flatten(1)))


# Name -> blocks of the four stages, and whether they are bottlenecks.
RESNETS: Final = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
}


def resnet(name: str, *, classes: int = 1000, channels: int = 3) -> ResNet:
    """Return a new network by its name in `RESNETS`."""
    blocks, bottleneck = RESNETS[name]
    return ResNet(blocks, bottleneck=bottleneck, classes=classes, channels=channels)
