"""A run that can be begun again and again in one process."""

from __future__ import annotations

import pytest

import rekindle as rk


@pytest.fixture
def start(tmp_path):
    """Begin or go on with the run in `tmp_path`; the life before it is dead, its lock given free as by a kernel."""
    lives = []

    def begin(folder="run", **settings):
        for life in lives:
            life._shut()
        settings = {"seed": 1, "save_every": "3 steps", "tensorboard": False, "progress": False} | settings
        run = rk.Run(tmp_path / folder, **settings)
        lives.append(run)
        return run

    yield begin
    for life in lives:
        life._shut()
