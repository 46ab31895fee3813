"""A run names the mistakes of its own loop, once each, and changes no bit of what it watches."""

# ruff: noqa: NPY002 - NumPy's legacy global generator is what data sets draw from

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import numpy as np
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset, TensorDataset

import rekindle as rk

X, Y = torch.linspace(-2, 2, 256).reshape(64, 4), torch.arange(64) % 3
DATA = TensorDataset(X, Y)


def net(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), *more)


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))


def train(
    folder: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    loss_fn: Callable[..., torch.Tensor] = functional.cross_entropy,
    source: Callable[[rk.Run], Any] = lambda run: run.loader(DATA, batch_size=8),
    clear: bool = True,
    after: Callable[[rk.Run, nn.Module], object] = lambda _run, _model: None,
    epochs: int = 2,
    watch: bool = True,
) -> rk.Run:
    with rk.Run(folder, seed=0, save_every=None, tensorboard=False, watch=watch) as run:
        run.track(model=model, optimizer=optimizer)
        batches = source(run)
        for _ in run.epochs(epochs):
            for inputs, labels in run.batches(batches):
                loss = loss_fn(model(inputs), labels)
                loss.backward()
                optimizer.step()
                if clear:
                    optimizer.zero_grad()
                run.step()
            after(run, model)
    assert run._core.pitfalls is None or run._core.pitfalls.failed is None
    return run


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr)


@pytest.fixture
def said(tmp_path, capfd) -> Callable[..., str]:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, **settings: Any) -> str:
        train(tmp_path / "run", model, optimizer or sgd(model), **settings)
        return capfd.readouterr().err

    return run


def test_softmax_before_cross_entropy_is_said_once(said):
    assert said(net(nn.Softmax(1)), epochs=3) == (
        "rekindle: warning  cross entropy is given probabilities: softmax was applied after model[2]  [RK-PIT-02]\n"
        "  why     cross entropy applies log_softmax itself; of probabilities, which lie between 0 and 1, it "
        "cannot come "
        "near 0, and gradients are small: training is slow or stuck\n"
        "  do      loss_fn(scores, labels) with the output of model[2]; softmax only to show probabilities: "
        "scores.softmax(1)\n"
    )


def test_nothing_is_said_where_nobody_watches(said):
    assert said(net(nn.Softmax(1)), watch=False) == ""


def test_a_good_loop_is_passed_over_in_silence(said):
    assert said(normed(), after=lambda run, model: run.evaluating(model)) == ""


def test_a_relu_at_the_end(said):
    assert "cross entropy is given the output of ReLU, not that of model[2]  [RK-PIT-01]" in said(net(nn.ReLU()))


def test_parameters_that_the_optimizer_misses(said):
    model = net()
    assert "2 of 4 trained parameters are in no optimizer: 0.weight, 0.bias  [RK-PIT-08]" in said(model, sgd(model[2]))


def test_a_head_that_was_replaced(said):
    model = net()
    optimizer = sgd(model)
    model[2] = nn.Linear(8, 3)
    assert "the optimizer holds other tensors than model has now: 2.weight, 2.bias  [RK-PIT-10]" in said(
        model, optimizer
    )


def test_an_optimizer_may_hold_what_is_not_tracked(said):
    model, other = net(), nn.Linear(5, 5)
    assert "RK-PIT" not in said(model, torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1))


def test_eval_left_on_after_the_first_validation(said):
    assert said(normed(), after=lambda _, model: model.eval()) == (
        "rekindle: warning  updates are made while model is in eval mode: 1 (BatchNorm1d), 3 (Dropout)  [RK-PIT-11]\n"
        "  why     eval mode stays until model.train(): dropout drops nothing, and norms normalise with old "
        "statistics and "
        "learn none\n"
        "  do      model.train()    # at the start of each epoch\n"
    )


def test_a_model_without_modes_may_be_in_any(said):
    assert said(net(), after=lambda _, model: model.eval()) == ""


