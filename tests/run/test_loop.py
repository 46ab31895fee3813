"""`rk.Run`: a loop of one's own that goes on where it was."""

# ruff: noqa: NPY002 - NumPy's legacy global generator is what data sets draw from
# ruff: noqa: ARG005 - stand-ins take what the real ones take

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import rekindle as rk
from rekindle.errors import ConfigError, NothingToResume, RunError, RunLocked, SnapshotDamaged, StateMismatch
from rekindle.run.snapshot import read
from rekindle.store.layout import list_snapshots

DATA = TensorDataset(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40))


class Killed(Exception):
    """Stands for kill -9: raised in the body of the loop, and nothing of the run is closed in good order."""


@pytest.fixture
def start(tmp_path):
    """Begin or go on with the run in `tmp_path`; the life before it is dead, its lock given free as by a kernel."""
    lives = []

    def begin(folder="run", **settings):
        for life in lives:
            life._shut()
        settings = {"seed": 1, "save_every": "3 steps", "tensorboard": False, "progress": False} | settings
        run = rk.Run(tmp_path / folder, **settings)
        lives.append(run)
        return run

    yield begin
    for life in lives:
        life._shut()


def objects(**settings):
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, **settings)
    return {"model": model, "optimizer": optimizer, "scheduler": rk.schedule(optimizer, "cosine", total=100)}


def train(run, *, epochs=3, die_at=None, source=None, then=lambda run: None):
    """Train; return every drawn number and sample, and the weights."""
    tracked = objects()
    run.track(**tracked)
    loader = source(run) if source else run.loader(DATA, batch_size=7)
    seen = []
    for epoch in run.epochs(epochs):
        tracked["model"].train()
        for inputs, labels in run.batches(loader):
            loss = tracked["model"](inputs).square().mean() * (1 + 0.1 * random.random() * np.random.rand())
            loss.backward()
            tracked["optimizer"].step()
            tracked["scheduler"].step()
            tracked["optimizer"].zero_grad()
            run.step()
            seen.append((epoch, labels.tolist(), float(loss.detach())))
            then(run)
            if run.steps_done == die_at:
                raise Killed
        run.log(drawn=random.random(), value=float(np.random.rand()))
    return seen, [p.detach().clone() for p in tracked["model"].parameters()]


def in_lives(start, deaths, folder="cut", **settings):
    """Train in as many lives as there are deaths, and one more."""
    keep = settings.pop("keep", {})
    for step in deaths:
        with pytest.raises(Killed):
            train(start(folder, **keep), die_at=step, **settings)
    return train(start(folder, **keep), **settings)


def metrics(tmp_path, folder):
    return (tmp_path / folder / "metrics.jsonl").read_text()


SOURCES = {
    "run.loader": None,
    "run.loader, tensors collated": lambda run: run.loader(
        DATA, batch_size=7, collate_fn=torch.utils.data.default_collate
    ),
    "DataLoader": lambda run: DataLoader(DATA, batch_size=7, shuffle=True),
    "DataLoader with workers": lambda run: DataLoader(DATA, batch_size=7, shuffle=True, num_workers=1),
    "a list": lambda run: list(DataLoader(DATA, batch_size=7)),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_run_in_four_lives_is_the_run_in_one(start, tmp_path, source):
    seen, weights = train(start("whole"), source=source)
    for died_at in (2, 6, 11, 18):
        shutil.rmtree(tmp_path / "cut", ignore_errors=True)
        seen_again, weights_again = in_lives(start, [died_at, died_at], source=source)
        assert seen_again == seen[-len(seen_again) :]
        assert all(torch.equal(a, b) for a, b in zip(weights, weights_again, strict=True))
        assert metrics(tmp_path, "cut") == metrics(tmp_path, "whole")
    assert len(seen) == 18


def test_every_sample_comes_once_in_an_epoch_and_epochs_differ(start):
    seen, _ = train(start())
    epochs = [[label for epoch, labels, _ in seen if epoch == e for label in labels] for e in range(3)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_an_own_loader_says_what_the_way_back_cost(start, capsys):
    in_lives(start, [11], source=SOURCES["DataLoader"])
    said = capsys.readouterr().err
    assert "went through 3 batches of DataLoader again" in said
    assert "run.loader(dataset, ...) starts at any batch at once" in said


class Stateful:
    """A loader that keeps its own position, as torchdata's do."""

    def __init__(self):
        self.at, self.asked = 0, 0

    def __iter__(self):
        while self.at < 6:
            self.at += 1
            self.asked += 1
            yield torch.full((2, 3), float(self.at)), torch.tensor([self.at])
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_a_loader_that_keeps_its_own_position_is_asked_for_it(start):
    seen, weights = train(start("whole"), source=lambda run: Stateful())
    loaders = []
    with pytest.raises(Killed):
        train(start("cut"), die_at=11, source=lambda run: Stateful())
    again, weights_again = train(start("cut"), source=lambda run: loaders.append(Stateful()) or loaders[0])
    assert again == seen[9:]
    assert loaders[0].asked == 9
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_again, strict=True))


