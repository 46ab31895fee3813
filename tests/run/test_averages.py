"""Averaged weights: updated at the boundary, lent for evaluation, never saved while lent, resumed to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset

import rekindle as rk
from rekindle.errors import ConfigError, RunError, StateMismatch

DATA = TensorDataset(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)))


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))


def values(module):
    return [tensor.detach().clone() for tensor in module.state_dict().values() if isinstance(tensor, torch.Tensor)]


def same(one, other):
    return len(one) == len(other) > 0 and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def shaken(model, average, times):
    """Change a model and average it, some times over; return the values of its first weight."""
    seen = []
    for _ in range(times):
        with torch.no_grad():
            for tensor in [*model.parameters(), *model.buffers()]:
                tensor.add_(1)
        seen.append(next(iter(model.parameters())).flatten()[0].item())
        average.update()
    return seen


def test_an_average_is_what_torch_makes_of_the_same_weights():
    model = net()
    mine = rk.average(model, decay=0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(5):
        shaken(model, mine, 1)
        theirs.update_parameters(model)
    assert same(values(mine.module), values(theirs.module))


def test_the_plain_mean_starts_late_and_takes_every_second_state():
    model = net()
    mean = rk.average(model, decay=None, start=2, every=2)
    seen = shaken(model, mean, 8)
    assert float(mean.module[0].weight.flatten()[0]) == pytest.approx((seen[3] + seen[5] + seen[7]) / 3)
    assert mean.updates == 3


def test_until_it_starts_it_is_the_model_as_it_is():
    model = net()
    mean = rk.average(model, decay=None, start=5)
    shaken(model, mean, 4)
    assert same(values(mean.module), values(model))


def test_warm_up_forgets_the_random_start():
    model = net()
    slow, warm = rk.average(model, decay=0.999), rk.average(model, decay=0.999, warmup=True)
    shaken(model, slow, 20)
    last = shaken(model, warm, 20)[-1]
    assert last - float(warm.module[0].weight.flatten()[0]) < 8


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_statistics_are_copied_or_averaged_and_counts_always_copied(buffers):
    model = net()
    ema = rk.average(model, decay=0.5, buffers=buffers)
    shaken(model, ema, 4)
    newest = torch.equal(ema.module[1].running_mean, model[1].running_mean)
    assert newest == (buffers == "copy")
    assert ema.module[1].num_batches_tracked == model[1].num_batches_tracked


def test_swapped_lends_the_averages_and_gives_every_bit_back():
    model = net()
    ema = rk.average(model, decay=0.5)
    shaken(model, ema, 3)
    before, averaged = values(model), values(ema.module)

    def evaluate():
        with ema.swapped() as lent:
            assert lent is model
            assert same(values(model), averaged)
            with pytest.raises(RunError, match=r"inside average\.swapped"):
                ema.update()
            raise KeyError

    with pytest.raises(KeyError):
        evaluate()
    assert same(values(model), before)
    assert same(values(ema.module), averaged)


def test_it_looks_through_compile_and_computes_without_dropout():
    model = net()
    compiled = torch.compile(model, backend="eager")
    ema = rk.average(compiled, decay=0.5)
    shaken(compiled, ema, 2)
    inputs = torch.ones(4, 3)
    assert [key for key in ema.state_dict() if "_orig_mod" in key] == []
    assert torch.equal(ema(inputs), ema(inputs))


def test_an_average_of_a_model_that_is_half_already_is_float32(tmp_path):
    run = rk.Run(tmp_path / "run", seed=1, precision="O2", tensorboard=False)
    model = run.prepare(net())
    ema = rk.average(model, decay=0.5)
    shaken(model, ema, 3)
    assert {p.dtype for p in ema.parameters()} == {torch.float32}
    assert ema.eval()(torch.ones(2, 3)).dtype == torch.float32
    with ema.swapped():
        assert model[0].weight.dtype == torch.bfloat16
        assert torch.equal(model[0].weight, ema.module[0].weight.bfloat16())
    run._shut()


def test_weights_are_copied_to_another_model_or_nothing_is():
    one, other = net(), net()
    assert rk.copy_weights(one, other) == len(one.state_dict())
    assert same(values(one), values(other))
    ema = rk.average(one)
    shaken(one, ema, 2)
    ema.copy_to(other)
    assert same(values(ema.module), values(other))
    smaller = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = values(smaller)
    with pytest.raises(
        StateMismatch, match=r"(?s)unexpected  3\.weight.*other       0\.weight: \[4, 3\] there, \[2, 3\] here"
    ):
        rk.copy_weights(one, smaller)
    assert same(values(smaller), before)
    wrapped = nn.DataParallel(net())
    rk.copy_weights({f"module.{key}": value for key, value in one.state_dict().items()}, wrapped)
    assert same(values(wrapped), values(one))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"decay": 1.0}, "decay=1.0 is not a part"),
        ({"buffers": "forget"}, "buffers='forget' is not known"),
        ({"every": 0}, "every=0 is not a number of updates"),
        ({"start": -1}, "start=-1 is not"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        rk.average(net(), **settings)


def test_a_lazy_model_is_refused():
    with pytest.raises(RunError, match="without a shape yet"):
        rk.average(nn.LazyLinear(3))


# ---- in a run


class Killed(Exception):
    """Stands for kill -9."""


def train(folder, *, die_at=None, evaluate=None, **settings):
    run = rk.Run(folder, seed=1, save_every="3 steps", tensorboard=False, progress=False, **settings)
    try:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        ema = rk.average(model, decay=0.9)
        model, optimizer, ema = run.prepare(model, optimizer, ema)
        for _ in run.epochs(3):
            model.train()
            for (inputs,) in run.batches(run.loader(DATA, batch_size=8)):
                run.backward(model(inputs).square().mean())
                run.update()
                run.step()
                if run.steps_done == die_at:
                    raise Killed
            if evaluate is not None:
                evaluate(run, model, ema)
        run.close()
    finally:
        run._shut()
    return values(model), values(ema.module), ema.updates, run


def test_a_tracked_average_is_updated_at_each_step_and_resumes_to_the_same_bits(tmp_path):
    model, ema, updates, _ = train(tmp_path / "whole")
    assert updates == 15
    for death in (4, 7, 11):
        with pytest.raises(Killed):
            train(tmp_path / "cut", die_at=death)
    model_again, ema_again, updates_again, _ = train(tmp_path / "cut")
    assert same(model, model_again)
    assert same(ema, ema_again)
    assert updates_again == 15


def test_its_file_is_one_of_the_model_itself(tmp_path):
    _, ema, _, _ = train(tmp_path / "run")
    newest = max((tmp_path / "run" / "snapshots").iterdir())
    saved = rk.load(newest / "average.safetensors")
    fresh = net()
    fresh.load_state_dict(saved)
    assert same(values(fresh), ema)


@pytest.mark.parametrize("precision", ["O2", "bf16"])
def test_averages_of_half_weights_are_float32_and_resume(tmp_path, precision):
    _, ema, _, _ = train(tmp_path / "whole", precision=precision)
    assert {tensor.dtype for tensor in ema if tensor.is_floating_point()} == {torch.float32}
    with pytest.raises(Killed):
        train(tmp_path / "cut", precision=precision, die_at=8)
    assert same(ema, train(tmp_path / "cut", precision=precision)[1])


def test_nothing_is_saved_while_the_weights_are_lent(tmp_path):
    def evaluate(run, model, ema):
        with ema.swapped(), run.evaluating(model):
            run.log(output=model(DATA.tensors[0]).mean())
            with pytest.raises(RunError, match=r"inside average\.swapped"):
                run.step()

    whole = train(tmp_path / "whole", evaluate=evaluate)
    assert same(whole[0], train(tmp_path / "plain")[0])


def test_a_save_that_is_due_waits_until_they_are_back(tmp_path):
    check = DATA.tensors[0].split(20)

    def evaluate(run, model, ema):
        run.save()
        with ema.swapped(), run.evaluating(model):
            for inputs in run.batches(list(check)):
                model(inputs)

    train(tmp_path / "run", evaluate=evaluate)
    for path in (tmp_path / "run" / "snapshots").iterdir():
        saved, average = (rk.load(path / f"{name}.safetensors") for name in ("model", "average"))
        assert not torch.equal(saved["0.weight"], average["0.weight"])


def test_saving_by_hand_while_they_are_lent_is_refused(tmp_path):
    run = rk.Run(tmp_path / "run", seed=1, tensorboard=False)
    model = net()
    ema = rk.average(model)
    run.track(model=model, ema=ema)
    with ema.swapped(), pytest.raises(RunError, match=r"nothing can be saved inside average\.swapped"):
        run.save()
    run.save()
    run.close()


def follow(folder, *, die_at=None):
    """Two models in one run: every 4 updates the slow one takes the weights of the other, and is its target."""
    run = rk.Run(folder, seed=1, save_every="3 steps", tensorboard=False, progress=False)
    try:
        fast, slow = net(), net().requires_grad_(False).eval()
        rk.copy_weights(fast, slow)
        optimizer = torch.optim.SGD(fast.parameters(), lr=0.05, momentum=0.9)
        fast, slow, optimizer = run.prepare(fast, slow, optimizer)
        for _ in run.epochs(3):
            for (inputs,) in run.batches(run.loader(DATA, batch_size=8)):
                run.backward((fast(inputs) - slow(inputs) - 0.1).square().mean())
                run.update()
                if (run.steps_done + 1) % 4 == 0:
                    rk.copy_weights(fast, slow)
                run.step()
                if run.steps_done == die_at:
                    raise Killed
        run.close()
    finally:
        run._shut()
    return values(fast), values(slow)


def test_a_model_that_takes_the_weights_of_another_now_and_then_resumes_to_the_same_bits(tmp_path):
    fast, slow = follow(tmp_path / "whole")
    assert not same(fast, slow)
    for death in (4, 8, 13):
        with pytest.raises(Killed):
            follow(tmp_path / "cut", die_at=death)
    again, slow_again = follow(tmp_path / "cut")
    assert same(fast, again)
    assert same(slow, slow_again)


def test_weights_of_eight_bits_are_copied_and_complex_ones_averaged():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, dtype=torch.complex64))
            self.packed = nn.Parameter(torch.ones(4).to(torch.float8_e4m3fn), requires_grad=False)
            self.codes = nn.Parameter(torch.arange(4, dtype=torch.int8), requires_grad=False)

    model = Mixed()
    average = rk.average(model, decay=0.5)
    average.update()
    with torch.no_grad():
        model.scale.fill_(3j)
        model.packed.copy_(torch.full((4,), 2.0).to(torch.float8_e4m3fn))
        model.codes.add_(1)
    average.update()
    assert torch.equal(average.module.scale, torch.full((3,), 0.5 + 1.5j))
    assert torch.equal(average.module.packed.float(), torch.full((4,), 2.0))
    assert torch.equal(average.module.codes, torch.arange(1, 5, dtype=torch.int8))
