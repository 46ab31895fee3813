"""Precision, clipping and accumulation."""

from __future__ import annotations

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from rekindle.errors import ConfigError
from rekindle.run.precision import Updater, parse_precision, window_at

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("word", "expected"),
    [("fp32", "fp32"), ("32-true", "fp32"), ("bf16", "bf16"), ("bf16-mixed", "bf16"), ("FP32", "fp32")],
)
def test_the_usual_words_are_understood(word, expected):
    assert parse_precision(word, CPU) == expected


def test_fp16_on_a_processor_is_refused_with_what_works():
    with pytest.raises(ConfigError, match='precision="bf16"\\) works here'):
        parse_precision("fp16", CPU)
    assert parse_precision("16-mixed", torch.device("cuda")) == "fp16"


def test_an_unknown_word_is_refused():
    with pytest.raises(ConfigError, match="the words are fp32, bf16 and fp16"):
        parse_precision("half", CPU)


def test_windows_cover_a_loop_and_the_last_one_may_be_shorter():
    windows = [window_at(position, 4, 10) for position in range(10)]
    assert [w.length for w in windows] == [4] * 8 + [2] * 2
    assert [w.closes for w in windows] == [False, False, False, True] * 2 + [False, True]
    assert [window_at(p, 1, 3).closes for p in range(3)] == [True] * 3
    assert window_at(5, 4, None).length == 4


def test_bf16_computes_products_in_bfloat16_and_fp32_does_not():
    layer = torch.nn.Linear(3, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with Updater(precision, CPU).autocast():
            assert layer(torch.ones(1, 3)).dtype == dtype


def stepped(updater, gradient, **settings):
    """One update of one parameter with this gradient, and a schedule that halves the rate each time."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    loss = (parameter * torch.tensor(gradient)).sum()
    updater.backward(loss, settings.pop("divide_by", 1))
    updater.update([optimizer], [scheduler], **settings)
    assert parameter.grad is None
    return parameter.detach().tolist(), optimizer.param_groups[0]["lr"]


def test_an_update_divides_clips_steps_and_schedules():
    assert stepped(Updater("fp32", CPU), [3.0, 4.0]) == ([-3.0, -4.0], 0.5)
    assert stepped(Updater("fp32", CPU), [3.0, 4.0], divide_by=2) == ([-1.5, -2.0], 0.5)
    values, _ = stepped(Updater("fp32", CPU), [3.0, 4.0], clip_norm=1.0)
    assert values == pytest.approx([-0.6, -0.8], rel=1e-4)
    assert stepped(Updater("fp32", CPU), [3.0, -4.0], clip_value=2.0)[0] == [-2.0, 2.0]


@pytest.fixture
def scaled():
    """The updater of fp16, with a scaler that works on a processor."""
    updater = Updater("fp32", CPU)
    updater.scaler = GradScaler("cpu", init_scale=1024.0)
    return updater


def test_gradients_are_clipped_without_their_scale(scaled):
    assert stepped(scaled, [3.0, 4.0], clip_norm=1.0)[0] == pytest.approx([-0.6, -0.8], rel=1e-4)
    assert scaled.scaler.get_scale() == 1024.0


def test_a_skipped_update_moves_neither_weights_nor_schedule(scaled):
    assert stepped(scaled, [float("inf"), 1.0]) == ([0.0, 0.0], 1.0)
    assert scaled.scaler.get_scale() == 512.0
    assert stepped(scaled, [1.0, 1.0]) == ([-1.0, -1.0], 0.5)


def test_two_optimizers_share_one_scale_and_it_is_adapted_once(scaled):
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    first, second = (torch.optim.SGD([parameter], lr=1.0) for parameter in parameters)
    for parameter, gradient in zip(parameters, (float("inf"), 2.0), strict=True):
        scaled.backward((parameter * gradient).sum(), 1)
    scaled.update([first], [], all_optimizers=2)
    assert scaled.scaler.get_scale() == 1024.0
    scaled.update([second], [], all_optimizers=2)
    assert scaled.scaler.get_scale() == 512.0
    assert [parameter.item() for parameter in parameters] == [0.0, -2.0]


def test_a_plateau_schedule_waits_for_its_metric():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    updater = Updater("fp32", CPU)
    updater.backward(parameter.sum(), 1)
    updater.update([optimizer], [plateau])
    assert plateau.last_epoch == 0
