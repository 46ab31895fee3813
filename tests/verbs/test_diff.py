"""diff: the same is said of equal bits only, whatever the containers and the names."""

import math
import os

import pytest
import torch
from safetensors.torch import save_file

from rekindle.errors import CannotWrite, UnreadableFile
from rekindle.verbs.convert import CONTAINERS, convert
from rekindle.verbs.diff import diff


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(16, 5))


@pytest.fixture
def state(tmp_path):
    found = network().state_dict()
    torch.save(found, tmp_path / "a.pth")
    return {key: tensor.clone() for key, tensor in found.items()}


@pytest.mark.parametrize("container", CONTAINERS)
def test_another_container_is_no_difference(tmp_path, state, container):
    convert(tmp_path / "a.pth", tmp_path / "b", to=container)
    found = diff(tmp_path / "a.pth", tmp_path / "b", values=True)
    assert found.same
    assert (found.equal, found.changed, found.renamed, found.only_a, found.only_b) == (9, (), (), (), ())


def test_a_whole_module_is_the_same_as_its_state_dict(tmp_path, state):
    torch.save(network(), tmp_path / "b.pth")
    assert diff(tmp_path / "a.pth", tmp_path / "b.pth").same


def test_another_layout_of_the_same_values_is_no_difference(tmp_path):
    weight = torch.randn(6, 4)
    torch.save({"w": weight}, tmp_path / "a.pth")
    torch.save({"w": weight.t().contiguous().t()}, tmp_path / "b.pth")
    assert diff(tmp_path / "a.pth", tmp_path / "b.pth").same


@pytest.mark.parametrize("place", [0, 70_000, 299_999])
def test_one_flipped_bit_anywhere_is_a_difference(tmp_path, place):
    weight = torch.zeros(300_000)
    torch.save({"w": weight}, tmp_path / "a.pth")
    weight.view(torch.int32)[place] ^= 1
    torch.save({"w": weight}, tmp_path / "b.pth")
    (changed,) = diff(tmp_path / "a.pth", tmp_path / "b.pth").changed
    assert (changed.what, changed.figures) == (("values",), None)


def test_keys_shapes_and_types_that_differ_are_told_apart(tmp_path, state):
    state["2.weight"] = state["2.weight"].half()
    state["2.bias"] = torch.zeros(6)
    del state["1.bias"]
    state["head"] = torch.ones(7, 7)
    save_file(state, tmp_path / "b.safetensors")
    found = diff(tmp_path / "a.pth", tmp_path / "b.safetensors")
    assert not found.same
    assert [(row.key, row.shape) for row in found.only_a] == [("1.bias", (4,))]
    assert [(row.key, row.shape) for row in found.only_b] == [("head", (7, 7))]
    assert {row.key: (row.a, row.b, row.what) for row in found.changed} == {
        "2.weight": ("float32 [5, 16]", "float16 [5, 16]", ("dtype",)),
        "2.bias": ("float32 [5]", "float32 [6]", ("shape",)),
    }
    assert found.equal == 6


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_figures_are_those_that_torch_computes(tmp_path, dtype):
    torch.manual_seed(2)
    a, b = ((torch.randn(700, 801) * 5).int().clamp(min=0).mul(0.7).to(dtype) for _ in range(2))
    torch.save({"w": a}, tmp_path / "a.pth")
    save_file({"w": b}, tmp_path / "b.safetensors")
    (changed,) = diff(tmp_path / "a.pth", tmp_path / "b.safetensors", values=True).changed
    a, b = a.double().flatten(), b.double().flatten()
    assert changed.figures.max_abs == (a - b).abs().max()
    assert math.isclose(changed.figures.mean_abs, (a - b).abs().mean(), rel_tol=1e-12)
    assert math.isclose(changed.figures.cosine, torch.dot(a, b) / a.norm() / b.norm(), rel_tol=1e-9)
    assert changed.figures.differing == (a != b).sum()
    assert changed.figures.not_finite == 0


def test_figures_between_two_types_of_one_shape(tmp_path):
    weight = torch.randn(300, 41)
    torch.save({"w": weight.t()}, tmp_path / "a.pth")
    torch.save({"w": weight.t().to(torch.float8_e4m3fn)}, tmp_path / "b.pth")
    (changed,) = diff(tmp_path / "a.pth", tmp_path / "b.pth", values=True).changed
    assert changed.figures.max_abs == (weight - weight.to(torch.float8_e4m3fn).float()).abs().max()


def test_nan_and_infinities_are_counted_and_left_out_of_the_figures(tmp_path):
    nan, inf = math.nan, math.inf
    torch.save({"w": torch.tensor([1.0, nan, inf, nan, 1.0, -0.0])}, tmp_path / "a.pth")
    torch.save({"w": torch.tensor([1.5, nan, inf, 2.0, -inf, 0.0])}, tmp_path / "b.pth")
    (changed,) = diff(tmp_path / "a.pth", tmp_path / "b.pth", values=True).changed
    assert (changed.figures.max_abs, changed.figures.differing, changed.figures.not_finite) == (0.5, 3, 2)