def test_eval_forgotten_in_validation_moves_the_norms(said):
    def validate(_run: rk.Run, model: nn.Module) -> None:
        with torch.no_grad():
            model(X)

    assert said(normed(), after=validate) == (
        "rekindle: warning  model was in training mode outside of the training: model.1 (their statistics moved)  "
        "[RK-PIT-12]\n"
        "  why     dropout drops, and norms use the batch at hand and learn from it: the measure is wrong, "
        "and so is the "
        "model\n"
        "  do      with run.evaluating(model): ...    # or model.eval() before and model.train() after\n"
    )


def test_eval_forgotten_in_a_loop_of_the_run_is_seen_with_dropout_alone(said):
    model = net()
    model.insert(1, nn.Dropout(0.5))

    def validate(run: rk.Run, model: nn.Module) -> None:
        with torch.no_grad():
            for inputs, _ in run.batches([[X, Y]]):
                model(inputs)

    assert "model was in training mode outside of the training: 1 (batches were walked over" in said(
        model, after=validate
    )


def test_a_validation_in_eval_mode_is_passed_over(said):
    def validate(run: rk.Run, model: nn.Module) -> None:
        with run.evaluating(model):
            for inputs, _ in run.batches([[X, Y]]):
                model(inputs)

    assert said(normed(), after=validate) == ""


def test_a_frozen_norm_that_drifts_and_one_that_rekindle_froze(said, tmp_path, capfd):
    model = normed()
    model[1].requires_grad_(False)
    assert "1 frozen norm in training mode: 1  [RK-PIT-13]" in said(model)
    model = normed()
    rk.freeze(model, patterns=["0", "1"])
    train(tmp_path / "frozen", model, sgd(model))
    assert capfd.readouterr().err == ""


class Forks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = net(), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def test_a_layer_that_no_gradient_ever_reached(said):
    assert "no gradient reaches 2 trained parameters: unused.weight, unused.bias  [RK-PIT-14]" in said(Forks())


def test_a_loss_that_is_always_the_same(said):
    model = net(nn.ReLU(), nn.Flatten())
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
    text = said(model, loss_fn=lambda scores, labels: functional.cross_entropy(scores * 1.0, labels), epochs=3)
    assert "loss was 1.09861 on each of 5 different batches  [RK-PIT-15]" in text


def test_exploding_gradients(said):
    model = net()
    text = said(model, sgd(model, 50.0), loss_fn=lambda y, t: functional.mse_loss(y[:, 0], 1e3 * t.float()), epochs=1)
    assert "[RK-PIT-16]" in text


def test_vanishing_gradients(said):
    torch.manual_seed(0)
    deep = [layer for _ in range(14) for layer in (nn.Linear(8, 8), nn.Sigmoid())]
    assert "[RK-PIT-17]" in said(nn.Sequential(nn.Linear(4, 8), *deep, nn.Linear(8, 3)))


def test_a_learning_rate_that_is_0_for_an_epoch(said):
    model = net()
    text = said(model, sgd(model, 0.0))
    assert "the learning rate of optimizer is 0 for a whole epoch (4 parameters)  [RK-PIT-18]" in text


def test_a_warmup_from_0_is_passed_over(tmp_path, capfd):
    model = net()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 6))
    train(tmp_path / "run", model, optimizer, after=lambda *_: scheduler.step(), epochs=1)
    assert "RK-PIT-18" in capfd.readouterr().err  # stepped once in an epoch only: nothing was learned in it
    with rk.Run(tmp_path / "other", seed=0, save_every=None, tensorboard=False) as run:
        run.track(model=model, optimizer=optimizer, scheduler=scheduler)
        for _ in run.epochs(2):
            for inputs, labels in run.batches(run.loader(DATA, batch_size=8)):
                run.backward(functional.cross_entropy(model(inputs), labels))
                run.update()
                run.step()
    assert capfd.readouterr().err == ""