def test_two_loops_in_one_epoch_and_loops_walked_together(start):
    def life(run, die_at=None):
        run.track(state=run.state)
        first, second = run.loader(DATA, batch_size=9), run.loader(DATA, batch_size=10)
        seen = []
        for epoch in run.epochs(2):
            for loader in (first, second):
                for _, labels in run.batches(loader):
                    seen.append((epoch, labels.tolist(), random.random()))
                    run.step()
                    if run.steps_done == die_at:
                        raise Killed
            for (_, left), (_, right) in zip(run.batches(first), run.batches(second), strict=False):
                seen.append((epoch, left.tolist(), right.tolist(), random.random()))
                run.step()
                if run.steps_done == die_at:
                    raise Killed
            run.log(drawn=random.random())
        return seen

    whole = life(start("whole"))
    assert len(whole) == 26
    for died_at in range(1, 26, 2):
        with pytest.raises(Killed):
            life(start(f"cut{died_at}"), die_at=died_at)
        again = life(start(f"cut{died_at}"))
        assert again == whole[-len(again) :]
        assert len(again) >= 26 - died_at
    assert [line[1] for line in whole[:5]] != [line[1] for line in whole[10:15]]


def test_a_loop_inside_another_one(start):
    def life(run, die_at=None):
        outer, inner = run.loader(DATA, batch_size=20), run.loader(DATA, batch_size=16)
        seen = []
        for epoch in run.epochs(2):
            for _, around in run.batches(outer):
                for _, labels in run.batches(inner):
                    seen.append((epoch, around.tolist(), labels.tolist(), random.random()))
                    run.step()
                    if run.steps_done == die_at:
                        raise Killed
        return seen

    whole = life(start("whole"))
    assert len(whole) == 12
    for died_at in range(1, 12):
        with pytest.raises(Killed):
            life(start(f"cut{died_at}"), die_at=died_at)
        again = life(start(f"cut{died_at}"))
        assert again == whole[-len(again) :]


def test_epochs_without_batches_are_saved_at_their_ends(start):
    def life(run, die_at=None):
        tracked = objects()
        run.track(**tracked)
        losses = []
        for _ in run.epochs(10):
            loss = tracked["model"](DATA.tensors[0]).square().mean()
            loss.backward()
            tracked["optimizer"].step()
            tracked["optimizer"].zero_grad()
            run.step()
            losses.append(float(loss.detach()))
            if run.steps_done == die_at:
                raise Killed
        return losses

    whole = life(start("whole"))
    with pytest.raises(Killed):
        life(start("cut"), die_at=8)
    assert life(start("cut")) == whole[6:]


def test_a_bare_loop_over_steps(start):
    def life(run, die_at=None):
        run.track(**objects())
        drawn = {}
        for step in range(run.steps_done, 10):
            drawn[step] = random.random(), float(torch.rand(()))
            run.step()
            if run.steps_done == die_at:
                raise Killed
        run.close()
        return drawn

    whole = life(start("whole"))
    with pytest.raises(Killed):
        life(start("cut"), die_at=8)
    again = life(start("cut"))
    assert again == {step: whole[step] for step in range(6, 10)}
    assert list_snapshots(start("cut").folder)[0].step == 10


