"""Precision, clipping and accumulation."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

import rekindle as rk
from rekindle.errors import ConfigError, RunError
from rekindle.run.precision import Updater, meaning, parse_precision, window_at

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("fp32", "fp32"),
        ("32-true", "fp32"),
        ("bf16", "bf16"),
        ("bf16-mixed", "bf16"),
        ("FP32", "fp32"),
        ("bf16-true", "bf16-true"),
        ("O0", "fp32"),
        ("O1", "bf16"),
        ("o2", "O2"),
        ("O3", "O3"),
    ],
)
def test_the_usual_words_are_understood(word, expected):
    assert parse_precision(word, CPU) == expected


def test_fp16_on_a_processor_is_refused_with_what_works():
    with pytest.raises(ConfigError, match='precision="bf16"\\) works here'):
        parse_precision("fp16", CPU)
    assert parse_precision("16-mixed", torch.device("cuda")) == "fp16"


def test_each_of_the_classic_levels_says_what_it_becomes():
    assert [meaning(level, CUDA) for level in ("O0", "O1", "O2", "O3")] == [
        "precision O0 is float32 throughout",
        "precision O1 is float32 weights, autocast to float16 in each step, and a loss scale that adapts itself",
        "precision O2 is float16 weights, BatchNorm and master weights in float32, and a loss scale that adapts itself",
        "precision O3 is float16 throughout, BatchNorm and the optimizer's state included, and no loss scale",
    ]
    assert meaning("O2", CPU) == (
        "precision O2 is bfloat16 weights, BatchNorm and master weights in float32, and no loss scale; "
        "float16 needs a GPU"
    )


def test_off_means_off():
    updater = Updater("fp32", CPU)
    with updater.autocast():
        assert not torch.is_autocast_enabled("cpu")
    assert updater.scalers == {}
    assert updater.weights is None
    with torch.autocast("cpu", dtype=torch.bfloat16), updater.autocast():
        assert torch.is_autocast_enabled("cpu")  # the loop's own is left alone


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


@pytest.mark.parametrize("bound", [0, -1.0, float("nan")])
@pytest.mark.parametrize("name", ["clip_norm", "clip_value"])
def test_a_bound_that_leaves_no_gradient_or_turns_it_round_is_refused(name, bound):
    with pytest.raises(ConfigError, match=rf"run\.update\({name}={bound!r}\): gradients cannot be clipped to that"):
        stepped(Updater("fp32", CPU), [3.0, 4.0], **{name: bound})


def test_an_optimizer_that_needs_a_closure_says_what_to_call_instead():
    parameter = nn.Parameter(torch.ones(1))
    updater = Updater("fp32", CPU)
    updater.backward(parameter.square().sum(), 1)
    with pytest.raises(RunError) as caught:
        updater.update([torch.optim.LBFGS([parameter])], [])
    assert str(caught.value) == (
        "run.update() cannot step LBFGS\n"
        "  why     it computes the loss anew several times in each step, and asks for a function that does so\n"
        "  do      optimizer.step(closure) in the place of run.backward and run.update; run.step() after it as ever"
    )


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


def two_losses(scales, *, gradients, windows=1, **settings):
    """Two losses with a scale each on one parameter; the parameter afterwards, and both scales."""
    updater = Updater("fp32", CPU)
    updater.scaler = GradScaler("cpu", init_scale=8.0)
    for name, scale in scales.items():
        updater.scalers[name] = GradScaler("cpu", init_scale=scale)
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    for _ in range(windows):
        for name, gradient in zip(scales, gradients, strict=True):
            loss = (parameter * torch.tensor(gradient)).sum()
            updater.backward(loss, windows, scaler=name, optimizers=[optimizer])
    updater.update([optimizer], [], **settings)
    return parameter.detach().tolist(), [updater.scalers[name].get_scale() for name in scales], updater


def test_losses_with_a_scale_each_are_added_unscaled():
    value, scales, _ = two_losses({"a": 1024.0, "b": 4.0}, gradients=([1.0, 2.0], [10.0, 20.0]))
    assert (value, scales) == ([-11.0, -22.0], [1024.0, 4.0])


def test_they_are_clipped_together_and_may_take_turns_in_a_window():
    value, _, updater = two_losses({"a": 64.0, "b": 4.0}, gradients=([3.0, 0.0], [0.0, 4.0]), windows=4, clip_norm=1.0)
    assert value == pytest.approx([-0.6, -0.8], rel=1e-4)
    assert not updater.holds_gradients([])


@pytest.mark.parametrize("culprit", [0, 1])
def test_an_overflow_lowers_only_the_scale_of_its_own_loss(culprit):
    gradients = [[1.0, 1.0], [1.0, 1.0]]
    gradients[culprit][0] = float("inf")
    value, scales, updater = two_losses({"a": 64.0, "b": 4.0}, gradients=gradients)
    assert value == [0.0, 0.0]
    assert scales == ([32.0, 4.0] if culprit == 0 else [64.0, 2.0])
    assert updater.skipped == 1


def test_gradients_that_were_never_scaled_are_refused(scaled):
    parameter = nn.Parameter(torch.zeros(1))
    parameter.sum().backward()
    with pytest.raises(RunError, match=r"that run\.backward did not make"):
        scaled.update([torch.optim.SGD([parameter], lr=1.0)], [])


def test_float16_weights_under_autocast_are_refused_with_what_works(scaled):
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float16))
    scaled.backward(parameter.sum(), 1)
    with pytest.raises(RunError, match='precision="O2"'):
        scaled.update([torch.optim.SGD([parameter], lr=1.0)], [])


# ---- in a run


class Killed(Exception):
    """Stands for kill -9."""


DATA = torch.utils.data.TensorDataset(torch.randn(48, 3, generator=torch.Generator().manual_seed(0)))


def train(folder, *, die_at=None, plain=False, losses=1, epochs=3, clip_norm=1.0, **settings):
    """Train a small network with BatchNorm; return model, optimizer and run."""
    run = rk.Run(folder, seed=1, save_every="3 steps", tensorboard=False, progress=False, **settings)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    try:
        model, optimizer = run.prepare(model, optimizer)
        for _ in run.epochs(epochs):
            for (inputs,) in run.batches(run.loader(DATA, batch_size=8)):
                with run.autocast():
                    loss = (model(inputs).float() - inputs.sum(1, keepdim=True)).square().mean()
                if plain:
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                else:
                    for number in range(losses):
                        last = number == losses - 1
                        run.backward(loss / losses, scaler=number if losses > 1 else None, retain_graph=not last)
                    run.update(clip_norm=clip_norm)
                run.step()
                if run.steps_done == die_at:
                    raise Killed
            run.log(loss=loss)
        run.close()
    finally:
        run._shut()
    return model, optimizer, run


def bits(model, optimizer):
    state = [value for each in optimizer.state.values() for value in each.values()]
    masters = [p for group in optimizer.param_groups for p in group["params"]]
    return [t.detach().clone() for t in [*model.state_dict().values(), *masters, *state]]


def same(one, other):
    return len(one) == len(other) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )


@pytest.fixture
def fp16_here(monkeypatch):
    """float16 on a processor: slow, and refused to users; small tests can wait for it."""
    monkeypatch.setattr("rekindle.run.precision._NEED_GPU", ())


@pytest.mark.parametrize("level", ["bf16", "O2", "O3", "bf16-true"])
def test_every_precision_resumes_to_the_same_bits(tmp_path, level):
    model, optimizer, _ = train(tmp_path / "whole", precision=level)
    for death in (2, 8, 11):
        with pytest.raises(Killed):
            train(tmp_path / "cut", precision=level, die_at=death)
    model_again, optimizer_again, run = train(tmp_path / "cut", precision=level)
    assert run.resumed_from.endswith("9")
    assert same(bits(model, optimizer), bits(model_again, optimizer_again))


def test_o2_keeps_batch_norm_and_the_optimizer_in_float32_and_rounds_the_rest(tmp_path, capsys):
    model, optimizer, _ = train(tmp_path / "run", precision="O2")
    assert "precision O2 is bfloat16 weights" in capsys.readouterr().err
    assert {key: value.dtype for key, value in model.state_dict().items() if "num" not in key} == {
        **dict.fromkeys(["0.weight", "0.bias", "4.weight", "4.bias"], torch.bfloat16),
        **dict.fromkeys(["1.weight", "1.bias", "1.running_mean", "1.running_var"], torch.float32),
    }
    masters = [p for group in optimizer.param_groups for p in group["params"]]
    assert {p.dtype for p in masters} == {torch.float32}
    for live, master in zip(model.parameters(), masters, strict=True):
        assert torch.equal(live, master.to(live.dtype))
    assert not torch.equal(masters[0], masters[0].bfloat16().float())  # they hold more than the model can
    assert model(torch.ones(2, 3)).dtype == torch.float32


def test_o3_has_everything_in_half(tmp_path):
    model, optimizer, _ = train(tmp_path / "run", precision="O3")
    assert {v.dtype for v in model.state_dict().values() if v.is_floating_point()} == {torch.bfloat16}
    assert {v["exp_avg"].dtype for v in optimizer.state.values()} == {torch.bfloat16}


@dataclasses.dataclass
class Answer:
    scores: torch.Tensor
    last: torch.Tensor
    kind: str = "logits"


class Reader(nn.Module):
    """Takes sentences of a length each, and answers with a dataclass."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, batch):
        _, (last, _) = self.lstm(batch["words"])
        assert batch["about"].scores.dtype == last.dtype
        return Answer(self.head(last[0] + batch["about"].scores), last)


