"""Bringing things to a device: what is no tensor stays, and what need not move is the same object."""

from __future__ import annotations

import collections
import dataclasses
import types
from typing import NamedTuple

import pytest
import torch

from rekindle.devices.move import device_named, mapped, to_device
from rekindle.errors import ConfigError

META = torch.device("meta")  # a device that every machine has, where tensors really are elsewhere


class Pair(NamedTuple):
    left: object
    right: object


@dataclasses.dataclass(frozen=True)
class Sample:
    image: torch.Tensor
    name: str
    size: int = dataclasses.field(init=False, default=3)


def test_nested_batches_keep_their_types():
    batch = {
        "pair": Pair(torch.ones(2), "text"),
        "list": [torch.ones(1), (torch.zeros(1), None)],
        "ordered": collections.OrderedDict(a=torch.ones(1)),
        "default": collections.defaultdict(list, a=torch.ones(1)),
        "sample": Sample(torch.ones(1), "cat"),
        "sizes": torch.Size([1, 2]),
        "packed": torch.nn.utils.rnn.pack_sequence([torch.ones(2)]),
    }
    moved = to_device(batch, META)
    assert type(moved["pair"]) is Pair
    assert moved["pair"].left.device == META
    assert moved["pair"].right == "text"
    assert moved["list"][0].device == moved["list"][1][0].device == META
    assert moved["list"][1][1] is None
    assert type(moved["ordered"]) is collections.OrderedDict
    assert moved["default"].default_factory is list
    assert (moved["sample"].image.device, moved["sample"].name) == (META, "cat")
    assert moved["sizes"] is batch["sizes"]
    assert moved["packed"].data.device == META


@dataclasses.dataclass
class Prepared:
    """Brings its pictures from 0..255 to 0..1 when it is made, and keeps what it was not given."""

    images: torch.Tensor
    divide_by: dataclasses.InitVar[float]
    mean: torch.Tensor = dataclasses.field(init=False)

    def __post_init__(self, divide_by: float) -> None:
        self.images = self.images / divide_by
        self.mean = self.images.mean()


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    image: torch.Tensor
    name: str


def test_a_dataclass_is_not_prepared_a_second_time():
    batch = Prepared(torch.full((2,), 255.0), divide_by=255.0)
    batch.extra = "kept"
    moved = to_device(batch, META)
    assert (moved.images.device, moved.mean.device, moved.extra) == (META, META, "kept")
    assert batch.images.device.type == "cpu"
    halved = mapped(batch, lambda part: part.half() if isinstance(part, torch.Tensor) else NotImplemented)
    assert halved.images.tolist() == [1.0, 1.0]
    slotted = Slotted(torch.ones(1), "cat")
    assert (to_device(slotted, META).image.device, slotted.image.device.type) == (META, "cpu")


class Output(collections.OrderedDict):
    """As model libraries give it: a dict with a field of its own, that refuses to be updated."""

    def __init__(self, *items, kind="logits"):
        super().__init__(*items)
        self.kind = kind

    def update(self, *_):
        raise RuntimeError("you cannot use update on an Output")


def test_mappings_and_sequences_of_other_kinds_move():
    output = Output({"logits": torch.ones(1), "name": "x"}, kind="hidden")
    moved = to_device(output, META)
    assert (type(moved), moved["logits"].device, moved["name"], moved.kind) == (Output, META, "x", "hidden")
    assert output["logits"].device.type == "cpu"
    frozen = types.MappingProxyType({"x": torch.ones(1)})
    assert to_device(frozen, META)["x"].device == META
    window = to_device(collections.deque([torch.ones(1), 2], maxlen=5), META)
    assert (window[0].device, window[1], window.maxlen) == (META, 2, 5)


def test_what_is_there_already_is_the_very_same_object():
    batch = {"x": [torch.ones(1), "a"], "y": Sample(torch.ones(1), "b"), "z": Prepared(torch.ones(1), 1.0)}
    assert to_device(batch, torch.device("cpu")) is batch


def test_modules_move_in_place():
    module = torch.nn.Linear(1, 1)
    assert to_device(module, META) is module
    assert module.weight.device == META


def test_auto_is_the_processor_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_named("auto") == device_named(None) == device_named("cpu") == torch.device("cpu")
    assert device_named("cpu:0") == torch.device("cpu")


def test_a_device_that_is_not_there_is_refused_with_what_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_named("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="there is no device cuda:2") as caught:
        device_named("cuda:2")
    assert "2 of that kind are here" in caught.value.why


class Batch:
    """As libraries make them: no dict, with a way of its own to go to a device."""

    def __init__(self, images):
        self.images = images

    def to(self, device):
        return Batch(self.images.to(device))


class Length:
    def to(self, unit):
        raise ValueError(f"no unit is called {unit}")


class InPlace(collections.UserDict):
    def to(self, device):
        self.data = {key: value.to(device) for key, value in self.data.items()}


def test_objects_that_can_go_by_themselves_are_asked_to():
    assert to_device([Batch(torch.ones(1))], META)[0].images.device == META
    length = Length()  # whose `to` means something else
    assert to_device({"length": length}, META)["length"] is length
    batch = InPlace(x=torch.ones(1))
    assert to_device(batch, META) is batch
    assert batch["x"].device == META


def test_losses_with_parameters_move():
    loss = torch.nn.CrossEntropyLoss(weight=torch.ones(3))
    assert to_device({"loss": loss}, META)["loss"].weight.device == META


def test_a_device_can_be_named():
    batch = [torch.ones(1), torch.ones(1, device="meta")]
    moved = to_device(batch[:1], "cpu")
    assert moved[0] is batch[0]
    with pytest.raises(ConfigError, match="no device is called 'gpu'"):
        to_device(batch, "gpu")