def test_what_is_drawn_between_track_and_the_loop_is_the_same_in_every_life(start):
    """Data made or split there: another draw after resuming would train on the samples kept for testing."""

    def life(run, die_at=None):
        run.track(**objects())
        data = TensorDataset(torch.randn(20, 3))
        kept = (data.tensors[0].tolist(), random.random(), torch.randperm(20).tolist())
        for _ in run.epochs(2):
            for _ in run.batches(run.loader(data, batch_size=2)):
                run.step()
                if run.steps_done == die_at:
                    raise Killed
        return kept

    whole = life(start("whole"))
    with pytest.raises(Killed):
        life(start("cut"), die_at=15)
    assert life(start("cut")) == whole


def test_a_bare_loop_that_does_not_ask_where_to_begin_is_told_so(start, capsys):
    def life(run):
        run.track(**objects())
        for _ in range(4):
            run.step()
        run.close()

    life(start("bare"))
    assert "did not ask run.steps_done" not in capsys.readouterr().err
    life(start("bare"))
    assert "did not ask run.steps_done" in capsys.readouterr().err


def test_accumulation_by_hand_is_noticed_and_never_cut(start):
    def life(run, die_at=None):
        tracked = objects()
        run.track(**tracked)
        losses, batch = [], 0
        for _ in run.epochs(2):
            for number, (inputs, _) in enumerate(run.batches(run.loader(DATA, batch_size=5))):
                (tracked["model"](inputs).square().mean() / 4).backward()
                if number % 4 == 3:
                    losses.append(float(next(tracked["model"].parameters()).grad.sum()))
                    tracked["optimizer"].step()
                    tracked["optimizer"].zero_grad()
                run.step()
                batch += 1
                if batch == die_at:
                    raise Killed
        return losses

    settings = {"save_every": "1 step"}
    run = start("whole", **settings)
    whole = life(run)
    assert (run.steps_done, len(whole)) == (4, 4)
    with pytest.raises(Killed):
        life(start("cut", **settings), die_at=7)
    assert life(start("cut", **settings)) == whole[1:]


def test_the_prepared_loop_accumulates_with_a_shorter_last_window(start):
    def life(run, die_at=None):
        made = objects()
        model, optimizer, scheduler = run.prepare(*made.values())
        assert (model, optimizer, scheduler) == tuple(made.values())
        seen = []
        for _ in run.epochs(2):
            for inputs, _ in run.batches(run.loader(DATA, batch_size=7)):
                with run.autocast():
                    loss = model(inputs).square().mean()
                run.backward(loss)
                before = next(model.parameters()).grad.clone()
                if run.update(clip_norm=1.0):
                    seen.append((float(before.sum()), scheduler.last_epoch))
                run.step()
                if len(seen) == die_at:
                    raise Killed
        return seen

    settings = {"accumulate": 4, "save_every": "1 step", "precision": "bf16"}
    run = start("whole", **settings)
    whole = life(run)
    assert run.steps_done == 4
    assert [last for _, last in whole] == [1, 2, 3, 4]
    with pytest.raises(Killed):
        life(start("cut", **settings), die_at=3)
    assert life(start("cut", **settings)) == whole[2:]


def test_the_loss_of_a_window_is_divided_by_its_true_length(start):
    run = start(accumulate=4)
    parameter = nn.Parameter(torch.zeros(1))
    model = nn.ParameterList([parameter])
    run.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
    for _ in run.epochs(1):
        for number, _ in enumerate(run.batches(run.loader(DATA, batch_size=7))):
            run.backward(parameter.sum())
            # six batches: a window of four, then one of two
            assert parameter.grad.item() == pytest.approx(((number % 4) + 1) / (4 if number < 4 else 2))
            run.update()
            run.step()
    assert parameter.item() == pytest.approx(-2.0)


