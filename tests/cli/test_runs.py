"""The command `rekindle runs`: its table, its JSON, its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from runs_on_disk import make_run


def test_the_table(cli, tmp_path):
    run = make_run(tmp_path / "runs" / "digits", steps=[4, 8], best=(0.9, 4), keep_best="acc")
    (run / "metrics.jsonl").write_text('{"step": 8, "acc": 0.25}\n')
    done = cli("runs", "--deep")
    assert done.returncode == 0, done.stderr
    first, logged, newest, older, resume = done.stdout.splitlines()
    assert first.startswith("runs/digits  unfinished, step 8, epoch 8; 2 snapshots, ")
    assert logged == "  logged   step 8, acc 0.25; best acc 0.9 at step 4"
    assert newest.startswith("  whole    step-00000008  ")
    assert newest.endswith(" ago")
    assert older.endswith("best")
    assert resume == "  go on    python train.py"


def test_damage_is_exit_code_1(cli, tmp_path):
    run = make_run(tmp_path / "run", steps=[4, 8])
    file = run / "snapshots" / "step-00000008" / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    done = cli("runs", "run")
    assert done.returncode == 0  # sizes are right
    assert "present  step-00000008" in done.stdout
    done = cli("runs", "run", "--deep")
    assert done.returncode == 1
    assert "damaged  step-00000008" in done.stdout
    assert "step 4, epoch 4" in done.stdout


def test_json(cli, tmp_path):
    make_run(tmp_path / "run", steps=[4, 8], finished=True)
    answer = json.loads(cli("runs", "run", "--json").stdout)
    (one,) = answer["runs"]
    assert (one["newest"], one["finished"], one["command"]) == ("step-00000008", True, ["python", "train.py"])
    assert [(snapshot["step"], snapshot["whole"]) for snapshot in one["snapshots"]] == [(8, True), (4, True)]


def test_no_run_is_exit_code_1_and_no_folder_is_2(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    done = cli("runs", "empty")
    assert (done.returncode, done.stdout) == (1, "")
    assert "empty: no run of rekindle's in it" in done.stderr
    done = cli("runs")
    assert done.returncode == 2
    assert "there is no such file or folder" in done.stderr


def test_what_a_run_says_cannot_colour_the_terminal(cli, tmp_path):
    run = make_run(tmp_path / "run", steps=[4])
    (run / "metrics.jsonl").write_text(json.dumps({"step": 4, "\x1b[31m": "\x1b[2J"}) + "\n")
    assert "\x1b" not in cli("runs", "run").stdout


def test_it_loads_no_torch(tmp_path):
    make_run(tmp_path / "run", steps=[4])
    code = "import sys; from rekindle.cli import main; main(['runs', 'run']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
