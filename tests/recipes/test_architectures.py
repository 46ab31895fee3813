"""Networks by name: ours, other libraries', the user's own; and every way to be wrong."""

from __future__ import annotations

import sys
import types

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")
from torch import nn

from rekindle.errors import ConfigError
from rekindle.factories import UserCodeFailed
from rekindle.recipes.architectures import build_architecture, is_users_code
from rekindle.recipes.pictures import Preprocessing

HOW = Preprocessing(32, 32)


@pytest.fixture
def factory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    count = iter(range(100))

    def write(body: str) -> str:
        name = f"archs_{tmp_path.name}_{next(count)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{body}\n")
        return name

    return write


def refusal(arch: str, how: Preprocessing = HOW, **settings) -> str:
    with pytest.raises(ConfigError) as caught:
        build_architecture(arch, 3, how, **settings)
    return str(caught.value)


def test_our_own_networks_have_a_score_for_each_class_and_a_head():
    for name, head in (("lenet", "fc3"), ("resnet18", "fc")):
        built = build_architecture(name, 3, HOW)
        assert built.model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
        assert built.head == head
        assert built.notes == ()
        assert built.model.training


def test_grey_pictures_have_one_channel():
    built = build_architecture("resnet18", 3, Preprocessing(32, 32, 1, (0.5,), (0.5,)))
    assert built.model.conv1.weight.shape == (64, 1, 7, 7)


def test_names_that_lead_nowhere_are_answered_with_near_ones():
    assert refusal("resnet19").startswith("resnet19: no such network\n  why     nearest: resnet18")
    assert "there are: lenet, resnet18, resnet34, resnet50\n" in refusal("zzz")
    assert refusal("lenet", Preprocessing(512, 512)).startswith("lenet takes pictures of up to 256 pixels, not 512\n")
    assert refusal("resnet18", arguments={"a": 1}).startswith("resnet18 takes no arguments of its own\n")


def test_a_function_of_ones_own_is_told_the_number_of_classes(factory):
    body = "def build(num_classes, width=4):\n"
    body += "  layers = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, width), nn.Linear(width, num_classes)\n"
    body += "  return nn.Sequential(*layers)"
    name = factory(body)
    built = build_architecture(f"{name}:build", 3, HOW, {"width": 9})
    assert (built.model[2].out_features, built.model[3].out_features, built.head) == (9, 3, "3")
    assert built.notes == ()


def test_a_network_with_another_number_of_classes_gets_a_new_head(factory):
    name = factory("def build(): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000))")
    built = build_architecture(f"{name}:build", 3, HOW)
    assert built.model[2].out_features == 3
    assert built.notes[0].startswith("new head: 2 (the last layer registered that can be one): Linear(in_features=3,")


def test_the_logits_of_hugging_faces_outputs_are_the_scores(factory):
    name = factory(
        "class Output:\n  def __init__(self, logits): self.logits = logits\n"
        "class Net(nn.Module):\n"
        "  def __init__(self, classes):\n    super().__init__()\n    self.classifier = nn.Linear(3, classes)\n"
        "  def forward(self, x): return Output(self.classifier(x.mean((2, 3))))\n"
        "def build(classes): return Net(classes)"
    )
    assert build_architecture(f"{name}:build", 3, HOW).head == "classifier"


def test_what_is_wrong_with_a_function_of_ones_own_is_said(factory):
    name = factory(
        "def fails(): raise ValueError('no width')\n"
        "def small(): return nn.Conv2d(4, 2, 3)\n"
        "def dense(): return nn.Conv2d(3, 3, 3)\n"
        "class Odd(nn.Module):\n  def forward(self, x): return self.nothing(x)\n"
        "def odd(): return Odd()\n"
        "class Fixed(nn.Module):\n  def forward(self, x): return x.mean((2, 3))[:, :2]\n"
        "def headless(): return Fixed()\n"
        "def text(): return 'a net'"
    )
    assert refusal(f"{name}:fails").startswith(
        f"model `{name}:fails`: `fails` raised ValueError\n  why     ValueError: no"
    )
    assert refusal(f"{name}:small").startswith(f"model `{name}:small` does not take inputs of shape (3, 32, 32)\n")
    assert refusal(f"{name}:dense").startswith(f"model `{name}:dense` returns scores of shape (2, 3, 30, 30)")
    assert refusal(f"{name}:text").startswith(f"model `{name}:text` returned str\n")
    assert refusal(f"{name}:headless").startswith("no layer of the model can be its head\n")
    with pytest.raises(UserCodeFailed, match=r"raised AttributeError on a picture") as caught:
        build_architecture(f"{name}:odd", 3, HOW)
    assert "in forward" in caught.value.trace


def test_libraries_that_are_not_installed_are_named(monkeypatch):
    for name in ("timm", "torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("timm", "torchvision"):
        words = refusal(f"{name}:resnet10t")
        assert words.startswith(
            f"{name}:resnet10t: {name} is not installed in this Python\n  why     without it there are"
        )
        assert words.endswith(f"-m pip install {name}")


def test_a_timm_network_is_taken_from_timms_list_alone(monkeypatch):
    """A stand-in with timm's functions; the real one is tried below where it is installed."""
    asked = []

    class Net(nn.Sequential):
        @property
        def pretrained_cfg(self):
            return {"mean": (0.5, 0.5, 0.5), "std": (0.4, 0.4, 0.4), "url": "..."}

        def get_classifier(self):
            return self[2]

    def create_model(name, **settings):
        asked.append((name, settings))
        layers = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(settings["in_chans"], settings["num_classes"])
        return Net(*layers)

    stand_in = types.ModuleType("timm")
    stand_in.is_model = lambda name: name == "tiny"
    stand_in.list_models = lambda: ["tiny"]
    stand_in.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    built = build_architecture("timm:tiny", 3, HOW)
    assert asked == [("tiny", {"pretrained": False, "num_classes": 3, "in_chans": 3})]
    assert built.preprocessing == Preprocessing(32, 32, 3, (0.5, 0.5, 0.5), (0.4, 0.4, 0.4))
    assert built.head == "2"
    assert "nearest: tiny" in refusal("timm:tinyy")
    assert refusal("timm:hf_hub:someone/else").startswith("timm:hf_hub:someone/else: no such network\n")
    assert len(asked) == 1


class FixedSize(nn.Module):
    """A network that checks the size itself, as the vision transformers of timm and torchvision do."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 224, 224)}
        self.head = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] == 224, "Input height doesn't match model (224)."
        return self.head(x.mean((2, 3)))


def test_a_librarys_network_for_another_size_is_answered_with_its_size(monkeypatch):
    library = types.ModuleType("timm")
    library.is_model = lambda _: True
    library.create_model = lambda _, **__: FixedSize()
    monkeypatch.setitem(sys.modules, "timm", library)
    said = refusal("timm:vit")
    assert said.startswith("model `timm:vit` does not take inputs of shape (3, 32, 32)\n")
    assert "doesn't match model (224)" in said
    assert "  do      --size 224" in said
    assert build_architecture("timm:vit", 3, Preprocessing(224, 224)).head == "head"


def test_a_real_timm_network_is_built():
    pytest.importorskip("timm", reason="timm is not installed")
    built = build_architecture("timm:resnet10t", 3, HOW)
    assert built.model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    assert built.head == "fc"


def test_only_a_name_with_a_module_of_ones_own_is_users_code():
    names = {"resnet18": False, "timm:x": False, "torchvision:x": False, "os:system": True, "a.b:c": True}
    assert {name: is_users_code(name) for name in names} == names
