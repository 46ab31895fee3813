"""`rekindle prove` on real scripts with a planted bug, which it must catch and name; `tests/cli` proves a right one."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rekindle.errors import RekindleError
from rekindle.run.ends import End, compare_ends
from rekindle.run.prove import Proof, plan_kills, prove
from rekindle.run.verdict import as_text

SCRIPTS = Path(__file__).parent / "scripts"


def proof_of(script: str, kills: int = 1, seed: int = 0) -> Proof:
    return prove([sys.executable, str(SCRIPTS / script)], kills=kills, seed=seed, timeout_s=100)


def lines_of(proof: Proof) -> dict[str, str]:
    """The labelled lines of the answer; where a label stands twice, the first."""
    found: dict[str, str] = {}
    for line in as_text(proof).splitlines()[1:]:
        label, _, text = line.strip().partition(" ")
        found.setdefault(label, text.strip())
    return found


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_many_kills_of_a_right_run_are_proven(seed):
    proof = proof_of("good.py", kills=8, seed=seed)
    assert proof.proven, as_text(proof)
    assert proof.kills >= 6


# ---- planted bugs are caught and named


def test_a_global_counter_outside_the_state_is_caught_and_named():
    proof = proof_of("forgotten_counter.py")
    assert not proof.proven
    first = proof.first
    base = first.resumed_from
    assert base > 0
    assert (first.aspect, first.step, first.life, first.first_of_life) == ("gradients", base + 1, 2, True)
    counter = first.suspects[0]
    assert (counter.name, counter.place) == ("COUNTER", "forgotten_counter.py")
    assert (counter.straight, counter.killed) == (str(base), "0")
    lines = lines_of(proof)
    assert as_text(proof).startswith("not proven: the run that was killed ended with other bits\n")
    place = f"epoch {first.epoch}, batch {first.batch}"
    assert lines["first"].startswith(f"step {base + 1} ({place}), the first step after resuming from step {base}: ")
    assert lines["equal"] == (
        "the order of samples, the samples, the generators, and all tracked state before that step"
    )
    assert lines["so"] == (
        "something outside the tracked state takes part in the step; "
        f"`COUNTER` in forgotten_counter.py was {base} in the undisturbed run and 0 here"
    )
    assert lines["do"].startswith('keep it in run.state["COUNTER"], or track the object that holds it')


def test_a_schedule_that_is_not_tracked_is_caught_and_named():
    proof = proof_of("forgotten_schedule.py")
    first = proof.first
    assert (first.aspect, first.what) == ("state after", ("optimizer: settings",))
    assert first.details[0][0] == "lr"
    assert "parameters of `model` after the step" in first.equal
    assert first.suspects[0].name == "scheduler"
    assert lines_of(proof)["do"] == "run.track(scheduler=scheduler)"


@pytest.mark.soak
def test_a_data_set_with_a_generator_of_its_own_is_caught_and_named():
    proof = proof_of("private_generator.py")
    first = proof.first
    assert first.aspect == "sample"
    assert first.resumed_from > 0
    assert first.equal == ("the order of samples",)
    assert "dataset.rng" in [suspect.name for suspect in first.suspects]
    assert "the same samples were drawn, and their content differs" in lines_of(proof)["first"]
    assert "inside __getitem__" in lines_of(proof)["do"]


def test_a_generator_without_a_seed_is_not_blamed_on_resuming():
    proof = proof_of("unseeded_generator.py")
    first = proof.first
    assert (first.aspect, first.step, first.life, first.resumed_from) == ("sample", 1, 1, 0)
    assert "two lives that both began from nothing already differ" in lines_of(proof)["so"]
    assert "dataset.rng" in [suspect.name for suspect in first.suspects]


def test_an_average_in_a_local_variable_is_caught_and_named():
    proof = proof_of("local_average.py")
    first = proof.first
    assert (first.aspect, first.step) == ("gradients", first.resumed_from + 1)
    assert (first.suspects[0].name, first.suspects[0].place) == ("average", "train() of local_average.py")
    assert first.suspects[0].killed == "1.0"


def test_an_average_of_the_weights_that_is_not_tracked_shows_in_the_log():
    proof = proof_of("forgotten_ema.py")
    first = proof.first
    assert first.aspect == "log"
    assert {other.kind for other in proof.others} == {"log"}
    assert first.suspects[0].name == "ema"
    assert lines_of(proof)["do"] == "run.track(ema=ema)"


@pytest.mark.soak
def test_an_attribute_of_a_module_outside_its_state_dict_is_caught_and_named():
    proof = proof_of("hidden_buffer.py")
    first = proof.first
    assert (first.aspect, first.what) == ("state after", ("model: parameters",))
    assert (first.suspects[0].name, first.suspects[0].place) == ("model.calls", "the tracked object")
    assert "make it a buffer" in lines_of(proof)["do"]


def test_a_life_that_fails_after_a_kill_is_not_proven():
    proof = proof_of("fails_on_resume.py")
    assert not proof.proven
    assert [life.ended for life in proof.lives] == ["killed", "failed"]
    assert lines_of(proof)["output"].startswith("rekindle: REKINDLE_RUN_FOLDER is set")
    assert "  output   cannot go on: the warm-up needs step 0\n" in as_text(proof)


def test_a_saver_that_loses_what_it_promised_is_caught_although_the_bits_are_equal():
    proof = proof_of("loses_saves.py")
    assert not proof.proven
    assert proof.others == ()
    assert len(proof.lost) == 1
    assert as_text(proof).startswith("not proven: 1 promised save lost, of step ")


# ---- what cannot be done is said


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def refusal(command: list[str], **settings) -> RekindleError:
    with pytest.raises(RekindleError) as caught:
        prove(command, **settings)
    return caught.value


def test_a_command_that_does_not_exist_cannot_be_proven():
    error = refusal(["no-such-program-here", "--x"])
    assert error.what == "no-such-program-here: cannot be started"
    assert error.why == "no such file or directory"


def test_a_script_that_is_no_program_gets_the_command_that_works(tmp_path):
    (tmp_path / "train.py").write_text("print(1)")
    error = refusal([str(tmp_path / "train.py"), "--x"])
    assert error.do == f"rekindle prove -- python {tmp_path}/train.py --x"


def test_a_command_that_fails_by_itself_shows_its_last_lines():
    error = refusal(python("print('loading'); raise SystemExit('no data')"))
    assert error.what.endswith("ended with exit code 1 although nothing was killed")
    assert error.why == "the last it printed was:\n            loading\n            no data"


def test_a_command_without_a_run_is_told_so():
    error = refusal(python("print('done')"))
    assert error.what.endswith("ended well, and never made a rekindle.Run")


def test_a_command_that_takes_too_long_is_ended_with_all_its_children(tmp_path):
    code = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    error = refusal(python(code), timeout_s=1.5)
    assert "still running after 2 s" in error.what
    pid = int((tmp_path / "child").read_text())
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX"


def test_no_kills_prove_nothing():
    assert refusal(python(""), kills=0).what == "0 kills prove nothing"


def test_what_lies_in_the_kept_folder_is_not_touched(tmp_path):
    (tmp_path / "mine").write_text("precious")
    error = refusal(python(""), keep=str(tmp_path))
    assert error.what == f"{tmp_path}: the folder is not empty"
    assert os.listdir(tmp_path) == ["mine"]


# ---- where it kills


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("steps", [2, 7, 1000])
def test_kills_are_spread_over_the_run_and_one_comes_before_the_first_snapshot(seed, steps):
    first_save = max(1, steps // 16)
    points = plan_kills(6, seed, steps=steps, first_save=first_save, start_s=2.0, step_s=0.1)
    assert len(points) == 6
    assert all(1 <= point.step < steps for point in points)
    assert points[0].step <= max(1, first_save - 1)
    assert points[1].step >= min(first_save + 1, steps - 1)
    assert points[2].when == "while saving"
    assert "while starting" in [point.when for point in points]
    assert [p.step for p in points[3:]] == sorted(p.step for p in points[3:])
    assert points == plan_kills(6, seed, steps=steps, first_save=first_save, start_s=2.0, step_s=0.1)


def test_a_single_kill_comes_after_the_first_snapshot():
    for seed in range(50):
        (point,) = plan_kills(1, seed, steps=100, first_save=6, start_s=2.0, step_s=0.1)
        assert point.when == "at a step"
        assert 7 <= point.step < 100


def test_another_seed_kills_elsewhere():
    plans = {tuple(plan_kills(3, seed, steps=1000, first_save=50, start_s=2.0, step_s=0.1)) for seed in range(10)}
    assert len(plans) == 10


# ---- what is compared


def test_every_kind_of_difference_at_the_end_is_reported():
    one = End(4, {"model.safetensors: w": "float32 [2] aa"}, {"state.json: lr": "0.1"}, ('{"step":4}',))
    assert compare_ends(one, one) == ()
    other = End(5, {"model.safetensors: w": "float32 [2] bb"}, {"state.json: lr": "0.2"}, ('{"step":4}', "{}"))
    assert [(o.kind, o.straight, o.killed) for o in compare_ends(one, other)] == [
        ("step", "4", "5"),
        ("tensor", "float32 [2] aa", "float32 [2] bb"),
        ("value", "0.1", "0.2"),
        ("log", "-", "{}"),
    ]
    assert [o.straight for o in compare_ends(replace(one, tensors={}), one)] == ["-"]


@pytest.mark.soak
def test_a_launch_of_several_processes_is_proven():
    """The kill takes the launcher; its processes must not outlive it, or they would hold the run's lock."""
    launch = [sys.executable, "-m", "rekindle", "launch", "--procs", "3", str(SCRIPTS / "on_many.py")]
    proof = prove(launch, kills=2, timeout_s=200)
    assert proof.proven, as_text(proof)
    assert proof.kills == 2
