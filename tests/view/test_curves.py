"""The learning curve: what is drawn, and that the picture is replaced in one piece."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib")

from rekindle.view.curves import draw_curve, read_metrics

GROUPS = {"loss": ["loss", "val_loss"], "accuracy": ["val_accuracy"]}


def pixels(path):
    from PIL import Image

    with Image.open(path) as image:
        return image.size, image.convert("RGB").tobytes()


def test_the_picture_grows_with_what_was_logged(tmp_path):
    lines = [{"step": 10 * i, "epoch": i, "loss": 1 / (i + 1), "val_loss": 1.2 / (i + 1)} for i in range(5)]
    assert draw_curve(lines, tmp_path / "one.png", groups=GROUPS)
    assert draw_curve([{**line, "val_accuracy": 0.9} for line in lines], tmp_path / "two.png", groups=GROUPS)
    (width_one, height_one), _ = pixels(tmp_path / "one.png")
    (width_two, height_two), _ = pixels(tmp_path / "two.png")
    assert width_one == width_two
    assert height_two > height_one  # a second panel


def test_other_values_give_another_picture_and_the_same_give_the_same(tmp_path):
    for name, scale in (("a", 1), ("b", 1), ("c", 2)):
        draw_curve([{"step": i, "loss": (i % 3) ** scale} for i in range(9)], tmp_path / f"{name}.png", groups=GROUPS)
    assert pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")
    assert pixels(tmp_path / "a.png") != pixels(tmp_path / "c.png")


def test_nothing_logged_draws_nothing_and_keeps_what_is_there(tmp_path):
    target = tmp_path / "curve.png"
    target.write_bytes(b"an older picture")
    assert not draw_curve([{"step": 1, "other": 3}, {"epoch": 2}], target, groups=GROUPS)
    assert target.read_bytes() == b"an older picture"


def test_a_failed_write_leaves_the_older_picture(tmp_path, monkeypatch):
    import os

    target = tmp_path / "curve.png"
    target.write_bytes(b"an older picture")

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        draw_curve([{"step": 1, "loss": 1.0}], target, groups=GROUPS)
    monkeypatch.undo()
    assert target.read_bytes() == b"an older picture"
    assert [entry.name for entry in tmp_path.iterdir()] == ["curve.png"]


def test_lines_that_a_crash_cut_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 0.5}\n[1]\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]


def test_no_global_state_of_matplotlib_is_touched(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; from rekindle.view.curves import draw_curve;"
        f"draw_curve([{{'step': 1, 'loss': 1.0}}], {str(tmp_path / 'x.png')!r}, groups={{'loss': ['loss']}});"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
