"""Ordinary models as people write them, each with a loss, a batch and an optimizer: nothing about them is a mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from small_networks import SmallResNet
from torch import nn
from torch.nn import functional

__all__ = ["CASES", "Case"]

Case = tuple[nn.Module, Callable[..., torch.Tensor] | None, Any]


def labels(count: int, classes: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, classes, (count, *shape))


def mlp() -> Case:
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 5))
    return model, nn.CrossEntropyLoss(), (torch.randn(16, 20), labels(16, 5))


def lenet() -> Case:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10),
    )  # fmt: skip
    return model, nn.CrossEntropyLoss(label_smoothing=0.1), (torch.rand(8, 1, 28, 28), labels(8, 10))


def resnet() -> Case:
    return SmallResNet(), functional.cross_entropy, (torch.randn(8, 3, 16, 16), labels(8, 10))


def resnet_with_zero_init() -> Case:
    model = SmallResNet()
    for name, module in model.named_modules():
        if name.endswith("bn2"):
            nn.init.zeros_(module.weight)
    return model, nn.CrossEntropyLoss(), (torch.randn(8, 3, 16, 16), labels(8, 10))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(3 + 4 * number) for number in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(3 + 4 * number, 4, 3, padding=1, bias=False) for number in range(4))
        self.last = nn.BatchNorm2d(19)
        self.head = nn.Linear(19, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat((x, conv(norm(x).relu())), 1)
        return self.head(self.last(x).relu().mean((2, 3)))


def densenet() -> Case:
    return Dense(), nn.CrossEntropyLoss(), (torch.randn(6, 3, 16, 16), labels(6, 6))


def squeezenet() -> Case:
    """Its last convolution is followed by a ReLU, as published; the mean over the picture comes after that."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return model, nn.CrossEntropyLoss(), (torch.randn(8, 3, 16, 16), labels(8, 5))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.up, self.out = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x).relu()
        return self.out(torch.cat((x, self.up(self.deep(x).relu())), 1))


def unet() -> Case:
    masks = labels(4, 4, 16, 16)
    masks[0, 0] = 255
    return UNet(), nn.CrossEntropyLoss(ignore_index=255), (torch.randn(4, 3, 16, 16), masks)


def binary_segmentation() -> Case:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    return model, nn.BCEWithLogitsLoss(), (torch.randn(4, 3, 16, 16), labels(4, 2, 1, 16, 16).float())


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16, padding_idx=0)
        self.lstm = nn.LSTM(16, 24, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(24, 3)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(words))[0][:, -1])


def lstm() -> Case:
    return Words(), nn.CrossEntropyLoss(), (labels(8, 50, 12), labels(8, 3))


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 16)
        self.places = nn.Parameter(torch.zeros(1, 10, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.words.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1])
        return self.head(self.body(self.words(words) + self.places, mask=mask, is_causal=True))


def transformer() -> Case:
    def loss_fn(scores: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(scores[:, :-1].reshape(-1, 40), words[:, 1:].reshape(-1))

    return LanguageModel(), loss_fn, labels(6, 40, 10)


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.first = nn.Parameter(torch.zeros(1, 1, 16))
        self.body = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        self.head = nn.Linear(16, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.body(torch.cat((self.first.expand(len(x), -1, -1), x), 1))[:, 0])


def vision_transformer() -> Case:
    return VisionTransformer(), nn.CrossEntropyLoss(), (torch.randn(6, 3, 16, 16), labels(6, 7))


def autoencoder() -> Case:
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64), nn.Sigmoid())
    return model, nn.MSELoss(), torch.rand(8, 64)


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 8), nn.Linear(4, 64)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, spread = self.encoder(x).chunk(2, 1)
        return self.decoder(mean + torch.randn_like(mean) * (spread / 2).exp()).sigmoid(), mean, spread


def vae() -> Case:
    def loss_fn(output: tuple[torch.Tensor, ...], x: torch.Tensor) -> torch.Tensor:
        drawn, mean, spread = output
        distance = functional.binary_cross_entropy(drawn, x, reduction="sum")
        return distance - 0.5 * torch.sum(1 + spread - mean.square() - spread.exp())

    return Variational(), loss_fn, torch.rand(32, 64)


def discriminator() -> Case:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(512, 1)
    )
    return model, nn.BCEWithLogitsLoss(), (torch.randn(8, 1, 16, 16), torch.ones(8, 1))


def old_discriminator() -> Case:
    model = nn.Sequential(nn.Linear(64, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1), nn.Sigmoid())
    return model, nn.BCELoss(), (torch.randn(8, 64), torch.ones(8, 1))


def generator() -> Case:
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 64), nn.Tanh())
    judge = nn.Linear(64, 1).requires_grad_(False)
    return (
        model,
        lambda drawn, ones: functional.binary_cross_entropy_with_logits(judge(drawn), ones),
        (
            torch.randn(8, 16),
            torch.ones(8, 1),
        ),
    )


def regression() -> Case:
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    return model, nn.MSELoss(), (torch.linspace(-2, 2, 32)[:, None], torch.linspace(-2, 2, 32)[:, None].square())


def linear_regression() -> Case:
    return nn.Linear(1, 1), lambda y, t: ((y - t) ** 2).mean(), (torch.rand(16, 1), 3 * torch.rand(16, 1) + 20)


def counts() -> Case:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1), nn.Softplus())
    return model, nn.L1Loss(), (torch.randn(16, 6), labels(16, 9, 1).float())


def multi_label() -> Case:
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 6))
    return (
        model,
        nn.BCEWithLogitsLoss(pos_weight=torch.full((6,), 2.0)),
        (torch.randn(16, 12), labels(16, 2, 6).float()),
    )


def log_probabilities() -> Case:
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 6), nn.LogSoftmax(1))
    return model, nn.NLLLoss(), (torch.randn(16, 12), labels(16, 6))


def soft_targets() -> Case:
    return nn.Linear(12, 6), nn.CrossEntropyLoss(), (torch.randn(16, 12), torch.rand(16, 6).softmax(1))


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        scores = functional.normalize(self.body(one)) @ functional.normalize(self.body(other)).T
        return scores / 0.1


def contrastive() -> Case:
    def loss_fn(scores: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(scores, torch.arange(len(scores)))

    return Siamese(), loss_fn, (torch.randn(8, 12), torch.randn(8, 12), torch.zeros(8))


class WithLoss(nn.Module):
    """As Hugging Face's models do: the loss is part of what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.head(inputs)
        return {"loss": functional.cross_entropy(scores, labels), "scores": scores}


def with_loss() -> Case:
    return WithLoss(), None, {"inputs": torch.randn(8, 12), "labels": labels(8, 3)}


def frozen_backbone() -> Case:
    from rekindle.tune.freeze import freeze

    model = SmallResNet()
    freeze(model, but="fc")
    return model, nn.CrossEntropyLoss(), (torch.randn(8, 3, 16, 16), labels(8, 10))


def raw_numbers_behind_a_norm() -> Case:
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, nn.CrossEntropyLoss(), (torch.randn(16, 5) * 900 + 4000, labels(16, 2))


CASES: dict[str, Callable[[], Case]] = {
    one.__name__: one
    for one in (
        mlp, lenet, resnet, resnet_with_zero_init, densenet, squeezenet, unet, binary_segmentation, lstm, transformer,
        vision_transformer, autoencoder, vae, discriminator, old_discriminator, generator, regression,
        linear_regression,
        counts, multi_label, log_probabilities, soft_targets, contrastive, with_loss, frozen_backbone,
        raw_numbers_behind_a_norm,
    )
}  # fmt: skip
