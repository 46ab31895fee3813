"""What the frames of a caught exception tell: modules by name, tensors, keys, places; never a secret, never a value."""

from __future__ import annotations

import gc
import sys
import traceback
import weakref

import explaining  # noqa: F401 - the entries as they are now
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rekindle.explain import add_note, explain_exception
from rekindle.explain.live import event_of_exception, events_of_exception
from rekindle.explain.report import explain_events


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 6, 5)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(400, 120))

    def forward(self, images):
        return self.head(self.features(images))


def caught(call, *args):
    try:
        call(*args)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
        return error
    raise AssertionError("it did not fail")


def test_modules_are_named_as_in_the_outermost_model():
    live = event_of_exception(caught(Net(), torch.ones(2, 1, 28, 28))).live
    assert [(module.name, module.kind) for module in live.modules] == [
        ("", "Net"),
        ("head", "Sequential"),
        ("head.1", "Linear"),
    ]
    linear = live.module
    assert linear.settings == "in_features=400, out_features=120, bias=True"
    assert [(fact.name, fact.shape, fact.dtype, fact.device) for fact in linear.inputs] == [
        ("input", (2, 3456), "float32", "cpu")
    ]
    assert {fact.name: fact.shape for fact in linear.parameters} == {"weight": (120, 400), "bias": (120,)}
    assert linear.is_training


def test_the_explanation_names_the_layer_and_both_numbers():
    found = explain_exception(caught(Net(), torch.ones(2, 1, 28, 28)))
    assert found.causes[0].what == "head.1 (Linear) takes 400 features and got 3456"
    assert "test_live.py:" in found.causes[0].where
    assert "[2, 3456]" in found.causes[0].why


def test_the_labels_and_the_number_of_classes_are_told():
    found = explain_exception(caught(F.cross_entropy, torch.zeros(3, 10), torch.tensor([1, 10, 3])))
    assert found.causes[0].what == "label 10 is not one of the 10 classes 0 to 9"
    assert "from 1 to 10" in found.causes[0].why
    assert found.causes[0].fix[0].startswith("target - 1")


def test_keys_and_shapes_of_a_state_dict_are_there():
    error = caught(nn.Linear(2, 2).load_state_dict, nn.Linear(2, 2, bias=False).state_dict())
    fact = event_of_exception(error).live.find_mapping("state_dict")
    assert fact.keys == ("weight",)
    assert fact.shapes == {"weight": (2, 2)}


def test_secrets_and_large_values_are_not_kept():
    def train():
        api_token = "hf_verysecret"  # noqa: F841
        password = "hunter2hunter2"  # noqa: F841
        aws_secret_access_key = "AKIAverysecret"  # noqa: F841
        text = "x" * 10_000  # noqa: F841
        settings = {"token": "hf_hidden", "lr": 0.1}  # noqa: F841
        epoch = 3  # noqa: F841
        nn.Linear(4, 2)(torch.full((3, 5), 0.123456))

    event = event_of_exception(caught(train))
    assert event.live.find_plain("epoch") == 3
    shown = repr(event)
    for secret in ("hf_verysecret", "hunter2", "AKIA", "xxxxxxxxxx" * 5, "hf_hidden"):
        assert secret not in shown


def test_the_exception_is_what_it_was():
    error = caught(Net(), torch.ones(2, 1, 28, 28))
    before = (type(error), error.args, error.__traceback__, str(error), traceback.format_exception(error))
    explain_exception(error)
    assert before == (type(error), error.args, error.__traceback__, str(error), traceback.format_exception(error))


def test_a_note_is_added_once_and_only_where_something_is_known():
    error = caught(Net(), torch.ones(2, 1, 28, 28))
    assert add_note(error)
    assert add_note(error)
    assert len(error.__notes__) == 1
    assert "[RK-SHAPE-01]" in error.__notes__[0]
    assert not add_note(ValueError("three"))


def test_no_tensor_is_kept_alive_by_the_event():
    images = torch.ones(2, 1, 28, 28)
    gone = weakref.ref(images)
    error = caught(Net(), images)
    event = event_of_exception(error)
    del images, error
    gc.collect()
    assert gone() is None
    assert event.live.modules


def test_what_was_raised_first_is_asked_first():
    def wrap():
        try:
            Net()(torch.ones(2, 1, 28, 28))
        except RuntimeError as error:
            raise ValueError("epoch 3 failed") from error

    error = caught(wrap)
    assert [event.kind for event in events_of_exception(error)] == ["RuntimeError", "ValueError"]
    assert explain_exception(error).causes[0].code == "RK-SHAPE-01"


def test_the_traceback_of_a_worker_in_a_message_is_read():
    inner = "".join(traceback.format_exception(caught(Net(), torch.ones(2, 1, 28, 28))))
    error = RuntimeError(f"Caught RuntimeError in DataLoader worker process 0.\nOriginal {inner}")
    events = events_of_exception(error)
    assert events[0].text == "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3456 and 400x120)"
    assert explain_events(events).causes[0].code == "RK-SHAPE-01"


def test_a_member_of_a_group_is_asked_before_the_group():
    group = ExceptionGroup("two", [caught(Net(), torch.ones(2, 1, 28, 28)), ValueError("b")])
    assert [event.kind for event in events_of_exception(group)] == ["RuntimeError", "ExceptionGroup"]


class Hostile(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def extra_repr(self):
        raise SystemError("no repr")

    def named_modules(self, *args, **named):  # noqa: ARG002 - its shape
        raise SystemError("no names")

    def forward(self, x):
        return self.fc(x)


class HostileError(RuntimeError):
    def __str__(self):
        raise SystemError("no text")


def test_objects_that_refuse_everything_cost_facts_and_nothing_else():
    found = explain_exception(caught(Hostile(), torch.ones(1, 5)))
    assert found.causes[0].code == "RK-SHAPE-01"
    assert explain_exception(HostileError()).causes == ()


def test_a_deep_recursion_is_read_in_part():
    def deeper(n):
        return deeper(n + 1)

    event = event_of_exception(caught(deeper, 0))
    assert event.kind == "RecursionError"
    assert len(event.frames) <= 401


def test_ordinary_errors_are_left_alone():
    for call in (lambda: {}["lr"], lambda: [1].pop(3), lambda: int("ten"), lambda: None.epochs, lambda: 1 / 0):
        assert explain_exception(caught(call)).causes == ()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool, torch.uint8])
def test_the_range_of_small_tensors_is_told(dtype):
    def train():
        labels = torch.tensor([0, 1, 1]).to(dtype)  # noqa: F841
        raise ValueError

    fact = event_of_exception(caught(train)).live.find_tensor("labels")
    assert (fact.low, fact.high) == (0, 1)


def test_a_meta_tensor_is_described_without_values():
    def train():
        weight = torch.empty(3, device="meta")  # noqa: F841
        raise ValueError

    fact = event_of_exception(caught(train)).live.find_tensor("weight")
    assert (fact.device, fact.low) == ("meta", None)


def test_the_frames_are_let_go():
    assert sys.exc_info() == (None, None, None)
