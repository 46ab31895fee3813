"""Installed, it speaks after the traceback and changes nothing else: in scripts, threads, notebooks and pytest."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import rekindle
from rekindle.explain import install, uninstall
from rekindle.explain.hooks import load_ipython_extension, unload_ipython_extension

KNOWN = "raise RuntimeError('mat1 and mat2 shapes cannot be multiplied (16x576 and 400x120)')\n"
INSTALL = "import rekindle\nrekindle.explain.install()\n"


def python(source: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(source)
    return subprocess.run([sys.executable, *words, "train.py"], cwd=folder, capture_output=True, text=True, timeout=60)


def test_after_the_traceback_comes_the_explanation(tmp_path):
    plain = python(KNOWN, tmp_path)
    done = python(INSTALL + KNOWN, tmp_path)
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout) == (1, "")
    assert done.stderr.startswith(plain.stderr.replace("line 1", "line 3"))
    said = done.stderr.split("rekindle explains:\n")[1]
    assert said.splitlines()[0].endswith("  [RK-SHAPE-01]")
    assert "  where   train.py:3  raise RuntimeError(" in said


@pytest.mark.parametrize("end", ["raise ValueError('three')\n", "import sys; sys.exit(7)\n", "print('done')\n"])
def test_what_is_not_known_ends_as_without_it(tmp_path, end):
    plain = python("\n\n" + end, tmp_path)
    done = python(INSTALL + end, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)


def test_installing_imports_no_torch(tmp_path):
    done = python(INSTALL + "import sys; print([n for n in ('torch', 'numpy', 'rich') if n in sys.modules])", tmp_path)
    assert done.stdout == "[]\n"


def test_a_thread_that_fails_is_explained(tmp_path):
    source = (
        f"{INSTALL}import threading\ndef work():\n    {KNOWN}t = threading.Thread(target=work); t.start(); t.join()\n"
    )
    done = python(source, tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("[RK-SHAPE-01]") == 1


def test_the_hook_that_was_there_still_runs_and_comes_back(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: seen.append(args))
    mine, threads = sys.excepthook, threading.excepthook
    install()
    install()
    try:
        error = RuntimeError("mat1 and mat2 shapes cannot be multiplied (16x576 and 400x120)")
        sys.excepthook(RuntimeError, error, None)
        assert seen == [(RuntimeError, error, None)]
        assert capsys.readouterr().err.count("[RK-SHAPE-01]") == 1
    finally:
        uninstall()
    assert sys.excepthook is mine
    assert threading.excepthook is threads


def test_a_fault_in_the_explanation_does_not_take_the_tracebacks_place(monkeypatch, capsys):
    from rekindle.explain import hooks

    def broken(error):
        raise SystemError("a fault of ours")

    monkeypatch.setattr(hooks, "explain_exception", broken)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    install()
    try:
        sys.excepthook(ValueError, ValueError("theirs"), None)
    finally:
        uninstall()
    said = capsys.readouterr().err
    assert said.strip() == "ValueError: theirs"


class Shell:
    """What IPython's shell has of this: `showtraceback`, which a failed cell calls while the exception is handled."""

    def __init__(self):
        self.shown = 0

    def showtraceback(self):
        self.shown += 1


def test_a_failed_cell_is_explained_below_its_traceback(capsys):
    shell = Shell()
    load_ipython_extension(shell)
    load_ipython_extension(shell)
    try:
        exec(KNOWN)
    except RuntimeError:
        shell.showtraceback()
    assert shell.shown == 1
    assert capsys.readouterr().err.count("[RK-SHAPE-01]") == 1
    unload_ipython_extension(shell)
    try:
        exec(KNOWN)
    except RuntimeError:
        shell.showtraceback()
    assert shell.shown == 2
    assert capsys.readouterr().err == ""


def test_a_real_ipython_shell_explains_a_cell(tmp_path):
    pytest.importorskip("IPython")
    source = (
        "from IPython.core.interactiveshell import InteractiveShell\nshell = InteractiveShell.instance()\n"
        f"shell.run_cell('%load_ext rekindle.explain')\nshell.run_cell({KNOWN!r})\n"
    )
    done = python(source, tmp_path)
    assert (done.stdout + done.stderr).count("[RK-SHAPE-01]") == 1


TEST_FILE = f"""
import pytest

def test_known():
    {KNOWN}
def test_own():
    assert 1 == 2

@pytest.mark.xfail
def test_expected():
    {KNOWN}"""


@pytest.mark.parametrize(
    ("words", "count"), [([], 0), (["--rekindle-explain"], 1), (["-o", "rekindle_explain=true"], 1)]
)
def test_pytest_explains_a_failed_test_when_asked(tmp_path, words, count):
    (tmp_path / "test_net.py").write_text(TEST_FILE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_plugin(), *words, "test_net.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "2 failed, 1 xfailed" in done.stdout
    assert done.stdout.count("[RK-SHAPE-01]") == count, done.stdout + done.stderr


def _plugin() -> list[str]:
    """Name the plugin where this installation was made before it had one."""
    from importlib.metadata import entry_points

    found = [point for point in entry_points(group="pytest11") if point.name == "rekindle"]
    return [] if found else ["-p", "rekindle.explain.pytest_plugin"]


def test_the_package_is_an_attribute_of_rekindle():
    assert rekindle.explain.install is install
