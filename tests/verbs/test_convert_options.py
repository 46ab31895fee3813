"""convert's options: other keys, other types, fewer bytes, several files; each result is what torch makes of it."""

import argparse
import enum
import json
import os
import pathlib
import sys

import pytest
import torch
from safetensors.torch import load_file
from zoo import quiet

import rekindle as rk
from rekindle.errors import CannotWrite, LimitExceeded, UnreadableFile
from rekindle.save import save
from rekindle.verbs.convert import convert
from rekindle.verbs.inspect import inspect


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(16, 5, bias=False))


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of a wrapped model with an optimizer that has taken a step."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), foreach=False)
    sum((parameter**2).sum() for parameter in net.parameters()).backward()
    optimizer.step()
    saved = {
        "model": torch.nn.DataParallel(net).state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "best": float("inf"),
    }
    torch.save(saved, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def load(path):
    return torch.load(path, weights_only=True)


def names(done):
    return [finding.name for finding in done.findings]


def same(found, expected):
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_the_weights_inside_a_checkpoint_load_into_the_bare_model(checkpoint, tmp_path):
    done = convert(checkpoint, tmp_path / "b.pth", part="model", strip=["module"])
    network().load_state_dict(load(tmp_path / "b.pth"), strict=True)
    same(load(tmp_path / "b.pth"), {k.removeprefix("module."): v for k, v in load(checkpoint)["model"].items()})
    assert load(tmp_path / "b.pth")._metadata["1"] == {"version": 2}
    assert set(load(tmp_path / "b.pth")._metadata) == {"", "0", "1", "2"}
    assert done.lost == ()
    assert names(done) == ["renamed-as-asked"]


@pytest.mark.parametrize("container", ["torch-zip", "torch-stream", "safetensors"])
def test_only_and_drop_choose_by_whole_keys(checkpoint, tmp_path, container):
    done = convert(checkpoint, tmp_path / "b", to=container, only=["model"], drop=["*.num_batches_tracked", "*.1.*"])
    assert {row.key for row in done.written} == {
        "model.module.0.weight",
        "model.module.0.bias",
        "model.module.2.weight",
    }
    assert done.lost == ()
    assert "left-out-as-asked" in names(done)


def test_what_is_chosen_keeps_its_nesting_in_torchs_containers(checkpoint, tmp_path):
    convert(checkpoint, tmp_path / "b.pth", drop=["model"])
    found = load(tmp_path / "b.pth")
    assert list(found) == ["optimizer", "epoch", "best"]
    assert found["optimizer"]["param_groups"] == load(checkpoint)["optimizer"]["param_groups"]


@pytest.mark.parametrize(
    ("rename", "expected"),
    [
        ("bn.gamma=bn.weight", ["bn.weight", "bn.beta", "my.bn.weight", "gammas"]),
        ("gamma=weight", ["bn.weight", "bn.beta", "my.bn.weight", "gammas"]),
        ("bn.=norm.", ["norm.gamma", "norm.beta", "my.bn.gamma", "gammas"]),
        ("bn=a.b", ["a.b.gamma", "a.b.beta", "my.a.b.gamma", "gammas"]),
        ("my.bn=x", ["bn.gamma", "bn.beta", "x.gamma", "gammas"]),
        (r"/^bn\.(\w)\w*$/norm_\1/", ["norm_g", "norm_b", "my.bn.gamma", "gammas"]),
        (r"/\.//", ["bngamma", "bnbeta", "mybngamma", "gammas"]),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_rename_replaces_whole_parts_the_beginning_or_what_an_expression_fits(tmp_path, rename, expected, suffix):
    keys = ["bn.gamma", "bn.beta", "my.bn.gamma", "gammas"]
    torch.save({key: torch.full((2,), float(number)) for number, key in enumerate(keys)}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / f"b.{suffix}", rename=[rename])
    found = load_file(tmp_path / "b.safetensors") if suffix == "safetensors" else load(tmp_path / "b.pth")
    assert {key: float(tensor[0]) for key, tensor in found.items()} == {
        key: float(number) for number, key in enumerate(expected)
    }


def test_strip_renames_and_add_act_in_this_order(tmp_path):
    torch.save({"module.a": torch.ones(1)}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.pth", add="net", rename=["a=b", "b=c"], strip=["module."])
    assert list(load(tmp_path / "b.pth")) == ["net.c"]


def test_two_keys_that_become_one_are_an_error_that_names_both(tmp_path):
    torch.save({"a.weight": torch.ones(1), "b.weight": torch.ones(1)}, tmp_path / "a.pth")
    for target in ("b.pth", "b.safetensors"):
        with pytest.raises(CannotWrite, match=r"a\.weight and b\.weight would both be called b\.weight"):
            convert(tmp_path / "a.pth", tmp_path / target, rename=["a=b"])
    assert os.listdir(tmp_path) == ["a.pth"]
    convert(tmp_path / "a.pth", tmp_path / "b.pth", rename=["a=b"], drop=["b"])
    assert list(load(tmp_path / "b.pth")) == ["b.weight"]


def test_a_dict_inside_the_object_is_renamed_with_all_that_is_in_it(tmp_path):
    torch.save({"enc": {"w": torch.ones(1)}, "n": 1}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.pth", rename=["enc=encoder"])
    assert load(tmp_path / "b.pth") == {"encoder": {"w": torch.ones(1)}, "n": 1}


def test_a_key_that_would_leave_its_dict_is_refused_with_the_way_to_do_it(checkpoint, tmp_path):
    with pytest.raises(CannotWrite, match=r"outside of the dict it is in") as caught:
        convert(checkpoint, tmp_path / "b.pth", only=["model"], strip=["model"])
    assert caught.value.do.endswith("--take model")
    convert(checkpoint, tmp_path / "b.safetensors", only=["model"], strip=["model.module"])  # one level has no dicts
    assert "0.weight" in load_file(tmp_path / "b.safetensors")


def test_a_pattern_that_fits_nothing_is_said_and_nothing_at_all_is_an_error(checkpoint, tmp_path):
    done = convert(checkpoint, tmp_path / "b.pth", drop=["modle.*"], strip=["modul"])
    (finding,) = (finding for finding in done.findings if finding.name == "pattern-without-match")
    assert finding.what == "no key fits 'modle.*', 'strip modul'"
    with pytest.raises(CannotWrite, match="nothing is left to write"):
        convert(checkpoint, tmp_path / "c.pth", only=["modle.*"])
    assert not (tmp_path / "c.pth").exists()


@pytest.mark.parametrize(
    ("rename", "words"),
    [("ab", "does not say what to rename"), ("=b", "does not say"), ("/(/x/", "wrong"), (r"/a/\3/", "wrong")],
)
def test_a_rename_that_cannot_be_meant_is_refused(checkpoint, tmp_path, rename, words):
    with pytest.raises(CannotWrite, match=words):
        convert(checkpoint, tmp_path / "b.pth", rename=[rename])


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("modle", "closest: model"),
        ("optimizer.stat", "closest: optimizer.state"),
        ("zzz", "its keys are model, optimizer, epoch, best"),
        ("epoch", "only tensors and what holds them can be taken"),
    ],
)
def test_a_wrong_path_is_answered_with_the_nearest_names(checkpoint, tmp_path, part, why):
    with pytest.raises(CannotWrite) as caught:
        convert(checkpoint, tmp_path / "b.pth", part=part)
    assert caught.value.why == why


@pytest.mark.parametrize(
    ("part", "keys"),
    [
        ("model.module.1", ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]),
        ("optimizer.state.0", ["step", "exp_avg", "exp_avg_sq"]),
    ],
)
def test_take_follows_dicts_and_the_beginnings_of_keys(checkpoint, tmp_path, part, keys):
    convert(checkpoint, tmp_path / "b.pth", part=part)
    assert list(load(tmp_path / "b.pth")) == keys


def test_take_goes_into_a_whole_module(tmp_path):
    net = network()
    torch.save({"net": net}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.pth", part="net.1")
    same(load(tmp_path / "b.pth"), net[1].state_dict())


# --- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["torch-zip", "torch-stream", "safetensors"])
@pytest.mark.parametrize("target", ["float64", "float32", "float16", "bfloat16"])
def test_a_cast_gives_the_bits_that_torch_gives(tmp_path, target, container):
    torch.manual_seed(1)
    patterns = torch.randint(-(2**31), 2**31, (50_000,), dtype=torch.int64).to(torch.int32)
    saved = {
        "f32": patterns.view(torch.float32),
        "f64": torch.cat([torch.randn(5000, dtype=torch.float64) * 10.0**e for e in range(-45, 40, 5)]),
        "f16": torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16),
        "bf16": torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16),
        "e4m3": torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn),
        "e5m2": torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e5m2),
        "t": torch.randn(30, 40).t(),
        "int": torch.arange(5),
        "bool": torch.tensor([True, False]),
        "c": torch.ones(2, dtype=torch.complex64),
    }
    torch.save(saved, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b", to=container, dtype=target)
    found = load_file(tmp_path / "b") if container == "safetensors" else load(tmp_path / "b")
    for key, tensor in saved.items():
        if key in {"int", "bool", "c"}:
            assert torch.equal(found[key], tensor), key
            continue
        expected = tensor.to(getattr(torch, target))
        assert found[key].dtype == expected.dtype
        nan = expected.isnan()
        assert torch.equal(found[key].isnan(), nan), key
        width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
        assert torch.equal(found[key].contiguous().view(width)[~nan], expected.contiguous().view(width)[~nan]), key


def test_a_cast_says_what_it_did_and_what_went_out_of_range(tmp_path):
    torch.save({"w": torch.tensor([1e6, 1e-30, 0.0, 1.0]), "i": torch.arange(2)}, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "b.pth", dtype="float16")
    found = {finding.name: finding for finding in done.findings}
    assert found["cast-as-asked"].what == "cast to float16: 1 of float32; left as they are: 1 of int64"
    assert found["values-out-of-range"].what == "1 values became infinite and 1 became zero"
    assert names(convert(tmp_path / "a.pth", tmp_path / "c.pth", dtype="float64")) == ["cast-as-asked"]


def test_a_cast_keeps_views_tied_weights_and_what_must_not_be_cast(tmp_path):
    base = torch.randn(10, 4)
    steps = {"state": {0: {"step": torch.tensor(5000.0), "exp_avg": torch.ones(2)}}}
    scales = torch.ones(2, dtype=torch.float64)
    with quiet():
        quantized = torch.quantize_per_channel(torch.ones(2, 2), scales, torch.zeros(2).long(), 0, torch.qint8)
        torch.save({"base": base, "row": base[3], "tied": base, "o": steps, "q": quantized}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.pth", dtype="bfloat16")
    with quiet():
        found = load(tmp_path / "b.pth")
    assert torch.equal(found["row"], base[3].bfloat16())
    assert found["row"].untyped_storage().data_ptr() == found["base"].untyped_storage().data_ptr()
    assert found["tied"].data_ptr() == found["base"].data_ptr()
    assert found["o"]["state"][0]["step"].dtype == torch.float32
    assert found["o"]["state"][0]["exp_avg"].dtype == torch.bfloat16
    assert torch.equal(found["q"].int_repr(), quantized.int_repr())
    assert found["q"].q_per_channel_scales().dtype == torch.float64


def test_tensors_of_two_types_in_one_storage_are_cast_apart(tmp_path):
    raw = torch.arange(16, dtype=torch.uint8)
    save({"raw": raw, "f": raw.view(torch.float32)[1:]}, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "b.pth", dtype="float64")
    assert torch.equal(load(tmp_path / "b.pth")["f"], raw.view(torch.float32)[1:].double())
    assert torch.equal(load(tmp_path / "b.pth")["raw"], raw)
    assert "shared bytes with another type" in done.findings[0].what


def test_a_flipped_bit_is_found_on_the_way_through_a_cast(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    start = next(m.data.offset for m in open_members(tmp_path / "a.pth") if m.name.endswith("data/0"))
    data[start + 100] ^= 1
    (tmp_path / "a.pth").write_bytes(data)
    for target in ("b.pth", "b.safetensors"):
        with pytest.raises(UnreadableFile, match="is damaged: its CRC-32 is"):
            convert(tmp_path / "a.pth", tmp_path / target, dtype="float16")
    assert os.listdir(tmp_path) == ["a.pth"]


def open_members(path):
    from rekindle.formats import open_path

    with open_path(path) as opened:
        return opened.members


def test_a_type_that_is_none_is_refused(checkpoint, tmp_path):
    with pytest.raises(CannotWrite, match="'float61' is not a type that convert casts to") as caught:
        convert(checkpoint, tmp_path / "b.pth", dtype="float61")
    assert "float16" in caught.value.why


# --- sharing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["torch-zip", "torch-stream"])
def test_slim_keeps_the_bytes_that_tensors_show_and_the_sharing_of_what_overlaps(tmp_path, container):
    base = torch.arange(10_000.0)
    saved = {
        "head": base[10:20],
        "overlapping": base[15:30],
        "far": base[9000:9010],
        "strided": base[100:5000:7],
        "whole": torch.ones(3),
        "matrix": torch.arange(600.0).view(20, 30)[2:5].t(),
    }
    torch.save(saved, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "b.pth", to=container, slim=True)
    found = load(tmp_path / "b.pth")
    for key, tensor in saved.items():
        assert torch.equal(found[key], tensor), key
    used = {key: tensor.untyped_storage().nbytes() for key, tensor in found.items()}
    assert used == {"head": 80, "overlapping": 80, "far": 40, "strided": 2800, "whole": 12, "matrix": 360}
    found["head"][5] = -1
    assert found["overlapping"][0] == -1
    assert done.size_bytes < 8000
    assert "dragged-storage" not in names(done)


# --- several files ----------------------------------------------------------------------------------------------------


def test_shards_are_named_and_listed_as_hugging_face_does(tmp_path):
    torch.manual_seed(0)
    saved = {f"layer.{number}.weight": torch.randn(100) for number in range(5)}
    torch.save(saved, tmp_path / "a.pth")
    (tmp_path / "out").mkdir()
    done = convert(tmp_path / "a.pth", tmp_path / "out", shard=1000)
    files = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert sorted(os.listdir(tmp_path / "out")) == [*files, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 2000}
    for key, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / "out" / file)[key], saved[key])
    assert set(index["weight_map"]) == set(saved)
    assert {row.key for row in done.written} == set(saved)
    found = inspect(tmp_path / "out")
    assert (found.format, len(found.table), found.findings) == ("hub-shards", 5, ())


def test_shards_of_torchs_container_keep_tied_weights_in_one_file(tmp_path):
    tied = torch.randn(100)
    saved = {"in": tied, "a": torch.randn(100), "b": torch.randn(100), "out": tied}
    torch.save(saved, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "pytorch_model.bin", shard="0.5kB")
    index = json.loads((tmp_path / "pytorch_model.bin.index.json").read_text())
    assert index["metadata"] == {"total_size": 1200}
    assert index["weight_map"]["in"] == index["weight_map"]["out"]
    assert len(set(index["weight_map"].values())) == 3
    found = {}
    for file in set(index["weight_map"].values()):
        found |= load(tmp_path / file)
    assert all(torch.equal(found[key], saved[key]) for key in saved)


def test_what_fits_into_one_file_is_one_file_without_an_index(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "model.safetensors", shard="1GB")
    assert done.files == (str(tmp_path / "model.safetensors"),)
    assert sorted(os.listdir(tmp_path)) == ["a.pth", "model.safetensors"]


def test_shards_come_back_as_one_file_with_the_same_bits(tmp_path):
    saved = {f"w{number}": torch.randn(50) for number in range(6)}
    torch.save(saved, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "m.safetensors", shard=500)
    convert(tmp_path / "m.safetensors.index.json", tmp_path / "b.pth")
    same(load(tmp_path / "b.pth"), dict(sorted(saved.items())))


@pytest.mark.parametrize("shard", ["2 elephants", "", "0", -1])
def test_a_size_that_is_none_is_refused(checkpoint, tmp_path, shard):
    with pytest.raises(CannotWrite, match="is not a size"):
        convert(checkpoint, tmp_path / "b.safetensors", shard=shard)


def test_a_checkpoint_with_more_than_weights_is_not_cut_into_torchs_files(checkpoint, tmp_path):
    with pytest.raises(CannotWrite, match="only a state dict can be cut into files"):
        convert(checkpoint, tmp_path / "b.bin", shard=100)


def test_a_damaged_shard_leaves_none(tmp_path):
    torch.save({f"w{number}": torch.zeros(100) for number in range(3)}, tmp_path / "a.pth")
    last = next(m for m in open_members(tmp_path / "a.pth") if m.name.endswith("data/2")).data
    data = bytearray((tmp_path / "a.pth").read_bytes())
    data[last.offset] ^= 1
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(UnreadableFile, match="is damaged"):
        convert(tmp_path / "a.pth", tmp_path / "m.safetensors", shard=400)
    assert os.listdir(tmp_path) == ["a.pth"]


# --- values and objects -----------------------------------------------------------------------------------------------


def test_plain_values_are_written_beside_as_json(checkpoint, tmp_path):
    done = convert(checkpoint, tmp_path / "b.safetensors", values=True, drop=["optimizer.param_groups.0.params"])
    assert done.files == (str(tmp_path / "b.safetensors"), str(tmp_path / "b.safetensors.values.json"))
    found = json.loads((tmp_path / "b.safetensors.values.json").read_text())
    group = found["optimizer"]["param_groups"][0]
    assert (group["lr"], group["betas"], found["epoch"], found["best"]) == (0.001, [0.9, 0.999], 3, "Infinity")
    assert "model" not in found
    assert done.lost == ()


def test_values_that_json_cannot_hold_are_listed(tmp_path):
    torch.save({"w": torch.ones(1), "b": b"x", "z": 1j, "n": 1, 5: "five"}, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "b.safetensors", values=True)
    assert json.loads((tmp_path / "b.safetensors.values.json").read_text()) == {"n": 1, "5": "five"}
    assert {loss.key for loss in done.lost} == {"b", "z"}


class Colour(enum.Enum):
    RED = 3


class Config:
    def __init__(self):
        self.lr = 0.1
        self.folder = pathlib.PurePosixPath("/data/run")
        self.weight = torch.ones(2)
        self.colour = Colour.RED
        self.me = None


class Slotted:
    __slots__ = ("a",)


def test_data_only_keeps_what_objects_hold_and_torch_opens_it_safely(tmp_path):
    config, slotted = Config(), Slotted()
    config.me, slotted.a = config, 4
    saved = {
        "net": network(),
        "args": argparse.Namespace(lr=0.1, sizes=[1, 2]),
        "config": config,
        "slotted": slotted,
        "frozen": frozenset({1, 2}),
    }
    torch.save(saved, tmp_path / "a.pth", pickle_protocol=4)
    with pytest.raises(Exception, match="weights_only"):
        load(tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "b.pth", data_only=True)
    found = load(tmp_path / "b.pth")
    same(found["net"], saved["net"].state_dict())
    assert found["args"] == {"lr": 0.1, "sizes": [1, 2]}
    assert (found["config"]["lr"], found["config"]["folder"], found["config"]["colour"]) == (0.1, "/data/run", 3)
    assert torch.equal(found["config"]["weight"], torch.ones(2))
    assert found["slotted"] == {"a": 4}
    assert found["frozen"] == {1, 2}
    assert done.lost == ()
    assert names(done).count("object-as-data") == 6


def test_without_data_only_objects_are_lost(tmp_path):
    torch.save({"w": torch.ones(1), "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "b.pth")
    assert [loss.key for loss in done.lost] == ["args"]
    assert list(load(tmp_path / "b.pth")) == ["w"]


def test_a_call_in_a_pickle_stays_a_loss_and_is_not_made_data(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch hacked",)

    torch.save({"w": torch.ones(1), "evil": Evil()}, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "b.pth", data_only=True)
    assert [loss.key for loss in done.lost] == ["evil"]


def test_a_module_without_a_bias_loses_nothing(tmp_path):
    torch.save(network(), tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", tmp_path / "b.safetensors").lost == ()


class Program(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)
        self.scale = torch.full((3,), 2.0)

    def forward(self, x):
        return self.inner(x) * self.scale.sum()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_tensors_of_a_program_beside_its_state_dict_are_listed_or_taken(tmp_path, suffix):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Program()).save(tmp_path / "a.pt")
    done = convert(tmp_path / "a.pt", tmp_path / f"b.{suffix}")
    assert {row.key for row in done.written} == {"inner.weight", "inner.bias"}
    assert [(loss.key, loss.is_tensor) for loss in done.lost] == [("scale", True)]
    done = convert(tmp_path / "a.pt", tmp_path / f"c.{suffix}", everything=True)
    assert {row.key for row in done.written} == {"inner.weight", "inner.bias", "scale"}
    found = load_file(tmp_path / "c.safetensors") if suffix == "safetensors" else load(tmp_path / "c.pth")
    assert torch.equal(found["scale"], torch.full((3,), 2.0))
    assert done.lost == ()


# --- in place, and unverified -----------------------------------------------------------------------------------------


def test_a_file_is_replaced_by_itself_only_with_force_and_in_one_step(checkpoint):
    before = load(checkpoint)["model"]
    with pytest.raises(CannotWrite, match="there is a file of this name already"):
        convert(checkpoint, checkpoint, part="model")
    convert(checkpoint, checkpoint, part="model", dtype="bfloat16", force=True)
    after = load(checkpoint)
    assert all(torch.equal(after[key], value.bfloat16()) for key, value in before.items() if value.is_floating_point())
    assert os.listdir(checkpoint.parent) == ["a.pth"]


def test_a_failure_in_place_leaves_the_file_as_it_was(tmp_path):
    torch.save({"w": torch.zeros(100), "v": torch.zeros(100)}, tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    last = next(m for m in open_members(tmp_path / "a.pth") if m.name.endswith("data/1")).data
    data[last.offset] ^= 1
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(UnreadableFile, match="is damaged"):
        convert(tmp_path / "a.pth", tmp_path / "a.pth", slim=True, force=True)
    assert (tmp_path / "a.pth").read_bytes() == data
    assert os.listdir(tmp_path) == ["a.pth"]


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_unverified_files_hold_the_same_and_say_so(checkpoint, tmp_path, suffix):
    checked = convert(checkpoint, tmp_path / f"b.{suffix}", part="model")
    unchecked = convert(checkpoint, tmp_path / f"c.{suffix}", part="model", verify=False)
    assert (checked.verified, unchecked.verified) == (True, False)
    assert checked.written == unchecked.written
    assert (tmp_path / f"b.{suffix}").read_bytes() == (tmp_path / f"c.{suffix}").read_bytes()


@pytest.mark.parametrize(
    "wish", [{"data_only": True}, {"add": "x"}, {"values": True}, {"dtype": "float16"}, {"slim": True}, {"shard": 100}]
)
def test_an_object_of_hundreds_of_levels_is_changed_or_refused_in_words(tmp_path, wish):
    for depth in (100, 490):
        nested = torch.ones(1)
        for _ in range(depth):
            nested = [nested]
        usual = sys.getrecursionlimit()
        sys.setrecursionlimit(10_000)  # torch's pickler goes down with the object
        torch.save({"n": nested}, tmp_path / "a.pth")
        sys.setrecursionlimit(usual)
        try:
            assert len(convert(tmp_path / "a.pth", tmp_path / "b.safetensors", force=True, **wish).written) == 1
        except LimitExceeded:
            assert depth == 490


def test_files_of_an_older_cut_go_when_the_new_index_is_in_place(tmp_path):
    torch.save({f"w{number}": torch.full((100,), float(number)) for number in range(6)}, tmp_path / "a.pth")
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("{}")
    convert(tmp_path / "a.pth", out, shard=500)
    assert len(list(out.glob("*-of-00006.safetensors"))) == 6
    (out / "model-00001-of-00009.safetensors").write_bytes(b"mine")  # no index lists it
    done = convert(tmp_path / "a.pth", out, shard=900, force=True)
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "config.json", "model-00001-of-00003.safetensors", "model-00001-of-00009.safetensors",
        "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors", "model.safetensors.index.json",
    ]  # fmt: skip
    (said,) = [finding for finding in done.findings if finding.code == "RK-CONV-17"]
    assert said.what.startswith("6 files of the model that was here before are removed: model-00001-of-00006.")
    assert all(torch.equal(value, torch.full((100,), float(key[1:]))) for key, value in rk.load(out).items())


def test_an_older_index_is_named_where_the_new_model_is_one_file(tmp_path):
    torch.save({f"w{number}": torch.ones(100) for number in range(3)}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "model.safetensors", shard=500)
    done = convert(tmp_path / "a.pth", tmp_path / "model.safetensors", shard="1GB", force=True)
    (said,) = [finding for finding in done.findings if finding.code == "RK-CONV-17"]
    assert "3 files that it lists are still there" in said.what
    assert len(list(tmp_path.glob("model-*"))) == 3


@pytest.mark.parametrize(
    "name", ["../a.pth", "config.json", "/etc/hostname", "model-00001-of-00002.safetensors/../a.pth", 3, None]
)
def test_an_index_cannot_have_other_files_removed(tmp_path, name):
    import json

    torch.save({f"w{number}": torch.ones(100) for number in range(3)}, tmp_path / "a.pth")
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("{}")
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    convert(tmp_path / "a.pth", out, shard=500, force=True)
    assert (tmp_path / "a.pth").exists()
    assert (out / "config.json").exists()


def test_a_cut_in_place_reads_its_own_files_to_the_end(tmp_path):
    torch.save({f"w{number}": torch.full((100,), float(number)) for number in range(6)}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "out.safetensors", shard=500)
    index = tmp_path / "out.safetensors.index.json"
    convert(index, tmp_path / "out.safetensors", shard=900, force=True)
    found = rk.load(index)
    assert {key: value[0].item() for key, value in found.items()} == {f"w{index}": float(index) for index in range(6)}
    assert len(list(tmp_path.glob("out-*"))) == 3


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "old"])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_bytes_that_the_disk_did_not_keep_are_noticed_before_the_rename(tmp_path, monkeypatch, suffix, dtype):
    torch.save({"w": torch.arange(1000.0), "v": torch.ones(10)}, tmp_path / "a.pth")
    target = tmp_path / ("b.pth" if suffix == "old" else f"b.{suffix}")
    words = {"to": "torch-stream"} if suffix == "old" else {}
    whole = convert(tmp_path / "a.pth", target, dtype=dtype, **words)
    good = target.read_bytes()
    place = 2_000 if dtype is None else 1_500  # inside w, in every container
    real = os.write

    def turning(fd, data):
        at = place - os.lseek(fd, 0, os.SEEK_CUR)
        if 0 <= at < len(data):
            data = bytearray(data)
            data[at] ^= 1
        return real(fd, data)

    monkeypatch.setattr(os, "write", turning)
    with pytest.raises(UnreadableFile, match="the bytes of w are not those of the source"):
        convert(tmp_path / "a.pth", target, dtype=dtype, force=True, **words)
    assert target.read_bytes() == good
    assert whole.verified
    convert(tmp_path / "a.pth", target, dtype=dtype, force=True, verify=False, **words)  # nobody looks
    assert target.read_bytes() != good


def test_a_tensor_of_many_megabytes_is_read_back_to_its_last_byte(tmp_path, monkeypatch):
    torch.save({"w": torch.arange(1_000_000)}, tmp_path / "a.pth")
    last = convert(tmp_path / "a.pth", tmp_path / "b.safetensors").size_bytes - 1
    real = os.write

    def turning(fd, data):
        end = os.lseek(fd, 0, os.SEEK_CUR) + len(data)
        return real(fd, data if end != last + 1 else bytes(data[:-1]) + bytes([data[-1] ^ 1]))

    monkeypatch.setattr(os, "write", turning)
    with pytest.raises(UnreadableFile, match="the bytes of w are not those of the source"):
        convert(tmp_path / "a.pth", tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()