def test_a_loss_that_is_not_finite_ends_the_run_before_any_update(start):
    run = start()
    model = nn.Linear(3, 1)
    run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))

    def life():
        for _ in run.epochs(1):
            for number, (inputs, _) in enumerate(run.batches(run.loader(DATA, batch_size=7))):
                run.backward(model(inputs).sum() * (float("nan") if number == 4 else 1.0))
                run.update()
                run.step()

    with pytest.raises(RunError) as caught:
        life()
    assert caught.value.what == "the loss is nan after step 4 (epoch 0, batch 4)"
    assert "the snapshot of step 3 is untouched" in caught.value.do
    assert [listed.step for listed in list_snapshots(run.folder)] == [3]


def test_evaluating_puts_every_flag_back_whatever_happens(start):
    run = start()
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3))
    model.train()
    model[1].eval()
    run.track(model=model)
    with run.evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not model(torch.ones(2, 3)).requires_grad
    with pytest.raises(ZeroDivisionError), run.evaluating():
        1 / 0  # noqa: B018 - the error is the point
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


def test_state_survives_with_its_types(start):
    run = start()
    run.state.update(count=3, table=torch.eye(2), nested={"a": (1, [2.5, None])})
    run.save()
    again = start().state
    assert (again["count"], again["nested"]) == (3, {"a": (1, [2.5, None])})
    assert torch.equal(again["table"], torch.eye(2))


def test_saves_are_promised_in_order_and_kept_as_asked(start):
    promised = []
    run = start(on_saved=promised.append, keep_last=2, keep_every=6)
    train(run)
    assert [saved.step for saved in promised] == [3, 6, 9, 12, 15, 18]
    assert all(os.path.isdir(saved.path) for saved in promised[-2:])
    assert [listed.step for listed in list_snapshots(run.folder)] == [18, 15, 12, 6]


def test_the_best_snapshot_stays(start):
    values = iter([0.5, 0.9, 0.7, 0.9, 0.1])
    run = start(keep_best="accuracy", keep_last=1)
    run.track(state=run.state)
    for _ in run.epochs(5):
        for _ in run.batches(run.loader(DATA, batch_size=20)):
            run.step()
        run.log(accuracy=next(values))
    assert (run.best.value, run.best.step) == (0.9, 4)
    assert run.best.path.endswith("step-00000004")
    assert 4 in {listed.step for listed in list_snapshots(run.folder)}
    again = start(keep_best="accuracy", keep_last=1)
    assert again.best == run.best


def test_save_asks_for_the_next_boundary(start):
    promised = []
    run = start(save_every=None, on_saved=lambda saved: promised.append(saved.step))
    train(run, epochs=1, then=lambda run: run.save() if run.steps_done == 2 else None)
    assert promised == [2, 6]
    run.save()
    assert promised == [2, 6, 6]


def test_a_save_by_time_happens(start, monkeypatch):
    from rekindle.run import loop

    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now.__setitem__(0, now[0] + 1) or now[0])
    promised = []
    train(start(save_every="5 seconds", on_saved=lambda saved: promised.append(saved.step)), epochs=1)
    assert len(promised) > 1


def test_a_complete_run_says_so_and_falls_through(start, capsys):
    train(start())
    capsys.readouterr()
    run = start()
    assert train(run)[0] == []
    assert "already complete (3 epochs, 18 steps)" in capsys.readouterr().err
    assert run.finished


def test_more_epochs_go_on_from_the_end_with_the_same_bits(start):
    whole, _ = train(start("whole"), epochs=5)
    train(start("cut"), epochs=3)
    more, _ = train(start("cut"), epochs=5)
    assert more == whole[18:]


def test_stopping_early_is_an_end(start, capsys):
    def life(run):
        run.track(state=run.state)
        for epoch in run.epochs(10):
            for _ in run.batches(run.loader(DATA, batch_size=20)):
                run.step()
            if epoch == 2:
                run.stop()
        return run.steps_done

    assert life(start()) == 6
    assert life(start()) == 6
    assert "already complete" in capsys.readouterr().err


def test_leaving_the_epochs_with_break_is_an_end_once_the_run_is_closed(start, capsys):
    def life(run):
        with run:
            run.track(state=run.state)
            for _ in run.epochs(10):
                for _ in run.batches(run.loader(DATA, batch_size=8)):
                    run.step()
                    if run.steps_done == 7:
                        break
                if run.steps_done == 7:
                    break
        return run.steps_done

    assert life(start()) == life(start()) == 7
    assert "already complete" in capsys.readouterr().err


