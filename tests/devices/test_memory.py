"""Real leaks in a real training loop, each named where it is; and training without one, which is never named."""

from __future__ import annotations

import collections
import ctypes
import dataclasses
import functools
import gc
import time
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from rekindle.devices.memory import MemoryWatch

STEPS = 40  # looks are at 8, 16 and 32
LOG: list[torch.Tensor] = []


class Trainer:
    def __init__(self):
        self.history = {"loss": [], "lr": []}
        self.total = 0


@dataclasses.dataclass
class Record:
    step: int
    output: torch.Tensor


def train(leak, *, least="32 MB", steps=STEPS):
    """Train, with `leak(step, images, output, loss)` in the loop's body; return what was found and what was said."""
    said: list[str] = []
    watch = MemoryWatch(least=least, say=said.append)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(steps):
        images = torch.randn(16, 64)
        output = model(images)
        loss = output.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        leak(step, images, output, loss)
        watch.step()
    return watch.growing, said


def test_a_list_of_losses_in_a_function():
    losses = []
    (found,), (words,) = train(lambda _step, _images, _output, loss: losses.append(loss))
    assert (found.kind, found.name, found.count, found.per_step) == ("graphs", "losses", 32, 1.0)
    assert found.where == "test_a_list_of_losses_in_a_function in test_memory.py"
    what, why, do = words.splitlines()
    assert what.startswith("losses (test_a_list_of_losses_in_a_function in test_memory.py) grows by 1 entries a step: ")
    assert why == "  why     its tensors still have the graphs that made them"
    assert "loss.item()" in do


def test_a_log_in_a_module():
    LOG.clear()
    (found,), _ = train(lambda _step, _images, output, _loss: LOG.append(output))
    assert (found.name, found.where) == ("LOG", "test_memory.py")
    LOG.clear()


def test_a_history_in_an_object():
    trainer = Trainer()

    def leak(_step, _images, _output, loss):
        trainer.history["loss"].append(loss * 2)
        trainer.history["lr"].append(0.1)

    (found,), _ = train(leak)
    assert (found.name, found.kind) == ("trainer.history['loss']", "graphs")


def test_outputs_kept_inside_of_other_things():
    kept = collections.deque()
    model = nn.Linear(64, 512)
    (found,), (words,) = train(lambda step, images, *_: kept.append((step, {"out": Record(step, model(images).exp())})))
    assert (found.name, found.kind) == ("kept", "graphs")
    # 16 x 512 numbers of 4 bytes that exp keeps for backward, and the inputs of the layer.
    assert 32 * 16 * 512 * 4 < found.bytes < 3 * 32 * 16 * 512 * 4
    assert "all that backward would need" in words


def test_a_running_sum():
    trainer = Trainer()
    model = nn.Linear(64, 1)

    def leak(_step, images, *_):
        trainer.total = trainer.total + model(images).mean()

    (found,), (words,) = train(leak)
    assert (found.kind, found.name) == ("running graph", "trainer.total")
    assert found.per_step >= 2
    assert "total += loss.item()" in words


def test_a_running_sum_in_a_dict():
    totals = {"loss": torch.zeros(()), "count": 0}
    model = nn.Linear(64, 1)

    def leak(_step, images, *_):
        totals["loss"] = totals["loss"] + model(images).mean()
        totals["count"] += 1

    (found,), (words,) = train(leak)
    assert (found.kind, found.name) == ("running graph", "totals['loss']")
    assert "total += loss.item()" in words


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_tensor_that_each_step_makes_longer(kind):
    every = {"output": torch.zeros(0) if kind == "torch" else np.zeros(0, np.float32)}

    def leak(_step, images, *_):
        join = torch.cat if kind == "torch" else lambda parts: np.concatenate([part.ravel() for part in parts])
        every["output"] = join([every["output"], images.reshape(-1)])

    (found,), (words,) = train(leak, least="64 KB")
    assert (found.kind, found.name, found.count) == ("array", "every['output']", 32 * 16 * 64)
    assert (found.bytes, found.per_step) == (32 * 16 * 64 * 4, 16 * 64 * 4)
    what, why, do = words.splitlines()
    assert what.startswith("every['output'] (")
    assert what.endswith("becomes longer by 4.0 KiB a step: 32,768 numbers, 0.1 MiB")
    assert "copies all that is there already" in why
    assert do.startswith("  do      keep numbers or a bounded deque")