@pytest.mark.parametrize("level", ["O2", "O3"])
def test_half_weights_take_and_give_nested_batches(tmp_path, level):
    run = rk.Run(tmp_path / "run", seed=1, precision=level, tensorboard=False, save_every=None)
    model = run.prepare(Reader())
    words = nn.utils.rnn.pack_sequence([torch.randn(3, 3), torch.randn(2, 3)])
    answer = model({"words": words, "about": Answer(torch.ones(4), torch.ones(1)), "labels": torch.tensor([0, 1])})
    assert model.head.weight.dtype == torch.bfloat16
    assert (answer.scores.dtype, answer.last.dtype, answer.kind) == (torch.float32, torch.float32, "logits")
    assert words.data.dtype == torch.float32  # the loop's own batch stays as it was
    run._shut()


def test_a_plain_loop_steps_the_master_weights_too(tmp_path):
    plain = train(tmp_path / "one", precision="O2", plain=True)
    prepared = train(tmp_path / "two", precision="O2", clip_norm=None)
    assert same(bits(*plain[:2]), bits(*prepared[:2]))


def test_a_master_starts_from_the_value_before_it_was_rounded(tmp_path):
    run = rk.Run(tmp_path / "run", seed=1, precision="O2", tensorboard=False)
    layer = nn.Linear(3, 3)
    before = layer.weight.detach().clone()
    layer, optimizer = run.prepare(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
    assert torch.equal(optimizer.param_groups[0]["params"][0], before)
    run._shut()


@pytest.mark.parametrize("scaled", [False, True])
def test_a_master_weight_takes_the_whole_gradient_and_no_more(tmp_path, scaled):
    run = rk.Run(tmp_path / "run", seed=1, precision="O2", tensorboard=False, save_every=None, accumulate=2)
    if scaled:  # as on a GPU
        run._core.updater.scaler = GradScaler("cpu", init_scale=256.0)
    layer = nn.Linear(2, 1, bias=False)
    layer, optimizer = run.prepare(layer, torch.optim.SGD(layer.parameters(), lr=0.5))
    (master,) = optimizer.param_groups[0]["params"]
    before = master.detach().clone()
    for _ in run.epochs(1):
        for inputs in run.batches([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])]):
            run.backward(layer(inputs).sum())
            run.update()
            run.step()
    assert torch.equal(master, before - 0.5 * torch.tensor([[2.0, 3.0]]))
    assert torch.equal(layer.weight, master.bfloat16())


