"""`rekindle finetune`, `evaluate` and `predict` as a user meets them: real processes, killed, and every refusal."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")
from small_pictures import stripes, write_pictures

import rekindle as rk
from rekindle.cli import main

# Two blocks with BatchNorm, of which the first is frozen.
NETS = """
from torch import nn

def build(classes):
    first = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(first, second, nn.Dropout(0.2), nn.Linear(32, classes))
"""
WORDS = ("--arch", "own_nets:build", "--freeze", "0", "--size", "32", "--batch-size", "4", "--epochs", "4")
WORDS += ("--save-every", "3 steps", "--best", "val_loss")


@pytest.fixture
def rekindle(tmp_path, monkeypatch, capsys):
    """Run `rekindle WORDS` in `tmp_path`, but in this process; return (code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def trained(rekindle, tmp_path):
    write_pictures(tmp_path / "stripes")
    words = (
        "finetune",
        "stripes",
        "--arch",
        "lenet",
        "--size",
        "32",
        "--epochs",
        "8",
        "--batch-size",
        "4",
        "--seed",
        "1",
    )
    code, out, err = rekindle(*words, "--augment", "light", "--lr", "0.02")
    assert code == 0, err
    return out


def folder_with_nets(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "own_nets.py").write_text(NETS)
    write_pictures(folder / "stripes", train=8, val=2)
    return folder


def what_remains(run: Path) -> dict[str, bytes]:
    newest = max((run / "snapshots").glob("step-*"))
    tensors = {path.name: path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}
    assert tensors
    names = ("metrics.jsonl", "model.safetensors", "confusion.png")
    return {"step": newest.name.encode(), **tensors, **{f"run/{name}": (run / name).read_bytes() for name in names}}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "rekindle", "finetune", "stripes", *WORDS, *words]


