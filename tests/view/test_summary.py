"""The summary: numbers counted by hand, and a model that is as it was."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys

import pytest
import small_networks

torch = pytest.importorskip("torch")
from torch import nn

import rekindle as rk
from rekindle.errors import ConfigError


def layer(found, name: str):
    return next(row for row in found.layers if row.name == name)


def test_a_convolution_counted_by_hand():
    found = rk.summary(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Flatten()), (2, 3, 10, 10))
    assert layer(found, "0").outputs == ((2, 8, 8, 8),)
    assert found.parameters == 8 * 3 * 9 + 8
    assert found.flops == 2 * (2 * 8 * 8 * 8) * (3 * 9)  # a multiply and an add for each weight at each output
    assert found.activation_bytes == 2 * 8 * 8 * 8 * 4  # what ReLU writes in place and Flatten views is there already
    assert found.input_bytes == 2 * 3 * 10 * 10 * 4
    assert found.size_bytes == 4 * found.parameters


@pytest.mark.parametrize("training", [True, False])
def test_attention_is_counted_whatever_fast_path_torch_would_take(training):
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).train(training)
    tokens, width, inner = 5, 16, 32
    projections = 2 * tokens * width * (3 * width + width)
    attention = 2 * (2 * tokens * tokens * width)
    assert rk.summary(model, (1, tokens, width)).flops == projections + attention + 2 * (2 * tokens * width * inner)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrent_layers_are_counted(kind, gates):
    found = rk.summary(kind(4, 6), (5, 1, 4))
    assert found.flops == 2 * 5 * gates * 6 * (4 + 6)
    assert layer(found, "").outputs[0] == (5, 1, 6)


def test_the_table_can_be_read():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3))
    model[0].requires_grad_(False)
    assert str(rk.summary(model, (1, 1, 8, 8))) == (
        "Sequential  input [1, 1, 8, 8]\n"
        "  layer  kind         output        parameters  trained  FLOPs\n"
        "  0      Conv2d       [1, 2, 6, 6]          20  frozen   1.3 k\n"
        "  1      BatchNorm2d  [1, 2, 6, 6]           4\n"
        "  2      Flatten      [1, 72]\n"
        "  3      Linear       [1, 3]               219             432\n"
        "\n"
        "  parameters   243 (223 trained, 20 frozen)\n"
        "  buffers      5\n"
        "  size         996 B\n"
        "  FLOPs        1.73 k in one pass\n"
        "  activations  588 B, and 256 B of input"
    )


def test_with_a_depth_what_is_below_is_added_up():
    model = small_networks.SmallResNet()
    whole, folded = rk.summary(model, (1, 3, 32, 32)), rk.summary(model, (1, 3, 32, 32), depth=1)
    rows = [re.split(r"  +", line.strip()) for line in str(folded).splitlines()[2:9]]
    assert [row[0] for row in rows] == ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert sum(int(row[3].replace(",", "")) for row in rows) == whole.parameters
    assert folded.flops == whole.flops
    assert "layer1.0.conv1" not in str(folded)


def test_a_shared_layer_and_a_tied_weight_are_counted_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.middle = nn.Linear(4, 4)
            self.again = self.middle
            self.out = nn.Linear(4, 10, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, ids):
            return self.out(self.again(self.middle(self.embed(ids))))

    found = rk.summary(Tied(), "1,7:int64")
    assert found.parameters == 40 + 20
    assert layer(found, "again").same_as == "middle"
    assert layer(found, "middle").calls == 2
    assert "[1, 7, 4]  2 times" in str(found)
    assert found.flops == 2 * 7 * (4 * 4 * 2 + 4 * 10)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, a, b=None):
        if isinstance(a, dict):
            a, b = a["a"], a["b"]
        return {"sum": self.left(a) + self.right(b), "parts": (self.left(a),)}


class OneDict(TwoInputs):
    def forward(self, batch):
        return super().forward(batch)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (TwoInputs(), [(5, 3), (5, 4)]),
        (TwoInputs(), (torch.ones(5, 3), torch.ones(5, 4))),
        (TwoInputs(), {"a": (5, 3), "b": "5,4"}),
        (OneDict(), {"a": (5, 3), "b": (5, 4)}),
    ],
)
def test_several_inputs_by_order_by_name_and_as_one_dict(model, inputs):
    found = rk.summary(model, inputs)
    assert layer(found, "").outputs == ((5, 2), (5, 2))
    assert layer(found, "left").calls == 2
    assert layer(found, "right").calls == 1


def test_a_model_larger_than_this_machine_costs_nothing():
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(50_000, 50_000, bias=False) for _ in range(40)))
    found = rk.summary(model, (1, 50_000))
    assert found.size_bytes == 40 * 50_000**2 * 4  # 400 GB
    assert found.flops == 2 * 40 * 50_000**2


def test_the_model_its_mode_and_the_generators_are_as_before():
    class Nosy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)
            self.drop.eval()

        def forward(self, x):
            self.last = x
            return self.drop(self.norm(x))

    for model, inputs in [(Nosy(), (3, 4)), (Looks(), (2, 4))]:
        state, names = (
            copy.deepcopy(model.state_dict()),
            {name: set(vars(part)) for name, part in model.named_modules()},
        )
        modes = [part.training for part in model.modules()]
        random = torch.get_rng_state()
        rk.summary(model, inputs)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert {name: set(vars(part)) for name, part in model.named_modules()} == names
        assert [part.training for part in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), random)
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


class Looks(nn.Module):
    """Decides by a value, which only a real pass has."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.norm(self.line(x)) if x.sum().item() >= 0 else x


