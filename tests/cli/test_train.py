"""`rekindle train` as a user meets it: real processes, killed and interrupted, and every way to be refused."""

from __future__ import annotations

import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

import rekindle as rk
from rekindle.cli import main

# Augmentation, dropout, momentum, warm-up and cosine are there by default; this adds the rest.
JOB = """
epochs = 4
batch_size = 64
accumulate = 3
ema = 0.9
[snapshots]
save_every = "3 steps"  # an epoch has 7: most snapshots are taken inside of one
[optimizer]
lr = 0.1
"""


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "rekindle", "train", *map(str, words)]


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Run `rekindle train WORDS` in `tmp_path`, but in this process; return (code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["train", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def snapshots(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "snapshots").glob("step-*")) if run.exists() else []


def what_remains(run: Path) -> dict[str, bytes]:
    """The tensors of the last snapshot and the log, to the byte."""
    last = run / "snapshots" / snapshots(run)[-1]
    tensors = {path.name: path.read_bytes() for path in sorted(last.glob("*.safetensors"))}
    assert tensors
    return {"step": last.name.encode(), "metrics": (run / "metrics.jsonl").read_bytes(), **tensors}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "job.toml").write_text(JOB)
    subprocess.run(command("job.toml"), cwd=folder, check=True, capture_output=True, timeout=120)
    return what_remains(folder / "runs" / "job")


def kill_after(folder: Path, more_snapshots: int, words: tuple[object, ...]) -> None:
    """Start the training and kill its whole process group, a moment after so many more snapshots are there."""
    run = folder / "runs" / "job"
    before = set(snapshots(run))
    child = subprocess.Popen(command(*words), cwd=folder, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(set(snapshots(run)) - before) < more_snapshots and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(random.Random(more_snapshots).uniform(0, 0.04))
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


def test_killed_training_ends_with_the_same_bits_whatever_the_workers(train, tmp_path, undisturbed):
    (tmp_path / "job.toml").write_text(JOB)
    kill_after(tmp_path, 1, ("job.toml", "--workers", "2"))
    kill_after(tmp_path, 2, ("job.toml",))
    code, _, said = train("job.toml", "--workers", 1)
    assert code == 0
    assert "goes on after step" in said
    assert what_remains(tmp_path / "runs" / "job") == undisturbed


def test_another_seed_ends_with_other_bits(train, tmp_path, undisturbed):
    (tmp_path / "job.toml").write_text(JOB)
    assert train("job.toml", "--seed", 1)[0] == 0
    assert what_remains(tmp_path / "runs" / "job") != undisturbed


def test_ctrl_c_saves_says_how_to_go_on_and_the_same_command_does(train, tmp_path, undisturbed):
    (tmp_path / "job.toml").write_text(JOB)
    run = tmp_path / "runs" / "job"
    leader, follower = pty.openpty()
    # The terminal becomes the one that Ctrl-C is pressed on.
    at_terminal = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", at_terminal, *command("job.toml")],
        cwd=tmp_path,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    os.set_blocking(leader, False)
    seen = b""
    deadline = time.monotonic() + 60
    pressed = False
    while True:
        assert time.monotonic() < deadline, seen.decode()
        try:
            piece = os.read(leader, 65536)
        except BlockingIOError:
            piece = None
        except OSError:  # the terminal is closed with its last process
            break
        if piece == b"":
            break
        seen += piece or b""
        if not pressed and len(snapshots(run)) >= 1:
            os.write(leader, b"\x03")
            pressed = True
        time.sleep(0.005)
    os.close(leader)
    text = seen.decode()
    assert child.wait(timeout=60) == 130, text
    assert "epoch" in text
    assert "go on with: rekindle train job.toml" in text
    assert "Traceback" not in text
    assert train("job.toml")[0] == 0
    assert what_remains(run) == undisturbed


def test_sigterm_to_the_whole_group_saves_and_exits_with_the_code_to_requeue(train, tmp_path, undisturbed):
    (tmp_path / "job.toml").write_text(JOB)
    run = tmp_path / "runs" / "job"
    child = subprocess.Popen(
        command("job.toml", "--workers", "2"),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    while not snapshots(run):
        assert child.poll() is None
        time.sleep(0.005)
    os.killpg(child.pid, signal.SIGTERM)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 75, said
    assert "go on with: rekindle train job.toml --workers 2" in said
    assert train("job.toml")[0] == 0
    assert what_remains(run) == undisturbed


def test_a_flipped_byte_in_the_newest_snapshot_is_passed_over(train, tmp_path, undisturbed):
    (tmp_path / "job.toml").write_text(JOB)
    kill_after(tmp_path, 2, ("job.toml",))
    run = tmp_path / "runs" / "job"
    newest = run / "snapshots" / snapshots(run)[-1]
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-3] ^= 4
    (newest / "model.safetensors").write_bytes(content)
    code, _, said = train("job.toml")
    assert code == 0
    assert f"passed over {newest.name}" in said
    assert what_remains(run) == undisturbed


def test_the_journey_ends_above_97_percent_and_says_what_to_type_next(train, tmp_path):
    code, out, err = train("digits")
    assert code == 0
    first, *rest = out.splitlines()
    assert first.startswith("test accuracy ")
    assert float(first.split()[2]) >= 97
    assert rest == [
        "learning curve runs/digits/curve.png",
        "next",
        "  rekindle inspect runs/digits",
        "  rekindle convert runs/digits digits.pth",
        "  tensorboard --logdir runs/digits/tensorboard",
    ]
    assert "1,258 samples to train on" in err
    assert "epoch 30/30  batch 40/40  loss" in err
    run = tmp_path / "runs" / "digits"
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 30
    assert list((run / "tensorboard").iterdir())
    before = what_remains(run)
    code, out, err = train("digits")
    assert code == 0
    assert out.splitlines()[0] == "runs/digits: all 30 epochs were already done"
    assert out.splitlines()[1] == first
    assert what_remains(run) == before


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 10))
def test_other_seeds_end_above_97_percent_too(train, seed):
    code, out, _ = train("digits", "--seed", seed, "--json")
    assert code == 0
    assert json.loads(out)["test_accuracy"] >= 0.97


