"""The manual's page about pitfalls is true: its table is the code's, its output is what is printed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "pitfalls.md"


def test_the_table_is_made_from_the_code():
    spec = importlib.util.spec_from_file_location("pitfalls_table", ROOT / "scripts" / "pitfalls_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.with_table(PAGE.read_text()) == PAGE.read_text()


def test_the_first_example_prints_what_the_page_shows(tmp_path):
    pytest.importorskip("torch")
    blocks = dict(
        zip(
            ("python", "text"),
            re.findall(r"^```\w+\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL),
            strict=False,
        )
    )
    (tmp_path / "script.py").write_text(blocks["python"])
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == blocks["text"], done.stderr


def test_explain_prints_the_page_of_a_pitfall(cli):
    done = cli("explain", "RK-PIT-24")
    assert done.returncode == 0
    assert done.stdout.startswith(
        "# Gradients that are never cleared: zero_grad forgotten\n\n"
        "`RK-PIT-24` `gradients-not-cleared`: a finding of `rk.check`, or of `rk.Run`.\n\n## Why\n"
    )
    assert cli("explain", "softmax-before-cross-entropy").returncode == 0
    assert cli("explain", "softmax-before-cross-entrop").returncode == 2


def test_the_words_of_pitfalls_need_no_torch():
    code = (
        "import sys; from rekindle.pitfalls import page_of, find_pitfalls; from rekindle.pitfalls._seen import Seen\n"
        "assert page_of('RK-PIT-01') and not find_pitfalls(Seen()); sys.exit(bool({'torch', 'numpy'} & "
        "set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
