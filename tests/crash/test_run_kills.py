"""A training that is killed with -9, at random moments and at chosen file calls, ends with the same bits.

Each life is a process of its own; nothing is simulated. What is compared at the end: weights, averaged weights, the
optimizer's state, the schedule, a generator of the script's own, the plain state, and every byte of the log.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lives import Nursery

import crash
from rekindle.store.find import newest_good

EVERY = 5  # steps between saves


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def undisturbed(nursery, tmp_path_factory):
    """Return the result of the run that nobody disturbs, by its settings; lived once each."""
    known = {}

    def result(**settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in known:
            at = Job(nursery, tmp_path_factory.mktemp("undisturbed"), **settings)
            assert at.live() == 0, at.output()
            known[key] = at.result()
        return known[key]

    return result


class Job:
    """A training in a folder of its own."""

    def __init__(self, nursery: Nursery, folder: Path, **settings: object) -> None:
        self.nursery, self.out, self.run = nursery, folder, folder / "run"
        self.settings = settings

    def config(self, **settings):
        return {"folder": str(self.run), "out": str(self.out), **self.settings, **settings}

    def live(self, *, kill_after: float | None = None, plan: crash.Plan | None = None, **settings) -> int:
        environment = plan.environment() if plan is not None else {}
        return self.nursery.live(self.config(**settings), kill_after=kill_after, **environment)

    def result(self):
        return json.loads((self.out / "result.json").read_text())

    def output(self) -> str:
        return (self.out / "output").read_text()

    def check_promises(self) -> None:
        """No promised save is lost: what can be resumed is at least as new as the last promise."""
        promises = self.out / "promises"
        promised = [int(line) for line in promises.read_text().split()] if promises.exists() else []
        if promised:
            found = newest_good(self.run)
            assert found.step is not None, found.passed_over
            assert found.step >= max(promised)
            assert not found.passed_over


def differing(found, expected):
    return [name for name in expected if found[name] != expected[name]]


def killed_at_random(job: Job, seed: int, kills: int, **lives) -> None:
    """Kill `kills` lives at random moments of about one life's time, then let it come to its end."""
    chance = random.Random(seed)
    done = 0
    while done < kills:
        settings = {name: chance.choice(values) for name, values in lives.items()}
        code = job.live(kill_after=chance.uniform(0.15, 0.6), **settings)
        assert code in {0, -signal.SIGKILL}, job.output()
        done += code != 0
        job.check_promises()
        if code == 0:
            break
    assert job.live() == 0, job.output()


SLOW = {"sleep": 0.006}

