"""save: any object of tensors and plain values, all of it or nothing."""

import argparse
import collections
import os
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from alike import assert_alike
from safetensors.torch import load_file
from zoo import complete, quiet

from rekindle.errors import CannotWrite
from rekindle.load import load
from rekindle.save import DraggedStorage, save


def everything():
    found = dict(complete())
    found["nested"] = found["nested"][:2]
    return found


def test_every_kind_of_tensor_comes_back_through_torch_and_through_us(tmp_path):
    obj = everything()
    with quiet():
        saved = save(obj, tmp_path / "a.pth")
        assert_alike(obj, torch.load(tmp_path / "a.pth", weights_only=True))
    assert saved.container == "torch-zip"
    assert saved.size_bytes == (tmp_path / "a.pth").stat().st_size


def test_several_models_and_their_training_state_fit_in_one_file(tmp_path):
    model, other = torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    state = {
        "model": model.state_dict(),
        "other": other.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "epoch": 3,
        "rng": torch.get_rng_state(),
        "losses": [0.5, 0.25],
    }
    save(state, tmp_path / "checkpoint.pt")
    assert_alike(state, load(tmp_path / "checkpoint.pt"))
    assert_alike(state, torch.load(tmp_path / "checkpoint.pt"))


def test_a_view_still_shares_its_storage_after_loading(tmp_path):
    base = torch.arange(6.0)
    save({"base": base, "view": base[2:4]}, tmp_path / "a.pth")
    found = torch.load(tmp_path / "a.pth")
    found["view"][0] = 100
    assert found["base"][2] == 100


def test_a_small_view_of_a_large_tensor_is_said_with_both_sizes(tmp_path):
    path = tmp_path / "small.pth"
    with pytest.warns(DraggedStorage, match="a view of 20 bytes brought a storage of 4,000 bytes.*untie=True"):
        saved = save(torch.arange(1000.0)[:5], path)
    assert [finding.name for finding in saved.findings] == ["dragged-storage"]
    slim = save(torch.arange(1000.0)[:5], path, untie=True)
    assert slim.findings == ()
    assert slim.size_bytes < saved.size_bytes - 3900
    assert torch.load(path).tolist() == [0, 1, 2, 3, 4]


def test_untied_tensors_are_alone(tmp_path):
    base = torch.arange(6.0)
    save({"base": base, "view": base[2:4], "same": base}, tmp_path / "a.pth", untie=True)
    found = torch.load(tmp_path / "a.pth")
    found["view"][0] = 100
    assert found["base"][2] == 2
    assert found["same"] is found["base"]  # one object stays one object


def test_saving_changes_nothing_in_the_object(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    before = (base.t().stride(), base.untyped_storage().data_ptr(), base.clone())
    save({"t": base.t(), "part": base[:, 1]}, tmp_path / "a.pth", untie=True)
    assert (base.t().stride(), base.untyped_storage().data_ptr()) == before[:2]
    assert torch.equal(base, before[2])


def test_a_module_is_saved_as_its_state_dict_and_that_is_said(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    saved = save({"net": net, "epoch": 1}, tmp_path / "net.pth")
    assert [finding.what for finding in saved.findings] == ["['net'] is saved as its state_dict()"]
    found = torch.load(tmp_path / "net.pth")
    assert_alike(net.state_dict(), found["net"])
    assert found["net"]._metadata == net.state_dict()._metadata


def test_numpy_numbers_become_pythons_and_that_is_said_once(tmp_path):
    saved = save([np.float64(1.5), np.int32(3), np.bool_(True), {np.int64(7): 1}], tmp_path / "n.pth")
    assert len(saved.findings) == 1
    found = torch.load(tmp_path / "n.pth")
    assert found == [1.5, 3, True, {7: 1}]
    assert [type(value) for value in found[:3]] == [float, int, bool]


class Custom:
    """Something that a plain file has no place for."""


class HasState(Custom):
    def state_dict(self):
        return {}


Point = collections.namedtuple("Point", "x y")  # noqa: PYI024 - an old-fashioned one


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((i for i in ()), "a generator"),
        (print, r"a function \(print\)"),
        (Custom(), "test_save.Custom"),
        (HasState(), r"test_save.HasState; save its state_dict\(\)"),
        (collections.defaultdict(list), r"a collections.defaultdict; save dict\(...\) of it"),
        (Point(1, 2), r"test_save.Point; save tuple\(...\) of it"),
        (frozenset([1]), r"a frozenset; save set\(...\) of it"),
        (np.ones(2), r"a numpy.ndarray; save torch.from_numpy\(...\) of it"),
        (pathlib.PurePosixPath("a"), r"save str\(...\) of it"),
        (argparse.Namespace(lr=1), "a argparse.Namespace"),
        (torch.Generator(), "a torch._C.Generator"),
        (np.longdouble(1), "a numpy.longdouble"),
        (torch.empty(2, device="meta"), "a tensor on the meta device, which has no values"),
        ({Custom(): 1}, "test_save.Custom as a key"),
        ({(1, Custom()): 1}, "test_save.Custom"),
        (torch.ones(2).to_mkldnn(), "a tensor of layout _mkldnn"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_needs_code_is_refused_with_its_place_and_nothing_is_touched(tmp_path, value, message):
    path = tmp_path / "a.pth"
    path.write_bytes(b"precious")
    with pytest.raises(CannotWrite, match=message) as caught:
        save({"model": {"sampler": [1, value]}}, path)
    assert str(caught.value).startswith("at ['model']['sampler'][1]")
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["a.pth"]


def test_an_object_nested_too_deep_is_refused(tmp_path):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CannotWrite, match="nested too deep"):
        save(deep, tmp_path / "a.pth")
    while deep:  # taken apart by hand: Python would recurse
        deep = deep.pop()


def test_a_flat_dict_becomes_safetensors(tmp_path):
    model = torch.nn.Linear(3, 2)
    saved = save(model, tmp_path / "a.safetensors")
    assert saved.container == "safetensors"
    found = load_file(tmp_path / "a.safetensors")
    assert_alike(dict(model.state_dict()), {key: found[key] for key in model.state_dict()})


def test_tied_weights_are_under_every_key_of_a_safetensors_file(tmp_path):
    weight = torch.randn(3, 4)
    save({"in": weight, "out": weight, "t": weight.t()}, tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["in"], weight)
    assert torch.equal(found["out"], weight)
    assert torch.equal(found["t"], weight.t())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(2), "a safetensors file holds a dict of names to tensors"),
        ({"a": {"b": torch.ones(1)}}, r"at \['a'\]: map"),
        ({"epoch": 3}, r"at \['epoch'\]: int"),
        ({3: torch.ones(1)}, r"at \[3\]: a safetensors file names its tensors with text"),
        ({"z": torch.ones(1, dtype=torch.complex128)}, r"at \['z'\]: safetensors has no type for complex128"),
        ({"s": torch.eye(2).to_sparse()}, r"at \['s'\]: sparse_coo"),
    ],
)
def test_what_safetensors_cannot_hold_is_refused_with_its_place(tmp_path, value, message):
    with pytest.raises(CannotWrite, match=message):
        save(value, tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_the_systems_error_with_a_note(tmp_path):
    with pytest.raises(FileNotFoundError):
        save([1], tmp_path / "no" / "a.pth")


def test_a_folder_is_no_target(tmp_path):
    with pytest.raises(CannotWrite, match="is a folder"):
        save([1], tmp_path)


def fail_at(monkeypatch, name, number, error):
    real, calls = getattr(os, name), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, failing)
    return calls


