"""Initialisation by layer type, and the report of it."""

from __future__ import annotations

import copy
import math

import pytest
import small_networks

torch = pytest.importorskip("torch")
from torch import nn

import rekindle as rk
from rekindle.errors import ConfigError


@pytest.mark.parametrize(
    ("rule", "settings", "std"),
    [
        ("kaiming", {}, math.sqrt(2 / 400)),
        ("kaiming", {"mode": "fan_out"}, math.sqrt(2 / 300)),
        ("kaiming", {"nonlinearity": "linear"}, math.sqrt(1 / 400)),
        ("xavier", {}, math.sqrt(2 / 700)),
        ("xavier", {"nonlinearity": "tanh"}, 5 / 3 * math.sqrt(2 / 700)),
        ("trunc_normal", {"std": 0.05}, 0.05 * 0.8796),  # a normal cut at two widths
        ("normal", {"std": 0.05}, 0.05),
        ("orthogonal", {}, math.sqrt(2) / math.sqrt(400)),
    ],
)
def test_each_rule_gives_the_spread_that_it_promises(rule, settings, std):
    layer = nn.Linear(400, 300)
    rk.initialise(layer, rule, seed=0, **settings)
    assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
    assert not layer.bias.any()


def test_a_trunc_normal_is_cut_at_two_widths():
    layer = nn.Linear(300, 300)
    rk.initialise(layer, "trunc_normal", std=0.5, seed=1)
    assert 0.95 < layer.weight.abs().max().item() <= 1.0


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 8, 3), nn.ConvTranspose1d(4, 4, 2)
        self.norm, self.layer_norm = nn.BatchNorm2d(8), nn.LayerNorm(8)
        self.words = nn.Embedding(6, 4, padding_idx=2)
        self.lstm, self.attention = nn.LSTM(4, 5), nn.MultiheadAttention(8, 2)
        self.act, self.both = nn.PReLU(), nn.Bilinear(2, 3, 4)
        self.class_token = nn.Parameter(torch.full((4,), 7.0))
        self.still = nn.Linear(2, 2).requires_grad_(False)
        self.later = nn.LazyLinear(3)


def test_every_type_of_layer_has_its_rule_and_what_has_none_is_left_and_named():
    model = Everything()
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point() and not isinstance(value, nn.parameter.UninitializedParameter):
                value.fill_(9.0)
    report = rk.initialise(model, seed=0)
    assert model.norm.weight.eq(1).all()
    assert model.norm.bias.eq(0).all()
    assert model.norm.running_mean.eq(0).all()
    assert model.norm.running_var.eq(1).all()
    assert model.words.weight[2].eq(0).all()
    assert model.words.weight[3].std() > 0
    assert model.act.weight.item() == 0.25
    for gate in model.lstm.weight_hh_l0.chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(5), atol=1e-5)
    query = model.attention.in_proj_weight[:8]
    assert query.std().item() == pytest.approx(math.sqrt(2 / 16), rel=0.2)
    assert report.left == {
        "class_token": "no rule for a parameter of Everything",
        "still.weight": "frozen",
        "still.bias": "frozen",
        "later.weight": "no size before the first call",
        "later.bias": "no size before the first call",
    }
    assert model.class_token.eq(9).all()
    assert model.still.weight.eq(9).all()
    changed = {key for key, value in model.named_parameters() if key not in report.left and not value.eq(9).any()}
    assert changed == {key for key in report.done if "running" not in key}
    rk.initialise(model, frozen=True)
    assert not model.still.weight.eq(9).any()


def test_with_a_seed_a_parameter_depends_on_its_name_alone_and_torch_draws_nothing():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = nn.ModuleDict({"a": nn.Linear(3, 3)}), nn.ModuleDict({"b": nn.Linear(9, 2), "a": nn.Linear(3, 3)})
    copy_in_half = copy.deepcopy(one).bfloat16()
    state = torch.get_rng_state()
    for model in (one, two, copy_in_half):
        rk.initialise(model, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(before, state)
    assert torch.equal(one["a"].weight, two["a"].weight)
    assert torch.equal(one["a"].weight.bfloat16(), copy_in_half["a"].weight)
    rk.initialise(two, seed=5)
    assert not torch.equal(one["a"].weight, two["a"].weight)


def test_without_a_seed_the_generator_of_torch_decides():
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        layer = nn.Linear(4, 4)
        rk.initialise(layer)
        found.append(layer.weight.detach().clone())
    assert torch.equal(*found)


def test_only_a_part_is_initialised_and_the_statistics_of_other_norms_stay():
    model = small_networks.SmallResNet()
    model.train()(torch.randn(4, 3, 16, 16))
    before = copy.deepcopy(model.state_dict())
    report = rk.initialise(model, only=["layer4", "fc"], but="*.bias")
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.partition(".")[0] for key in changed} == {"layer4", "fc"}
    assert "fc.bias" not in changed
    assert "layer4.0.bn1.running_mean" in changed
    assert report.left["fc.bias"] == "not asked for"


def test_rules_of_ones_own_go_first_and_cover_what_is_below():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(2, 2)

    def halves(block):
        nn.init.constant_(block.line.weight, 0.5)
        nn.init.constant_(block.line.bias, 0.5)

    model = nn.Sequential(Block(), nn.Linear(2, 2))
    report = rk.initialise(model, rules={Block: halves})
    assert model[0].line.weight.eq(0.5).all()
    assert report.done["0.line.weight"] == "your rule halves"
    assert report.done["1.weight"] == "kaiming"


def test_tied_weights_are_initialised_once_and_meta_parameters_are_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert "1.weight" not in rk.initialise(model, seed=0).done
    with torch.device("meta"):
        nowhere = nn.Linear(2, 2)
    assert set(rk.initialise(nowhere).left.values()) == {"on the meta device, which holds no values"}


def test_the_report_can_be_read():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert str(rk.initialise(model)) == (
        "6 of 6 tensors initialised\n"
        "     1  kaiming: 0.weight\n"
        "     2  constant 0: 0.bias, 1.bias\n"
        "     1  constant 1: 1.weight\n"
        "     2  fresh statistics: 1.running_mean, 1.running_var"
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": "he"}, "there is no rule 'he'"),
        ({"nonlinearity": "rellu"}, "unsupported nonlinearity rellu"),
        ({"only": "fcc"}, "'fcc' fits no parameter of the model\n  why     nearest: fc"),
    ],
)
def test_mistakes_change_nothing(settings, words):
    model = small_networks.SmallResNet()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=words):
        rk.initialise(model, **settings)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
