"""Grad-CAM: the definition, the layer, the model as it was, and a planted pattern that is found."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import small_networks

torch = pytest.importorskip("torch")
from torch import nn

import rekindle as rk
from rekindle.errors import ConfigError
from rekindle.view.gradcam import overlay

STORED = Path(__file__).parent / "stored"


def picture_batch(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    model = small_networks.SmallResNet()
    rk.initialise(model, seed=2)
    return model


def test_the_maps_follow_the_definition():
    """By finite differences: what one more of a channel's mean does to the score, without autograd."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Conv2d(1, 2, 3, padding=1)
            self.head = nn.Linear(2, 3)

        def forward(self, x):
            return self.head(self.features(x).relu().mean((2, 3)))

    model = Two().double()
    rk.initialise(model, seed=1)
    x = torch.randn(1, 1, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    output = model.features(x).detach()
    slope = torch.zeros(2, dtype=torch.float64)
    for channel in range(2):
        moved = []
        for step in (1e-6, -1e-6):
            changed = output.clone()
            changed[:, channel] += step
            moved.append(model.head(changed.relu().mean((2, 3)))[0, 1].item())
        slope[channel] = (moved[0] - moved[1]) / 2e-6 / output[0, 0].numel()
    wanted = (slope[None, :, None, None] * output).sum(1).relu()
    found = rk.grad_cam(model, x, class_index=1, layer="features")
    assert torch.allclose(found.maps.double(), wanted, atol=1e-6)
    assert wanted.max() > 0


@pytest.mark.parametrize("layer", ["layer4", "layer3.0.conv1", "conv1"])
def test_captum_gives_the_same(layer):
    attr = pytest.importorskip("captum.attr")
    model = network().eval()
    x = picture_batch()
    found = rk.grad_cam(model, x, [3, 5], layer)
    theirs = attr.LayerGradCam(model, model.get_submodule(layer))
    wanted = theirs.attribute(x, target=torch.tensor([3, 5]), relu_attributions=True)
    assert torch.allclose(found.maps, wanted[:, 0], atol=1e-6)


def test_the_layer_is_chosen_and_said():
    found = rk.grad_cam(network(), picture_batch())
    assert (found.layer, found.chosen, found.maps.shape) == ("layer4", True, (2, 4, 4))
    assert str(found).splitlines()[0].startswith("layer layer4 (4x4 places; chosen")
    # One place is none: what comes before the pooling in a flat network is taken.
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 30), nn.Flatten(), nn.Linear(4, 2))
    assert rk.grad_cam(flat, picture_batch()).layer == "0"


def test_each_picture_of_a_batch_gets_the_map_that_it_gets_alone():
    model = network()
    x = picture_batch(3)
    together = rk.grad_cam(model, x, torch.tensor([1, 2, 3]))
    for number in range(3):
        alone = rk.grad_cam(model, x[number], number + 1)
        assert torch.allclose(alone.maps[0], together.maps[number], atol=1e-6)
        assert alone.scores[0] == pytest.approx(together.scores[number], abs=1e-5)
    assert together.heat.shape == (3, 32, 32)
    assert together.heat.amin() >= 0
    assert set(together.heat.amax((1, 2)).tolist()) <= {0.0, 1.0}


def test_channels_last_wrappers_and_inference_mode_change_nothing():
    model = network()
    x = picture_batch()
    plain = rk.grad_cam(model, x, 4)
    for other, given in [
        (copy.deepcopy(model).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)),
        (nn.DataParallel(model), x),
        (copy.deepcopy(model).requires_grad_(False), x),
    ]:
        assert torch.allclose(rk.grad_cam(other, given, 4).maps, plain.maps, atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(rk.grad_cam(model, x.clone(), 4).maps, plain.maps, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(rk.grad_cam(model, x, 4).maps, plain.maps)


def test_an_activation_in_place_behind_the_layer_does_no_harm():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    inside, beside = nn.Sequential(*layers), nn.Sequential(*layers[:1], nn.ReLU(), *layers[2:])
    assert torch.equal(rk.grad_cam(inside, picture_batch(), 0).maps, rk.grad_cam(beside, picture_batch(), 0).maps)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_as_it_was_also_after_an_error(fails):
    model = network().train()
    rk.freeze(model, until="layer1")
    model.layer2.eval()
    state = copy.deepcopy(model.state_dict())
    modes = [part.training for part in model.modules()]
    random = torch.get_rng_state()
    try:
        rk.grad_cam(model, picture_batch(), layer="fc" if fails else None)
    except ConfigError:
        assert fails
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())
    assert not any(part._forward_hooks for part in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()


class Answers(nn.Module):
    """Returns its scores in one of the ways that models have."""

    def __init__(self, way):
        super().__init__()
        self.conv, self.head, self.way = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), way

    def forward(self, x):
        return self.way(self.head(self.conv(x).mean((2, 3))))


@pytest.mark.parametrize(
    "way",
    [
        lambda scores: (scores, torch.zeros(1)),
        lambda scores: {"logits": scores},
        lambda scores: type("Output", (), {"logits": scores})(),
        lambda scores: scores[:, 0],
    ],
)
def test_scores_are_found_in_what_a_model_returns(way):
    assert rk.grad_cam(Answers(way), picture_batch(), 0).maps.shape == (2, 30, 30)


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        (network, {"layer": "layer9"}, "no layer 'layer9'\n  why     nearest: layer4"),
        (network, {"layer": "blocks"}, "no layer 'blocks'\n  why     its parts are conv1, bn1"),
        (network, {"layer": "fc"}, r"the output of 'fc' is \[2, 10\], without rows and columns"),
        (network, {"class_index": 10}, "there is no class 10\n  why     the model has classes 0 to 9"),
        (network, {"class_index": [1]}, "1 classes for 2 pictures"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), {}, "Sequential has no convolution"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 32), nn.Flatten(), nn.Linear(4, 2)),
            {},
            "gives an output with more than one place",
        ),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), {}, "does not take pictures of shape"),
        (lambda: nn.Conv2d(3, 4, 3), {"layer": "x"}, "no layer 'x'"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), {}, "returns no class scores"),
    ],
)
def test_what_cannot_be_asked_is_an_error_with_the_reason(model, settings, words):
    with pytest.raises(ConfigError, match=words):
        rk.grad_cam(model(), picture_batch(), **settings)


