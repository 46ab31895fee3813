"""`rekindle inspect` as people and programs run it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zoo
from torch import nn

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shared = torch.ones(4, 2)
    torch.save({"a": shared, "b": shared, "part": shared[:2], "step": torch.tensor(3), "epoch": 7}, tmp_path / "m.pth")
    return tmp_path / "m.pth"


def test_text_shows_summary_tensors_values_and_what_to_type_next(model: Path, cli: Cli):
    done = cli("inspect", "m.pth")
    size = model.stat().st_size / 1000
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"m.pth: torch-zip, checkpoint, {size:.1f} kB, 4 tensors, 13 elements, float32 (3) int64 (1)\n"
        "\n"
        "  key   dtype    shape   size\n"
        "  a     float32  [4, 2]  32 B\n"
        "  b     float32  [4, 2]  32 B  same as a\n"
        "  part  float32  [2, 2]  16 B  shares storage with a\n"
        "  step  int64    []       8 B\n"
        "\n"
        "values\n"
        "  epoch  7\n"
        "\n"
        "next\n"
        "  rekindle inspect m.pth --tree\n"
        "  rekindle convert m.pth m.safetensors\n"
    )


def test_json_is_one_object_with_the_promised_fields(model: Path, cli: Cli):
    done = cli("inspect", "m.pth", "--json", "--digest")
    found = json.loads(done.stdout)
    assert done.stderr == ""
    assert {key: found[key] for key in ("path", "format", "kind", "bytes", "values", "findings")} == {
        "path": "m.pth",
        "format": "torch-zip",
        "kind": "checkpoint",
        "bytes": model.stat().st_size,
        "values": {"epoch": 7},
        "findings": [],
    }
    part = next(row for row in found["tensors"] if row["key"] == "part")
    assert part == {
        "key": "part",
        "dtype": "float32",
        "shape": [2, 2],
        "stride": [2, 1],
        "device": "cpu",
        "storage": "0",
        "offset": 0,
        "bytes": 16,
        "layout": "strided",
        "digest": zoo.digest(torch.ones(2, 2)),
    }


def test_the_tree_shows_modules_as_torch_does(tmp_path: Path, cli: Cli):
    module = nn.Sequential(nn.Conv2d(3, 64, (7, 7), stride=2), nn.ReLU(inplace=True))
    torch.save(module, tmp_path / "net.pt")
    done = cli("inspect", "net.pt", "--tree")
    assert done.returncode == 0
    assert repr(module) in done.stdout


HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202e\u200b\n\r\x9b31m\x7f"


@pytest.mark.parametrize("options", [[], ["--tree"], ["--json"], ["--digest"]])
def test_hostile_names_reach_no_terminal(tmp_path: Path, cli: Cli, options: list[str]):
    value = {HOSTILE: torch.ones(1), "note" + HOSTILE: HOSTILE, "x": {HOSTILE: {HOSTILE: torch.ones(2)}}}
    torch.save(value, tmp_path / "evil.pt")
    done = cli("inspect", "evil.pt", *options)
    assert done.returncode == 0
    assert not set(done.stdout) & set("\x1b\x07\u202e\u200b\r\x9b\x7f")
    if options == ["--json"]:
        assert json.loads(done.stdout)["tensors"][0]["key"] == HOSTILE
    else:
        assert r"\x1b[2J\x1b]0;owned\x07\u202e\u200b\x0a\x0d\x9b31m\x7f" in done.stdout


def test_a_hostile_file_name_reaches_no_terminal(tmp_path: Path, cli: Cli):
    name = "\x1b[2Jmodel.pt"
    torch.save([torch.ones(1)], tmp_path / name)
    (tmp_path / f"{name}.txt").write_text("hello")
    for path in (name, f"{name}.txt", f"{name}.gone"):
        done = cli("inspect", path)
        assert "\x1b" not in done.stdout + done.stderr


def test_a_file_that_is_no_model_is_three_lines_on_stderr_and_code_2(tmp_path: Path, cli: Cli):
    (tmp_path / "m.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1000\n")
    done = cli("inspect", "m.pth")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error  m.pth: a git-lfs pointer of 67 bytes; the model itself has 1,000 bytes  [RK-FILE-20]\n"
        "  why     the repository was cloned without git-lfs; the content is sha256:ab\n"
        "  do      git lfs install && git lfs pull --include m.pth\n"
    )
    found = json.loads(cli("inspect", "m.pth", "--json").stdout)
    assert found["format"] == "not-a-model"
    assert found["findings"][0]["name"] == "git-lfs-pointer"


def test_a_truncated_file_is_code_2_and_a_damaged_one_code_1(model: Path, cli: Cli):
    data = model.read_bytes()
    model.write_bytes(data[: len(data) // 2])
    done = cli("inspect", "m.pth")
    assert done.returncode == 2
    assert "the archive ends before its directory" in done.stderr
    torch.save({"a": torch.ones(9)}, model, _use_new_zipfile_serialization=False)
    model.write_bytes(model.read_bytes()[:-1])
    done = cli("inspect", "m.pth")
    assert done.returncode == 1
    assert "no bytes in the file" in done.stdout
    assert "storages are missing" in done.stdout


@pytest.mark.parametrize("path", ["gone.pth", "gone/"])
def test_a_missing_file_is_a_message_and_no_traceback(cli: Cli, path: str):
    done = cli("inspect", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_files_are_reported_one_after_the_other(model: Path, tmp_path: Path, cli: Cli):
    (tmp_path / "page.pth").write_text("<html></html>")
    done = cli("inspect", "m.pth", "gone.pth", "page.pth")
    assert done.returncode == 2
    assert done.stdout.startswith("m.pth: torch-zip")
    assert "gone.pth: no such file" in done.stderr
    assert "page.pth: a web page" in done.stderr
    found = json.loads(cli("inspect", "m.pth", "gone.pth", "--json").stdout)
    assert [entry["path"] for entry in found["files"]] == ["m.pth", "gone.pth"]


def test_a_listing_of_many_tensors_ends_and_says_how_many_are_left(tmp_path: Path, cli: Cli):
    torch.save({f"w{index}": torch.zeros(1) for index in range(10_050)}, tmp_path / "many.pt")
    done = cli("inspect", "many.pt")
    assert "… and 50 more (--json lists all)" in done.stdout
    assert len(done.stdout.splitlines()) < 10_020


def test_help_shows_the_example(cli: Cli):
    done = cli("inspect", "--help")
    assert "rekindle inspect model.pth --tree" in done.stdout


def test_the_file_of_one_rank_says_for_each_tensor_which_part_of_which_whole_it_is(tmp_path: Path, cli: Cli):
    golden = Path(__file__).parent.parent / "golden" / "fsdp_ranks" / "tensor" / "model_world_size_4_rank_3.pt"
    shutil.copy(golden, tmp_path / "rank_3.pt")
    lines = cli("inspect", "rank_3.pt").stdout.splitlines()
    assert lines[2:7] == [
        "  key       dtype    shape   size",
        "  0.weight  float32  [2, 6]  48 B  part [8:10, :] of [10, 6]",
        "  0.bias    float32  [2]      8 B  part [8:10] of [10]",
        "  1.weight  float32  [3, 5]  60 B  part [4:7, 5:10] of [7, 10]",
        "  1.bias    float32  [3]     12 B  part [4:7] of [7]",
    ]
    found = json.loads(cli("inspect", "rank_3.pt", "--json").stdout)
    assert {row["key"]: row["part"] for row in found["tensors"]} == found["facts"]["parts"]
    whole = json.loads(cli("inspect", str(golden.parent), "--json").stdout)
    assert not any("part" in row for row in whole["tensors"])
