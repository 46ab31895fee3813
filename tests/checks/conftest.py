"""Tests of checks run in an empty folder, so that the commands they show have short paths and can be typed there."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Make the test's own folder the current one."""
    monkeypatch.chdir(tmp_path)
