"""The file side where torch and NumPy are not installed; `make bare` does the same in a real bare environment."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = "import sys; sys.modules.update(dict.fromkeys(['torch', 'numpy', 'safetensors']));"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_files_can_be_listed_and_converted_without_torch_and_numpy():
    done = run(
        f"{BLOCK} import runpy; runpy.run_path({str(ROOT / 'scripts' / 'bare_check.py')!r}, run_name='__main__')"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bare: ")


def test_torch_is_really_blocked_in_the_test_above():
    assert "ModuleNotFoundError" in run(f"{BLOCK} import torch").stderr


def test_importing_the_file_side_loads_no_torch():
    modules = [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for folder in ("formats", "unpickling", "verbs", "writers", "store", "cli")
        for path in (ROOT / "src" / "rekindle" / folder).glob("*.py")
    ]
    assert len(modules) > 20
    imports = "; ".join(f"import {name}" for name in [*modules, "rekindle", "rekindle.render", "rekindle.listing"])
    done = run(f"{imports}; import sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_the_test_above_can_fail():
    assert run("import torch, sys; sys.exit('torch' in sys.modules)").returncode == 1


def test_the_bare_package_needs_nothing_large():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [need.split(">")[0] for need in project["dependencies"]] == ["rich"]


@pytest.mark.parametrize("name", ["Run", "load", "save", "schedule"])
def test_what_needs_torch_says_how_to_install_it(name):
    done = run(f"import sys; sys.modules['torch'] = None; import rekindle as rk; rk.{name}")
    assert done.returncode == 1
    what, why, do = done.stderr.splitlines()[-3:]
    assert what == f"ImportError: rekindle.{name} needs torch, which is not installed in this Python"
    assert why.startswith("  why     rekindle itself installs without it")
    assert do.endswith("-m pip install 'rekindle[train]', or torch alone")