def test_weights_that_are_loaded_after_prepare_go_before_the_copies(tmp_path, capsys):
    run = rk.Run(tmp_path / "run", seed=1, precision="O2", tensorboard=False, save_every=None)
    layer = nn.Linear(3, 3)
    layer, _ = run.prepare(layer, torch.optim.SGD(layer.parameters(), lr=0.0))
    nn.init.ones_(layer.weight)
    for _ in run.epochs(1):
        run.backward(layer(torch.ones(1, 3)).sum())
        run.update()
        run.step()
    assert torch.equal(layer.weight, torch.ones(3, 3, dtype=torch.bfloat16))
    assert "1 weights were loaded after run.prepare" in capsys.readouterr().err


def test_o2_without_prepare_says_so(tmp_path):
    run = rk.Run(tmp_path / "run", seed=1, precision="O2", tensorboard=False)
    run.track(model=nn.Linear(1, 1))
    with pytest.raises(RunError, match="no model was prepared"):
        run.epochs(1)
    run._shut()


def test_scales_are_part_of_every_snapshot(tmp_path, fp16_here, monkeypatch):
    monkeypatch.setattr("torch.amp.grad_scaler.GradScaler.__init__", eager_scaler(GradScaler.__init__))
    model, optimizer, run = train(tmp_path / "whole", precision="fp16", losses=2)
    # It starts far too high, so the first updates are skipped; then it grows again every 4.
    assert run.skipped_steps > 0
    for death in (4, 10):
        with pytest.raises(Killed):
            train(tmp_path / "cut", precision="fp16", losses=2, die_at=death)
    model_again, optimizer_again, again = train(tmp_path / "cut", precision="fp16", losses=2)
    assert again.resumed_from is not None
    assert same(bits(model, optimizer), bits(model_again, optimizer_again))
    assert again.skipped_steps == run.skipped_steps
    assert sorted(again._core.updater.scalers) == ["scaler", "scaler.0", "scaler.1"]
    for name, scaler in run._core.updater.scalers.items():
        assert again._core.updater.scalers[name].state_dict() == scaler.state_dict()
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]
    assert f'"skipped_steps": {run.skipped_steps}' in logs[0]