def test_an_exception_in_the_body_saves_nothing_half_done(start):
    with pytest.raises(Killed), start() as run:
        train(run, die_at=5)
    assert [listed.step for listed in list_snapshots(run.folder)] == [3]


def test_lines_before_the_place_are_not_logged_twice(start, tmp_path):
    def life(run, die_at=None):
        run.track(state=run.state)
        run.log(before="the loop")
        for epoch in run.epochs(2):
            run.log(top=epoch)
            for _ in run.batches(run.loader(DATA, batch_size=10)):
                run.step()
                run.log(step_again=run.steps_done)
                if run.steps_done == die_at:
                    raise Killed
            run.log(bottom=epoch)
        run.log(after="the loop")

    life(start("whole", save_every="1 step"))
    for died_at in range(1, 8):
        folder = f"cut{died_at}"
        with pytest.raises(Killed):
            life(start(folder, save_every="1 step"), die_at=died_at)
        life(start(folder, save_every="1 step"))
        life(start(folder, save_every="1 step"))
        assert metrics(tmp_path, folder) == metrics(tmp_path, "whole")


def test_learning_rates_are_logged_unless_given(start, tmp_path):
    run = start()
    model = nn.Linear(1, 1)
    run.track(a=torch.optim.SGD(model.parameters(), lr=0.5), model=model)
    run.log(loss=1.0)
    other = torch.optim.SGD(
        [{"params": [p], "lr": rate} for p, rate in zip(model.parameters(), (0.1, 0.2), strict=True)]
    )
    run.track(b=other)
    run.log(loss=2.0)
    run.log(lr_a="mine")
    first, second, third = map(json.loads, metrics(tmp_path, "run").splitlines())
    assert first == {"step": 0, "epoch": 0, "lr": 0.5, "loss": 1.0}
    assert second == {"step": 0, "epoch": 0, "lr_a": 0.5, "lr_b": 0.1, "lr_b_1": 0.2, "loss": 2.0}
    assert third["lr_a"] == "mine"


@pytest.mark.filterwarnings("ignore")  # TensorBoard's reader warns about its own dependencies
def test_tensorboard_never_holds_a_step_twice(start, tmp_path):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    in_lives(start, [8, 14], keep={"tensorboard": True}, then=lambda run: run.log(every=run.steps_done))
    start("cut")  # closes the writer of the last life
    folder = tmp_path / "cut" / "tensorboard"
    steps = [
        event.step
        for name in sorted(os.listdir(folder))
        for event in EventFileLoader(str(folder / name)).Load()
        for value in event.summary.value
        if value.tag == "every"
    ]
    assert steps == list(range(1, 19))


def test_the_seed_is_drawn_once_and_kept(start):
    run = start(seed=None)
    assert start(seed=None).seed == run.seed
    train(start(seed=None))
    with pytest.raises(ConfigError, match=f"the run began with seed {run.seed}"):
        start(seed=run.seed + 1)


def test_a_run_that_saved_nothing_may_begin_with_another_seed(start, tmp_path):
    start(seed=3)
    assert start(seed=4).seed == 4
    assert start(seed=None).seed == 4
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == 4


def test_after_the_loop_ctrl_c_means_what_it_always_means(start):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run = start()
    train(run, epochs=1, then=lambda run: signal.getsignal(signal.SIGINT) != before[0] or pytest.fail("no handler"))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_same_seed_gives_the_same_start(start):
    first, second = start("a"), [p.clone() for p in objects()["model"].parameters()]
    random.random(), torch.rand(5)
    start("b", seed=first.seed)
    assert all(torch.equal(a, b) for a, b in zip(second, objects()["model"].parameters(), strict=True))


def test_run_json_tells_what_the_run_is(start, tmp_path):
    start(keep_best="min:loss")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["seed"] == 1
    assert facts["settings"]["keep_best"] == "min:loss"
    assert facts["environment"]["torch"] == torch.__version__
    assert facts["world_size"] == 1


def test_a_second_writer_is_refused(start, tmp_path):
    start()
    with pytest.raises(RunLocked):
        rk.Run(tmp_path / "run", seed=1)


