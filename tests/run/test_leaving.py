"""The ways out of a run: its end, `break`, an exception, a dead worker, closing it."""


# ruff: noqa: ARG005 - stand-ins take what the real ones take

from __future__ import annotations

import os
import signal

import pytest
import torch
from small_lives import DATA, Killed, train
from torch import nn
from torch.utils.data import DataLoader, Dataset

from rekindle.errors import RunError
from rekindle.store.layout import list_snapshots


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


def test_after_the_loop_ctrl_c_means_what_it_always_means(start):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run = start()
    train(run, epochs=1, then=lambda run: signal.getsignal(signal.SIGINT) != before[0] or pytest.fail("no handler"))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_closed_run_says_so(start):
    run = start()
    run.close()
    run.close()
    with pytest.raises(RunError, match="the run is closed"):
        run.batches([])


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
