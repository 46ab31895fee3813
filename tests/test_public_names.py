"""The public names: a list that is held, loaded when first used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import rekindle

NAMES = [
    "MemoryWatch",
    "RekindleError",
    "Run",
    "__version__",
    "average_files",
    "convert",
    "diff",
    "doctor",
    "inspect",
    "load",
    "pick_gpus",
    "salvage",
    "save",
    "scan",
    "schedule",
    "to_device",
    "torch_settings",
    "verify",
]


def test_the_public_names_are_these():
    assert sorted(rekindle.__all__) == NAMES
    assert sorted(dir(rekindle)) == NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__version__"])
def test_every_public_name_is_there_and_says_what_it_does(name):
    if name in {"Run", "load", "save", "schedule", "MemoryWatch", "to_device", "torch_settings"}:
        pytest.importorskip("torch")
    value = getattr(rekindle, name)
    assert callable(value)
    assert value.__module__.startswith("rekindle.")
    assert inspect.getdoc(value)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        _ = rekindle.lode


def test_importing_rekindle_loads_neither_torch_nor_rich():
    code = "import sys, rekindle; sys.exit(bool({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("first", ["rk.load", "import rekindle.load", "from rekindle.load import load"])
def test_the_module_load_does_not_take_the_place_of_the_function(first):
    pytest.importorskip("torch")
    code = f"import rekindle as rk\n{first}\nassert rk.load is rk.load\nrk.load('there is no such file')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "FileNotFoundError" in done.stderr, done.stderr
