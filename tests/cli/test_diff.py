"""`rekindle diff`, as it is typed."""

import json
import subprocess
import sys

import pytest
import torch


@pytest.fixture
def files(tmp_path):
    torch.manual_seed(0)
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)).state_dict()
    torch.save(state, tmp_path / "a.pth")
    changed = {key: tensor.clone() for key, tensor in state.items()}
    changed["0.weight"] += 0.5
    changed["1.bias"] = torch.zeros(9)
    torch.save(changed, tmp_path / "b.pth")
    torch.save({"model": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / "c.pth")


def test_the_same_is_one_line_and_exit_code_0(cli, files):
    done = cli("diff", "a.pth", "a.pth")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "a.pth and a.pth: the same, 4 tensors (every bit)\n"


def test_differences_are_a_short_table_and_exit_code_1(cli, files):
    done = cli("diff", "a.pth", "b.pth", "--values")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[:3] == ["a.pth and b.pth: different; 2 tensors are the same (every bit)", "", "changed: 2"]
    assert lines[3].startswith("  0.weight  float32 [3, 2]  other values  6 differ, max 0.5, mean 0.5, cosine 0.")
    assert lines[4] == "  1.bias    float32 [2] -> float32 [9]"


def test_a_prefix_is_one_line(cli, files):
    done = cli("diff", "a.pth", "c.pth")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == ["other names: 4", "  * = model.module.*  4 tensors  (by their endings)"]
    assert cli("diff", "a.pth", "c.pth", "--any-names").returncode == 0
    assert cli("diff", "a.pth", "c.pth", "--take-b", "model", "--any-names").returncode == 0


def test_json_is_one_object_and_nothing_else(cli, files):
    done = cli("diff", "a.pth", "b.pth", "--values", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert (found["a"], found["b"], found["same"], found["only_a"], found["only_b"]) == (
        "a.pth",
        "b.pth",
        False,
        [],
        [],
    )
    weight, bias = found["changed"]
    assert (weight["key"], weight["max_abs"], weight["what"]) == ("0.weight", pytest.approx(0.5), ["values"])
    assert bias == {"key": "1.bias", "a": "float32 [2]", "b": "float32 [9]", "what": ["shape"]}


def test_many_changes_are_gathered_by_section(cli, tmp_path):
    torch.save({f"layer{a}.{b}.weight": torch.zeros(2) for a in range(4) for b in range(30)}, tmp_path / "a.pth")
    torch.save({f"layer{a}.{b}.weight": torch.ones(2) for a in range(4) for b in range(30)}, tmp_path / "b.pth")
    done = cli("diff", "a.pth", "b.pth")
    assert len(done.stdout.splitlines()) < 10
    assert "  layer0.*  30 tensors, the first float32 [2]  other values" in done.stdout


@pytest.mark.parametrize(
    "words", [("a.pth", "none.pth"), ("a.pth", "page.pth"), ("a.pth", "c.pth", "--take-b", "modl")]
)
def test_what_cannot_be_done_is_exit_code_2(cli, files, tmp_path, words):
    (tmp_path / "page.pth").write_text("<!doctype html><html></html>")
    done = cli("diff", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr


def test_names_from_a_file_never_reach_the_terminal_raw(cli, tmp_path):
    torch.save({"\x1b[31mred\u202e": torch.ones(1), "v": "\x1b[2J"}, tmp_path / "a.pth")
    torch.save({"\x1b[32mred\u202e": torch.zeros(2), "v": "\x1b[3J"}, tmp_path / "b.pth")
    done = cli("diff", "a.pth", "b.pth")
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "red" in done.stdout


def test_neither_torch_nor_numpy_is_imported_without_values(tmp_path, files):
    code = (
        "import sys; from rekindle.cli import main; assert main(['diff', 'a.pth', 'b.pth']) == 1; "
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_numpy_values_are_refused_with_the_way_out(tmp_path, files):
    code = "import sys; sys.modules['numpy'] = None; from rekindle.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code]
    done = subprocess.run([*words, "diff", "a.pth", "b.pth", "--values"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "comparing values needs NumPy, which is not installed" in done.stderr
    assert "pip install numpy" in done.stderr


def test_help_shows_an_example(cli):
    assert "rekindle diff before.pth after.safetensors --values" in cli("diff", "--help").stdout