def test_json_is_one_object_and_nothing_else(train):
    code, out, _ = train("digits", "--epochs", 1, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["folder"], found["epochs"], found["steps"], found["test_samples"]) == ("runs/digits", 1, 40, 359)
    assert found["was_complete"] is False


def test_a_longer_training_goes_on_and_a_shorter_one_is_refused(train, tmp_path):
    assert train("digits", "--epochs", 1)[0] == 0
    code, _, err = train("digits", "--epochs", 2)
    assert code == 0
    assert "goes on after step 40" in err
    assert len((tmp_path / "runs" / "digits" / "metrics.jsonl").read_text().splitlines()) == 2
    before = what_remains(tmp_path / "runs" / "digits")
    code, out, err = train("digits", "--epochs", 1)
    assert (code, out) == (2, "")
    assert "`epochs` was 2 and is 1; it can only grow" in err
    assert what_remains(tmp_path / "runs" / "digits") == before


def test_other_settings_in_the_same_folder_are_refused_with_what_differs(train, tmp_path):
    assert train("digits", "--epochs", 1)[0] == 0
    before = what_remains(tmp_path / "runs" / "digits")
    code, out, err = train("digits", "--epochs", 1, "--lr", 0.2, "--batch-size", 16)
    assert (code, out) == (2, "")
    assert err.splitlines()[-4:] == [
        "runs/digits: the run there was begun with other settings",
        "  why     `batch_size` was 32 and is 16",
        "          `optimizer.lr` was 0.05 and is 0.2",
        "  do      give these settings a folder of their own: --out runs/digits-2",
    ]
    assert train("digits", "--epochs", 1, "--seed", 5)[0] == 2
    assert what_remains(tmp_path / "runs" / "digits") == before


def test_a_loss_that_is_no_number_stops_with_code_2_and_touches_no_snapshot(train, tmp_path):
    assert train("digits", "--epochs", 1, "--out", "runs/good")[0] == 0
    code, out, err = train("digits", "--lr", "1e6")
    assert (code, out) == (2, "")
    what, why, do = err.splitlines()[-3:]
    assert what.startswith("the loss is nan after step ")
    assert why.startswith("  why     the learning rate is too high")
    assert do == "  do      train more slowly, in a folder of its own: --lr 100000 --out runs/digits-2"


def test_resume_must_and_never_mean_what_they_say(train):
    code, _, err = train("digits", "--epochs", 1, "--resume", "must")
    assert code == 2
    assert "no snapshot to go on from" in err
    assert train("digits", "--epochs", 1)[0] == 0
    assert train("digits", "--epochs", 1, "--resume", "must")[0] == 0
    code, _, err = train("digits", "--epochs", 1, "--resume", "never")
    assert code == 2
    assert "nothing was touched" in err