def test_gradients_that_nobody_clears(said):
    assert said(net(), clear=False) == (
        "rekindle: warning  gradients of the update before were still there when optimizer made the next  [RK-PIT-24]\n"
        "  why     backward() adds to what is there: each update is made with the sum of all gradients so far\n"
        "  do      optimizer.zero_grad()    # once in each update, after optimizer.step()\n"
    )


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_that_are_cleared_before_the_backward_pass(set_to_none, tmp_path, capfd):
    model = net()
    optimizer = sgd(model)

    def loss_fn(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=set_to_none)
        return functional.cross_entropy(scores, labels)

    train(tmp_path / "run", model, optimizer, loss_fn=loss_fn, clear=False)
    assert capfd.readouterr().err == ""


def test_accumulation_by_hand_is_passed_over(tmp_path, capfd):
    model = net()
    optimizer = sgd(model)
    with rk.Run(tmp_path / "run", seed=0, save_every=None, tensorboard=False) as run:
        run.track(model=model, optimizer=optimizer)
        for _ in run.epochs(2):
            for number, (inputs, labels) in enumerate(run.batches(run.loader(DATA, batch_size=4))):
                functional.cross_entropy(model(inputs), labels).backward()
                if number % 4 == 3:
                    optimizer.step()
                    optimizer.zero_grad()
                run.step()
    assert capfd.readouterr().err == ""


def seeded(_run: rk.Run) -> DataLoader:
    class Again(DataLoader):
        def __iter__(self) -> Any:
            self.generator.manual_seed(0)
            return super().__iter__()

    return Again(DATA, batch_size=8, shuffle=True, generator=torch.Generator())


def test_an_order_that_is_seeded_again_in_each_epoch(said):
    assert said(net(), source=seeded) == (
        "rekindle: warning  two epochs have the same order of samples, though it is shuffled  [RK-PIT-25]\n"
        "  why     the loader's generator is seeded again before each epoch\n"
        "  do      make and seed the generator once, before the epochs; or run.batches(run.loader(dataset, ...))\n"
    )


def test_a_distributed_sampler_without_set_epoch(said, tmp_path, capfd):
    sampler = torch.utils.data.DistributedSampler(DATA, 2, 0)
    text = said(net(), source=lambda _: DataLoader(DATA, batch_size=8, sampler=sampler))
    assert "DistributedSampler shuffles by the number of its epoch, which nobody changes" in text
    model = net()
    train(
        tmp_path / "set",
        model,
        sgd(model),
        source=lambda _: DataLoader(DATA, batch_size=8, sampler=sampler),
        after=lambda run, _: sampler.set_epoch(run.epoch + 1),
    )
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_loader_of_ones_own_with_or_without_shuffling(shuffle, said):
    assert said(net(), source=lambda _: DataLoader(DATA, batch_size=8, shuffle=shuffle)) == ""


def test_losses_that_are_kept_with_their_graphs(tmp_path, capfd):
    model = net()
    optimizer = sgd(model)
    with rk.Run(tmp_path / "run", seed=0, save_every=None, tensorboard=False) as run:
        run.track(model=model, optimizer=optimizer)
        losses, means, total = [], [], 0.0
        for _ in run.epochs(1):
            for inputs, labels in run.batches(run.loader(DATA, batch_size=8)):
                loss = functional.cross_entropy(model(inputs), labels)
                run.backward(loss)
                run.update()
                losses.append(loss)
                means.append(loss.detach())
                total += loss.item()
                run.step()
    err = capfd.readouterr().err
    assert err.startswith("rekindle: warning  `losses` holds 4 losses with their graphs (")
    assert "test_watch.py:" in err
    assert err.splitlines()[1:] == [
        "  why     a loss holds the graph that made it: memory grows with every step, until there is none",
        "  do      losses.append(loss.detach())",
    ]


def test_a_sum_that_grows_with_each_loss(tmp_path, capfd):
    model = net()
    optimizer = sgd(model)
    with rk.Run(tmp_path / "run", seed=0, save_every=None, tensorboard=False) as run:
        run.track(model=model, optimizer=optimizer)
        total = 0
        for _ in run.epochs(1):
            for inputs, labels in run.batches(run.loader(DATA, batch_size=8)):
                loss = functional.cross_entropy(model(inputs), labels) + 0.1 * model[0].weight.square().sum()
                run.backward(loss)
                run.update()
                total += loss
                run.step()
    assert "`total` holds a sum of losses that grows with each step, with their graphs" in capfd.readouterr().err


