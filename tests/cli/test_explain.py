"""`rekindle explain`: a log, stdin, a message, a code; exit 0, 1, 2; one JSON object; no torch, and soon done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import explaining
import pytest

LOGS = Path(__file__).parent.parent / "logs"
MESSAGE = "RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x576 and 400x120)"


def test_a_log_is_explained_with_what_where_why_and_do(cli):
    done = cli("explain", LOGS / "plain" / "linear.log")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].endswith("  [RK-SHAPE-01]")
    assert lines[1] == ("  where   /home/ada/project/train.py:12  return self.head(self.features(images).flatten(1))")
    assert lines[2].startswith("  why     ")
    assert any(line.startswith("  do      ") for line in lines)
    assert lines[-1] == "  more    rekindle explain RK-SHAPE-01"


def test_stdin_is_a_log_too(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rekindle", "explain", "--json"], input=MESSAGE, capture_output=True, text=True
    )
    said = json.loads(done.stdout)
    assert done.returncode == 0
    [cause] = said["causes"][:1]
    assert {"code", "name", "what", "why", "fix", "where"} <= set(cause)
    assert (cause["code"], cause["name"]) == ("RK-SHAPE-01", "shape-linear")
    assert isinstance(cause["fix"], list)


def test_a_message_may_be_given_in_quotes(cli):
    assert "[RK-SHAPE-01]" in cli("explain", MESSAGE).stdout


def test_nothing_fits_says_so_and_what_was_looked_at(cli, tmp_path):
    (tmp_path / "a.log").write_text(
        "Traceback (most recent call last):\n  File \"a.py\", line 3, in f\nKeyError: 'lr'\n"
    )
    done = cli("explain", "a.log")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "a.log: no error that rekindle knows"
    assert lines[1].startswith("  looked  4 lines, 1 failure, ")
    assert lines[2] == "  found   KeyError: 'lr'  at a.py:3"
    assert json.loads(cli("explain", "a.log", "--json").stdout)["causes"] == []


@pytest.mark.parametrize("word", ["RK-SHAPE-01", "rk-shape-01", "shape-linear"])
def test_a_code_or_a_name_gives_the_long_page(cli, word):
    done = cli("explain", word)
    assert done.returncode == 0
    for part in ("# mat1 and mat2 shapes cannot be multiplied", "## Why", "```python", "## Mended"):
        assert part in done.stdout
    assert json.loads(cli("explain", word, "--json").stdout)["code"] == "RK-SHAPE-01"


def test_a_finding_of_doctor_has_its_page(cli):
    done = cli("explain", "RK-FILE-65")
    assert done.returncode == 0
    assert "`RK-FILE-65` `wrapper-prefix`" in done.stdout


def test_a_word_that_is_nothing_gets_the_nearest_name(cli):
    done = cli("explain", "shape-liner")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "  do      rekindle explain shape-linear"
    assert done.stdout == ""


def test_every_known_error_is_listed(cli):
    done = cli("explain", "--list")
    rows = json.loads(cli("explain", "--list", "--json").stdout)["errors"]
    assert len(rows) == len(explaining.headings())
    assert f"{len(rows)} errors" in done.stdout
    assert all(row["code"] in done.stdout for row in rows)


def test_mistakes_that_raise_no_error_are_listed_behind_the_errors(cli):
    from rekindle.pitfalls import pitfall_modules

    lines = cli("explain", "--list").stdout.splitlines()
    [head] = [number for number, line in enumerate(lines) if line.startswith("mistakes that raise no error")]
    listed = [line.split()[0] for line in lines[head + 1 : -2]]
    assert listed == [pitfall.CODE for pitfall in pitfall_modules()]
    assert f"and {len(listed)} pitfalls" in lines[-1]
    found = json.loads(cli("explain", "--list", "--json").stdout)["pitfalls"]
    assert [row["code"] for row in found] == listed
    assert all(row["title"] for row in found)


def test_an_empty_text_is_refused(tmp_path):
    done = subprocess.run([sys.executable, "-m", "rekindle", "explain"], input="", capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("stdin: there is nothing in it")


def test_what_a_log_holds_cannot_move_the_cursor(cli, tmp_path):
    (tmp_path / "evil.log").write_bytes(
        b'Traceback (most recent call last):\n  File "a\x1b[2J\x07.py", line 3, in f\n    x\x08\x9b\n'
        b"RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x576 and 400x120)\x07\xff\n"
    )
    done = cli("explain", "evil.log")
    assert done.returncode == 0
    assert all(letter.isprintable() or letter == "\n" for letter in done.stdout)


def test_a_log_in_utf16_is_read(cli, tmp_path):
    (tmp_path / "powershell.log").write_text(MESSAGE, encoding="utf-16")
    assert "[RK-SHAPE-01]" in cli("explain", "powershell.log").stdout


def test_a_log_is_explained_without_torch_and_without_importing_the_catalogue(tmp_path):
    code = (
        "import sys; from rekindle.cli import main; main(['explain', sys.argv[1]])\n"
        "entries = [n for n in sys.modules if n.startswith('rekindle.explain.catalogue.') and '._' not in n]\n"
        "print([n for n in ('torch', 'numpy', 'rich', 'pickle') if n in sys.modules], len(entries))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(LOGS / "plain" / "linear.log")], capture_output=True, text=True, env=os.environ
    )
    loaded, count = done.stdout.splitlines()[-1].rsplit(" ", 1)
    assert loaded == "[]"
    assert int(count) < 40, "only what the log may be about is imported"
