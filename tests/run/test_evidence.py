"""What a life records of itself, and that recording changes nothing."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rekindle.run import digests, evidence, surroundings
from rekindle.run.evidence import BatchEvent, Recorder, StepEvent, read_life, recorder_from_environment


class Job:
    """A training loop that calls the recorder where a run does."""

    def __init__(self, path: Path | None) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - the global generator is what is looked at
        self.recorder = Recorder(str(path)) if path else None
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.tracked = {"model": self.model, "optimizer": self.optimizer}

    def train(self, steps: int) -> bytes:
        for step in range(steps):
            x = torch.randn(8, 3)
            if self.recorder:
                self.recorder.batch(0, 0, step, range(8), (x, "label"), self.tracked)
            self.model(x).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.recorder:
                self.recorder.step(step + 1, 0, self.tracked, sys._getframe())
        return b"".join(p.detach().numpy().tobytes() for p in self.model.parameters())


def test_a_recorded_run_ends_with_the_same_bits_and_generators_as_one_that_is_not(tmp_path):
    plain = Job(None).train(5)
    generators = digests.generator_states()
    recorded = Job(tmp_path / "evidence").train(5)

    assert recorded == plain
    assert digests.generator_states() == generators
    assert len(read_life(str(tmp_path / "evidence")).steps) == 5


def test_a_life_is_read_back_event_by_event(tmp_path):
    Job(tmp_path / "evidence").train(2)
    life = read_life(str(tmp_path / "evidence"))

    assert [type(event) for event in life.events] == [BatchEvent, StepEvent, BatchEvent, StepEvent]
    first, step, second, _ = life.events
    assert (first.epoch, first.loop, first.position, first.after_step) == (0, "0", 0, None)
    assert (second.position, second.after_step) == (1, 1)
    assert first.order == second.order
    assert first.sample["[0]"] != second.sample["[0]"]
    assert first.sample["[1]"] == "'label'"
    assert set(first.generators) == {"python", "numpy", "torch"}
    assert set(first.state) == {
        "model: parameters",
        "model: buffers",
        "optimizer: state",
        "optimizer: settings",
    }
    assert set(step.state["model: buffers"]) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert (
        step.state["model: buffers"]["1.num_batches_tracked"] != first.state["model: buffers"]["1.num_batches_tracked"]
    )
    assert step.state["optimizer: settings"]["lr"] == "0.1"
    assert set(step.update["optimizer"]["gradients"]) == {
        "model.0.weight",
        "model.0.bias",
        "model.1.weight",
        "model.1.bias",
    }
    assert "none" not in step.update["optimizer"]["gradients"].values()
    assert step.update["optimizer"]["settings"]["momentum"] == "0.9"
    assert life.resumed_from == 0
    assert not life.troubles


@pytest.mark.parametrize(("clears", "left"), [("after", set()), ("before", set()), ("never", {"0.weight", "0.bias"})])
def test_gradients_that_were_added_to_those_of_the_step_before_are_told_from_new_ones(tmp_path, clears, left):
    model = torch.nn.Sequential(torch.nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tracked, recorder = {"judge": model, "judges": optimizer}, Recorder(str(tmp_path / "evidence"))
    for step in range(2):
        recorder.batch(0, 0, step, None, torch.ones(1), tracked)
        if clears == "before":
            optimizer.zero_grad()
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        if clears == "after":
            optimizer.zero_grad()
        recorder.step(step + 1, 0, tracked, sys._getframe())
    first, second = read_life(str(tmp_path / "evidence")).steps
    assert "left" not in first.update["judges"]
    assert set(second.update["judges"].get("left", {})) == {f"judge.{name}" for name in left}


def test_a_line_torn_by_a_kill_is_forgotten_at_every_cut(tmp_path):
    Job(tmp_path / "whole").train(2)
    data = (tmp_path / "whole").read_bytes()
    lines = data.splitlines(keepends=True)
    assert len(lines) == 5
    before_last = len(data) - len(lines[-1])
    for cut in (before_last, before_last + 1, len(data) - 100, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:cut])
        assert len(read_life(str(tmp_path / "cut")).events) == 3
    assert len(read_life(str(tmp_path / "whole")).events) == 4


@pytest.mark.parametrize("line", [b"{not json\n", b"[]\n", b'{"event":"step"}\n', b"\xff\xfe\n"])
def test_reading_stops_where_a_line_is_not_evidence(tmp_path, line):
    Job(tmp_path / "evidence").train(1)
    data = (tmp_path / "evidence").read_bytes()
    (tmp_path / "evidence").write_bytes(data + line + data)
    assert len(read_life(str(tmp_path / "evidence")).events) == 2


def test_a_life_that_never_began_is_empty(tmp_path):
    life = read_life(str(tmp_path / "missing"))
    assert not life.began
    assert life.resumed_from is None


def test_only_what_changed_is_written(tmp_path):
    job = Job(tmp_path / "evidence")
    job.train(1)
    job.recorder.step(2, 0, job.tracked, None)
    job.recorder.step(3, 0, job.tracked, None)
    *_, last = (tmp_path / "evidence").read_text().splitlines()
    assert json.loads(last)["state"] == {}
    assert len(last) < 200
    life = read_life(str(tmp_path / "evidence"))
    assert life.events[-1].state == life.events[-3].state


def test_a_fault_of_the_recorder_is_an_event_and_no_exception(tmp_path):
    class Broken:
        def state_dict(self):
            raise ValueError("not today")

    recorder = Recorder(str(tmp_path / "evidence"))
    recorder.step(1, 0, {"broken": Broken()}, None)
    recorder.saved(1)
    life = read_life(str(tmp_path / "evidence"))
    assert life.troubles == ("ValueError: not today",)
    assert life.promised == (1,)


def test_no_recorder_is_made_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv(evidence.EVIDENCE_VARIABLE, raising=False)
    assert recorder_from_environment() is None
    monkeypatch.setenv(evidence.EVIDENCE_VARIABLE, str(tmp_path / "evidence"))
    assert isinstance(recorder_from_environment(), Recorder)


# ---- fingerprints


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.5),
        torch.empty(0, 3),
        torch.arange(6).reshape(2, 3).t(),
        torch.randn(3, dtype=torch.bfloat16),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([True, False]),
        torch.zeros(4, dtype=torch.float8_e4m3fn),
        torch.eye(3).to_sparse(),
        torch.empty(2, device="meta"),
        torch.nn.Parameter(torch.ones(2)),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}-{tensor.layout}",
)
def test_every_kind_of_tensor_has_a_fingerprint_that_a_copy_shares(tensor):
    crc = digests.crc_of_tensor(tensor)
    assert len(crc) == 8
    assert digests.crc_of_tensor(tensor.clone()) == crc
    assert digests.crc_of_tensor(tensor.detach().clone().to(torch.complex128)) != crc


def test_one_flipped_bit_changes_a_fingerprint():
    one = torch.zeros(1000)
    other = one.clone()
    other.view(torch.int32)[777] = 1
    assert digests.crc_of_tensor(one) != digests.crc_of_tensor(other)


def test_minus_zero_and_nan_payloads_are_told_apart():
    assert digests.crc_of_tensor(torch.tensor([0.0])) != digests.crc_of_tensor(torch.tensor([-0.0]))
    nans = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert digests.crc_of_tensor(nans[0]) != digests.crc_of_tensor(nans[1])


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        (lambda: random.Random(1), lambda g: g.random()),
        (lambda: np.random.default_rng(1), lambda g: g.random()),
        (lambda: np.random.RandomState(1), lambda g: g.random_sample()),
        (lambda: torch.Generator().manual_seed(1), lambda g: torch.rand(1, generator=g)),
    ],
    ids=["random", "numpy", "numpy-old", "torch"],
)
def test_a_generator_that_drew_has_another_fingerprint(make, draw):
    one, other = make(), make()
    assert digests.is_generator(one)
    assert digests.mark(one) == digests.mark(other)
    draw(other)
    assert digests.mark(one) != digests.mark(other)


def test_the_parts_of_a_module_include_buffers_that_its_state_dict_leaves_out():
    module = torch.nn.Linear(2, 2)
    module.register_buffer("seen", torch.zeros(1), persistent=False)
    assert set(digests.parts_of(module)["buffers"]) == {"seen"}


# ---- what lies around a step

COUNTER = 7


class _Data(torch.utils.data.Dataset):
    shared = 5

    def __init__(self):
        self.rng = random.Random(3)
        self._seen = 2
        self.table = list(range(1000))


class _Slotted:
    __slots__ = ("average", "empty")

    def __init__(self):
        self.average = 0.25


def test_names_are_found_where_their_author_put_them():
    def step() -> dict[str, str]:
        momentum = 0.5  # noqa: F841 - looked at from outside
        history = [1, 2]  # noqa: F841 - as above
        dataset = _Data()  # noqa: F841 - as above
        held = _Slotted()  # noqa: F841 - as above
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)  # noqa: F841 - as above
        return surroundings.scan(sys._getframe(), {"model": model, "optimizer": optimizer})

    model = torch.nn.Linear(2, 2)
    model.calls = 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    names = step()

    assert names["COUNTER in test_evidence.py"] == "7"
    assert names["momentum in step() of test_evidence.py"] == "0.5"
    assert names["history[1] in step() of test_evidence.py"] == "2"
    assert names["dataset._seen in step() of test_evidence.py"] == "2"
    assert names["dataset.rng in step() of test_evidence.py"].startswith("Random #")
    assert names["dataset.table in step() of test_evidence.py"].startswith("list of 1,000 #")
    assert names["held.average in step() of test_evidence.py"] == "0.25"
    assert names["schedule in step() of test_evidence.py"].startswith("StepLR #")
    assert names["model.calls in the tracked object"] == "3"
    assert names["_Data.shared in test_evidence.py"] == "5"
    assert not [name for name in names if name.startswith(("optimizer", "torch", "np"))]


def test_what_stands_in_a_callers_locals_is_found_too():
    def inner() -> dict[str, str]:
        return surroundings.scan(sys._getframe(), {})

    def outer() -> dict[str, str]:
        ema = torch.tensor(1.25)  # noqa: F841 - looked at from outside
        return inner()

    assert outer()["ema in outer() of test_evidence.py"] == "1.25"


def test_an_untracked_average_of_the_model_shows_that_it_moved():
    def look() -> str:
        names = surroundings.scan(sys._getframe(), {"model": model})
        return next(text for name, text in names.items() if name.startswith("average in"))

    model = torch.nn.Linear(2, 2)
    average = torch.optim.swa_utils.AveragedModel(model)
    before = look()
    average.update_parameters(torch.nn.Linear(2, 2))
    assert before.startswith("AveragedModel #")
    assert look() != before


def test_looking_around_runs_no_code_of_the_users_objects():
    class Trap:
        touched = False

        @property
        def value(self):
            Trap.touched = True

        def __getattr__(self, name):
            Trap.touched = True
            raise AttributeError(name)

        def __len__(self):
            Trap.touched = True
            return 1

        def __eq__(self, other):
            Trap.touched = True
            return True

        __hash__ = object.__hash__

    trap = Trap()  # noqa: F841 - looked at from outside
    surroundings.scan(sys._getframe(), {})
    assert not Trap.touched


def test_the_number_of_names_is_bounded():
    many = {str(i): {str(j): j for j in range(30)} for i in range(30)}
    deep = {str(i): many for i in range(30)}  # noqa: F841 - looked at from outside
    assert len(surroundings.scan(sys._getframe(), {})) <= 600