def kill_after(folder: Path, more_snapshots: int, *words: str) -> None:
    """Start it and kill its whole process group, a moment after so many more snapshots are there."""

    def names() -> set[str]:
        return {path.name for path in (folder / "runs" / "stripes" / "snapshots").glob("step-*")}

    before = names()
    child = subprocess.Popen(command(*words), cwd=folder, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(names() - before) < more_snapshots and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(random.Random(more_snapshots).uniform(0, 0.05))
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


def test_a_killed_fine_tuning_ends_with_the_same_bits_whatever_the_workers(rekindle, tmp_path):
    """Frozen BatchNorm, dropout, augmentation in workers: weights, optimizer, log and picture, to the byte."""
    undisturbed = folder_with_nets(tmp_path / "undisturbed")
    subprocess.run(command(), cwd=undisturbed, check=True, capture_output=True, timeout=200)
    killed = folder_with_nets(tmp_path / "killed")
    kill_after(killed, 1, "--workers", "2")
    kill_after(killed, 2)
    done = subprocess.run(command("--json"), cwd=killed, check=True, capture_output=True, text=True, timeout=200)
    assert "goes on after step" in done.stderr
    assert json.loads(done.stdout)["steps"] == 16
    assert what_remains(killed / "runs" / "stripes") == what_remains(undisturbed / "runs" / "stripes")


def test_the_result_says_how_good_it_is_where_it_lies_and_what_comes_next(trained, tmp_path):
    lines = trained.splitlines()
    assert lines[0].startswith("validation accuracy 100.00 %   (8 of 8 pictures; the best of 8 epochs, after ")
    assert lines[2:5] == [
        "class    pictures  precision   recall       F1",
        "level           4    100.0 %  100.0 %  100.0 %",
        "upright         4    100.0 %  100.0 %  100.0 %",
    ]
    assert lines[6:] == [
        "weights           runs/stripes/model.safetensors",
        "confusion matrix  runs/stripes/confusion.png",
        "learning curve    runs/stripes/curve.png",
        "next",
        "  rekindle predict runs/stripes PICTURE.jpg",
        "  rekindle evaluate runs/stripes FOLDER",
    ]
    for name in ("model.safetensors", "confusion.png", "curve.png"):
        assert (tmp_path / "runs" / "stripes" / name).stat().st_size > 1000


def test_predict_and_evaluate_need_nothing_but_the_file(trained, rekindle, tmp_path):
    (tmp_path / "runs" / "stripes" / "model.safetensors").rename(tmp_path / "mine.safetensors")
    stripes(0, 801).save("level one.png")
    stripes(1, 802).save("upright.png")
    code, out, _ = rekindle("predict", "mine.safetensors", "level one.png", "upright.png", "--top", "2")
    assert code == 0
    first, second = out.splitlines()
    assert first.startswith("level one.png  level    ")
    assert second.startswith("upright.png    upright  ")
    assert "%   level  " in second
    code, out, _ = rekindle("predict", "runs/stripes", "stripes/val/level", "--json")
    body = json.loads(out)
    assert code == 0
    assert [row["class"] for row in body["pictures"]] == ["level"] * 4
    assert body["classes"] == ["level", "upright"]
    assert sum(body["pictures"][0]["probabilities"].values()) == pytest.approx(1)
    code, out, _ = rekindle("evaluate", "mine.safetensors", "stripes", "--confusion", "c.png")
    assert code == 0
    assert out.startswith("accuracy 100.00 %   (8 of 8 pictures; loss 0.")
    assert Path("c.png").stat().st_size > 1000
    code, out, _ = rekindle("evaluate", "mine.safetensors", "stripes", "--part", "train", "--json")
    body = json.loads(out)
    assert (body["count"], [row["class"] for row in body["per_class"]]) == (16, ["level", "upright"])


def test_a_file_that_is_no_picture_is_named_and_the_others_are_still_answered(trained, rekindle):
    Path("page.jpg").write_bytes(b"<html>")
    code, out, err = rekindle("predict", "runs/stripes", "page.jpg", "stripes/val/level/000.png")
    assert code == 2
    assert out.startswith("stripes/val/level/000.png  level")
    assert err.startswith("page.jpg: a web page\n  why     ")
    code, out, err = rekindle("predict", "runs/stripes", "page.jpg", "--json")
    assert (code, json.loads(out)["broken"]) == (2, [{"path": "page.jpg", "reason": "a web page"}])
    (Path("stripes") / "val" / "level" / "page.jpg").write_bytes(b"<html>")
    code, out, err = rekindle("evaluate", "runs/stripes", "stripes")
    assert (code, out) == (2, "")
    assert err.startswith(
        "stripes: 1 of 9 files are no whole pictures\n  why     stripes/val/level/page.jpg: a web page"
    )
    code, out, err = rekindle("evaluate", "runs/stripes", "stripes", "--skip-broken")
    assert code == 0
    assert "left out: stripes/val/level/page.jpg: a web page" in err


def test_the_pictures_of_the_training_are_recognised(rekindle, tmp_path):
    write_pictures(tmp_path / "alone", train=10, val=0)
    words = (
        "--arch",
        "lenet",
        "--size",
        "32",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--validation",
        "0.3",
        "--out",
        "r",
    )
    code, _, err = rekindle("finetune", "alone", *words)
    assert code == 0
    assert "alone: no val/: 6 of 20 pictures are for validation" in err
    code, out, err = rekindle("evaluate", "r", "alone")
    assert "these are the pictures that it was trained with; --part val takes those kept apart" in err
    assert "of 20 pictures" in out
    assert "of 6 pictures" in rekindle("evaluate", "r", "alone", "--part", "val")[1]


WRONG = [
    (("finetune", "nowhere"), "nowhere: no such file or directory\n"),
    (("finetune", "one"), "one: one class only, 'ants'\n"),
    (("finetune", "two", "--arch", "resnet19"), "resnet19: no such network\n  why     nearest: resnet18"),
    (("finetune", "two", "--arch", "no.such:thing"), "model `no.such:thing`: there is no module `no`\n"),
    (("finetune", "two", "--arguments", "{"), "--arguments is no JSON"),
    (("finetune", "two", "--arguments", "[]"), "--arguments is not an object\n"),
    (("finetune", "two", "--epochs", "0"), "--epochs is 0\n"),
    (("finetune", "two", "--resume", "must", "--arch", "lenet"), "runs/two: "),
    (("finetune", "two", "--weights", "page"), "page: a web page"),
    (("predict", "one", "two/ants/000.png"), "one: "),
    (("predict", "page", "two/ants/000.png"), "page: a web page"),
    (("evaluate", "nowhere", "two"), "nowhere: no such file or directory\n"),
    (("predict", "page", "x.png", "--top", "0"), "--top is 0\n"),
]


@pytest.mark.parametrize(("words", "start"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_bad_input_is_three_lines_and_code_2_and_nothing_is_written(rekindle, tmp_path, words, start):
    write_pictures(tmp_path / "one", ("ants",), 2, 0)
    write_pictures(tmp_path / "two", ("ants", "bees"), 2, 0)
    (tmp_path / "page").write_text("<!DOCTYPE html><html><body>not found</body></html>")
    code, out, err = rekindle(*words)
    assert (code, out) == (2, "")
    assert start in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_a_factory_that_raises_is_shown_with_the_users_own_lines(rekindle, tmp_path):
    write_pictures(tmp_path / "two", ("ants", "bees"), 2, 0)
    name = f"raising_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text("def build(classes):\n    return [][classes]\n")
    code, _, err = rekindle("finetune", "two", "--arch", f"{name}:build")
    assert code == 2
    assert f'{name}.py", line 2, in build' in err
    assert f"model `{name}:build`: `build` raised IndexError\n" in err
    assert not (tmp_path / "runs").exists()


def test_a_snapshot_names_the_classes_too(trained):
    newest = max(Path("runs/stripes/snapshots").glob("step-*"))
    assert rk.load(newest)["run"]["state"]["finetune"]["about"]["classes"] == ["level", "upright"]
