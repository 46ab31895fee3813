"""A classifier from a file or a run: the same answers, nothing else needed, and nothing that a file names is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")
from small_pictures import stripes, write_pictures

import rekindle as rk
from rekindle.errors import ConfigError, StateMismatch
from rekindle.recipes.classifier import About, about_of, batches_of_files, export, measure
from rekindle.recipes.finetuning import Plan, finetune
from rekindle.recipes.networks import LeNet
from rekindle.recipes.picture_folders import find_labelled
from rekindle.recipes.pictures import Preprocessing, open_picture, prepared


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    pictures = write_pictures(folder / "stripes", train=12, val=0)
    plan = Plan(str(pictures), str(folder / "run"), arch="lenet", size=32, epochs=6, batch_size=4, augment="light")
    return plan, finetune(plan, progress=False)


def made(path, arch="lenet", classes=("a", "b"), model=None, **changes) -> str:
    """Write a file as `export` does, with anything changed in its header."""
    about = About(arch, {}, classes, Preprocessing(32, 32)).to_json() | changes
    model = LeNet((3, 32, 32), 2) if model is None else model
    rk.save(model.state_dict(), path, metadata={"rekindle": json.dumps(about)})
    return str(path)


def test_a_run_a_snapshot_and_the_exported_file_give_the_same_answers(trained, tmp_path):
    _, result = trained
    picture = tmp_path / "new.png"
    stripes(1, 4242).save(picture)
    sources = [result.folder, result.exported, f"{result.folder}/snapshots/step-{result.best_step:08}"]
    answers = [rk.load_classifier(source).predict([picture, stripes(0, 7)]) for source in sources]
    assert answers[0] == answers[1] == answers[2]
    first = answers[0][0]
    assert first.name == max(first.probabilities, key=first.probabilities.get)
    assert sum(first.probabilities.values()) == pytest.approx(1)
    assert first.probability == first.probabilities[first.name]


def test_the_answers_are_those_of_the_plain_network(trained, tmp_path):
    """By hand: the keys are the network's own, and the preprocessing is what the header says."""
    _, result = trained
    model = LeNet((3, 32, 32), 2)
    model.load_state_dict(rk.load(result.exported))
    picture = tmp_path / "new.png"
    stripes(0, 99).save(picture)
    x = prepared(open_picture(str(picture)), Preprocessing(32, 32))
    with torch.no_grad():
        expected = model.eval()(x[None]).double().softmax(1)[0].tolist()
    classifier = rk.load_classifier(result.exported)
    assert classifier.classes == ("level", "upright")
    found = classifier.predict([picture])[0].probabilities
    assert [found[name] for name in classifier.classes] == expected


def test_the_exported_file_is_plain_safetensors(trained):
    safetensors = pytest.importorskip("safetensors")
    _, result = trained
    with safetensors.safe_open(result.exported, "pt") as file:
        about = json.loads(file.metadata()["rekindle"])
        assert set(file.keys()) == set(LeNet((3, 32, 32), 2).state_dict())
    assert about["classes"] == ["level", "upright"]
    assert about["arch"] == "lenet"
    assert about["preprocessing"]["size"] == 32


def test_the_validation_share_is_measured_again_to_the_picture(trained):
    plan, result = trained
    classifier = rk.load_classifier(result.folder)
    share, split = classifier.about.share, classifier.about.split
    found = find_labelled(plan.folder, classifier.classes, part="val", share=share, split=split).validation
    batches = batches_of_files(found, classifier.about.preprocessing)
    metrics = measure(classifier.model, batches, classifier.classes, classifier.device)
    assert metrics.confusion == result.metrics.confusion
    assert metrics.loss == pytest.approx(result.metrics.loss)


def test_code_that_a_file_names_is_not_run_unless_the_user_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap_of_a_file.py").write_text("open('sprung', 'w')\ndef build(**given): open('sprung', 'w')\n")
    for arch in ("trap_of_a_file:build", "os:system", "rekindle.save:save"):
        path = made(tmp_path / "bad.safetensors", arch, arguments={"command": "touch sprung"})
        with pytest.raises(ConfigError) as caught:
            rk.load_classifier(path)
        assert str(caught.value).startswith(f"{path}: its network is made by code, `{arch}`\n")
        assert "nothing that a file names is run unless you name it yourself" in str(caught.value)
        assert f'--arch {arch} --arguments \'{{"command": "touch sprung"}}\'' in str(caught.value)
    for arch in ("timm:hf_hub:someone/model", "torchvision:../../evil"):
        with pytest.raises(ConfigError):
            rk.load_classifier(made(tmp_path / "bad.safetensors", arch))
    assert not Path("sprung").exists()


def test_a_network_of_ones_own_is_named_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(
        "from rekindle.recipes.networks import LeNet\n"
        "def build(classes, side): return LeNet((3, side, side), classes)\n"
    )
    path = made("own.safetensors", f"{name}:build", arguments={"side": 32})
    found = rk.load_classifier(path, arch=f"{name}:build", arguments={"side": 32})
    assert found.predict([stripes(0, 1)])[0].name in {"a", "b"}


HEADERS = [
    ({"version": 9}, "of another version of rekindle"),
    ({"classes": []}, "cannot be meant"),
    ({"classes": ["a", "a"]}, "cannot be meant"),
    ({"classes": ["a", 3]}, "cannot be meant"),
    (
        {"classes": [f"class {n}" for n in range(1000)]},
        "it names 1,000 classes, and no layer in it",
    ),
    ({"arch": 3}, "cannot be meant"),
    ({"arguments": []}, "cannot be meant"),
    ({"share": 2}, "cannot be meant"),
    ({"split": -1}, "cannot be meant"),
    ({"preprocessing": {}}, "how pictures are prepared cannot be meant"),
    ({"arch": "nothing"}, "nothing: no such network"),
]


@pytest.mark.parametrize(("changes", "words"), HEADERS, ids=[str(changes)[:40] for changes, _ in HEADERS])
def test_a_header_that_cannot_be_meant_is_an_error_of_ours(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        rk.load_classifier(made(tmp_path / "odd.safetensors", **changes))


def test_weights_of_another_network_than_the_header_says_are_refused(tmp_path):
    with pytest.raises(StateMismatch):
        rk.load_classifier(made(tmp_path / "odd.safetensors", model=LeNet((3, 64, 64), 2)))


def test_what_is_no_classifier_says_how_to_make_one(tmp_path):
    path = tmp_path / "plain.safetensors"
    rk.save({"w": torch.zeros(2)}, path)
    assert about_of(path) is None
    with pytest.raises(ConfigError, match=r"no classifier of pictures\n(?s:.*)rekindle finetune FOLDER --weights"):
        rk.load_classifier(path)
    rk.save({"w": torch.zeros(2)}, path, metadata={"rekindle": "{"})
    with pytest.raises(ConfigError, match="is no JSON"):
        rk.load_classifier(path)
    with pytest.raises(FileNotFoundError):
        rk.load_classifier(tmp_path / "nowhere")


def test_what_is_exported_comes_back(tmp_path):
    about = About("lenet", {}, ("größer", "\x1b[31m"), Preprocessing(32, 40), 0.25, 3, "abc")
    export(LeNet((3, 32, 32), 2), about, str(tmp_path / "model.safetensors"))
    assert about_of(tmp_path / "model.safetensors") == about
    assert rk.load_classifier(tmp_path / "model.safetensors").about == about
