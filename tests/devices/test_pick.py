"""Names of devices, understood without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rekindle.devices.pick import parse_device
from rekindle.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "expected"), [("auto", ("auto", None)), ("cuda:1", ("cuda", 1)), (" CPU ", ("cpu", None))]
)
def test_names(name, expected):
    assert parse_device(name) == expected


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError, match="no device is called"):
        parse_device(name)


def test_it_needs_no_torch():
    code = "import sys, rekindle.devices.pick; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    code = "import torch, sys, rekindle.devices.pick; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 1
