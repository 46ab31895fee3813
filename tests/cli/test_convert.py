"""`rekindle convert`, as it is typed."""

import json
import os
import stat
import sys

import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture
def checkpoint(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2).state_dict(), "epoch": 3}, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def test_it_says_what_was_written_and_what_was_not(cli, checkpoint, tmp_path):
    done = cli("convert", "a.pth", "a.safetensors")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("a.safetensors: safetensors, 2 tensors, ")
    assert "not written: 1 other values\n  epoch  a plain value; safetensors holds tensors only\n" in done.stdout
    assert "rekindle convert a.pth a.safetensors --part model" in done.stdout
    assert done.stderr == ""
    assert set(load_file(tmp_path / "a.safetensors")) == {"model.weight", "model.bias"}


def test_json_is_one_object_and_nothing_else(cli, checkpoint):
    done = cli("convert", "a.pth", "b.safetensors", "--part", "model", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert (report["source"], report["target"]) == ("a.pth", "b.safetensors")
    assert report["written"] == [
        {"key": "weight", "dtype": "float32", "shape": [2, 2]},
        {"key": "bias", "dtype": "float32", "shape": [2]},
    ]
    assert report["lost"] == []
    assert report["findings"] == []


def test_lost_tensors_give_exit_code_1(cli, tmp_path):
    torch.save({"w": torch.ones(1), "z": torch.ones(1, dtype=torch.complex128)}, tmp_path / "a.pth")
    done = cli("convert", "a.pth", "a.safetensors", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["lost"] == [
        {"key": "z", "why": "safetensors has no type for complex128", "tensor": True}
    ]


def test_an_existing_target_needs_force(cli, checkpoint, tmp_path):
    (tmp_path / "b.pth").write_bytes(b"precious")
    done = cli("convert", "a.pth", "b.pth")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "b.pth: there is a file of this name already\n"
        "  why     nothing is replaced unless you say so\n"
        "  do      rekindle convert a.pth b.pth --force\n"
    )
    assert (tmp_path / "b.pth").read_bytes() == b"precious"
    assert cli("convert", "a.pth", "b.pth", "--force").returncode == 0


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("none.pth", "b.pth", "none.pth: no such file or directory"),
        ("a.pth", "no/b.pth", "no such file or directory"),
        ("a.pth", ".", "is a folder"),
        ("a.pth", "b.xyz", "the suffix '.xyz' does not say which container to write"),
    ],
)
def test_what_cannot_be_done_is_three_lines_and_exit_code_2(cli, checkpoint, source, target, message):
    done = cli("convert", source, target)
    assert done.returncode == 2
    assert message in done.stderr
    assert "  do " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_said(cli, checkpoint, tmp_path):
    (tmp_path / "locked").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    done = cli("convert", "a.pth", "locked/b.pth")
    assert done.returncode == 2
    assert "permission denied" in done.stderr


def test_names_from_a_file_never_reach_the_terminal_raw(cli, tmp_path):
    torch.save({"w": torch.ones(1), "\x1b[31mred\u202e": torch.ones(1, dtype=torch.complex128)}, tmp_path / "a.pth")
    done = cli("convert", "a.pth", "a.safetensors")
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "red" in done.stdout


def test_torch_is_never_imported(tmp_path, checkpoint):
    import subprocess

    code = (
        "import sys; from rekindle.cli import main; assert main(['convert', 'a.pth', 'b.safetensors']) == 0; "
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_shows_an_example(cli):
    assert "rekindle convert runs/digits digits.pth" in cli("convert", "--help").stdout
