"""The head of a classifier: found, and replaced for another number of classes."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import small_networks

torch = pytest.importorskip("torch")
from torch import nn

import rekindle as rk
from rekindle.errors import ConfigError


class Vgg(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3))
        self.classifier = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 1000))


class SqueezeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(4, 1000, kernel_size=1), nn.ReLU())
        self.num_classes = 1000


class TorchvisionViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 3)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(3, 1000)))


class Timm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)  # not the head, whatever its name says
        self.scores = nn.Linear(3, 1000, bias=False)
        self.num_classes = 1000

    def get_classifier(self) -> nn.Module:
        return self.scores


@pytest.mark.parametrize(
    ("model", "name", "how"),
    [
        (small_networks.SmallResNet, "fc", "by the name `fc`"),
        (small_networks.SmallViT, "head", "by the name `head`"),
        (Vgg, "classifier.3", "by the name `classifier`"),
        (SqueezeNet, "classifier.1", "by the name `classifier`"),
        (TorchvisionViT, "heads.head", "by the name `heads`"),
        (Timm, "scores", "the model's own get_classifier()"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 10)), "2", "the last layer registered"),
    ],
)
def test_the_head_of_the_usual_families_is_found_and_it_is_said_how(model, name, how):
    made = model()
    done = rk.replace_head(made, 3)
    assert done.name == name
    assert done.how.startswith(how)
    layer = made.get_submodule(name)
    assert layer.weight.shape[0] == 3
    assert getattr(made, "num_classes", 3) == 3


def test_the_new_layer_is_like_the_old_one_in_all_but_its_rows():
    model = nn.Sequential(OrderedDict(body=nn.Linear(4, 6), fc=nn.Linear(6, 10, bias=False, dtype=torch.bfloat16)))
    done = rk.replace_head(model, 2, init=lambda layer: nn.init.zeros_(layer.weight))
    assert str(done) == (
        "fc (by the name `fc`): Linear(in_features=6, out_features=10, bias=False) -> "
        "Linear(in_features=6, out_features=2, bias=False)"
    )
    assert model.fc.weight.dtype == torch.bfloat16
    assert not model.fc.weight.any()


def test_a_shared_head_is_replaced_wherever_it_is_registered():
    model = nn.Module()
    model.first = nn.Sequential(nn.Linear(2, 5))
    model.fc = model.first[0]
    rk.replace_head(model, 3)
    assert model.first[0] is model.fc
    assert model.fc.out_features == 3


def test_a_head_below_a_wrapper_is_found_by_its_plain_name():
    model = nn.DataParallel(small_networks.SmallResNet())
    assert rk.replace_head(model, 2).name == "fc"
    assert model.module.fc.out_features == 2


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"classes": 2, "name": "fcc"}, "the model has no layer 'fcc'\n  why     nearest: fc"),
        ({"classes": 2, "name": "bn1"}, "'bn1' is a BatchNorm2d, and holds no Linear or convolution"),
        ({"classes": 0}, "0 is not a number of classes"),
    ],
)
def test_what_cannot_be_a_head_is_refused(wish, words):
    with pytest.raises(ConfigError, match=words):
        rk.replace_head(small_networks.SmallResNet(), **wish)
    with pytest.raises(ConfigError, match="no layer of the model can be its head"):
        rk.replace_head(nn.ReLU(), 2)


def test_the_number_of_classes_in_a_configuration_changes_and_named_labels_of_the_right_number_stay():
    class Config:
        def __init__(self) -> None:
            self.num_labels = 1000
            self.id2label = {number: f"LABEL_{number}" for number in range(1000)}

    model = nn.Sequential(OrderedDict(classifier=nn.Linear(3, 1000)))
    model.config = Config()
    rk.replace_head(model, 2)
    assert model.config.num_labels == 2
    model.config.id2label = {0: "ant", 1: "bee"}
    model.config.num_labels = "not asked"
    rk.replace_head(model, 2)
    assert model.config.num_labels == "not asked"
