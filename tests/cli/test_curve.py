"""The command `rekindle curve`: what a run logged as a picture, the learning rate included."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from runs_on_disk import make_run

from rekindle.cli import main

pytest.importorskip("matplotlib")
from PIL import Image


@pytest.fixture
def curve(tmp_path, monkeypatch, capsys):
    """`rekindle curve WORDS...` in this process: matplotlib takes a second or two to import."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = main(["curve", *words])
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return call


@pytest.fixture
def run(tmp_path):
    """A run with two kinds of losses and the learning rates of two optimizers."""
    folder = make_run(tmp_path / "runs" / "digits", steps=[4])
    lines = [
        {"step": step, "epoch": step // 4, "train_loss": 1 / step, "val_loss": 2 / step, "note": "warm-up"}
        | {"lr_draws": 0.1 * step, "lr_judges": 0.05}
        for step in range(1, 9)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def picture(path):
    with Image.open(path) as image:
        return image.size, image.convert("RGB").tobytes()


def test_losses_share_a_panel_and_learning_rates_have_their_own(curve, run):
    done = curve("runs/digits")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "runs/digits/curve.png: 2 panels from 8 logged lines",
        "  loss           train_loss, val_loss",
        "  learning rate  lr_draws, lr_judges",
    ]
    (width, height), _ = picture(run / "curve.png")
    assert width > 300
    assert height > 300


def test_only_what_is_named_is_drawn(curve, run):
    done = curve("runs/digits", "--only", "lr_judges, val_loss", "-o", "some.png", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["panels"] == {"loss": ["val_loss"], "learning rate": ["lr_judges"]}
    assert (answer["picture"], answer["lines"]) == ("some.png", 8)
    curve("runs/digits")
    assert picture(run / "curve.png") != picture(run.parents[1] / "some.png")
    done = curve("runs/digits", "--only", "lr_judge")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "--only lr_judge: no number was logged under this name in runs/digits",
        "  why     nearest: lr_judges",
        "  do      rekindle curve runs/digits    draws all there is",
    ]


def test_nothing_to_draw_is_exit_code_1_and_no_run_is_2(curve, run, tmp_path):
    (run / "metrics.jsonl").write_text('{"step": 1, "note": "text"}\n')
    done = curve("runs/digits")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is nothing to draw\n  why     its lines hold no number" in done.stderr
    (run / "metrics.jsonl").unlink()
    assert "the run has written no line yet" in curve("runs/digits").stderr
    assert not (run / "curve.png").exists()
    (tmp_path / "empty").mkdir()
    for words, said in (
        (["empty"], "empty: this is no run of rekindle's"),
        (["nowhere"], "there is no such file or folder"),
        (["runs/digits", "-o", "curve.pdf"], "curve.pdf: the curve is a PNG picture"),
    ):
        done = curve(*words)
        assert done.returncode == 2
        assert said in done.stderr


def test_names_and_values_of_any_kind_are_drawn_or_left_out(curve, run):
    """Whoever logged chose the names: no formula, no escape sequence and no huge number may stop the picture."""
    odd = {"a$b": 1.0, "\x1b[31m": 2.0, "_hidden": 3, "huge": 10**400, "inf": "Infinity", "lr": 0.1, "lr_2": 0.2}
    lines = [{"step": step, **odd} for step in (1, 2)] + [{"step": 10**400, "lr": 0.5}, {"step": True, "lr": 0.5}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = curve("runs/digits")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert [line.split("  ")[-1].strip() for line in done.stdout.splitlines()[1:]] == [
        "a$b",
        "\\x1b[31m",
        "_hidden",
        "lr, lr_2",
    ]


def test_it_loads_no_torch(run):
    code = "import sys; from rekindle.cli import main; main(['curve', 'runs/digits']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=run.parents[1], capture_output=True)
    assert done.returncode == 0, done.stderr
