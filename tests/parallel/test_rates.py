"""Learning rates are multiplied wherever torch keeps them, so that schedules go on from there."""

import pytest
import torch

from rekindle.parallel.rates import scale_rates


def test_an_optimizer_and_its_schedule_go_on_with_the_new_rate():
    parameter = torch.nn.Parameter(torch.zeros(2))
    made = []
    for rate in (0.1, 0.3):
        optimizer = torch.optim.SGD([parameter], lr=rate)
        made.append((optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)))
    scale_rates(3, [*made[0], object()])
    for _ in range(5):
        for optimizer, scheduler in made:
            optimizer.step()
            scheduler.step()
    rates = [(optimizer.param_groups[0]["lr"], scheduler.get_last_lr()[0]) for optimizer, scheduler in made]
    assert rates[0] == pytest.approx(rates[1], abs=1e-12)
    assert rates[0][0] == pytest.approx(0.075)


def test_a_rate_that_is_a_tensor_is_scaled_in_place():
    rate = torch.tensor(0.5)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))], lr=rate)
    scale_rates(2, [optimizer])
    assert float(rate) == 1.0
    assert optimizer.param_groups[0]["lr"] is rate