@cache
def trained_on_a_pattern() -> nn.Module:
    """A network that tells a cross from a ring, planted at random places in noise."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(50):
        pictures, labels, _ = planted(32, seed=step)
        nn.functional.cross_entropy(model(pictures), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def planted(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures (B, 1, 24, 24) with a pattern of 5x5 in noise, their classes, and the middles (row, column)."""
    generator = torch.Generator().manual_seed(seed)
    cross = torch.eye(5).maximum(torch.eye(5).flip(1))
    ring = torch.ones(5, 5)
    ring[1:4, 1:4] = 0
    pictures = torch.rand(count, 1, 24, 24, generator=generator) * 0.5
    labels = torch.randint(2, (count,), generator=generator)
    middles = torch.randint(3, 21, (count, 2), generator=generator)
    for picture, label, (row, column) in zip(pictures, labels, middles.tolist(), strict=True):
        picture[0, row - 2 : row + 3, column - 2 : column + 3] += (ring if label else cross) * 1.5
    return pictures, labels, middles


def test_a_planted_pattern_is_found():
    model = trained_on_a_pattern()
    pictures, labels, middles = planted(60, seed=1000)
    found = rk.grad_cam(model, pictures, labels)
    assert sum(a == b for a, b in zip(found.predicted, labels.tolist(), strict=True)) >= 57
    hits = 0
    for heat, middle in zip(found.heat, middles, strict=True):
        place = torch.tensor(divmod(int(heat.argmax()), 24))
        hits += int((place - middle).abs().max() <= 3)
    assert hits >= 54  # by chance: 49 of 576 places, 5 of 60


def test_an_untrained_network_finds_it_by_chance_only():
    """What the test above would show if the map had nothing to do with the training."""
    torch.manual_seed(1)
    model = copy.deepcopy(trained_on_a_pattern())
    rk.initialise(model, seed=3)
    pictures, labels, middles = planted(60, seed=1000)
    found = rk.grad_cam(model, torch.rand_like(pictures), labels)
    places = [torch.tensor(divmod(int(heat.argmax()), 24)) for heat in found.heat]
    assert sum(int((place - middle).abs().max() <= 3) for place, middle in zip(places, middles, strict=True)) < 30


def test_the_overlay_is_the_stored_picture():
    np, image = pytest.importorskip("numpy"), pytest.importorskip("PIL.Image")
    picture = image.effect_mandelbrot((48, 40), (-2, -1.2, 0.8, 1.2), 40).convert("RGB")
    heat = torch.zeros(5, 6)
    heat[1, 4], heat[3, 1] = 1.0, 0.5
    found = np.asarray(overlay(picture, heat), dtype=int)
    with image.open(STORED / "overlay.png") as stored:
        wanted = np.asarray(stored, dtype=int)
    assert found.shape == wanted.shape == (40, 48, 3)
    assert abs(found - wanted).max() <= 3
    assert abs(found - np.asarray(picture, dtype=int)).max() > 60  # the map can be seen


def test_the_overlay_leaves_the_picture_where_the_map_is_empty_and_takes_tensors():
    np = pytest.importorskip("numpy")
    picture = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0))
    plain = overlay(picture, torch.zeros(2, 2))
    assert np.array_equal(np.asarray(plain), np.asarray(rk.to_pil(picture)))
    assert plain.size == (8, 6)
    with pytest.raises(ConfigError, match="strength=2 is not from 0 to 1"):
        overlay(picture, torch.zeros(2, 2), strength=2)
