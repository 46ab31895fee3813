"""The settings of a run: what cannot be meant is refused before anything is made."""

from __future__ import annotations

import pytest

from rekindle.errors import ConfigError


@pytest.mark.parametrize(
    "settings",
    [
        {"save_every": "now and then"},
        {"keep_last": 0},
        {"accumulate": 0},
        {"seed": -1},
        {"seed": 1.5},
        {"precision": "int4"},
        {"device": "gpu"},
        {"keep_best": "most:x"},
    ],
)
def test_settings_that_cannot_be_meant_are_refused_before_anything_is_made(start, tmp_path, settings):
    with pytest.raises(ConfigError):
        start(**settings)
    assert not (tmp_path / "run").exists()
