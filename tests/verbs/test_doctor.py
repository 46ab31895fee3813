"""`doctor` as a function: worst first, what is offered works, and `fix` writes what every torch and model takes."""

from __future__ import annotations

import collections
import errno
import os
from pathlib import Path

import pytest
import torch
from archives import changed
from doctoring import DEVICES, examine
from safetensors.torch import load_file
from torch import nn

from rekindle.errors import CannotWrite, UnreadableFile
from rekindle.verbs.doctor import doctor, fix, local_devices


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Listed(list):
    """A list of a class that nobody else has."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(8)
        self.register_buffer("cache", torch.zeros(3), persistent=False)


def test_findings_come_worst_first():
    weight = torch.ones(100_000)
    weight[7] = float("nan")
    torch.save(
        {"module.w": weight, "module.cut": torch.zeros(100_000)[:3], "module.f": torch.ones(9).double()}, "m.pth"
    )
    diagnosis = examine("m.pth", values=True)
    ranks = [finding.severity.rank for finding in diagnosis.findings]
    assert ranks == sorted(ranks)
    assert [finding.name for finding in diagnosis.findings] == [
        "non-finite-values",
        "wrapper-prefix",
        "needless-bytes",
        "double-precision",
    ]
    assert diagnosis.commands == (
        "rekindle doctor m.pth --fix m.fixed.pth",
        "rekindle convert m.pth m.float32.pth --dtype float32",
    )


def test_what_would_not_work_is_not_offered():
    torch.save({"module.w": torch.ones(100)}, "whole.pth")
    short = changed(
        Path("whole.pth"), Path("m.pth"), lambda name, data: (name, data[:-4] if name.endswith("data/0") else data)
    )
    diagnosis = doctor(short, devices=DEVICES)
    names = {finding.name: finding for finding in diagnosis.findings}
    assert "storage-size-mismatch" in names
    assert names["wrapper-prefix"].do == ""
    assert diagnosis.commands == ()


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"", "empty-file"), (b"<!DOCTYPE html><title>Log in</title>", "web-page"), (b"\0" * 9000, "zero-filled-file")],
)
def test_what_is_no_model_is_one_finding(content: bytes, name: str):
    Path("m.pth").write_bytes(content)
    diagnosis = doctor("m.pth", devices=DEVICES)
    assert [finding.name for finding in diagnosis.findings] == [name]
    assert (diagnosis.format, diagnosis.listed, diagnosis.commands) == ("not-a-model", False, ())


def test_readers_findings_are_shown_with_those_of_checks():
    torch.save({"module.w": torch.ones(100)}, "m.pth", _use_new_zipfile_serialization=False)
    with open("m.pth", "ab") as file:
        file.write(b"more")
    assert {finding.name for finding in doctor("m.pth", devices=DEVICES).findings} >= {
        "trailing-bytes",
        "wrapper-prefix",
    }


def test_missing_shards_are_named():
    Path("model.safetensors.index.json").write_text(
        '{"metadata": {"total_size": 8}, "weight_map": {"w": "model-00001-of-00001.safetensors"}}'
    )
    names = [finding.name for finding in doctor(".", devices=DEVICES).findings]
    assert "missing-shard" in names


# --- fix


def test_a_whole_wrapped_model_becomes_the_state_dict_of_the_plain_one():
    torch.manual_seed(0)
    model = Net()
    torch.save({"net": nn.DataParallel(model), "epoch": 3}, "m.pth")
    done = fix("m.pth", "out.pth")
    state, wanted = torch.load("out.pth"), model.state_dict()
    assert list(state) == list(wanted)
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)
    assert all(type(value) is torch.Tensor and not value.requires_grad for value in state.values())
    assert state["embed.weight"].data_ptr() == state["head.weight"].data_ptr()
    assert done.done == (
        "the state dict of the module torch.nn.parallel.data_parallel.DataParallel under ['net'] was taken",
        "left out: epoch",
        "the names of wrappers left 7 keys",
    )
    assert doctor("out.pth", devices=DEVICES).findings == ()


def test_safetensors_gets_every_key():
    model = Net()
    torch.save({"net": model, "epoch": 3}, "m.pth")
    fix("m.pth", "out.safetensors")
    state, wanted = load_file("out.safetensors"), model.state_dict()
    assert set(state) == set(wanted)
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)


def test_what_has_no_weights_goes_over_as_plain_data_and_what_stays_behind_is_listed():
    listed = Listed([torch.ones(3)])
    value = {"one": {"w": torch.ones(2)}, "two": {"w": torch.zeros(2)}, "n": torch.relu, "epoch": 3, "l": listed}
    torch.save(value, "m.pth", pickle_protocol=4)
    done = fix("m.pth", "out.pth")
    loaded = torch.load("out.pth")
    assert loaded["epoch"] == 3
    assert torch.equal(loaded["two"]["w"], torch.zeros(2))
    assert torch.equal(loaded["l"][0], torch.ones(3))
    assert type(loaded["l"]) is list
    assert done.is_whole
    assert loaded.get("n") != torch.relu


def test_transposed_and_strided_tensors_keep_their_values():
    base = torch.randn(4, 6)
    torch.save({"module.t": base.t(), "module.s": base[:, ::2], "module.e": base[:1].expand(3, 6)}, "m.pth")
    fix("m.pth", "out.pth")
    loaded = torch.load("out.pth")
    assert torch.equal(loaded["t"], base.t())
    assert torch.equal(loaded["s"], base[:, ::2])
    assert torch.equal(loaded["e"], base[:1].expand(3, 6))


def test_nothing_is_replaced_without_force_and_the_source_may_be():
    torch.save(collections.OrderedDict({"module.w": torch.ones(2)}), "m.pth")
    before = Path("m.pth").read_bytes()
    with pytest.raises(CannotWrite, match="there is a file or folder of this name already"):
        fix("m.pth", "m.pth")
    assert Path("m.pth").read_bytes() == before
    fix("m.pth", "m.pth", force=True)
    assert list(torch.load("m.pth")) == ["w"]


def test_a_truncated_source_writes_nothing():
    torch.save({"w": torch.ones(1000)}, "m.pth")
    data = Path("m.pth").read_bytes()
    Path("m.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableFile):
        fix("m.pth", "out.pth")
    assert os.listdir() == ["m.pth"]


def test_a_full_disk_leaves_nothing_behind(monkeypatch):
    torch.save({"module.w": torch.ones(1000)}, "m.pth")

    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            fix("m.pth", "out.pth")
    assert os.listdir() == ["m.pth"]


def test_devices_are_counted_without_torch(monkeypatch):
    monkeypatch.setattr(os, "listdir", lambda _: ["null", "nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert local_devices()["cuda"] == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert local_devices()["cuda"] == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "cuda" not in local_devices()


def test_a_cut_file_is_offered_to_salvage_with_the_number_of_whole_tensors():
    torch.save({f"w{i}": torch.full((1000,), float(i + 1)) for i in range(8)}, "m.pth")
    data = Path("m.pth").read_bytes()
    Path("m.pth").write_bytes(data[: len(data) // 2])
    diagnosis = examine("m.pth")
    (finding,) = [finding for finding in diagnosis.findings if finding.name == "truncated-archive"]
    rescued = load_file("m.rescued.safetensors")
    assert 0 < len(rescued) < 8
    assert finding.do == (
        f"rekindle salvage m.pth -o m.rescued.safetensors     ({len(rescued)} of 8 tensors are whole; or copy or "
        "download it again and compare the sizes)"
    )
    assert diagnosis.commands == ("rekindle salvage m.pth -o m.rescued.safetensors",)


def test_salvage_is_not_offered_where_nothing_is_whole():
    torch.save({"w": torch.ones(10_000)}, "m.pth")
    Path("m.pth").write_bytes(Path("m.pth").read_bytes()[:2000])
    diagnosis = doctor("m.pth", devices=DEVICES)
    assert [finding.name for finding in diagnosis.findings] == ["truncated-archive"]
    assert diagnosis.commands == ()