def test_the_data_set_s_own_labels_and_generators(said):
    labels = Y.clone()
    labels[-1] = 3
    own = TensorDataset(X, Y)
    own.rng = np.random.default_rng(0)
    assert "dataset.rng: a generator kept in the data set, and 1 worker  [RK-PIT-22]" in said(
        net(), source=lambda run: run.loader(own, batch_size=16, num_workers=1), epochs=1
    )


def test_validation_samples_that_are_partly_trained_on(said):
    def source(run: rk.Run) -> Any:
        source.kept = run.loader(Subset(DATA, range(40, 64)), batch_size=8, shuffle=False)
        return run.loader(Subset(DATA, range(48)), batch_size=8)

    assert "8 of 24 validation samples are trained on as well  [RK-PIT-23]" in said(net(), source=source)


def test_a_part_of_the_training_set_may_be_looked_at_again(said):
    def source(run: rk.Run) -> Any:
        source.kept = run.loader(Subset(DATA, range(24)), batch_size=8, shuffle=False)
        return run.loader(DATA, batch_size=8)

    assert said(net(), source=source) == ""


def test_a_batch_of_one_with_batchnorm(said):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 3))
    assert "batches of 1 sample with 1 batch norm" in said(model, source=lambda run: run.loader(DATA, batch_size=1))


# ---- nothing is changed


def weights_of(run_folder: Any, *, watch: bool, check: bool) -> dict[str, torch.Tensor]:
    model = normed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with rk.Run(run_folder, seed=3, save_every=None, tensorboard=False, watch=watch) as run:
        run.track(model=model, optimizer=optimizer)
        for _ in run.epochs(3):
            for inputs, labels in run.batches(run.loader(DATA, batch_size=8)):
                loss = functional.cross_entropy(model(inputs), labels)
                loss.backward()
                optimizer.step()
                if check:
                    rk.check(model, functional.cross_entropy, (inputs, labels), optimizer=optimizer, dataset=DATA)
                torch.rand(1)  # whoever draws after a look draws the same
                model[0].bias.data.add_(torch.rand(8) * 1e-3)
                optimizer.zero_grad()
                run.step()
    return {**model.state_dict(), "momentum": optimizer.state[model[0].weight]["momentum_buffer"]}


def test_a_training_with_all_looks_ends_with_the_bits_of_one_without_any(tmp_path):
    plain = weights_of(tmp_path / "plain", watch=False, check=False)
    looked = weights_of(tmp_path / "looked", watch=True, check=True)
    assert plain.keys() == looked.keys()
    assert all(torch.equal(plain[name], looked[name]) for name in plain)


def test_a_check_leaves_everything_as_it_was():
    model, batch = normed(), (X[:8].clone().requires_grad_(), Y[:8])
    model[0].seen_before = "mine"
    model[3].eval()
    heard: list[str] = []
    model[0].register_forward_hook(lambda *_: heard.append("hook"))
    functional.cross_entropy(model(batch[0]), batch[1]).backward()
    batch[0].grad = None
    buffers = {name: (id(value), value.clone()) for name, value in model.named_buffers()}
    grads = {name: (id(one.grad), one.grad.clone()) for name, one in model.named_parameters()}
    flags = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    attributes = [{key: id(value) for key, value in vars(module).items()} for module in model.modules()]
    torch.manual_seed(5)
    drawn = torch.rand(3), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(7)
    expected = np.random.rand()
    np.random.seed(7)
    rk.check(model, functional.cross_entropy, batch)
    assert torch.equal(torch.rand(3), drawn[0])
    assert np.random.rand() == expected
    assert all(buffers[name][0] == id(value) for name, value in model.named_buffers())
    assert all(torch.equal(buffers[name][1], value) for name, value in model.named_buffers())
    assert all(grads[name][0] == id(one.grad) for name, one in model.named_parameters())
    assert all(torch.equal(grads[name][1], one.grad) for name, one in model.named_parameters())
    assert batch[0].grad is None
    assert [module.training for module in model.modules()] == flags
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks
    now = [{key: id(value) for key, value in vars(module).items()} for module in model.modules()]
    assert [each.keys() for each in now] == [each.keys() for each in attributes]
    assert heard