@pytest.mark.parametrize("prefix", ["module.", "model.", "a.b.c."])
def test_a_prefix_is_found_and_its_tensors_are_compared(tmp_path, state, prefix):
    state["0.bias"][0] += 1
    torch.save({prefix + key: tensor for key, tensor in state.items()}, tmp_path / "b.pth")
    for a, b in (("a.pth", "b.pth"), ("b.pth", "a.pth")):
        found = diff(tmp_path / a, tmp_path / b)
        assert {(row.a.removeprefix(prefix), row.b.removeprefix(prefix)) for row in found.renamed} == {
            (key, key) for key in state
        }
        assert {row.how for row in found.renamed} == {"prefix"}
        assert [row.key.removeprefix(prefix) for row in found.changed] == ["0.bias"]
        assert (found.only_a, found.only_b, found.equal) == ((), (), 8)


def test_renamed_tensors_are_found_by_their_content(tmp_path):
    torch.manual_seed(3)
    one, two = torch.randn(4, 4), torch.randn(4, 4)
    zero = torch.zeros(4)
    torch.save({"x.weight": one, "y.weight": two, "x.bias": zero, "x.gamma": zero.clone()}, tmp_path / "a.pth")
    torch.save({"q.gamma": zero.clone(), "q.bias": zero, "q.weight": two, "r.weight": one}, tmp_path / "b.pth")
    found = diff(tmp_path / "a.pth", tmp_path / "b.pth")
    assert {(row.a, row.b) for row in found.renamed} == {
        ("x.weight", "r.weight"),
        ("y.weight", "q.weight"),
        ("x.bias", "q.bias"),
        ("x.gamma", "q.gamma"),
    }
    assert {row.how for row in found.renamed} == {"content"}
    assert not found.same
    assert diff(tmp_path / "a.pth", tmp_path / "b.pth", any_names=True).same


def test_what_has_other_names_and_other_values_is_a_guess_by_shape_and_order(tmp_path):
    torch.save({"x.1": torch.zeros(3), "x.2": torch.zeros(4), "x.3": torch.zeros(3)}, tmp_path / "a.pth")
    torch.save({"q.1": torch.ones(3), "q.2": torch.full((3,), 2.0), "q.3": torch.ones(9)}, tmp_path / "b.pth")
    found = diff(tmp_path / "a.pth", tmp_path / "b.pth")
    assert [(row.a, row.b, row.how) for row in found.renamed] == [
        ("x.1", "q.1", "shape and order"),
        ("x.3", "q.2", "shape and order"),
    ]
    assert [(row.key, row.key_b) for row in found.changed] == [("x.1", "q.1"), ("x.3", "q.2")]
    assert [row.key for row in found.only_a] == ["x.2"]
    assert [row.key for row in found.only_b] == ["q.3"]


def test_plain_values_that_both_have_and_that_differ_are_named(tmp_path):
    torch.save({"w": torch.ones(1), "epoch": 3, "lr": [0.1], "only": 1}, tmp_path / "a.pth")
    torch.save({"w": torch.ones(1), "epoch": 4, "lr": [0.1]}, tmp_path / "b.pth")
    found = diff(tmp_path / "a.pth", tmp_path / "b.pth")
    assert [(row.key, row.a, row.b) for row in found.values] == [("epoch", "3", "4")]
    assert not found.same


def test_shapes_only_reads_no_tensor(tmp_path, state, monkeypatch):
    state["0.bias"][0] += 1
    torch.save(state, tmp_path / "b.pth")
    assert not diff(tmp_path / "a.pth", tmp_path / "b.pth").same
    monkeypatch.setattr("rekindle.verbs.diff.gather", lambda *_, **__: pytest.fail("a tensor was read"))
    found = diff(tmp_path / "a.pth", tmp_path / "b.pth", shapes_only=True)
    assert (found.same, found.compared) == (True, False)


def test_parts_of_both_are_compared(tmp_path, state):
    torch.save({"epoch": 1, "ema": {"weights": state}}, tmp_path / "b.pth")
    assert diff(tmp_path / "a.pth", tmp_path / "b.pth", part_b="ema.weights").same
    with pytest.raises(CannotWrite, match="nothing lies under the key 'emo'"):
        diff(tmp_path / "a.pth", tmp_path / "b.pth", part_b="emo")


def test_a_tensor_without_bytes_on_one_side_is_not_called_the_same(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pth")
    torch.save({"w": torch.empty(3, device="meta")}, tmp_path / "b.pth")
    (changed,) = diff(tmp_path / "a.pth", tmp_path / "b.pth", values=True).changed
    assert changed.what == ("unread",)


def test_a_damaged_file_is_refused(tmp_path, state):
    data = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "b.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableFile):
        diff(tmp_path / "a.pth", tmp_path / "b.pth")


def test_nothing_is_written(tmp_path, state):
    diff(tmp_path / "a.pth", tmp_path / "a.pth", values=True)
    assert os.listdir(tmp_path) == ["a.pth"]
