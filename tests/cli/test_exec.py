"""`rekindle exec` runs a script as python does: output, exit code, traceback, `__main__`; and then it explains."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

KNOWN = "RuntimeError('mat1 and mat2 shapes cannot be multiplied (16x576 and 400x120)')"


def python(folder, *words):
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=60)


SCRIPTS = {
    "ends well": "import sys; print(__name__, __file__, sys.argv, sys.path[0] != '')",
    "exits 3": "import sys; sys.exit(3)",
    "exits with words": "import sys; sys.exit('no data')",
    "exits with True": "import sys; sys.exit(True)",
    "own error": "def f():\n    raise ValueError('three')\nf()",
    "syntax": "def f(:\n    pass",
    "pickles itself": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))))",
    "at exit": "import atexit\natexit.register(lambda: print('bye'))\nprint('hi')",
    "annotations": "print(__annotations__ if '__annotations__' in dir() else {})\nx: int = 1\nprint(__annotations__)",
    "spawns": (
        "import multiprocessing as mp\ndef work(q):\n    q.put(__name__)\nif __name__ == '__main__':\n"
        "    c = mp.get_context('spawn'); q = c.Queue(); p = c.Process(target=work, args=(q,)); p.start()\n"
        "    print(q.get()); p.join(); print(p.exitcode)"
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_does_what_it_does_under_python(tmp_path, name):
    (tmp_path / "train.py").write_text(SCRIPTS[name])
    plain = python(tmp_path, "train.py", "--epochs", "3", "-m", "x", "--help")
    done = python(tmp_path, "-m", "rekindle", "exec", "train.py", "--epochs", "3", "-m", "x", "--help")
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout)
    assert done.stderr == plain.stderr


def test_a_known_error_is_explained_after_pythons_own_traceback(tmp_path):
    (tmp_path / "train.py").write_text(f"def main():\n    raise {KNOWN}\nmain()\n")
    plain = python(tmp_path, "train.py")
    done = python(tmp_path, "-m", "rekindle", "exec", "train.py")
    assert done.returncode == plain.returncode == 1
    traceback, said = done.stderr.split("\nrekindle explains:\n")
    assert traceback == plain.stderr
    assert said.splitlines()[0].endswith("[RK-SHAPE-01]")
    assert said.splitlines()[1].startswith("  where   train.py:2")


def test_a_module_is_run_as_with_python_m(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "__main__.py").write_text("import sys; from . import part; print(sys.argv[1:], __package__)")
    (tmp_path / "pkg" / "part.py").write_text("print(__name__)")
    for name in ("pkg", "pkg.part"):
        plain = python(tmp_path, "-m", name, "--flag", "1")
        done = python(tmp_path, "-m", "rekindle", "exec", "-m", name, "--flag", "1")
        assert (done.returncode, done.stdout, done.stderr) == (0, plain.stdout, "")


def test_the_explanation_can_be_kept_as_json(tmp_path):
    (tmp_path / "train.py").write_text(f"raise {KNOWN}\n")
    done = python(tmp_path, "-m", "rekindle", "exec", "--report", "why.json", "train.py")
    assert done.returncode == 1
    assert json.loads((tmp_path / "why.json").read_text())["causes"][0]["code"] == "RK-SHAPE-01"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no script to run"),
        (["nowhere.py"], "nowhere.py: there is no such script"),
        (["-m", "no_mod"], "no_mod: there is"),
    ],
)
def test_what_cannot_be_run_is_said_in_three_parts(cli, words, said):
    done = cli("exec", *words)
    assert done.returncode == 2
    assert done.stderr.startswith(said)
    assert "  do      " in done.stderr


def test_an_interrupt_ends_it_as_it_ends_python(tmp_path):
    (tmp_path / "train.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "rekindle", "exec", "train.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert b"KeyboardInterrupt" in stderr
