"""`rekindle doctor` as people and programs run it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def wrapped(tmp_path: Path) -> Path:
    torch.save({"module.w": torch.ones(4, 2), "module.b": torch.ones(2)}, tmp_path / "m.pth")
    return tmp_path / "m.pth"


def test_text_ends_with_what_to_type(wrapped: Path, cli: Cli):
    done = cli("doctor", "m.pth")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == (
        f"m.pth: torch-zip, state_dict, {wrapped.stat().st_size / 1000:.1f} kB, 2 tensors: 1 warning\n"
        "\n"
        "warning  m.pth: all 2 keys carry the name of a wrapper: module.w  [RK-FILE-65]\n"
        "  why     the state dict was taken from DataParallel or DistributedDataParallel, not from the model "
        "inside it; "
        "load_state_dict of the plain model then calls every key missing and every other one unexpected\n"
        "  do      rekindle doctor m.pth --fix m.fixed.pth\n"
        "\n"
        "next\n"
        "  rekindle doctor m.pth --fix m.fixed.pth\n"
        "  rekindle doctor m.pth --values\n"
    )


def test_json_is_one_object_with_the_promised_fields(wrapped: Path, cli: Cli):
    found = json.loads(cli("doctor", "m.pth", "--json").stdout)
    assert set(found) >= {"path", "format", "findings"}
    (finding,) = found["findings"]
    assert {key: finding[key] for key in ("code", "name", "severity", "where", "do")} == {
        "code": "RK-FILE-65",
        "name": "wrapper-prefix",
        "severity": "warning",
        "where": {"key": "module.w"},
        "do": "rekindle doctor m.pth --fix m.fixed.pth",
    }


def test_a_good_file_is_code_0_and_says_so(tmp_path: Path, cli: Cli):
    torch.save({"w": torch.ones(4, 2)}, tmp_path / "m.pth")
    done = cli("doctor", "m.pth", "--values")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("1 tensor: nothing wrong was found\n")


def test_fix_says_what_it_did(wrapped: Path, tmp_path: Path, cli: Cli):
    done = cli("doctor", "m.pth", "--fix", "out.pth")
    assert (done.returncode, done.stderr) == (0, "")
    size = (tmp_path / "out.pth").stat().st_size
    assert done.stdout == (
        f"out.pth: 2 tensors, {size / 1000:.1f} kB, equal to the source, bit for bit\n"
        "  the names of wrappers left 2 keys\n"
        "next: rekindle doctor out.pth\n"
    )
    assert list(torch.load(tmp_path / "out.pth")) == ["w", "b"]
    again = cli("doctor", "m.pth", "--fix", "out.pth")
    assert again.returncode == 2
    assert "rekindle doctor m.pth --fix out.pth --force" in again.stderr
    found = json.loads(cli("doctor", "m.pth", "--fix", "out.pth", "--force", "--json").stdout)
    assert found["written"] == [
        {"key": "w", "dtype": "float32", "shape": [4, 2]},
        {"key": "b", "dtype": "float32", "shape": [2]},
    ]
    assert found["lost"] == []


def test_several_files_are_examined_one_after_the_other(wrapped: Path, tmp_path: Path, cli: Cli):
    torch.save({"w": torch.ones(1)}, tmp_path / "good.pth")
    done = cli("doctor", "good.pth", "gone.pth", "m.pth")
    assert done.returncode == 2
    assert "gone.pth: no such file" in done.stderr
    assert "m.pth: torch-zip" in done.stdout
    found = json.loads(cli("doctor", "good.pth", "m.pth", "--json").stdout)
    assert [len(one["findings"]) for one in found["files"]] == [0, 1]
    assert cli("doctor", "good.pth", "m.pth", "--fix", "out.pth").returncode == 2


@pytest.mark.parametrize("words", [["gone.pth"], ["m.pth", "--for", "soon"], ["m.pth", "--fix", "out.xyz"]])
def test_what_cannot_be_done_is_three_lines_and_code_2(wrapped: Path, cli: Cli, words: list[str]):
    done = cli("doctor", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "  do      " in done.stderr


HOSTILE = "\x1b[2Jm\u202e\n"


def test_hostile_names_reach_no_terminal(tmp_path: Path, cli: Cli):
    torch.save({f"module.{HOSTILE}.w": torch.zeros(9, 9), "module.b": torch.ones(2).double()}, tmp_path / "e\x1b.pth")
    for options in ([], ["--values"], ["--fix", "out.pth"], ["--json"]):
        done = cli("doctor", "e\x1b.pth", *options)
        assert done.returncode in (0, 1)
        assert not set(done.stdout + done.stderr) & set("\x1b\u202e")


def test_the_help_has_an_example(cli: Cli):
    done = cli("doctor", "--help")
    assert done.returncode == 0
    assert "rekindle doctor model.pth" in done.stdout


def test_neither_torch_nor_numpy_is_loaded(wrapped: Path):
    code = (
        "import sys; from rekindle.cli import main; main(['doctor', 'm.pth', '--values']);"
        "main(['doctor', 'm.pth', '--fix', 'o.pth']); assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=wrapped.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
