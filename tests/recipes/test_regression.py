"""y = x² + noise: the three plots of one training, as somebody sees them who opens the picture."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("matplotlib")

import numpy as np
from PIL import Image

from rekindle.recipes import regression
from rekindle.recipes.regression import train_regression

_TITLE = 30  # rows of pixels


def panels(path):
    """The three plots, side by side, without their titles."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return np.split(pixels[_TITLE:], 3, axis=1)


def reds(panel):
    """How many pixels the curve has, which is the only red thing."""
    red, green, blue = panel.astype(int).transpose(2, 0, 1)
    return int(((red > 180) & (green < 90) & (blue < 90)).sum())


def test_the_three_plots_are_the_same_in_every_pixel(tmp_path):
    done = train_regression(out=str(tmp_path / "run"), epochs=2, progress=False)
    trained, from_module, from_weights = panels(done.picture)
    assert reds(trained) > 200
    assert np.array_equal(trained, from_module)
    assert np.array_equal(trained, from_weights)


def test_a_net_that_was_not_restored_is_seen_in_the_plots_and_said(tmp_path, monkeypatch):
    right = regression.restored

    def wrong(path):
        net = right(path)
        if path.endswith("weights.pth"):
            with torch.no_grad():
                net.predict.bias += 0.02
        return net

    monkeypatch.setattr(regression, "restored", wrong)
    done = train_regression(out=str(tmp_path / "run"), epochs=2, progress=False)
    assert not done.equal
    trained, from_module, from_weights = panels(done.picture)
    assert np.array_equal(trained, from_module)
    assert not np.array_equal(trained, from_weights)