def eager_scaler(make):
    def init(self, device="cuda"):
        make(self, device, init_scale=2.0**40, growth_interval=4)

    return init


def test_another_precision_in_a_later_life_is_said_and_goes_on(tmp_path, fp16_here, capsys):
    train(tmp_path / "run", precision="fp16", epochs=1)
    train(tmp_path / "run", precision="fp32", epochs=2)
    train(tmp_path / "run", precision="fp16", epochs=3)
    said = capsys.readouterr().err
    assert "precision was fp16, is fp32" in said
    assert "precision was fp32, is fp16" in said


@pytest.mark.parametrize(
    ("level", "line", "weights", "norm"),
    [
        ("O0", "precision O0 is float32 throughout", torch.float32, torch.float32),
        ("O1", "precision O1 is float32 weights, autocast to bfloat16 in each step", torch.float32, torch.float32),
        ("O2", "precision O2 is bfloat16 weights, BatchNorm and master weights", torch.bfloat16, torch.float32),
        ("O3", "precision O3 is bfloat16 throughout", torch.bfloat16, torch.bfloat16),
    ],
)
def test_each_of_the_classic_levels_is_what_its_line_says(tmp_path, capsys, level, line, weights, norm):
    run = rk.Run(tmp_path / "run", seed=0, precision=level, tensorboard=False)
    assert f"rekindle: {line}" in capsys.readouterr().err
    model = run.prepare(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    assert (model[0].weight.dtype, model[1].weight.dtype) == (weights, norm)
    seen = []
    model[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    with run.autocast():
        model(torch.ones(4, 3))
    assert seen == [torch.float32 if level == "O0" else torch.bfloat16]
    run._shut()


@pytest.mark.parametrize(("word", "off"), [("fp32", True), ("O0", True), ("bf16", False)])
def test_switched_off_a_run_has_the_bits_of_the_plain_loop(tmp_path, word, off):
    """The same batches and first weights, through a run and through torch alone."""

    def fresh():
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)

    with rk.Run(tmp_path / "run", seed=1, precision=word, tensorboard=False, progress=False) as run:
        model, optimizer, scheduler = run.prepare(*fresh())
        seen = []
        for _ in run.epochs(2):
            for (inputs,) in run.batches(run.loader(DATA, batch_size=8)):
                seen.append(inputs.clone())
                with run.autocast():
                    loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
                run.backward(loss)
                run.update(clip_norm=0.5)
                run.step()

    plain, its_optimizer, its_scheduler = fresh()
    for inputs in seen:
        (plain(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        its_optimizer.step()
        its_scheduler.step()
        its_optimizer.zero_grad()
    assert len(seen) == 12
    assert same(bits(model, optimizer), bits(plain, its_optimizer)) is off
    assert its_scheduler.get_last_lr() == scheduler.get_last_lr()
    state = json.loads((max((tmp_path / "run" / "snapshots").iterdir()) / "state.json").read_text())
    assert "scaler" not in json.dumps(state)


@pytest.mark.parametrize("word", ["fp32", "fp16"])
def test_a_run_clips_gradients_by_their_true_size_in_every_precision(tmp_path, fp16_here, word):
    run = rk.Run(tmp_path / "run", seed=1, precision=word, tensorboard=False, save_every=None)
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    model, _ = run.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
    for _ in run.epochs(1):
        run.backward((model.weight * torch.tensor([0.3, 0.4])).sum())
        assert model.weight.grad.norm().item() == pytest.approx(0.5 * (65536 if word == "fp16" else 1))
        run.update(clip_norm=0.25)
        run.step()
    assert model.weight.tolist()[0] == pytest.approx([-0.15, -0.2], rel=1e-4)
    run._shut()