def test_never_refuses_a_folder_with_snapshots_and_touches_nothing(start):
    run = start()
    train(run)
    before = [listed.step for listed in list_snapshots(run.folder)]
    with pytest.raises(RunError, match='resume="never", and it has 3 snapshots up to step 18'):
        start(resume="never")
    assert [listed.step for listed in list_snapshots(run.folder)] == before


def test_must_refuses_a_folder_without(start):
    with pytest.raises(NothingToResume, match="no snapshot to go on from"):
        start(resume="must")
    train(start())
    assert start(resume="must").steps_done == 18


def test_another_run_can_be_begun_from_a_snapshot(start, tmp_path):
    train(start("old"))
    whole, _ = train(start("whole"), epochs=5)
    for source in (tmp_path / "old", tmp_path / "old" / "snapshots" / "step-00000018"):
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        more, _ = train(start("new", resume=source), epochs=5)
        assert more == whole[18:]
        # on the second launch its own snapshots go before
        assert start("new", resume=source).steps_done == 30
    with pytest.raises(NothingToResume):
        start("third", resume=tmp_path / "nowhere")


def test_an_older_snapshot_of_the_same_run_is_refused(start, tmp_path):
    train(start())
    with pytest.raises(RunError, match="is not its newest snapshot, step-00000018 is"):
        start(resume=tmp_path / "run" / "snapshots" / "step-00000015")


def test_a_damaged_snapshot_is_passed_over_and_said_so(start, tmp_path, capsys):
    whole, _ = train(start())
    newest = tmp_path / "run" / "snapshots" / "step-00000018" / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-3] ^= 1
    newest.write_bytes(data)
    again, _ = train(start())
    assert again == whole[15:]
    said = capsys.readouterr().err
    assert "passed over step-00000018: model.safetensors" in said
    assert "goes on after step 15 (epoch 2, batch 3) from step-00000015" in said


def test_nothing_that_holds_is_an_error_and_never_a_new_beginning(start, tmp_path):
    train(start())
    for listed in list_snapshots(tmp_path / "run"):
        os.truncate(os.path.join(listed.path, "model.safetensors"), 10)
    before = metrics(tmp_path, "run")
    with pytest.raises(SnapshotDamaged, match="none of its 3 snapshots holds"):
        start()
    assert metrics(tmp_path, "run") == before


def test_what_is_missing_on_either_side_is_named(start, tmp_path):
    train(start())
    before = metrics(tmp_path, "run")
    run = start()
    run.track(model=objects()["model"])
    with pytest.raises(StateMismatch, match=r"optimizer, scheduler: in the snapshot of step 18, and not tracked now"):
        run.epochs(9)
    run = start()
    with pytest.raises(StateMismatch, match="average: tracked now, and not in the snapshot"):
        run.track(average=nn.Linear(1, 1))
    run = start()
    with pytest.raises(StateMismatch):
        run.track(model=nn.Linear(3, 5))
    assert metrics(tmp_path, "run") == before


def test_what_has_no_state_cannot_be_tracked(start):
    run = start()
    with pytest.raises(TypeError, match=r"plain values go into run\.state\['best'\]"):
        run.track(best=0.5)
    run.track(model=nn.Linear(1, 1))
    with pytest.raises(ValueError, match="another object is tracked under this name"):
        run.track(model=nn.Linear(1, 1))


def test_another_batch_size_in_the_middle_of_an_epoch_is_refused(start):
    with pytest.raises(Killed):
        train(start(), die_at=4)
    with pytest.raises(StateMismatch, match="batch_size was 7 and is 8"):
        train(start(), source=lambda run: run.loader(DATA, batch_size=8))


def test_a_data_set_that_became_shorter_is_refused(start):
    with pytest.raises(Killed):
        train(start(), die_at=4, source=SOURCES["a list"])
    with pytest.raises(StateMismatch, match="list ended after 1 batches; the run had had 3"):
        train(start(), source=lambda run: SOURCES["a list"](run)[:1])