def test_batches_that_become_longer_are_no_leak():
    """Sentences that are sorted by length, and even as long as there were steps."""
    held = {}

    def leak(step, *_):
        held["batch"] = torch.randn(64, 20 * step)

    assert train(leak, least="64 KB", steps=140) == ([], [])


class Metric:
    history: ClassVar[list[torch.Tensor]] = []


def test_a_list_of_a_class():
    Metric.history.clear()
    (found,), _ = train(lambda _step, _images, _output, loss: Metric.history.append(loss))
    assert (found.name, found.where) == ("Metric.history", "test_memory.py")
    Metric.history.clear()


@functools.cache
def noise_of(step):
    return torch.randn(64, step + 64)


def test_a_function_that_remembers_all_it_was_asked():
    noise_of.cache_clear()
    (found,), (words,) = train(lambda step, *_: noise_of(step), least="64 KB")
    assert (found.kind, found.name, found.where) == ("data", "noise_of (its cache)", "test_memory.py")
    assert "functools.lru_cache(maxsize=1000)" in words
    noise_of.cache_clear()


@pytest.mark.parametrize("make", [lambda images: images, lambda images: images.numpy().copy()], ids=["torch", "numpy"])
def test_batches_that_are_cached(make):
    cache = {}

    def leak(step, images, *_):
        cache[step] = make(images)

    (found,), (words,) = train(leak, least="64 KB")
    assert (found.kind, found.name) == ("data", "cache")
    assert found.bytes == pytest.approx(32 * 16 * 64 * 4, rel=0.1)
    assert "every step adds to it" in words


@pytest.mark.skipif(not gc.isenabled(), reason="needs the garbage collector")
def test_memory_that_no_container_explains(tmp_path):
    """A reference that is counted and nowhere to be found, as a faulty library leaves it."""
    kept = []

    def leak(*_):
        lost = np.ones(1024 * 1024)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(lost))
        kept[:] = [id(lost), *kept][:STEPS]

    growing, said = train(leak, least="1 MB")
    for number in kept:
        ctypes.pythonapi.Py_DecRef(ctypes.cast(number, ctypes.py_object))
    if MemoryWatch()._looks == [] and not growing:
        pytest.skip("this system does not tell how much memory a process has")
    (found,) = growing
    assert found.kind == "process"
    assert found.per_step == pytest.approx(8 * 1024**2, rel=0.3)
    assert "the memory of this process grows by" in said[0]


def test_ordinary_training_is_never_named():
    numbers, last = [], collections.deque(maxlen=10)
    metrics = collections.defaultdict(list)
    window: list[torch.Tensor] = []
    total = torch.zeros(())

    def leak(step, images, output, loss):
        nonlocal total
        numbers.append(loss.item())
        last.append(output)  # bounded, so it may hold graphs
        metrics["loss"].append(float(loss.detach()))
        total = total + loss.detach()
        window.append(loss)
        if step % 4 == 3:
            window.clear()

    growing, said = train(leak, steps=300)
    assert growing == []
    assert said == []


def test_each_thing_is_said_once():
    losses = []
    growing, said = train(lambda _step, _images, _output, loss: losses.append(loss), steps=140)
    assert len(growing) == len(said) == 1


def test_watching_keeps_nothing_alive():
    losses = []
    said: list[str] = []
    watch = MemoryWatch(say=said.append)
    weight = torch.ones(1, requires_grad=True)
    for _ in range(STEPS):
        losses.append(weight * 2)
        watch.step()
    assert len(said) == 1
    gone = [False]
    import weakref

    weakref.finalize(losses[0], lambda: gone.__setitem__(0, True))
    losses.clear()
    gc.collect()
    assert gone == [True]


def test_a_step_at_which_it_does_not_look_costs_nothing_worth_speaking_of():
    watch = MemoryWatch()
    watch._next = 10**9
    bare = times(lambda: None)
    assert times(watch.step) < 20 * bare + 5e-6


def times(call):
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(1000):
            call()
        best = min(best, (time.perf_counter() - began) / 1000)
    return best
