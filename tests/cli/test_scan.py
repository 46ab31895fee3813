"""`rekindle scan` as a user and as a pipeline runs it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import attacks
import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def files(tmp_path):
    content = {
        "good.pt": attacks.torch_zip(attacks.GOOD),
        "evil.pt": attacks.torch_zip(attacks.reduce_of("os", "system", attacks.ONE)),
        "mine.pkl": b"\x80\x02cmymodels\nNet\n)R.",
        "cut.pkl": attacks.GOOD[:-3],
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "verdict"),
    [
        (["good.pt"], 0, "clean"),
        (["evil.pt"], 1, "dangerous"),
        (["cut.pkl"], 2, "not-analysed"),
        (["mine.pkl"], 3, "notice"),
        (["good.pt", "mine.pkl"], 3, "notice"),
        (["good.pt", "mine.pkl", "cut.pkl"], 2, "not-analysed"),
        (["mine.pkl", "cut.pkl", "evil.pt"], 1, "dangerous"),
        (["missing.pt", "evil.pt"], 1, "dangerous"),
        (["missing.pt", "good.pt"], 2, "not-analysed"),
        (["."], 1, "dangerous"),
    ],
)
def test_the_exit_code_is_the_worst_verdict(cli, files, words, code, verdict):
    plain = cli("scan", *words)
    assert plain.returncode == code, plain.stderr
    done = cli("scan", *words, "--json")
    assert done.returncode == code
    assert json.loads(done.stdout)["verdict"] == verdict


def test_a_dangerous_file_is_explained(cli, files):
    done = cli("scan", "evil.pt")
    assert done.stdout == (
        "dangerous     torch-zip  evil.pt\n"
        "\n"
        "danger  evil.pt > archive/data.pkl, byte 45: imports os.system and calls it: "
        "os.system('touch marker-of-an-attack')  [RK-SCAN-01]\n"
        "  why     it runs commands of the operating system\n"
        "  do      do not load this file; get the model from a source you trust, as safetensors where there is one\n"
    )
    assert done.stderr == ""


def test_a_clean_file_is_said_to_be(cli, files):
    assert cli("scan", "good.pt").stdout == (
        "clean         torch-zip  good.pt\n"
        "\n"
        "clean: followed to the last byte; nothing is imported but what torch.load(weights_only=True) takes\n"
    )


def test_a_folder_is_a_table(cli, files):
    lines = cli("scan", ".").stdout.splitlines()
    assert lines[:4] == [
        "not-analysed  pickle     ./cut.pkl",
        "dangerous     torch-zip  ./evil.pt",
        "clean         torch-zip  ./good.pt",
        "notice        pickle     ./mine.pkl",
    ]


def test_json_has_the_fields_of_the_contract(cli, files):
    value = json.loads(cli("scan", "evil.pt", "--json").stdout)
    assert {"path", "format", "findings", "verdict"} <= set(value)
    (finding,) = value["findings"]
    assert set(finding) == {"code", "name", "severity", "where", "what", "why", "do"}
    assert finding["where"] == {"member": "archive/data.pkl", "offset": 45}
    folder = json.loads(cli("scan", ".", "--json").stdout)
    assert [file["path"] for file in folder["files"]] == ["./cut.pkl", "./evil.pt", "./good.pt", "./mine.pkl"]


def test_sarif_is_written_beside_the_answer(cli, files):
    done = cli("scan", ".", "--sarif", "found.sarif")
    assert done.returncode == 1
    log = json.loads((files / "found.sarif").read_text())
    assert {result["ruleId"] for result in log["runs"][0]["results"]} == {"RK-SCAN-01", "RK-SCAN-02", "RK-SCAN-09"}


def test_a_missing_path_is_three_lines_and_code_2(cli, files):
    done = cli("scan", "missing.pt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("missing.pt: no such file or directory\n  why ")


def test_names_from_a_file_cannot_move_the_cursor(cli, tmp_path):
    name = "x\x1b[2J\u202ey\u200b"
    (tmp_path / "file.pt").write_bytes(attacks.torch_zip(attacks.stack_global(name, "f\x07g", attacks.text("\x1b]0;"))))
    out = cli("scan", "file.pt").stdout
    assert "\\x1b[2J" in out
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u200b\u202e]", out)


def test_help_has_an_example_that_works(cli, files):
    done = cli("scan", "--help")
    assert done.returncode == 0
    assert "rekindle scan model.pth downloads/" in done.stdout


def test_the_hook_for_pre_commit_calls_a_command_that_exists(cli, files):
    text = (ROOT / ".pre-commit-hooks.yaml").read_text()
    (entry,) = re.findall(r"^  entry: (.+)$", text, re.MULTILINE)
    program, *words = entry.split()
    assert program in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert cli(*words, "good.pt").returncode == 0
    assert cli(*words, "evil.pt").returncode == 1