KINDS = {
    "own loop, no workers": ({}, {}),
    "own loop, workers changed between lives": ({}, {"workers": [0, 2]}),
    "prepared loop, accumulating": ({"form": "prepared", "accumulate": 4}, {"workers": [0, 0, 1]}),
    "own loop, accumulating by hand": ({"accumulate": 3}, {}),
    "own DataLoader with a worker": ({"form": "dataloader", "workers": 1}, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_moments_it_ends_with_the_same_bits(kind, nursery, undisturbed, tmp_path):
    settings, lives = KINDS[kind]
    job = Job(nursery, tmp_path, **SLOW, **settings)
    killed_at_random(job, seed=len(kind), kills=4, **lives)
    assert differing(job.result(), undisturbed(**settings)) == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", KINDS)
def test_killed_very_often_it_ends_with_the_same_bits(kind, seed, nursery, undisturbed, tmp_path):
    settings, lives = KINDS[kind]
    job = Job(nursery, tmp_path, **SLOW, **settings)
    killed_at_random(job, seed=seed, kills=12, **lives)
    assert differing(job.result(), undisturbed(**settings)) == []


def test_killed_at_file_calls_it_ends_with_the_same_bits(nursery, undisturbed, tmp_path):
    """Before, after and in the middle of a call, spread over beginning, saving, replacing, pruning and logging."""
    whole = Job(nursery, tmp_path / "counted")
    assert whole.live(plan=crash.Plan(str(whole.run))) == 0, whole.output()
    calls = whole.output().rpartition("file calls")[2].split()
    assert len(calls) > 100
    chance = random.Random(7)
    for part in range(9):
        mode = ("before", "after", "torn")[part % 3]
        stretch = range(1 + len(calls) * part // 9, len(calls) * (part + 1) // 9)
        nth = chance.choice([n for n in stretch if mode != "torn" or calls[n - 1] == "write"])
        job = Job(nursery, tmp_path / str(nth))
        assert job.live(plan=crash.Plan(str(job.run), nth=nth, mode=mode)) == -signal.SIGKILL, job.output()
        job.check_promises()
        assert job.live() == 0, job.output()
        assert differing(job.result(), undisturbed()) == []


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("mode", ["before", "after", "torn"])
def test_killed_at_every_file_call_it_ends_with_the_same_bits(mode, nursery, undisturbed, tmp_path):
    nth = 0
    while True:
        nth += 1
        job = Job(nursery, tmp_path / str(nth), epochs=2)
        code = job.live(plan=crash.Plan(str(job.run), nth=nth, mode=mode))
        job.check_promises()
        if code == 0:
            break
        assert job.live() == 0, job.output()
        assert differing(job.result(), undisturbed(epochs=2)) == []
    assert nth > 100


def test_a_full_disk_ends_the_run_clearly_and_room_lets_it_go_on(nursery, undisturbed, tmp_path):
    job = Job(nursery, tmp_path)
    plan = crash.Plan(str(job.run), nth=120, mode="error", error="ENOSPC", for_ever=True)
    assert job.live(plan=plan) == 1
    assert "OSError: [Errno 28]" in job.output()
    job.check_promises()
    assert job.live() == 0
    assert differing(job.result(), undisturbed()) == []


def test_a_life_of_its_own_interpreter_is_no_other(undisturbed, tmp_path):
    """The nursery's children share an interpreter's memory at birth; a real start must give the same bits."""
    helpers = Path(crash.__file__).parent
    for die_at in (13, None):
        config = {"folder": str(tmp_path / "run"), "out": str(tmp_path), "die_at": die_at}
        done = subprocess.run(
            [sys.executable, str(helpers / "run_job.py"), json.dumps(config)], capture_output=True, text=True
        )
        assert done.returncode == (-signal.SIGKILL if die_at else 0), done.stderr
    assert differing(json.loads((tmp_path / "result.json").read_text()), undisturbed()) == []


def test_two_undisturbed_runs_are_equal_and_another_seed_is_not(nursery, undisturbed, tmp_path):
    again = Job(nursery, tmp_path / "again")
    again.live()
    assert differing(again.result(), undisturbed()) == []
    other = Job(nursery, tmp_path / "other", seed=6)
    other.live()
    assert {"weights", "metrics", "average"} <= set(differing(other.result(), undisturbed()))


@pytest.mark.parametrize(
    ("wrong", "seen"),
    [
        ("forgets scheduler", {"scheduler", "weights", "metrics"}),
        ("forgets average", {"average"}),
        ("forgets own", {"own", "weights"}),
        ("reseeds nothing", {"weights", "metrics"}),
        ("cuts no log", {"metrics"}),
    ],
)
def test_the_judge_convicts_a_wrong_saver(wrong, seen, nursery, tmp_path):
    """Each mistake alone makes the comparison fail, so passing means something."""
    # With a worker: without one, fetching a sample seeds the generators of this process as well.
    whole = Job(nursery, tmp_path / "whole", wrong=wrong, workers=1)
    assert whole.live() == 0, whole.output()
    cut = Job(nursery, tmp_path / "cut", wrong=wrong, workers=1)
    assert cut.live(die_at=19) == -signal.SIGKILL
    assert cut.live() == 0, cut.output()
    assert seen <= set(differing(cut.result(), whole.result()))
