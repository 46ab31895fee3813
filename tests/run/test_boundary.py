"""What a boundary costs, counted instead of timed."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def counting(calls: Counter[str]) -> Iterator[None]:
    """Count the Python functions that are called inside."""

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename not in {__file__, contextlib.__file__}:
            calls[frame.f_code.co_name] += 1

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def test_a_step_without_anything_due_is_a_handful_of_calls(start):
    """A clock would measure the machine; calls are the same everywhere, and each one that is added is paid per step."""
    run = start(save_every=None)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    counted = []
    for _ in run.epochs(1):
        batches = run.batches(list(range(50)))
        for _ in range(50):
            calls: Counter[str] = Counter()
            with counting(calls):
                next(batches)
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            with counting(calls):
                run.step()
            counted.append(calls)
    usual = counted[40]
    assert usual["seed_globals"] == 1, "once, and the generators of all three libraries with it"
    assert usual["sample_key"] == 1
    assert usual.total() <= 10, dict(usual)
    assert all(calls == usual for calls in counted[20:30]), "no step does more than another where nothing is due"