def test_a_model_that_looks_at_values_is_measured_by_a_real_pass_and_this_is_said():
    found = rk.summary(Looks(), (2, 4))
    assert found.flops == 2 * 2 * 4 * 3
    assert layer(found, "line").calls == 1
    assert found.notes[0].startswith("measured by a real pass")


def test_layers_that_were_not_called_are_marked():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    assert "spare  Linear  not called" in str(rk.summary(Lazy(), (1, 2)))


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrappers_are_taken_off(wrap):
    found = rk.summary(wrap(small_networks.SmallResNet()), (1, 3, 32, 32))
    assert layer(found, "layer1.0.conv1").calls == 1
    assert "was taken off" in str(found)


def test_without_an_input_the_weights_are_listed():
    text = str(rk.summary(nn.Sequential(nn.Linear(3, 2), nn.LazyLinear(4))))
    assert "0      Linear      [2, 3]           8" in text
    assert "2 parameters have no size before the first call, and count as none: 1.weight" in text
    assert "FLOPs" not in text


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        (nn.Linear(3, 2), (1, 4), r"Linear does not take the input \[1, 4\]\n  why     RuntimeError: .*shapes"),
        (nn.Linear(3, 2), "1,x", "'1,x' is not the shape of an input"),
        (nn.Linear(3, 2), "1,3:float33", "'float33' is no dtype of torch"),
        (nn.Linear(3, 2), (1, -3), "negative size"),
        (nn.LazyLinear(2), (1, 3), "the layer of 'weight' has no sizes yet"),
        (nn.Linear(3, 2), {"z": (1, 3)}, "does not take the input z"),
    ],
)
def test_inputs_that_do_not_fit_are_errors_with_the_reason(model, inputs, words, caplog):
    with pytest.raises(ConfigError, match=words):
        rk.summary(model, inputs)
    assert caplog.records == []  # torch itself logs tracebacks


def test_a_file_is_summed_up_from_its_table_with_shared_storages_once(tmp_path):
    state = small_networks.SmallResNet().state_dict()
    torch.save({**state, "tied.weight": state["fc.weight"]}, tmp_path / "net.pth")
    found = rk.summary(tmp_path / "net.pth")
    own = rk.summary(small_networks.SmallResNet())
    assert (found.parameters, found.buffers, found.size_bytes) == (own.parameters, own.buffers, own.size_bytes)
    assert layer(found, "layer1.0.conv1").kind == "Conv2d?"
    assert layer(found, "bn1").kind == "BatchNorm?"
    assert layer(found, "tied").same_as == "fc"
    assert "trained" not in str(found)
    with pytest.raises(ConfigError, match="a file has no code to run an input through"):
        rk.summary(tmp_path / "net.pth", (1, 3, 8, 8))


def test_a_file_needs_no_torch(tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "net.pth")
    code = "import sys, rekindle as rk; print(rk.summary(sys.argv[1])); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "net.pth"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "parameters   8" in done.stdout


def test_the_json_holds_every_number():
    found = json.loads(json.dumps(rk.summary(nn.Linear(3, 2), (1, 3)).to_json()))
    assert (found["parameters"], found["trained"], found["frozen"], found["flops"]) == (8, 8, 0, 12)
    assert found["layers"][0]["outputs"] == [[1, 2]]