def test_a_longer_schedule_is_said(start, capsys):
    train(start())
    run = start()
    tracked = objects()
    tracked["scheduler"] = rk.schedule(tracked["optimizer"], "cosine", total=200)
    run.track(**tracked)
    assert "the schedule was cosine over 100 updates and is cosine over 200 updates" in capsys.readouterr().err


def test_a_setting_that_changes_the_bits_is_said(start, capsys):
    train(start())
    start(precision="bf16", save_every="7 steps")
    said = capsys.readouterr().err
    assert "precision was fp32, is bf16; the bits differ from here on" in said
    assert "save_every" not in said


def test_a_folder_of_something_else_is_refused(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("\\documentclass{article}")
    with pytest.raises(RunError, match="belongs to something else"):
        start()
    assert os.listdir(tmp_path / "run") == ["thesis.tex"]


def test_the_folder_can_be_redirected(start, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REKINDLE_RUN_FOLDER", str(tmp_path / "elsewhere"))
    assert start().folder == str(tmp_path / "elsewhere")
    assert "REKINDLE_RUN_FOLDER is set" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        {"save_every": "now and then"},
        {"keep_last": 0},
        {"accumulate": 0},
        {"seed": -1},
        {"seed": 1.5},
        {"precision": "int4"},
        {"device": "gpu"},
        {"keep_best": "most:x"},
    ],
)
def test_settings_that_cannot_be_meant_are_refused_before_anything_is_made(start, tmp_path, settings):
    with pytest.raises(ConfigError):
        start(**settings)
    assert not (tmp_path / "run").exists()


def test_a_closed_run_says_so(start):
    run = start()
    run.close()
    run.close()
    with pytest.raises(RunError, match="the run is closed"):
        run.batches([])


def test_accumulation_needs_a_length(start):
    run = start(accumulate=2)
    with pytest.raises(RunError, match="accumulate=2 needs a loader that knows its number of batches"):
        run.batches(iter([1]))


def test_an_epoch_without_a_step_is_mentioned(start, capsys):
    run = start()
    for _ in run.epochs(1):
        for _ in run.batches([1, 2]):
            pass
    assert "epoch 0 made no step: call run.step()" in capsys.readouterr().err


def test_the_length_is_what_is_left(start):
    run = start()
    batches = run.batches(run.loader(DATA, batch_size=10))
    assert len(batches) == 4
    next(batches)
    assert len(batches) == 3
    with pytest.raises(TypeError, match="does not say how many batches"):
        len(run.batches(iter([])))


def test_prepare_names_tracks_and_returns_in_order(start):
    run = start()
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (first, second)]
    loader = run.loader(DATA)
    assert run.prepare(first) is first
    assert run.prepare(first, second, *optimizers, loader) == (first, second, *optimizers, loader)
    assert list(run.tracked_now()) == ["model", "model_2", "optimizer", "optimizer_2", "run.state"]


