"""Early stopping that survives a resume, and leaving before the time is over."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import TensorDataset

import rekindle as rk
from rekindle.errors import ConfigError
from rekindle.run.early_stop import Patience, TimeLimit, process_age_s, time_limit
from rekindle.run.policy import parse_best

DATA = TensorDataset(torch.arange(8.0).reshape(8, 1))


def test_patience_counts_values_since_the_best():
    patience = Patience(parse_best("min:loss"), 2, 0.0)
    for value in (3.0, 2.0, 2.0, 1.9, float("nan")):
        patience.offer(value)
    assert (patience.best, patience.since, patience.is_over) == (1.9, 1, False)
    patience.offer(5.0)
    assert patience.is_over
    assert str(patience) == "loss was not better than 1.9 for 2 values"


def test_a_value_counts_only_if_it_is_better_by_enough():
    patience = Patience(parse_best("accuracy"), 2, 0.1)
    for value in (0.5, 0.55, 0.61):
        patience.offer(value)
    assert (patience.best, patience.since) == (0.61, 0)


class Killed(Exception):
    """Stands for kill -9."""


LOSSES = [5.0, 3.0, 4.0, 4.0, 3.5, 1.0, 1.0]


def train(folder, *, die_in=None, rule="min:loss", patience=3, epochs=7):
    run = rk.Run(folder, seed=1, save_every="1 epoch", tensorboard=False, progress=False)
    try:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        run.track(optimizer=optimizer)
        if rule:
            run.stop_when(rule, patience=patience)
        for epoch in run.epochs(epochs):
            for _ in run.batches(run.loader(DATA, batch_size=4)):
                optimizer.step()
                run.step()
            run.log(loss=LOSSES[epoch])
            if epoch == die_in:
                raise Killed
    finally:
        run._shut()
    return run


def test_the_run_stops_after_the_epoch_in_which_patience_is_over(tmp_path, capsys):
    run = train(tmp_path / "run")
    assert (run.epoch, run.finished) == (5, True)
    assert "stops after epoch 4: loss was not better than 3 for 3 values" in capsys.readouterr().err
    assert train(tmp_path / "run").epoch == 5  # it is complete


@pytest.mark.parametrize("deaths", [[0], [2], [3], [4], [1, 2, 3, 4]])
def test_a_resumed_run_has_the_patience_that_it_had_left(tmp_path, deaths):
    for death in deaths:
        with pytest.raises(Killed):
            train(tmp_path / "run", die_in=death)
    assert train(tmp_path / "run").epoch == 5
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == LOSSES[:5]


def test_a_rule_may_come_and_go_between_lives(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path / "run", rule=None, die_in=2)
    with pytest.raises(Killed):
        train(tmp_path / "run", die_in=3)
    assert train(tmp_path / "run", rule=None).epoch == 7


@pytest.mark.parametrize("settings", [{"patience": 0}, {"patience": True}, {"patience": 1, "min_delta": -1.0}])
def test_rules_that_cannot_be_meant_are_refused(tmp_path, settings):
    run = rk.Run(tmp_path / "run", tensorboard=False)
    with pytest.raises(ConfigError, match=r"min:val_loss"):
        run.stop_when("loss", **settings)
    run.close()


# ---- time


def test_a_limit_is_near_when_the_next_boundary_may_come_too_late():
    now = [0.0]
    limit = TimeLimit(100.0, 5.0, clock=lambda: now[0])
    found = []
    for at in (40, 41, 51, 75, 79, 85):  # the first boundary took long, as it does, and one took 24
        now[0] = at
        found.append(limit.is_near())
    assert found == [False, False, False, True, True, True]


def test_a_process_knows_its_age():
    code = "import time; time.sleep(0.3); from rekindle.run.early_stop import process_age_s as a; print(a())"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert 0.3 <= float(done.stdout) <= time.monotonic() - began + 0.1


def test_the_end_of_a_slurm_job_is_taken_where_it_is_earlier(monkeypatch):
    age = process_age_s()
    assert time_limit("2 hours").left_s() == pytest.approx(7200 - age - 60, abs=5)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 600))
    assert time_limit("2 hours").left_s() == pytest.approx(540, abs=5)
    assert time_limit("1 minute").left_s() == pytest.approx(60 - age - 3, abs=5)
    assert time_limit("slurm").left_s() == pytest.approx(570, abs=5)


def test_a_limit_that_is_none_is_refused(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert time_limit(None) is None
    for text in ("soon", "3 epochs", "0 hours"):
        with pytest.raises(ConfigError, match="is not a time"):
            time_limit(text)
    with pytest.raises(ConfigError, match="SLURM_JOB_END_TIME is not set"):
        time_limit("slurm")


SCRIPT = """
import sys, time, torch, rekindle as rk
run = rk.Run("run", seed=0, time_limit=sys.argv[1], save_every=None, tensorboard=False)
net = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
run.track(net=net, optimizer=optimizer)
data = torch.utils.data.TensorDataset(torch.ones(400, 1))
for epoch in run.epochs(1):
    for (x,) in run.batches(run.loader(data, batch_size=1)):
        net(x).sum().backward(); optimizer.step(); optimizer.zero_grad()
        time.sleep(float(sys.argv[2]))
        run.step()
print("done", run.steps_done)
"""


def test_a_run_leaves_before_its_limit_and_goes_on_with_the_same_command(tmp_path):
    def live(*words):
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )

    began = time.monotonic()
    left = live("6 seconds", "0.02")
    assert left.returncode == 75, left.stderr
    steps = int(re.search(r"saved after step (\d+); the same command goes on", left.stderr)[1])
    assert 0 < steps < 400
    assert time.monotonic() - began < 8 or steps == 1  # a start that takes longer than the limit makes one step
    done = live("2 hours", "0")
    assert done.returncode == 0
    assert done.stdout == "done 400\n"
