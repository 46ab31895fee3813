"""Fine-tuning: what is learnt, taken over, frozen and refused. Whole processes and kills are in tests/cli."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

from small_pictures import stripes, write_pictures

import rekindle as rk
from rekindle.errors import ConfigError, StateMismatch
from rekindle.recipes.finetuning import Plan, finetune
from rekindle.recipes.networks import LeNet

NETS = """
from torch import nn

def build(classes):
    first = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    net = nn.Sequential()
    net.add_module("first", first)
    net.add_module("second", second)
    net.add_module("fc", nn.Linear(32, classes))
    return net
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> str:
    return str(write_pictures(tmp_path_factory.mktemp("data") / "stripes"))


@pytest.fixture
def plan(tmp_path, pictures, monkeypatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    return Plan(pictures, "run", arch="lenet", size=32, epochs=2, batch_size=4, augment="light", lr=0.02)


@pytest.fixture
def nets(tmp_path, monkeypatch) -> str:
    name = f"nets_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"{name}:build"


def refusal(plan: Plan, error: type[Exception] = ConfigError) -> str:
    with pytest.raises(error) as caught:
        finetune(plan, progress=False)
    return str(caught.value).replace(plan.folder, "F")


def weights(path: str | Path) -> dict:
    found = rk.load(path)
    return found.get("model", found)


def test_stripes_are_learnt_and_everything_about_it_is_told(plan):
    said = []
    result = finetune(replace(plan, epochs=8, seed=1), progress=False, say=said.append)
    assert said == ["lenet, 261,302 parameters (261,302 trained), on 2 classes: 16 pictures to train on, 8 to validate"]
    assert result.metrics.accuracy == 1.0
    assert result.classes == ("level", "upright")
    assert (result.epochs, result.steps, result.train_pictures) == (8, 32, 16)
    assert result.best_step == 4 * result.best_epoch
    assert [row.count for row in result.metrics.classes] == [4, 4]
    assert not result.was_complete
    body = result.to_json()
    assert body["classes"] == ["level", "upright"]
    assert body["validation"]["confusion"] == [[4, 0], [0, 4]]
    assert Path(result.exported).name == "model.safetensors"
    assert Path(result.confusion).stat().st_size > 1000


def test_the_exported_weights_are_those_of_the_best_snapshot(plan):
    result = finetune(replace(plan, epochs=4, best="val_loss"), progress=False)
    best = weights(Path(result.folder) / "snapshots" / f"step-{result.best_step:08}")
    exported = weights(result.exported)
    assert exported.keys() == best.keys()
    assert all(torch.equal(exported[key], best[key]) for key in best)
    lines = [line for line in (Path(result.folder) / "metrics.jsonl").read_text().splitlines() if line]
    assert len(lines) == 4
    import json

    losses = {line["step"]: line["val_loss"] for line in map(json.loads, lines)}
    assert min(losses, key=losses.get) == result.best_step
    assert result.metrics.loss == pytest.approx(losses[result.best_step])


def test_the_same_command_again_says_the_same_and_trains_nothing(plan):
    first = finetune(plan, progress=False)
    again = finetune(plan, progress=False)
    assert again.was_complete
    assert (again.metrics, again.best_step, again.steps) == (first.metrics, first.best_step, first.steps)
    longer = finetune(replace(plan, epochs=3), progress=False)
    assert (longer.steps, longer.was_complete) == (12, False)


def test_frozen_parts_keep_their_bits_and_the_statistics_of_their_norms(plan, nets):
    plain = replace(plan, arch=nets)
    start = finetune(replace(plain, out="start", epochs=1), progress=False)
    frozen = finetune(replace(plain, weights=start.exported, freeze="first", epochs=2, best="val_loss"), progress=False)
    before, after = weights(start.exported), weights(frozen.exported)
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert {key for key in before if key.startswith("first.")} <= same
    assert "first.1.running_mean" in same
    assert not same & {"second.0.weight", "second.1.running_mean", "fc.weight"}
    assert frozen.trained_parameters < frozen.parameters


def test_what_was_frozen_thaws_at_its_epoch(plan, nets):
    plan = replace(plan, arch=nets, freeze="backbone", thaw=1, save_every="1 epoch", best="val_loss")
    start = finetune(replace(plan, out="start", epochs=1), progress=False)
    assert start.trained_parameters == 66
    whole = finetune(replace(plan, epochs=2), progress=False)
    assert whole.trained_parameters == whole.parameters
    newest = weights(Path(whole.folder) / "snapshots" / f"step-{whole.steps:08}")
    first = weights(start.exported)
    assert not torch.equal(newest["first.0.weight"], first["first.0.weight"])


def test_weights_are_taken_over_but_for_the_head(plan):
    torch.manual_seed(0)
    given = LeNet((3, 32, 32), 7)
    rk.save(given.state_dict(), "seven.pth")
    said = []
    finetune(replace(plan, weights="seven.pth", lr=1e-12, epochs=1), progress=False, say=said.append)
    assert said[0].startswith("seven.pth -> LeNet: 8 of 10 tensors loaded")
    got = weights("run/model.safetensors")
    assert torch.allclose(got["conv1.weight"], given.conv1.weight, atol=1e-6)
    assert got["fc3.weight"].shape[0] == 2


def test_rows_of_the_head_go_by_the_names_of_classes(plan, tmp_path):
    first = finetune(plan, progress=False)
    three = write_pictures(tmp_path / "three", ("aslant", "level", "upright"), 4, 2)
    settings = {"folder": str(three), "out": "three-run", "weights": first.folder, "lr": 1e-12, "epochs": 1}
    finetune(replace(plan, **settings), progress=False)
    old, new = weights(first.exported)["fc3.weight"], weights("three-run/model.safetensors")["fc3.weight"]
    assert torch.allclose(new[1:], old, atol=1e-6)
    other = write_pictures(tmp_path / "other", ("aslant", "level"), 4, 2)
    finetune(replace(plan, **{**settings, "folder": str(other), "out": "other-run"}), progress=False)
    new = weights("other-run/model.safetensors")["fc3.weight"]
    assert not torch.allclose(new, old, atol=1e-3)  # as many classes, of other names


def test_weights_of_another_network_are_refused_with_its_name(plan):
    from rekindle.recipes.resnet import resnet

    rk.save(resnet("resnet18").state_dict(), "r18.pth")
    words = refusal(replace(plan, weights="r18.pth"), StateMismatch)
    assert words.startswith(
        "no tensor of r18.pth fits LeNet\n  why     the weights look like a ResNet-18, the model like"
    )
    assert words.endswith("do      --arch resnet18")
    words = refusal(replace(plan, weights="r18.pth", arch="resnet34"))
    assert words.startswith(
        "r18.pth: weights of another network than resnet34\n  why     the weights look like a ResNet-18; "
    )
    assert words.endswith("do      --arch resnet18; --partial takes what fits")
    assert not Path("run").exists()
    with pytest.raises(FileNotFoundError):
        finetune(replace(plan, weights="nowhere.pth"), progress=False)


def test_a_run_is_only_gone_on_with_by_what_it_was_begun_with(plan, tmp_path):
    own = write_pictures(tmp_path / "own", train=4, val=2)
    plan = replace(plan, folder=str(own))
    finetune(plan, progress=False)
    words = refusal(replace(plan, lr=0.5, size=48, epochs=1))
    assert words.startswith("run: the run there was begun with other settings\n")
    assert "`lr` was 0.02 and is 0.5\n" in words
    assert "`size` was 32 and is 48\n" in words
    assert "`epochs` was 2 and is 1; it can only grow\n" in words
    stripes(0, 77).save(own / "train" / "level" / "new.png")
    words = refusal(replace(plan, epochs=3))
    assert words.startswith(
        "run: the run there was begun with other pictures\n  why     pictures were added, removed or"
    )
    assert "--weights run begins with what was learnt" in words


def test_a_run_of_something_else_is_not_gone_on_with(plan):
    with rk.Run("run", seed=0, tensorboard=False) as run:
        run.track(model=torch.nn.Linear(2, 2))
        run.save()
    assert refusal(plan).startswith("run: the run there is none of rekindle finetune\n")


def test_broken_pictures_are_refused_or_left_out_as_asked(plan, tmp_path):
    own = write_pictures(tmp_path / "own", train=4, val=2)
    (own / "train" / "level" / "page.jpg").write_bytes(b"<!DOCTYPE html>")
    (own / "val" / "upright" / "cut.png").write_bytes((own / "val" / "upright" / "000.png").read_bytes()[:200])
    plan = replace(plan, folder=str(own))
    words = refusal(plan)
    assert words.startswith("F: 2 of 14 files are no whole pictures\n  why     train/level/page.jpg: a web page\n")
    assert "val/upright/cut.png: image file is truncated" in words
    assert words.endswith("do      mend or remove them; --skip-broken leaves them out")
    assert not Path("run").exists()
    said = []
    result = finetune(replace(plan, skip_broken=True), progress=False, say=said.append)
    assert result.left_out == ("train/level/page.jpg", "val/upright/cut.png")
    assert (result.train_pictures, result.metrics.count) == (8, 4)
    assert "2 of 14 files left out\n  train/level/page.jpg: a web page" in said[0]
    assert finetune(replace(plan, epochs=3), progress=False).left_out == result.left_out  # known from its snapshots


def test_a_class_of_broken_pictures_only_is_refused(plan, tmp_path):
    own = write_pictures(tmp_path / "own", train=1, val=1)
    (own / "train" / "level" / "000.png").write_bytes(b"")
    assert refusal(replace(plan, folder=str(own), skip_broken=True)).startswith(
        "F: no whole picture of 'level' is left to train on\n  why     train/level/000.png: an empty file\n"
    )


def test_a_picture_on_both_sides_is_said(plan, tmp_path):
    own = write_pictures(tmp_path / "own", train=4, val=2)
    (own / "val" / "level" / "copy.png").write_bytes((own / "train" / "level" / "001.png").read_bytes())
    said = []
    finetune(replace(plan, folder=str(own), epochs=1), progress=False, say=said.append)
    assert (
        "1 picture is both trained on and validated with, so that the accuracy will flatter: 'val/level/copy" in said[0]
    )


def test_a_last_batch_of_one_picture_does_not_stop_a_batch_norm(plan, nets, tmp_path):
    own = write_pictures(tmp_path / "own", train=5, val=1)
    (own / "train" / "level" / "004.png").unlink()
    result = finetune(replace(plan, folder=str(own), arch=nets, epochs=1), progress=False)
    assert result.steps == 2  # nine pictures in batches of four


REFUSED = [
    ({"epochs": 0}, "--epochs is 0\n"),
    ({"batch_size": 1}, "--batch-size is 1\n"),
    ({"lr": float("nan")}, "--lr is nan\n"),
    ({"backbone_lr": -1.0}, "--backbone-lr is -1.0\n"),
    ({"size": 4}, "--size is 4\n  why     wanted: a number of pixels from 8 to 1024\n"),
    ({"share": 1.0}, "--validation is 1.0\n"),
    ({"augment": "wild"}, "--augment is 'wild'\n  why     wanted: standard, light, none\n"),
    ({"thaw": 2}, "--thaw without --freeze\n"),
    ({"freeze": "conv9"}, "the model has no layer 'conv9'\n  why     nearest: conv2, conv1"),
    ({"freeze": "fc3"}, "--freeze fc3 leaves nothing to train\n"),
    ({"optimizer": "sdg"}, "--optimizer is 'sdg'\n"),
    ({"best": "f1"}, "--best is 'f1'\n"),
    ({"arch": "lenett"}, "lenett: no such network\n"),
    ({"precision": "fp99"}, ""),
]


@pytest.mark.parametrize(("settings", "words"), REFUSED, ids=[str(settings) for settings, _ in REFUSED])
def test_settings_that_cannot_be_meant_are_refused_before_anything_is_written(plan, settings, words):
    assert refusal(replace(plan, **settings)).startswith(words)
    assert not Path("run").exists()


def test_a_loss_that_is_no_number_says_what_to_change(plan):
    words = refusal(replace(plan, lr=1e30, warmup=0.0, clip_norm=0.0), rk.RekindleError)
    assert "--lr 1e+29 --out run-2" in words


def test_ants_and_bees_are_told_apart_better_than_by_chance(plan):
    """Real photographs, a small network, a few seconds: above the larger class's 54 %."""
    real = Path(__file__).parents[3] / "shared" / "data" / "hymenoptera"
    if not real.is_dir():
        pytest.skip("shared/data/hymenoptera is not on this machine")
    settings = {"folder": str(real), "size": 48, "epochs": 3, "batch_size": 16, "lr": 0.01}
    result = finetune(replace(plan, **settings), progress=False)
    assert (result.train_pictures, result.metrics.count) == (243, 153)
    assert result.metrics.accuracy > 0.56
