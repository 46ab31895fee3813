"""`rk.Run`: a loop of one's own that goes on where it was."""


# ruff: noqa: ARG005 - stand-ins take what the real ones take

from __future__ import annotations

import os
import random
import shutil

import pytest
import torch
from small_lives import DATA, Killed, in_lives, metrics, objects, train
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rekindle.errors import RunError, StateMismatch
from rekindle.store.layout import list_snapshots

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
    from rekindle.run import saving

    now = [0.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now.__setitem__(0, now[0] + 1) or now[0])
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
