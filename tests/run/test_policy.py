"""When to save and what to keep, in words."""

from __future__ import annotations

import errno
import math
import os

import pytest

from rekindle.errors import ConfigError
from rekindle.run.policy import BestRule, SaveEvery, parse_best, parse_save_every
from rekindle.store.find import newest_good


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200 steps", SaveEvery(steps=200)),
        ("1 step", SaveEvery(steps=1)),
        ("5 minutes", SaveEvery(seconds=300)),
        ("0.5 hours", SaveEvery(seconds=1800)),
        ("10 min", SaveEvery(seconds=600)),
        ("30s", SaveEvery(seconds=30)),
        ("epoch", SaveEvery(epochs=1)),
        ("2 epochs", SaveEvery(epochs=2)),
        (None, SaveEvery()),
    ],
)
def test_a_time_between_saves_is_a_number_with_a_unit(text, expected):
    assert parse_save_every(text) == expected


@pytest.mark.parametrize("text", ["", "often", "0 steps", "1.5 steps", "-3 minutes", "5 fortnights", 200])
def test_anything_else_is_refused_with_examples(text):
    with pytest.raises(ConfigError, match='save_every="200 steps", "5 minutes" or "1 epoch"'):
        parse_save_every(text)


def test_the_environment_goes_before_the_argument(monkeypatch):
    monkeypatch.setenv("REKINDLE_SAVE_EVERY", "3 steps")
    assert parse_save_every("5 minutes") == SaveEvery(steps=3)


def test_the_best_is_the_largest_unless_said_otherwise():
    assert parse_best("val_accuracy") == BestRule("val_accuracy", "max")
    assert parse_best("min:val_loss") == parse_best("val_loss", "min") == BestRule("val_loss", "min")
    assert parse_best(None) is None


@pytest.mark.parametrize(("text", "mode"), [("", None), ("least:x", None), ("x", "lowest"), ("min:x", "max")])
def test_a_rule_that_cannot_be_meant_is_refused(text, mode):
    with pytest.raises(ConfigError, match="is not a rule"):
        parse_best(text, mode)


def test_equal_is_no_improvement_and_nan_never_is():
    rule = BestRule("x", "min")
    assert rule.improves(1.0, None)
    assert rule.improves(0.5, 1.0)
    assert not rule.improves(1.0, 1.0)
    assert not rule.improves(math.nan, None)
    assert BestRule("x", "max").improves(2.0, 1.0)


@pytest.mark.parametrize("full_disk", [False, True])
def test_the_only_snapshot_that_holds_is_never_deleted(tmp_path, monkeypatch, full_disk):
    """Two of three are damaged, and a later life is to keep one: what it went on from stays until others hold."""
    torch = pytest.importorskip("torch")
    import rekindle as rk

    folder = tmp_path / "run"

    def live(epochs, watch=lambda: None, **settings):
        with rk.Run(folder, seed=0, save_every="2 steps", tensorboard=False, progress=False, **settings) as run:
            model = torch.nn.Linear(64, 64)
            run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
            for _ in run.epochs(epochs):
                for x in run.batches([torch.ones(1, 64)] * 2):
                    run.backward(model(x).square().mean())
                    run.update()
                    run.step()
                    watch()
        return run

    def that_hold():
        found = sorted((folder / "snapshots").glob("step-*"))
        return [int(path.name[5:]) for path in found if not rk.verify(path).damaged]

    live(3, keep_last=3)
    assert that_hold() == [2, 4, 6]
    for step in (4, 6):
        weights = folder / "snapshots" / f"step-0000000{step}" / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-5] ^= 1
        weights.write_bytes(content)
    assert that_hold() == [2]
    seen = []
    if full_disk:

        def fails(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fails)
            with pytest.raises(OSError, match="No space left"):
                live(6, keep_last=1)
        assert that_hold() == [2]
    run = live(6, keep_last=1, watch=lambda: seen.append(newest_good(folder).step))
    assert run.steps_done == 12
    assert seen[0] == 2
    assert None not in seen
    assert that_hold() == [10, 12]
