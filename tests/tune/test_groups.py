"""Groups of parameters: other rates for the backbone, no decay on norms and biases."""

from __future__ import annotations

import pytest
import small_networks

torch = pytest.importorskip("torch")
from torch import nn

import rekindle as rk
from rekindle.errors import ConfigError


def by_parameter(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_every_parameter_is_in_one_group_and_any_optimizer_takes_them():
    model = small_networks.SmallResNet()
    groups = rk.param_groups(model, 1e-3, backbone_lr=1e-4, weight_decay=0.05)
    torch.optim.AdamW(groups)
    torch.optim.SGD(rk.param_groups(model, 0.1), momentum=0.9)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert [group["name"] for group in groups] == ["backbone", "backbone, no decay", "head", "head, no decay"]


def test_norms_and_biases_have_no_decay_and_the_head_its_own_rate():
    model = small_networks.SmallResNet()
    found = by_parameter(model, rk.param_groups(model, 1e-3, backbone_lr=1e-4, weight_decay=0.05))
    assert found["layer1.0.conv1.weight"] == (1e-4, 0.05)
    assert found["layer1.0.bn1.weight"] == (1e-4, 0.0)
    assert found["fc.weight"] == (1e-3, 0.05)
    assert found["fc.bias"] == (1e-3, 0.0)


def test_the_rate_falls_with_each_layer_away_from_the_head():
    model = small_networks.SmallViT(depth=3)
    found = by_parameter(model, rk.param_groups(model, 1.0, layer_decay=0.5, weight_decay=0.1))
    assert found["head.weight"][0] == 1.0
    assert found["norm.weight"] == (0.5, 0.0)
    assert [found[f"blocks.{block}.mlp.fc1.weight"][0] for block in (2, 1, 0)] == [0.25, 0.125, 0.0625]
    assert found["cls_token"][1] == found["pos_embed"][1] == 0.0
    assert found["patch_embed.proj.weight"][0] < found["blocks.0.mlp.fc1.weight"][0]


def test_frozen_parameters_are_in_the_groups_so_that_they_can_be_thawed():
    model = small_networks.SmallResNet()
    rk.freeze(model, but="fc")
    groups = rk.param_groups(model, 0.1, backbone_lr=0.01)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"lr": "1e-3"}, "lr='1e-3' is not a number such as 1e-3; YAML reads 1e-3 as a text"),
        ({"lr": float("nan")}, "lr=nan is not a number"),
        ({"lr": 0.1, "layer_decay": 2.0}, "layer_decay=2.0 is not a factor from 0 to 1"),
        ({"lr": 0.1, "layer_decay": 0.5, "backbone_lr": 0.1}, "both backbone_lr and layer_decay"),
        ({"lr": 0.1, "backbone_lr": 0.1, "head": "fcc"}, "the model has no layer 'fcc'"),
    ],
)
def test_numbers_and_names_that_cannot_be_meant_are_refused(wish, words):
    with pytest.raises(ConfigError, match=words):
        rk.param_groups(small_networks.SmallResNet(), **wish)
