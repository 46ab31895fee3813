"""Learning-rate schedules: functions of the number of updates."""

from __future__ import annotations

import json
import math

import pytest
import torch

import rekindle as rk
from rekindle.errors import ConfigError


def optimizer(*rates):
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def walked(scheduler, count):
    """Learning rates of the first group before each of `count` updates."""
    rates = []
    for _ in range(count):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def test_warm_up_grows_in_a_line_from_its_first_part_to_the_peak():
    rates = walked(rk.schedule(optimizer(1.0), "constant", warmup=4), 6)
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_and_linear_fall_to_their_floor_and_stay():
    for name, half in (("cosine", 0.55), ("linear", 0.55)):
        rates = walked(rk.schedule(optimizer(2.0), name, total=10, floor=0.1), 14)
        assert rates[0] == 2.0
        assert rates[5] == pytest.approx(2 * half)
        assert rates[10:] == pytest.approx([0.2] * 4)
        assert rates[:11] == sorted(rates[:11], reverse=True)


def test_step_multiplies_every_so_often():
    rates = walked(rk.schedule(optimizer(1.0), "step", every=3, gamma=0.1, warmup=1, floor=0.05), 9)
    assert rates == pytest.approx([1.0, 1, 1, 1, 0.1, 0.1, 0.1, 0.05, 0.05])


def test_every_group_keeps_its_own_peak():
    scheduler = rk.schedule(optimizer(1.0, 0.01), "linear", total=4)
    walked(scheduler, 2)
    assert [group["lr"] for group in scheduler.optimizer.param_groups] == [0.5, 0.005]


def test_a_restored_schedule_goes_on_to_the_bit():
    whole = walked(rk.schedule(optimizer(0.3), "cosine", total=20, warmup=3), 20)
    first = rk.schedule(optimizer(0.3), "cosine", total=20, warmup=3)
    walked(first, 7)
    second = rk.schedule(optimizer(0.3), "cosine", total=20, warmup=3)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert walked(second, 13) == whole[7:]
    assert second.changed_from is None


def test_a_longer_schedule_is_taken_from_there_on_and_noticed():
    short = rk.schedule(optimizer(1.0), "linear", total=10)
    walked(short, 5)
    longer = rk.schedule(optimizer(1.0), "linear", total=20)
    longer.load_state_dict(short.state_dict())
    assert longer.changed_from == "linear over 10 updates"
    longer.step()
    assert longer.optimizer.param_groups[0]["lr"] == pytest.approx(1 - 6 / 20)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "cosin", "total": 9}, "no schedule is called 'cosin'"),
        ({"name": "cosine"}, 'the "cosine" schedule needs total='),
        ({"name": "linear", "total": 5, "warmup": 5}, "more than warmup=5"),
        ({"name": "step"}, 'the "step" schedule needs every='),
        ({"name": "constant", "warmup": -1}, "warmup is a number of updates"),
        ({"name": "cosine", "total": 5, "floor": 2}, "floor is a factor from 0 to 1"),
        ({"name": "step", "every": 5, "gamma": 0}, "gamma is a factor"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        rk.schedule(optimizer(1.0), **settings)


class Killed(Exception):
    """Stands for kill -9."""


def rates_of(folder, name, *, die_at=None, **settings):
    """Train with a schedule, logging every step; return the learning rates that were recorded."""
    run = rk.Run(folder, seed=0, save_every="3 steps", tensorboard=False, progress=False)
    try:
        net = torch.nn.Linear(2, 1)
        sgd = torch.optim.SGD(net.parameters(), lr=0.4)
        net, sgd, _ = run.prepare(net, sgd, rk.schedule(sgd, name, **settings))
        data = torch.utils.data.TensorDataset(torch.ones(20, 2))
        for _ in run.epochs(2):
            for (inputs,) in run.batches(run.loader(data, batch_size=2)):
                run.backward(net(inputs).square().mean())
                run.update()
                run.step()
                run.log()
                if run.steps_done == die_at:
                    raise Killed
        run.close()
    finally:
        run._shut()
    return [json.loads(line)["lr"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("constant", {}, lambda _: 1.0),
        ("linear", {"total": 20}, lambda n: 1 - (n - 4) / 16),
        ("cosine", {"total": 20}, lambda n: (1 + math.cos(math.pi * (n - 4) / 16)) / 2),
        ("step", {"every": 6}, lambda n: 0.1 ** ((n - 4) // 6)),
    ],
)
def test_each_schedule_is_recorded_and_goes_on_after_a_kill_to_the_bit(tmp_path, name, settings, expected):
    whole = rates_of(tmp_path / "whole", name, warmup=4, **settings)
    assert whole[:4] == pytest.approx([0.2, 0.3, 0.4, 0.4])  # after each of the first updates: what the next one takes
    assert whole[3:] == pytest.approx([0.4 * expected(n) for n in range(4, 21)], abs=1e-12)
    for death in (2, 8, 14):
        with pytest.raises(Killed):
            rates_of(tmp_path / "cut", name, die_at=death, warmup=4, **settings)
    assert rates_of(tmp_path / "cut", name, warmup=4, **settings) == whole
