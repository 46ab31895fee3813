"""`rekindle verify` as it is typed: what it prints, its JSON, its exit codes."""

import json

import pytest
import torch
from safetensors.torch import save_file

MODEL = {"w": torch.arange(60.0).reshape(6, 10), "b": torch.ones(7)}


@pytest.fixture
def damaged(tmp_path):
    torch.save(MODEL, tmp_path / "model.pth")
    raw = bytearray((tmp_path / "model.pth").read_bytes())
    raw[raw.index(MODEL["w"].numpy().tobytes()) + 9] ^= 1
    (tmp_path / "bad.pth").write_bytes(raw)
    return tmp_path


def test_a_whole_file_gives_zero_and_says_so(cli, damaged):
    done = cli("verify", "model.pth")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"model.pth: torch-zip, {(damaged / 'model.pth').stat().st_size / 1000:.1f} kB, whole",
        "  verified by a checksum  9 of 9 parts",
        "  archive's fingerprint   holds",
    ]


def test_damage_gives_one_and_names_the_tensor_and_what_to_type(cli, damaged):
    done = cli("verify", "bad.pth")
    assert (done.returncode, done.stderr) == (1, "")
    assert "bad/data/0" not in done.stdout  # the folder inside keeps the name that the file had
    assert "    model/data/0  its CRC-32 is " in done.stdout
    assert "      tensors: w\n" in done.stdout
    assert done.stdout.splitlines()[-1] == "next: rekindle salvage bad.pth"
    assert cli("salvage", "bad.pth").returncode == 1


def test_json_has_the_contract(cli, damaged):
    done = cli("verify", "bad.pth", "--json")
    body = json.loads(done.stdout)
    assert set(body) >= {"path", "format", "checked", "damaged", "unverifiable", "findings"}
    assert [row for row in body["checked"] if not row["ok"] and row["how"] == "crc32"] == [
        {"member": "model/data/0", "how": "crc32", "ok": False, "bytes": 240}
    ]
    assert [row["keys"] for row in body["damaged"]] == [["w"]]


def test_several_paths_are_each_verified_and_the_worst_counts(cli, damaged):
    assert cli("verify", "model.pth", "bad.pth").returncode == 1
    done = cli("verify", "model.pth", "bad.pth", "none.pth", "--json")
    assert done.returncode == 2
    files = json.loads(done.stdout)["files"]
    assert [set(file) >= {"checked"} for file in files] == [True, True, False]


def test_what_cannot_be_verified_is_said_and_is_a_no_when_that_is_asked(cli, tmp_path):
    save_file(MODEL, tmp_path / "a.safetensors")
    done = cli("verify", "a.safetensors")
    assert done.returncode == 0
    assert "not verifiable" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[-1] == "next: rekindle verify --record a.safetensors"
    assert cli("verify", "--strict", "a.safetensors").returncode == 1
    done = cli("verify", "--record", "a.safetensors")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "recorded: a.safetensors.rekindle.json")
    assert cli("verify", "--strict", "a.safetensors").returncode == 0


def test_another_kind_of_file_gives_two(cli, tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html></html>")
    done = cli("verify", "page.pth")
    assert (done.returncode, done.stdout) == (2, "")
    assert "a web page" in done.stderr


def test_control_characters_of_a_file_never_reach_the_terminal(cli, tmp_path):
    torch.save({"\x1b[2Jw": MODEL["w"]}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    done = cli("verify", "a.pth")
    assert "\x1b" not in done.stdout
    assert r"\x1b[2Jw" in done.stdout