def test_the_folder_of_another_program_is_refused(train, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("all I have")
    code, out, err = train("digits", "--out", "thesis")
    assert (code, out) == (2, "")
    assert err.splitlines()[-3].startswith("thesis: ")
    assert [entry.name for entry in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_two_processes_on_one_run_are_one_too_many(train, tmp_path):
    from rekindle.store.lock import hold

    with hold("runs/digits"):
        code, out, err = train("digits", "--epochs", 1)
    assert (code, out) == (2, "")
    assert str(os.getpid()) in err


def test_a_name_that_is_no_recipe_gets_the_nearest(train):
    assert train("digit") == (
        2,
        "",
        "digit: neither a recipe nor a file of settings\n  why     nearest: digits\n  do      rekindle train digits\n",
    )
    code, out, err = train("gone.toml")
    assert (code, out) == (2, "")
    assert err.startswith("gone.toml: no such file or directory\n")


def test_the_settings_can_be_printed_edited_and_used(train, tmp_path):
    code, out, err = train("digits", "--epochs", 1, "--settings")
    assert (code, err) == (0, "")
    (tmp_path / "mine.toml").write_text(out.replace('name = "lenet"', 'name = "mlp"'))
    code, out, err = train("mine.toml", "--json")
    assert code == 0
    assert err.startswith("mlp, ")
    assert json.loads(out)["folder"] == "runs/digits"  # as the printed file says
    (tmp_path / "mine.toml").write_text("epochs = 1\nmodle = 'mlp'\n")
    code, out, err = train("mine.toml")
    assert (code, out) == (2, "")
    assert err.startswith("mine.toml, line 2: unknown setting `modle`\n  why     nearest: `[model]`")


def test_own_tensors_and_an_own_network_can_be_trained(train, tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    inputs = torch.randn(300, 5, generator=generator) + 3 * torch.nn.functional.one_hot(labels, 5)
    rk.save({"inputs": inputs, "labels": labels}, tmp_path / "flowers.safetensors")
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\ndef build(width):\n"
        "    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3))\n"
    )
    (tmp_path / "flowers.toml").write_text(
        "epochs = 5\ndata = 'tensors:flowers.safetensors'\n"
        "[model]\nname = 'own_net:build'\narguments = { width = 16 }\n"
    )
    code, out, err = train("flowers.toml", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["parameters"] == 5 * 16 + 16 + 16 * 3 + 3
    assert found["test_accuracy"] > 0.9


def test_training_without_torch_says_what_to_install(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, err = train("digits")
    assert (code, out) == (2, "")
    assert err.startswith("training needs torch, which is not installed in this Python\n")
    assert err.splitlines()[-1].endswith("-m pip install torch numpy scikit-learn matplotlib tensorboard")


def test_a_folder_that_cannot_be_made_is_said_in_three_parts(train):
    code, out, err = train("digits", "--out", "/proc/runs/digits")
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert "/proc/runs" in err.splitlines()[-3]


def test_the_regression_is_restored_both_ways_with_equal_bits(train, tmp_path):
    code, out, err = train("regression", "--epochs", 30)
    assert code == 0, err
    assert "the predictions of the trained net and of both restored ones are equal, bit for bit" in out
    run = tmp_path / "runs" / "regression"
    assert (run / "regression.png").read_bytes().startswith(b"\x89PNG")
    weights = torch.load(run / "weights.pth", weights_only=True)
    whole = torch.load(run / "net.pth", weights_only=False)
    assert {key: tuple(value.shape) for key, value in weights.items()} == {
        "hidden.weight": (20, 1),
        "hidden.bias": (20,),
        "predict.weight": (1, 20),
        "predict.bias": (1,),
    }
    assert all(torch.equal(weights[key], value) for key, value in whole.state_dict().items())
    first = out
    code, out, _ = train("regression", "--epochs", 30)
    assert code == 0
    assert out == "runs/regression: all 30 epochs were already done\n" + first


def test_the_regression_refuses_what_it_has_no_use_for(train):
    code, out, err = train("regression", "--workers", 2)
    assert (code, out) == (2, "")
    assert err.startswith("regression does not take --workers\n")
    assert train("regression", "--epochs", 0)[2].startswith("--epochs: `epochs` is 0\n")


def test_the_comparison_of_bits_can_fail(tmp_path):
    from rekindle.recipes.regression import Net, restored, same_bits

    net = Net()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    x = torch.linspace(-1, 1, 5)[:, None]
    with torch.no_grad():
        before = net(x)
        assert same_bits(before, restored(str(tmp_path / "weights.pth"))(x))
        net.predict.bias[0] = torch.nextafter(net.predict.bias[0], torch.tensor(10.0))
        assert not same_bits(before, net(x))


def test_a_full_disk_loses_nothing(train, tmp_path):
    """A training on a file system of 600 kB, which the snapshots fill."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        code, out, said = train("digits", "--epochs", 9, "--out", small / "run")
        assert (code, out) == (2, "")
        assert "Traceback" not in said
        assert said.splitlines()[-1].startswith("  do ")
        assert snapshots(small / "run")
        shutil.copytree(small / "run", tmp_path / "bigger")
    finally:
        subprocess.run(["umount", str(small)])
    code, _, said = train("digits", "--epochs", 9, "--out", "bigger")
    assert code == 0
    assert "goes on after step" in said


def test_a_factory_that_raises_gets_its_own_traceback_and_no_call_for_a_report(train, tmp_path):
    (tmp_path / "broken_net.py").write_text("def build():\n    raise KeyError('width')\n")
    (tmp_path / "own.toml").write_text("model = 'broken_net:build'\n")
    code, out, err = train("own.toml")
    assert (code, out) == (2, "")
    assert err.startswith("Traceback (most recent call last):\n")
    assert 'broken_net.py", line 2, in build' in err
    assert "networks.py" not in err
    assert "foresee" not in err
    assert err.splitlines()[-3:-1] == [
        "model `broken_net:build`: `build` raised KeyError",
        "  why     KeyError: 'width'",
    ]


def test_fp16_without_a_gpu_says_which_option_to_give(train, tmp_path, monkeypatch):
    monkeypatch.setattr("rekindle.recipes.training.device_named", lambda: torch.device("cpu"))
    code, _, err = train("digits", "--precision", "fp16")
    assert code == 2
    assert err.splitlines()[-1] == "  do      --precision bf16 works here, and so does --precision fp32"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("recipe", ["digits", "regression"])
def test_a_complete_run_says_once_how_to_go_on(train, recipe):
    words = (recipe, "--epochs", 1, "--out", "a run")
    assert train(*words)[0] == 0
    code, out, err = train(*words)
    assert code == 0
    assert out.splitlines()[0] == "a run: all 1 epochs were already done"
    assert err.splitlines()[-1] == f"go on with: rekindle train {recipe} --epochs 2 --out 'a run'"
    assert "run.epochs" not in err
    code, _, err = train(recipe, "--epochs", 2, "--out", "a run")
    assert code == 0, err


def test_a_folder_in_the_place_of_the_recipe_gets_the_command_that_is_meant(train, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = train("empty")
    assert code == 2
    assert err.splitlines()[-1].startswith("  do      rekindle train digits --out empty ")
    assert train("digits", "--epochs", 1, "--out", "begun")[0] == 0
    code, _, err = train("begun")
    assert code == 2
    do = err.splitlines()[-1].removeprefix("  do      rekindle train ").split("    ")[0]
    assert do == "begun/settings.toml --out begun"
    code, out, _ = train(*do.split())
    assert code == 0
    assert out.startswith("begun: all 1 epochs were already done\n")


@pytest.mark.parametrize("recipe", ["digits", "regression"])
def test_what_is_in_the_way_of_the_runs_folder_is_named(train, tmp_path, recipe):
    (tmp_path / "notes").write_text("mine")
    code, out, err = train(recipe, "--out", "notes/deep/run")
    assert (code, out) == (2, "")
    assert err == (
        "notes/deep/run: the run's folder cannot be made\n  why     notes is no folder\n"
        "  do      choose another folder: --out notes-2\n"
    )
    (tmp_path / "odd" / "LOCK").mkdir(parents=True)
    code, _, err = train(recipe, "--out", "odd")
    assert code == 2
    assert "  why     odd/LOCK is a folder" in err
    assert err.splitlines()[-1].endswith("rmdir odd/LOCK")


@pytest.mark.parametrize("precision", ["O2", "bf16-true"])
def test_half_weights_train_with_an_average_in_float32(train, tmp_path, precision):
    (tmp_path / "job.toml").write_text("ema = 0.9\n")
    code, out, err = train("job.toml", "--epochs", "1", "--precision", precision, "--out", "runs/half")
    assert code == 0, err
    assert "test accuracy" in out
    kept = rk.load(next((tmp_path / "runs" / "half" / "snapshots").iterdir()) / "ema.safetensors")
    assert {tensor.dtype for tensor in kept.values() if tensor.is_floating_point()} == {torch.float32}
