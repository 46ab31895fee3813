"""`rekindle salvage` as it is typed: what it prints, its JSON, its exit codes, and the findings that lead to it."""

import json
import shlex

import pytest
import torch
from safetensors.torch import load_file, save_file

MODEL = {"w": torch.arange(60.0).reshape(6, 10), "b": torch.linspace(3, 4, 70)}


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    return path


@pytest.fixture
def truncated(tmp_path):
    torch.save({"epoch": 4, **MODEL}, tmp_path / "cut.pth")
    raw = (tmp_path / "cut.pth").read_bytes()
    return cut(tmp_path / "cut.pth", raw.index(MODEL["b"].numpy().tobytes()) + 100)


def test_what_is_whole_is_written_and_what_is_lost_is_named(cli, truncated):
    done = cli("salvage", "cut.pth", "-o", "out.safetensors")
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    size = (truncated.parent / "out.safetensors").stat().st_size
    assert lines[:6] == [
        f"out.safetensors: 1 of 2 tensors are whole, {size} B",
        "  proven by a checksum  1",
        "  whole, not provable   0",
        "  lost                  1",
        "lost:",
        "  b  the file ends inside it: 100 of 280 bytes are there",
    ]
    assert lines[-1] == "next: rekindle inspect out.safetensors"
    assert torch.equal(load_file(truncated.parent / "out.safetensors")["w"], MODEL["w"])


def test_json_has_the_contract(cli, truncated):
    done = cli("salvage", "cut.pth", "--json")
    body = json.loads(done.stdout)
    assert body["target"] == "cut.rescued.safetensors"
    assert body["written"] == [{"key": "w", "dtype": "float32", "shape": [6, 10], "proven": True}]
    assert [loss["key"] for loss in body["lost"] if loss["tensor"]] == ["b"]
    assert set(body) >= {"source", "target", "written", "lost", "findings"}


def test_a_whole_file_gives_zero_and_a_hopeless_one_two(cli, tmp_path):
    torch.save(MODEL, tmp_path / "a.pth")
    assert cli("salvage", "a.pth").returncode == 0
    cut(tmp_path / "a.pth", 120)
    done = cli("salvage", "a.pth", "-o", "b.pth")
    assert (done.returncode, done.stdout) == (2, "")
    assert "do" in done.stderr
    assert not (tmp_path / "b.pth").exists()


@pytest.mark.parametrize("kind", ["zip", "stream", "safetensors"])
def test_the_command_that_the_findings_of_a_cut_file_offer_works(cli, tmp_path, kind):
    path = tmp_path / "a file.bin"
    if kind == "safetensors":
        save_file(MODEL, path)
    else:
        torch.save(MODEL, path, _use_new_zipfile_serialization=kind == "zip")
    raw = path.read_bytes()
    last = max(raw.index(value.numpy().tobytes()) for value in MODEL.values())
    cut(path, last + 4)
    for command in ("inspect", "verify"):
        done = cli(command, path.name, "--json")
        offers = [finding["do"] for finding in json.loads(done.stdout)["findings"] if "salvage" in finding["do"]]
        assert offers, (command, done.stdout)
    words = shlex.split(offers[0])
    assert words[:2] == ["rekindle", "salvage"]
    done = cli(*words[1:])
    assert (done.returncode, done.stderr) == (1, "")
    made = load_file(tmp_path / "a file.rescued.safetensors")
    assert len(made) == 1
    assert all(torch.equal(made[key], MODEL[key]) for key in made)


def test_a_cut_file_with_nothing_whole_is_not_sent_to_salvage(cli, tmp_path):
    torch.save({"w": MODEL["w"]}, tmp_path / "a.pth")
    raw = (tmp_path / "a.pth").read_bytes()
    cut(tmp_path / "a.pth", raw.index(MODEL["w"].numpy().tobytes()) + 4)
    assert "salvage" not in cli("inspect", "a.pth").stderr


def test_like_names_what_lost_its_description(cli, tmp_path):
    torch.save(MODEL, tmp_path / "good.pth")
    raw = bytearray((tmp_path / "good.pth").read_bytes())
    at = raw.index(b"q\x02")
    raw[at - 8 : at] = b"\xff" * 8
    (tmp_path / "hurt.pth").write_bytes(raw)
    flat = cli("salvage", "hurt.pth", "-o", "flat.safetensors")
    assert flat.returncode == 1
    assert "RK-SALV-03" in flat.stdout
    done = cli("salvage", "hurt.pth", "--like", "good.pth", "-o", "named.safetensors")
    assert done.returncode == 0, done.stdout
    made = load_file(tmp_path / "named.safetensors")
    assert all(torch.equal(made[key], MODEL[key]) for key in MODEL)