def test_a_model_that_fails_is_left_as_it_was_too():
    model = normed()
    before = copy.deepcopy(model.state_dict())
    rk.check(model, lambda *_: 1 / 0, (X, Y))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert not model._forward_hooks


def test_a_watched_model_and_optimizer_can_be_copied_and_pickled_in_the_loop(tmp_path):
    model = net()
    optimizer = sgd(model)

    def loss_fn(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert b"rekindle" not in pickle.dumps(model)
        assert b"rekindle" not in pickle.dumps(optimizer)
        assert not copy.deepcopy(model)._forward_hooks
        return functional.cross_entropy(scores, labels)

    train(tmp_path / "run", model, optimizer, loss_fn=loss_fn)


def test_the_loop_s_frame_keeps_nothing_alive(tmp_path):
    """Looking at a frame's variables must not make it hold the tensors of an earlier step."""
    import gc
    import weakref

    model = net()
    optimizer = sgd(model)
    seen: list[weakref.ref[Any]] = []

    def loop() -> None:
        with rk.Run(tmp_path / "run", seed=0, save_every=None, tensorboard=False) as run:
            run.track(model=model, optimizer=optimizer)
            for _ in run.epochs(1):
                for inputs, labels in run.batches(run.loader(DATA, batch_size=16)):
                    loss = functional.cross_entropy(model(inputs), labels)
                    seen.append(weakref.ref(loss))
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    run.step()
                    del loss
                    gc.collect()
                    assert seen[-1]() is None

    loop()


def test_a_fault_while_watching_does_not_end_the_training(tmp_path, monkeypatch):
    from rekindle.pitfalls import _watch

    def breaks(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(_watch, "find_pitfalls", breaks)
    model = net()
    with rk.Run(tmp_path / "run", seed=0, save_every=None, tensorboard=False) as run:
        run.track(model=model, optimizer=sgd(model))
        for _ in run.epochs(1):
            for inputs, labels in run.batches(run.loader(DATA, batch_size=16)):
                run.backward(functional.cross_entropy(model(inputs), labels))
                run.update()
                run.step()
    assert run.steps_done == 4
    assert str(run._core.pitfalls.failed) == "a fault of ours"


def scheduled(folder, capfd, **tracked):
    """Train with a schedule that steps each epoch; return what the run said of it."""
    model = net()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with rk.Run(folder, seed=0, save_every=None, tensorboard=False) as run:
        run.track(model=model, optimizer=optimizer, **{name: make(schedule) for name, make in tracked.items()})
        for _ in run.epochs(2):
            for inputs, labels in run.batches(run.loader(DATA, batch_size=8)):
                functional.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
                run.step()
            schedule.step()
    assert run._core.pitfalls.failed is None
    return [line for line in capfd.readouterr().err.splitlines() if "RK-PIT-32" in line]


class Wrapped:
    """A schedule as other libraries wrap it."""

    def __init__(self, schedule):
        self.inner = schedule

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)


def test_a_schedule_that_is_not_tracked_is_said_once(tmp_path, capfd):
    (line,) = scheduled(tmp_path / "run", capfd)
    assert "a schedule was made for optimizer, and it is not tracked" in line
    assert scheduled(tmp_path / "tracked", capfd, scheduler=lambda schedule: schedule) == []
    assert scheduled(tmp_path / "wrapped", capfd, scheduler=Wrapped) == []


def test_complex_weights_are_looked_at_without_a_warning_of_torch(tmp_path, capfd):
    class Turning(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 3)
            self.turn = nn.Parameter(torch.ones(3, dtype=torch.complex64))

        def forward(self, inputs):
            return self.inner(inputs) * self.turn.real + self.turn.imag

    model = Turning()
    train(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert "RK-PIT" not in capfd.readouterr().err
