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
    "Thaw",
    "__version__",
    "average",
    "average_files",
    "check",
    "check_labels",
    "convert",
    "copy_weights",
    "describe_frozen",
    "diff",
    "doctor",
    "fit",
    "freeze",
    "grad_cam",
    "initialise",
    "inspect",
    "load",
    "load_classifier",
    "one_hot",
    "param_groups",
    "pick_gpus",
    "replace_head",
    "salvage",
    "save",
    "scan",
    "schedule",
    "summary",
    "to_device",
    "to_numpy",
    "to_pil",
    "to_tensor",
    "torch_settings",
    "trace",
    "unfreeze",
    "verify",
]


# The names for tuning and looking at models that need torch; `summary` of a file does not.
LOOKING = {"check_labels", "grad_cam", "initialise", "one_hot", "to_numpy", "to_pil", "to_tensor", "trace"}
TUNING = {"Thaw", "average", "copy_weights", "describe_frozen", "fit", "freeze", "param_groups", "replace_head"}


def test_the_public_names_are_these():
    assert sorted(rekindle.__all__) == NAMES
    assert sorted(dir(rekindle)) == NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__version__"])
def test_every_public_name_is_there_and_says_what_it_does(name):
    if (
        name in {"Run", "load", "save", "schedule", "MemoryWatch", "to_device", "torch_settings", "load_classifier"}
        or name in LOOKING
    ):
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
