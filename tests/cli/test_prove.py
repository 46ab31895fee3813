"""The command `rekindle prove`: its words, its exit codes, its JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rekindle.cli import main
from rekindle.run.ends import Other
from rekindle.run.first_difference import Difference, Suspect
from rekindle.run.verdict import KilledLife, Proof

SCRIPTS = Path(__file__).parent.parent / "run" / "scripts"


def test_proven_is_exit_code_0_and_json_says_all_of_it(cli, tmp_path):
    kept = tmp_path / "kept"
    command = [sys.executable, str(SCRIPTS / "good.py")]
    done = cli("prove", "--kills", "2", "--keep", str(kept), "--json", "--", *command)
    assert done.returncode == 0, done.stderr + done.stdout
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "proven"
    assert answer["command"] == command
    assert (answer["kills"], len(answer["lives"]), answer["steps"]) == (2, 3, 24)
    assert [life["ended"] for life in answer["lives"]] == ["killed", "killed", "finished"]
    assert not answer["lives"][0]["resumed_from"]  # the first kill came before the first snapshot, or soon after
    assert answer["resumed"] >= 1
    assert answer["saves"]["promised"] > 3
    assert answer["saves"]["lost"] == []
    assert answer["compared"]["tensors"] >= 4 + 4 + 4 + 1  # the model, its momentum, the average and its counter
    assert answer["compared"]["log_lines"] == 3
    assert (answer["different"], answer["first"], answer["left_behind"]) == ([], None, [])
    assert {"straight", "killed"} <= set(os.listdir(kept))
    assert (kept / "killed" / "run" / "run.json").exists()
    # The run was redirected: nothing was written where the script says.
    assert not (tmp_path / "runs").exists()
    assert "straight through: " in done.stderr
    assert "life 3: finished" in done.stderr


LIVES = (KilledLife("killed", "at a step", 0, 9, -9, 3.0), KilledLife("finished", "", 8, 20, 0, 3.0))
PROOF = Proof(("python", "train.py"), 20, 2.5, LIVES, 12, (), 6, 30, 4)


def answer_of(proof, monkeypatch, *words: str) -> int:
    monkeypatch.setattr("rekindle.run.prove.prove", lambda *_args, **_settings: proof)
    return main(["prove", *words, "--", "python", "train.py"])


def test_the_words_of_a_proof(monkeypatch, capsys):
    assert answer_of(PROOF, monkeypatch) == 0
    assert capsys.readouterr().out == (
        "proven: 1 kill, 2 lives, 6 tensors and 4 log lines identical\n"
        "  straight 20 steps in 2.5 s\n"
        "  killed   after step 9\n"
        "  resumed  from step 8\n"
        "  saves    12 promised, 0 lost\n"
    )


def test_what_was_left_behind_is_a_note_and_no_failure(monkeypatch, capsys):
    ema = Suspect("ema", "train.py", "AveragedModel #1", "AveragedModel #2")
    assert answer_of(replace(PROOF, left_behind=(ema,)), monkeypatch) == 0
    assert (
        "  note     `ema` in train.py (AveragedModel) is not tracked and was not the same; "
        "nothing that was compared depends on it; run.track(ema=ema) keeps it\n"
    ) in capsys.readouterr().out


def test_other_bits_are_exit_code_1(monkeypatch, capsys):
    first = Difference(
        "gradients",
        ("optimizer: gradients",),
        (("model.fc.weight", "11111111", "22222222"),),
        step=9,
        epoch=0,
        batch=8,
        life=2,
        resumed_from=8,
        first_of_life=True,
        equal=("the samples", "the generators"),
        suspects=(Suspect("COUNTER", "train.py", "8", "0"),),
    )
    others = (Other("tensor", "model.safetensors: fc.weight", "a", "b"),)
    assert answer_of(replace(PROOF, others=others, first=first), monkeypatch) == 1
    assert capsys.readouterr().out == (
        "not proven: the run that was killed ended with other bits\n"
        "  first    step 9 (epoch 0, batch 8), the first step after resuming from step 8: "
        "the gradients differ (model.fc.weight)\n"
        "  equal    the samples, and the generators\n"
        "  so       something outside the tracked state takes part in the step; "
        "`COUNTER` in train.py was 8 in the undisturbed run and 0 here\n"
        '  do       keep it in run.state["COUNTER"], or track the object that holds it: run.track(...)\n'
        "  differ   1 of 6 tensors (model.safetensors: fc.weight)\n"
        "  killed   after step 9\n"
        "  resumed  from step 8\n"
        "  saves    12 promised, 0 lost\n"
    )
    assert answer_of(replace(PROOF, others=others, first=first), monkeypatch, "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == "not proven"
    assert answer["first"]["suspects"] == [{"name": "COUNTER", "place": "train.py", "straight": "8", "killed": "0"}]


def test_a_lost_save_is_exit_code_1_although_the_bits_are_equal(monkeypatch, capsys):
    assert answer_of(replace(PROOF, lost=(8,)), monkeypatch) == 1
    assert capsys.readouterr().out.startswith("not proven: 1 promised save lost, of step 8\n")


def test_a_life_that_fails_after_a_kill_is_exit_code_1_with_its_last_words(monkeypatch, capsys):
    failed = KilledLife("failed", "", 8, 10, 3, 3.0, ("ValueError: odd",))
    assert answer_of(replace(PROOF, lives=(LIVES[0], failed)), monkeypatch) == 1
    out = capsys.readouterr().out
    assert out.startswith("not proven: life 2, going on from step 8, ended by itself with exit code 3\n")
    assert "  output   ValueError: odd\n" in out


def test_what_could_not_be_done_is_exit_code_2(cli):
    done = cli("prove", "--", sys.executable, "-c", "print('hello')")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "ended well, and never made a rekindle.Run" in done.stderr
    assert "hello" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_command_is_exit_code_2(cli):
    for words in ([], ["--"], ["--kills", "3"], ["--kills", "3", "--"]):
        done = cli("prove", *words)
        assert done.returncode == 2
        assert "no command given" in done.stderr


def test_the_two_dashes_may_be_left_out_and_the_commands_own_options_stay_its_own(cli):
    for dashes in ([], ["--"]):
        done = cli(
            "prove",
            "--kills",
            "2",
            *dashes,
            sys.executable,
            "-c",
            "import sys; sys.exit(repr(sys.argv[1:]))",
            "--kills",
        )
        assert done.returncode == 2
        assert "['--kills']" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_proof_that_is_ended_from_outside_ends_its_command_and_cleans_up(number, tmp_path):
    note = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(100)"
    command = [sys.executable, "-m", "rekindle", "prove", "--", sys.executable, "-c", code]
    folder = tmp_path / "temporary"
    folder.mkdir()
    proving = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(folder)})
    while not (note.exists() and note.read_text()):
        time.sleep(0.01)
    assert os.listdir(folder) != []
    proving.send_signal(number)
    _, words = proving.communicate(timeout=20)
    assert proving.returncode == 128 + number
    assert b"Traceback" not in words
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)
    assert os.listdir(folder) == []


def test_asking_for_help_needs_no_torch(cli):
    code = "import sys; from rekindle.cli import main; main(['prove', '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rekindle prove --kills 3 -- python train.py" in done.stdout


def test_the_proving_process_itself_never_loads_torch():
    code = (
        "import sys\n"
        "import rekindle.cli.prove, rekindle.run.prove, rekindle.run.verdict, rekindle.formats.safetensors\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
