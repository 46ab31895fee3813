"""average_files: the mean that torch computes, of any containers, or a clear refusal and nothing written."""

from __future__ import annotations

import pytest
import torch

import rekindle as rk
from rekindle.errors import CannotWrite, UnreadableFile


def torch_mean(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The same in torch: float32 sums (float64 where one is), one division, one rounding."""
    wide = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    total = tensors[0].to(wide)
    for tensor in tensors[1:]:
        total = total + tensor.to(wide)
    return (total / len(tensors)).to(tensors[-1].dtype)


def state(seed: int) -> dict[str, object]:
    torch.manual_seed(seed)
    base = torch.randn(300, 1000)  # more elements than one step takes
    return {
        "single": base,
        "half": torch.randn(7, 3).half(),
        "brain": torch.randn(1001).bfloat16(),
        "double": torch.randn(5, dtype=torch.float64) * 1e300,
        "strided": torch.randn(6, 4).t()[1:, ::2],
        "eight": torch.randn(64).to(torch.float8_e5m2),
        "odd": torch.tensor([torch.inf, torch.nan, 0.0, 65504.0]),
        "scalar": torch.tensor(float(seed)),
        "empty": torch.zeros(0, 3),
        "count": torch.tensor(seed),
        "mask": torch.rand(4) > 0.5,
        "complex": torch.randn(3, dtype=torch.complex64),
    }


def saved(tmp_path, count=3, suffix="pth", make=state):
    paths = []
    for seed in range(count):
        paths.append(tmp_path / f"{seed}.{suffix}")
        if suffix == "safetensors":
            from safetensors.torch import save_file

            save_file({key: value.contiguous() for key, value in make(seed).items()}, paths[-1])
        else:
            torch.save(make(seed), paths[-1], _use_new_zipfile_serialization=suffix != "old")
    return paths


AVERAGED = ("single", "half", "brain", "double", "strided", "eight", "odd", "scalar", "empty")


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "old"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_mean_is_bit_for_bit_what_torch_computes(tmp_path, suffix, count):
    paths = saved(tmp_path, count, suffix)
    done = rk.average_files(paths, tmp_path / "mean.pth")
    found = torch.load(tmp_path / "mean.pth", weights_only=True)
    for key, last in state(count - 1).items():
        expected = torch_mean([state(seed)[key] for seed in range(count)]) if key in AVERAGED else last
        assert found[key].dtype == expected.dtype, key
        bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (found[key], expected)]
        assert torch.equal(*bits) or (key == "odd" and torch.equal(found[key].isnan(), expected.isnan())), key
    (said,) = [finding for finding in done.findings if finding.code == "RK-CONV-18"]
    assert said.what.startswith(f"9 tensors are the mean of {count} files; 3 others and all plain values are those of ")
    assert done.verified


def test_tied_weights_stay_tied_and_everything_else_is_the_last_file_s(tmp_path):
    for seed in range(2):
        weight = torch.full((4, 4), float(seed))
        step = torch.tensor(float(10 * seed))
        torch.save(
            {"model": {"a": weight, "b": weight}, "optimizer": {"state": {0: {"step": step}}}, "epoch": seed},
            tmp_path / f"{seed}.pth",
        )
    rk.average_files([tmp_path / "0.pth", tmp_path / "1.pth"], tmp_path / "mean.pth")
    found = torch.load(tmp_path / "mean.pth", weights_only=True)
    assert found["epoch"] == 1
    assert found["model"]["a"].data_ptr() == found["model"]["b"].data_ptr()
    assert found["model"]["a"].unique().tolist() == [0.5]
    assert found["optimizer"]["state"][0]["step"] == 10.0  # a counter of steps has no mean


def test_a_part_a_type_and_files_of_several_containers_go_together(tmp_path):
    from safetensors.torch import save_file

    torch.save({"model": {"w": torch.ones(3)}, "epoch": 1}, tmp_path / "a.pth")
    torch.save({"model": {"w": torch.ones(3).double() * 2}, "epoch": 1}, tmp_path / "b.pth")
    done = rk.average_files(
        [tmp_path / "a.pth", tmp_path / "b.pth"], tmp_path / "m.safetensors", part="model", dtype="bfloat16"
    )
    assert [(row.key, row.dtype) for row in done.written] == [("w", "bfloat16")]
    save_file({"w": torch.zeros(3)}, tmp_path / "c.safetensors")
    rk.average_files([tmp_path / "m.safetensors", tmp_path / "c.safetensors"], tmp_path / "n.pth")
    assert torch.load(tmp_path / "n.pth", weights_only=True)["w"].tolist() == [0.75] * 3


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"v": torch.ones(2)}, "w is missing in "),
        ({"w": torch.ones(3)}, "w is [3] in "),
        ({"w": torch.ones(2), "v": torch.ones(2)}, "v is in "),
        ({"w": torch.ones(2, dtype=torch.int64)}, "w is int64 in "),
    ],
)
def test_files_of_other_models_are_refused_by_name_and_nothing_is_written(tmp_path, other, words):
    torch.save(other, tmp_path / "a.pth")
    torch.save({"w": torch.ones(2)}, tmp_path / "b.pth")
    with pytest.raises(CannotWrite) as raised:
        rk.average_files([tmp_path / "a.pth", tmp_path / "b.pth"], tmp_path / "m.pth")
    assert raised.value.what.startswith(words)
    assert f"rekindle diff {tmp_path / 'a.pth'} {tmp_path / 'b.pth'}" in raised.value.do
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "b.pth"]


def test_one_file_and_files_without_floats_have_no_mean(tmp_path):
    torch.save({"n": torch.ones(2, dtype=torch.int64)}, tmp_path / "a.pth")
    for sources in ([tmp_path / "a.pth"], [tmp_path / "a.pth"] * 2):
        with pytest.raises(CannotWrite, match=r"averaged"):
            rk.average_files(sources, tmp_path / "m.pth")


def test_a_changed_byte_in_any_of_the_files_stops_it(tmp_path):
    paths = saved(tmp_path, 3)
    data = bytearray(paths[1].read_bytes())
    data[len(data) // 2] ^= 1
    paths[1].write_bytes(data)
    with pytest.raises(UnreadableFile, match="CRC-32"):
        rk.average_files(paths, tmp_path / "m.pth")
    assert not (tmp_path / "m.pth").exists()


def test_weights_tied_in_one_file_only_are_refused(tmp_path):
    weight = torch.ones(2)
    net = {"a": weight, "b": weight}
    torch.save({"one": net, "two": net}, tmp_path / "tied.pth")
    loose = {"one": {"a": torch.ones(2), "b": torch.ones(2)}, "two": {"a": torch.zeros(2), "b": torch.ones(2)}}
    torch.save(loose, tmp_path / "loose.pth")
    with pytest.raises(CannotWrite, match="untied"):
        rk.average_files([tmp_path / "loose.pth", tmp_path / "tied.pth"], tmp_path / "m.pth")


def test_the_command_takes_all_files_and_one_name(tmp_path, cli):
    saved(tmp_path, 2)
    done = cli("convert", "--average", "0.pth", "1.pth", "-o", "mean.pth", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "9 tensors are the mean of 2 files" in done.stdout
    assert rk.load(tmp_path / "mean.pth")["scalar"] == 0.5
    both = ["--average", "0.pth", "1.pth"]
    for words in (both, [*both, "-o", "m.pth", "--drop", "x"], ["0.pth"]):
        done = cli("convert", *words, cwd=tmp_path)
        assert done.returncode == 2
        assert "rekindle convert" in done.stderr
    assert not (tmp_path / "m.pth").exists()


def test_a_mean_that_is_there_already_is_replaced_by_the_command_that_is_named(tmp_path, cli):
    saved(tmp_path, 2)
    (tmp_path / "mean.pth").write_bytes(b"precious")
    words = ["convert", "--average", "0.pth", "1.pth", "-o", "mean.pth"]
    done = cli(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "  do      rekindle convert --average 0.pth 1.pth -o mean.pth --force"
    assert (tmp_path / "mean.pth").read_bytes() == b"precious"
    assert cli(*words, "--force", cwd=tmp_path).returncode == 0
    assert rk.load(tmp_path / "mean.pth")["scalar"] == 0.5