def test_progress_is_shown_when_asked_and_never_on_stdout(start, capsys):
    run = start(progress=True)
    run.show(loss=torch.tensor(0.25))
    train(run, epochs=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 1/1" in err
    assert "loss 0.25" in err


def plain_training(run, *, bad_from, steps=15):
    """Train in the plain form of the loop, the loss NaN from a step on."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    for step in range(run.steps_done, steps):
        optimizer.zero_grad()
        (model(torch.ones(2, 3)).square().mean() * (float("nan") if step >= bad_from else 1.0)).backward()
        optimizer.step()
        run.step()


def test_parameters_that_became_nan_are_said_once_and_the_last_good_snapshot_stays(start, capsys):
    run = start(keep_last=2, background=False)
    plain_training(run, bad_from=7)
    assert [listed.step for listed in list_snapshots(run.folder)] == [15, 12, 6]
    said = capsys.readouterr().err
    assert said.count("model.weight after step 9 holds NaN or infinity") == 1
    assert "  why     the loss was most likely NaN" in said
    assert "from step 6, the newest snapshot without them, which stays" in said
    assert f"resume={os.path.join(run.folder, 'snapshots', 'step-00000006')!r}" in said
    # the next life knows it too, and keeps it as well
    again = start(keep_last=2, background=False)
    assert "a parameter in it holds NaN or infinity" in capsys.readouterr().err
    plain_training(again, bad_from=0, steps=24)
    assert [listed.step for listed in list_snapshots(run.folder)] == [24, 21, 6]
    assert "holds NaN" not in capsys.readouterr().err
    # and so does a run that is begun from there
    start("other", resume=run.folder)
    assert f"resume={os.path.join(run.folder, 'snapshots', 'step-00000006')!r}" in capsys.readouterr().err


def test_a_run_that_was_never_finite_says_that_nothing_is(start, capsys):
    plain_training(start(), bad_from=0)
    assert "no snapshot of this run is free of them" in capsys.readouterr().err


def test_finite_parameters_and_buffers_of_infinities_are_nothing_to_mention(start, capsys):
    run = start(keep_last=2, background=False)
    model = nn.Linear(2, 1)
    model.register_buffer("mask", torch.full((2,), -torch.inf))
    with torch.no_grad():
        model.weight.fill_(3e38)  # finite, and their sum is not
    run.track(model=model)
    for _ in range(9):
        run.step()
    assert [listed.step for listed in list_snapshots(run.folder)] == [9, 6]
    assert "infinity" not in capsys.readouterr().err


def test_a_snapshot_that_lacks_what_the_run_kept_for_itself_still_goes_on(start, monkeypatch):
    run = start()
    plain_training(run, bad_from=99, steps=3)
    for name in ("state", "best", "log", "environment", "settings", "finished", "epochs"):
        with monkeypatch.context() as patch:
            patch.setattr("rekindle.run.start.read", lambda path, name=name: without(name, path))
            assert start().steps_done == 3
    with monkeypatch.context() as patch:
        patch.setattr("rekindle.run.start.read", lambda path: without("place", path))
        with pytest.raises(SnapshotDamaged, match="does not say where in the run it was taken"):
            start()


def without(name, path):
    saved = read(path)
    return replace(saved, extra={key: value for key, value in saved.extra.items() if key != name})


def test_a_full_disk_at_the_start_is_named(start, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        start()
    assert caught.value.filename == str(tmp_path / "run")


def test_must_leaves_no_folder_behind(start, tmp_path):
    with pytest.raises(NothingToResume, match="no snapshot to go on from"):
        start("misspelt", resume="must")
    assert not (tmp_path / "misspelt").exists()


def test_a_metric_that_is_not_finite_is_mentioned_once(start, tmp_path, capsys):
    run = start()
    for loss in (1.0, float("nan"), float("nan"), float("inf")):
        run.step()
        run.log(loss=loss, word="NaN")
    said = capsys.readouterr().err
    assert said.count("run.log: ") == 1
    assert "run.log: loss is NaN after step 2; said once" in said


class KillsItsWorker(Dataset):
    """The out-of-memory killer's doing, for sample 20."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        if index == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.ones(3)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
@pytest.mark.parametrize("own", [True, False])
def test_a_worker_that_was_killed_is_an_error_that_says_what_to_do(start, own):
    run = start(save_every="1 steps")
    run.track(counter=torch.zeros(1))
    settings = {"batch_size": 4, "num_workers": 1, "shuffle": False, "prefetch_factor": 1}
    loader = run.loader(KillsItsWorker(), **settings) if own else DataLoader(KillsItsWorker(), **settings)

    def life():
        with run:
            for _ in run.epochs(1):
                for _ in run.batches(loader):
                    run.step()

    with pytest.raises(
        RunError, match=r"a data loader's worker .*(killed by signal: Killed|exited unexpectedly)"
    ) as it:
        life()
    assert "ran out of memory" in it.value.why
    advice, _, step = it.value.do.rpartition(" ")
    assert advice == (
        "use fewer workers (num_workers=, or --workers); the same command goes on from the snapshot of step"
    )
    assert int(step) in [listed.step for listed in list_snapshots(run.folder)]
    assert isinstance(it.value.__cause__, RuntimeError)


def test_an_ordinary_error_of_the_loop_stays_what_it_is(start):
    run = start()
    with pytest.raises(RuntimeError, match=r"^out of patience$"), run:
        raise RuntimeError("out of patience")
