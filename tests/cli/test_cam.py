"""`rekindle cam`, as people type it: on what `rekindle finetune` writes, and on weights alone."""

from __future__ import annotations

import json
import sys

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
image = pytest.importorskip("PIL.Image")

import rekindle as rk
from rekindle.cli import main
from rekindle.recipes.classifier import About, export
from rekindle.recipes.networks import LeNet
from rekindle.recipes.pictures import Preprocessing

FACTORY = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))

def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))

def broken():
    raise ValueError("no data here")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    image.effect_mandelbrot((64, 48), (-2, -1.2, 0.8, 1.2), 40).convert("RGB").save(tmp_path / "bee.jpg")
    model = LeNet((3, 32, 32), 2)
    rk.initialise(model, seed=1)
    export(model, About("lenet", {}, ("ants", "bees"), Preprocessing(32, 36)), str(tmp_path / "model.safetensors"))
    return tmp_path


@pytest.fixture
def here(folder, monkeypatch, capsys):
    """Run `rekindle WORDS...` in this process, in the folder: starting torch for each would take most of the time."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        shown = capsys.readouterr()
        sys.modules.pop("mine", None)
        return code, shown.out, shown.err

    return run


def test_an_exported_classifier_needs_nothing_else(cli, folder):
    done = cli("cam", "model.safetensors", "bee.jpg", "-o", "out.png", "--class", "bees")
    assert done.returncode == 0, done.stderr
    first, layer, wrote = done.stdout.splitlines()
    assert first.startswith("bee.jpg: bees, score ")
    assert layer == "  layer   conv2 (16x16 places; chosen: the last with a convolution in it; --layer names another)"
    assert wrote == "  wrote   out.png"
    with image.open(folder / "out.png") as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (32, 32))


def test_options_that_a_described_network_leaves_no_choice_in_are_named(here, folder):
    code, out, err = here("cam", "model.safetensors", "bee.jpg", "--size", "64", "--grey", "--json")
    assert code == 0
    json.loads(out)
    assert err.splitlines()[0] == (
        "note: --size and --grey have no effect: model.safetensors says itself how pictures are prepared for it"
    )
    assert "no effect" not in here("cam", "model.safetensors", "bee.jpg")[2]


def test_the_json_holds_the_map(here, folder):
    code, out, err = here("cam", "model.safetensors", "bee.jpg", "--class", "0", "--layer", "conv1", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["class"] == {"number": 0, "name": "ants"}
    assert (found["layer"], found["layer_chosen"], found["places"]) == ("conv1", False, [32, 32])
    assert np.array(found["map"]).shape == (32, 32)
    assert (folder / "cam.png").exists()


def test_weights_alone_with_the_name_of_their_network(here, folder):
    """The number of classes is read from the weights."""
    model = LeNet((3, 32, 32), 7)
    torch.save({"model": {f"module.{key}": value for key, value in model.state_dict().items()}}, folder / "w.pth")
    code, out, err = here(
        "cam", "w.pth", "bee.jpg", "--arch", "lenet", "--size", "32", "--class", "6", "--strength", "0"
    )
    assert code == 0, err
    assert out.startswith("bee.jpg: class 6, score ")


def test_a_function_of_ones_own(here, folder):
    torch.manual_seed(0)
    code, out, err = here(
        "cam", "none.pth", "bee.jpg", "--arch", "mine:build", "--size", "24", "--mean", "0,0,0", "--std", "1,1,1"
    )
    assert code == 2
    assert "there is no such file" in err
    namespace = {}
    exec(FACTORY, namespace)
    torch.save(namespace["build"]().state_dict(), folder / "mine.pth")
    code, out, err = here(
        "cam", "mine.pth", "bee.jpg", "--arch", "mine:build", "--size", "24", "--mean", "0,0,0", "--std", "1,1,1"
    )
    assert code == 0, err
    assert "  layer   0 (22x22 places" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.safetensors", "bee.jpg", "--layer", "conv9"], "nearest: conv2, conv1"),
        (["model.safetensors", "bee.jpg", "--class", "bee"], "nearest: bees"),
        (["model.safetensors", "bee.jpg", "--class", "2"], "the model has classes 0 to 1"),
        (["model.safetensors", "mine.py"], "no picture"),
        (["model.safetensors", "bee.jpg", "-o", "cam.jpg"], "give a name that ends in .png"),
        (["model.safetensors", "bee.jpg", "-o", "absent/cam.png"], "absent"),
        (["model.safetensors", "bee.jpg", "--strength", "3"], "--strength 3 is not from 0 to 1"),
        (["plain.pth", "bee.jpg"], "nothing in it says which network it belongs to"),
        (["plain.pth", "bee.jpg", "--arch", "lenett"], "nearest: lenet"),
        (["plain.pth", "bee.jpg", "--arch", "mine:broken"], "`broken` raised ValueError"),
        (["flat.pth", "bee.jpg", "--arch", "mine:flat", "--size", "32"], "has no convolution"),
        (["plain.pth", "bee.jpg", "--arch", "lenet", "--mean", "a,b,c"], "--mean a,b,c: numbers with commas"),
        (["plain.pth", "bee.jpg", "--arch", "lenet", "--std", "1"], "how pictures are prepared cannot be meant"),
    ],
)
def test_mistakes_are_answered_and_nothing_is_written(here, folder, words, said):
    torch.save({"w": torch.ones(2)}, folder / "plain.pth")
    torch.save({"1.weight": torch.ones(2, 3072), "1.bias": torch.ones(2)}, folder / "flat.pth")
    before = {entry.name for entry in folder.iterdir()}
    code, out, err = here("cam", *words)
    assert code == 2
    assert said in err
    assert out == ""
    assert "rekindle/" not in err
    assert {entry.name for entry in folder.iterdir()} - {"__pycache__"} == before