def count_calls(tmp_path, name):
    """Return how often a save makes this call."""
    with pytest.MonkeyPatch.context() as patch:
        calls = fail_at(patch, name, -1, OSError())
        save({"a": torch.ones(10)}, tmp_path / "counted.pth")
    (tmp_path / "counted.pth").unlink()
    return len(calls)


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
def test_an_error_at_any_call_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, name):
    total = count_calls(tmp_path, name)
    path = tmp_path / "a.pth"
    for number in range(1, total + 1):
        save({"a": torch.zeros(10)}, path)
        before = path.read_bytes()
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, name, number, OSError(28, "No space left on device"))
            with pytest.raises(OSError, match="No space left"):
                save({"a": torch.ones(10)}, path)
        assert os.listdir(tmp_path) == ["a.pth"]
        if (name, number) == ("fsync", total):  # the folder: the file is whole and in place, only not promised
            assert torch.load(path)["a"].sum() == 10
        else:
            assert path.read_bytes() == before
    assert total >= {"write": 10, "fsync": 2, "replace": 1}[name]


def test_a_file_may_be_saved_over_the_file_it_was_loaded_from(tmp_path):
    path = tmp_path / "a.pth"
    save({"w": torch.arange(100_000.0)}, path)
    found = load(path)
    found["w"][0] = 7
    for _ in range(3):
        save(found, path)
        assert torch.load(path)["w"][:3].tolist() == [7, 1, 2]
    assert found["w"][99_999] == 99_999


KILLED = """
import os, sys, torch
from rekindle.save import save
real = os.write
left = int(sys.argv[2])
def write(fd, data):
    global left
    left -= 1
    if left < 0:
        real(fd, bytes(data)[: len(data) // 2])
        os.kill(os.getpid(), 9)
    return real(fd, data)
os.write = write
save({"w": torch.ones(1000)}, sys.argv[1])
"""


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.pth"
    save({"w": torch.zeros(1000)}, path)
    before = path.read_bytes()
    for write in (0, 9):
        done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(write)], check=False)
        assert done.returncode == -9
        assert path.read_bytes() == before


def test_saving_warns_of_nothing_else(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save({"w": torch.nn.Linear(2, 2).state_dict(), "n": 1}, tmp_path / "a.pth")


def test_texts_go_into_the_header_of_a_safetensors_file(tmp_path):
    from rekindle.formats import open_path

    path = tmp_path / "a.safetensors"
    save({"w": torch.ones(2)}, path, metadata={"classes": "ants, bees"})
    with open_path(path) as opened:
        assert opened.facts["metadata"] == {"format": "pt", "classes": "ants, bees"}
    with pytest.raises(CannotWrite, match="metadata has no place in this container"):
        save({"w": torch.ones(2)}, tmp_path / "a.pth", metadata={})
    assert not (tmp_path / "a.pth").exists()
