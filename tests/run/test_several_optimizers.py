"""Two models, two optimizers, two losses in one loop: killed anywhere, it ends with the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk
from rekindle.run.ends import compare_ends, read_end

ROOT = Path(__file__).parents[2]
DATA = TensorDataset(torch.randn(48, 4, generator=torch.Generator().manual_seed(0)))


class Killed(Exception):
    """Stands for kill -9."""


def train(folder, *, die_at=None, **settings):
    """Two nets that look at each other's outputs, each with an optimizer, a schedule and a loss of its own."""
    run = rk.Run(folder, seed=3, save_every="2 steps", tensorboard=False, progress=False, **settings)
    try:
        one, two = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.Linear(4, 1))
        first = torch.optim.Adam(one.parameters(), lr=0.01)
        second = torch.optim.SGD(two.parameters(), lr=0.05, momentum=0.9)
        rises, falls = rk.schedule(first, "constant", warmup=10), rk.schedule(second, "linear", total=40)
        one, two, first, second, rises, falls = run.prepare(one, two, first, second, rises, falls)
        for _ in run.epochs(3):
            for (inputs,) in run.batches(run.loader(DATA, batch_size=5)):
                with run.autocast():
                    loss = two(one(inputs).detach()).float().square().mean()
                run.backward(loss, scaler="two")
                run.update(second, clip_norm=0.5)
                two.requires_grad_(False)
                with run.autocast():
                    loss = (two(one(inputs)).float() - 1).square().mean()
                run.backward(loss, scaler="one")
                run.update(first, clip_value=0.1)
                two.requires_grad_(True)
                run.step()
                if run.steps_done == die_at:
                    raise Killed
            run.log(done=run.steps_done)
        run.close()
    finally:
        run._shut()
    parameters = [p for group in (*first.param_groups, *second.param_groups) for p in group["params"]]
    return [p.detach().clone() for p in parameters]


@pytest.mark.parametrize("settings", [{}, {"accumulate": 3}, {"accumulate": 3, "precision": "fp16"}], ids=str)
def test_two_optimizers_resume_to_the_same_bits(tmp_path, settings, monkeypatch):
    monkeypatch.setattr("rekindle.run.precision._NEED_GPU", ())  # slow on a processor, and right
    whole = train(tmp_path / "whole", **settings)
    for death in (1, 4, 7):
        with pytest.raises(Killed):
            train(tmp_path / "cut", die_at=death, **settings)
    cut = train(tmp_path / "cut", **settings)
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))
    assert compare_ends(read_end(str(tmp_path / "whole")), read_end(str(tmp_path / "cut"))) == ()


def test_the_learning_rate_of_each_is_recorded_by_name(tmp_path):
    train(tmp_path / "run")
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["lr_optimizer"] == 0.01
    assert last["lr_optimizer_2"] == pytest.approx(0.05 * 10 / 40)


def look_at_each_other(folder, *, clears=False, die_at=None, **settings):
    """As a GAN is mostly written: the second loss leaves gradients in the net that the first one trains."""
    with rk.Run(folder, seed=3, save_every="1 step", tensorboard=False, progress=False, **settings) as run:
        one, two = nn.Linear(4, 4), nn.Linear(4, 1)
        first, second = torch.optim.Adam(one.parameters(), lr=0.01), torch.optim.SGD(two.parameters(), lr=0.05)
        one, two, first, second = run.prepare(one, two, first, second)
        for _ in run.epochs(1):
            for (inputs,) in run.batches(run.loader(DATA, batch_size=8)):
                with run.autocast():
                    loss = two(one(inputs).detach()).float().square().mean()
                run.backward(loss, scaler="two")
                run.update(second)
                with run.autocast():
                    loss = (two(one(inputs)).float() - 1).square().mean()
                run.backward(loss, scaler="one")
                run.update(first)
                if clears:
                    two.zero_grad()
                run.step()
                if run.steps_done == die_at:
                    raise Killed
    return [p.detach().clone() for p in (*one.parameters(), *two.parameters())]


@pytest.mark.parametrize("precision", ["fp32", "O2", "fp16"])
def test_what_a_loss_leaves_with_the_other_optimizer_is_never_added_to_its_next_update(
    tmp_path, precision, monkeypatch
):
    monkeypatch.setattr("rekindle.run.precision._NEED_GPU", ())  # slow on a processor, and right
    cleared = look_at_each_other(tmp_path / "cleared", clears=True, precision="fp32")
    whole = look_at_each_other(tmp_path / "whole", precision=precision)
    with pytest.raises(Killed):
        look_at_each_other(tmp_path / "cut", die_at=3, precision=precision)
    cut = look_at_each_other(tmp_path / "cut", precision=precision)
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))
    if precision == "fp32":
        assert all(torch.equal(a, b) for a, b in zip(whole, cleared, strict=True))


def gan(folder):
    words = [sys.executable, str(ROOT / "examples" / "gan.py"), str(folder)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(child):
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return out


def test_the_gan_that_is_killed_draws_the_same_digits(tmp_path):
    pytest.importorskip("sklearn")
    told = finished(gan(tmp_path / "whole"))
    child = gan(tmp_path / "cut")
    until = time.monotonic() + 60
    while not list((tmp_path / "cut").glob("snapshots/step-*80")) and time.monotonic() < until:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert finished(gan(tmp_path / "cut")) == told
    assert told.startswith("168 steps; SHA-256")
    assert compare_ends(read_end(str(tmp_path / "whole")), read_end(str(tmp_path / "cut"))) == ()
