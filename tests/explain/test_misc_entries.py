"""Modules, tensors and installations: the class, the near names and the new name, and silence about plain Python."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from explaining import run_example
from torch import nn

from rekindle.explain.catalogue import entry
from rekindle.explain.event import Event, Frame, event_of
from rekindle.explain.hooks import explain_exception
from rekindle.explain.live import events_of_exception
from rekindle.explain.match import causes_of
from rekindle.explain.report import explain_events

MODULE = "lib/python3.11/site-packages/torch/nn/modules/module.py"


def told(text: str, *codes: str, library: str = "", function: str = "forward", code: str = ""):
    """What is said of a message raised by these lines of the user's, inside this library if one is named."""
    frames = [Frame("train.py", 3 + number, "main", line) for number, line in enumerate(codes)]
    frames += [Frame(library, 9, function, code, is_users=False)] if library else []
    event = event_of(text)
    return causes_of(Event(event.raised, event.message, tuple(frames)), strict=True)


def of_example(name: str, folder: Path, old: str = "", new: str = ""):
    """What is said first of the live failure of an entry's example, with a piece of it exchanged."""
    ran = run_example(entry(name).EXAMPLE.replace(old, new) if old else entry(name).EXAMPLE, folder)
    return explain_events(ran.events, strict=True).causes[0]


def test_the_class_without_super_init_is_named(tmp_path: Path):
    cause = of_example("module_no_super_init", tmp_path)
    assert cause.what == "__init__ of Net does not call super().__init__() before it assigns a module"


def test_a_layer_that_is_not_there_is_told_with_those_that_are(tmp_path: Path):
    cause = of_example("module_attribute", tmp_path)
    assert cause.what == "there is no fc2 in Net"
    assert cause.why == "it has fc1; nearest names: fc1"
    assert cause.fix[0] == "self.fc1"


def test_the_head_of_another_architecture_is_named():
    (cause,) = told(
        "AttributeError: 'VGG' object has no attribute 'fc'",
        "model.fc = nn.Linear(model.fc.in_features, 10)",
        library=MODULE,
        function="__getattr__",
    )
    assert cause.fix[0].startswith("model.classifier[6] = nn.Linear(model.classifier[6].in_features, classes)")


def test_attributes_of_the_users_own_classes_are_left_alone():
    assert told("AttributeError: 'Config' object has no attribute 'epochs'", "config.epochs") == []
    assert told("AttributeError: 'NoneType' object has no attribute 'epochs'", "config.epochs") == []
    assert told("AttributeError: 'list' object has no attribute 'dims'", "rows.dims") == []
    assert told("AttributeError: module 'os' has no attribute 'paths'", "os.paths") == []
    assert told("NotImplementedError", "raise NotImplementedError") == []
    assert told("NameError: name 'trues' is not defined", "trues") == []
    assert told("TypeError: f() missing 1 required positional argument: 'mask'", "f()") == []
    assert told("ModuleNotFoundError: No module named 'tensorflow'", "import tensorflow") == []


TYPOS = [
    ("AttributeError: module 'torch.nn' has no attribute 'DataParaller'", "torch.nn.DataParallel"),
    ("AttributeError: module 'torch' has no attribute 'set_num_threds'", "torch.set_num_threads"),
    ("AttributeError: module 'torch' has no attribute 'longtensor'", "torch.LongTensor"),
    ("NameError: name 'true' is not defined", "True   # in place of true"),
    ("AttributeError: module 'torch' has no attribute 'symeig'", "torch.linalg.eigh   # in place of torch.symeig"),
]


@pytest.mark.parametrize(("text", "fix"), TYPOS)
def test_a_misspelled_name_is_put_right_without_torch_at_hand(text, fix):
    (cause,) = told(text)
    assert cause.fix[0] == fix


def test_a_misspelled_name_is_looked_up_in_the_torch_that_runs():
    try:
        torch.nn.functional.cross_entrpy  # noqa: B018 - the name is not there
    except AttributeError as error:
        cause = explain_events(events_of_exception(error), strict=True).causes[0]
    assert cause.fix[0] == "torch.nn.functional.cross_entropy"


def test_a_file_called_torch_is_suspected():
    (cause,) = told("AttributeError: partially initialized module 'torch' has no attribute 'nn' (most likely due to a")
    assert cause.what == "a file of your own hides the package torch, or imports it in a circle"


FORWARDS = [
    ("TypeError: Net.forward() missing 1 required positional argument: 'mask'", "Net.forward wants mask"),
    (
        "TypeError: Linear.forward() takes 2 positional arguments but 3 were given",
        "Linear.forward takes 1 argument, the",
    ),
    ("TypeError: Net.forward() takes 1 positional argument but 2 were given", "Net.forward takes no input"),
    ("TypeError: Net.forward() got an unexpected keyword argument 'labels'", "Net.forward has no argument labels"),
    ("TypeError: forward() got multiple values for argument 'x'", "forward gets x twice"),
]


@pytest.mark.parametrize(("text", "what"), FORWARDS)
def test_a_call_that_does_not_fit_forward_names_the_argument(text, what):
    (cause,) = told(text)
    assert cause.what.startswith(what)


GIVEN = [
    ("numpy.ndarray", "RK-MISC-07", "linear() got a NumPy array, not a tensor"),
    ("list", "RK-MISC-07", "linear() got a list, not a tensor"),
    ("tuple", "RK-MISC-20", "linear() got a tuple, not a tensor"),
    ("NoneType", "RK-MISC-21", "linear() got None, not a tensor"),
]


@pytest.mark.parametrize(("got", "code", "what"), GIVEN)
def test_what_came_in_place_of_a_tensor_decides(got, code, what):
    (cause,) = told(f"TypeError: linear(): argument 'input' (position 1) must be Tensor, not {got}")
    assert (cause.code, cause.what) == (code, what)


def test_the_layer_that_got_it_is_named_when_it_is_alive(tmp_path: Path):
    assert of_example("module_tuple_input", tmp_path).what == "1 (Linear) got a tuple, not a tensor"
    assert of_example("module_forward_none", tmp_path).what == "1 (Linear) got None, not a tensor"
    assert of_example("module_numpy_input", tmp_path).what == "0 (Linear) got a NumPy array, not a tensor"


def test_every_layer_that_is_given_something_else_is_explained():
    layers = [
        nn.Linear(2, 2),
        nn.Conv2d(1, 1, 1),
        nn.Embedding(3, 3),
        nn.BatchNorm2d(1),
        nn.MaxPool2d(2),
        nn.LSTM(2, 2),
    ]
    unexplained = []
    for layer in layers:
        for given, code in (((torch.ones(1, 2), 1), "RK-MISC-20"), (None, "RK-MISC-21")):
            try:
                layer(given)
            except Exception as error:  # noqa: BLE001 - whichever it is
                codes = [cause.code for cause in explain_exception(error).causes]
                if codes[:1] != [code]:
                    unexplained.append((layer, given, error, codes))
    assert unexplained == []


def test_an_array_and_a_tensor_are_told_apart_by_the_users_own_name():
    (cause,) = told("AttributeError: 'numpy.ndarray' object has no attribute 'unsqueeze'", "batch = image.unsqueeze(0)")
    assert cause.what == "image is a NumPy array, and unsqueeze belongs to tensors"
    (cause,) = told("AttributeError: 'Tensor' object has no attribute 'astype'", "labels = labels.astype(int)")
    assert cause.fix[0].startswith("labels.to(torch.float32)")


def test_a_loss_that_was_made_with_data_is_told_from_a_condition():
    text = "RuntimeError: Boolean value of Tensor with more than one value is ambiguous"
    (cause,) = told(text, "loss = nn.CrossEntropyLoss(output, target)")
    assert cause.fix == ("nn.CrossEntropyLoss()(output, target)   # make it first, then call it",)
    (cause,) = told(text, "if scores > 0.5:")
    assert cause.fix[0].startswith("condition.any()")
    (cause,) = told(text, "if best in candidates:")
    assert "torch.equal" in cause.fix[0]


def test_a_broadcast_that_eats_the_memory_is_told_with_both_tensors(tmp_path: Path):
    cause = of_example("cpu_alloc", tmp_path)
    assert cause.what == "400.0 TB of host memory were asked for at once"
    assert "predictions [10000000, 1] and targets [10000000] give that size" in cause.why


def test_an_array_of_numpys_that_is_too_large_is_told_with_its_shape():
    import numpy as np

    with pytest.raises(MemoryError) as caught:
        np.ones((10_000_000, 10_000_000))
    cause = explain_exception(caught.value).causes[0]
    assert cause.what.endswith("(an array of 10000000, 10000000 float64)")


def test_what_torch_six_gave_is_named_anew():
    (cause,) = told("ModuleNotFoundError: No module named 'torch._six'", "from torch._six import container_abcs, inf")
    assert [line.partition("   #")[0] for line in cause.fix] == [
        "import collections.abc as container_abcs",
        "from math import inf",
    ]


def test_the_package_that_imports_what_is_gone_is_named():
    (cause,) = told(
        "ModuleNotFoundError: No module named 'torchvision.transforms.functional_tensor'",
        "import basicsr",
        library="/opt/venv/lib/python3.11/site-packages/basicsr/data/degradations.py",
        function="<module>",
        code="from torchvision.transforms.functional_tensor import rgb_to_grayscale",
    )
    assert cause.what.startswith("basicsr imports")
    assert cause.fix[0].startswith("pip install -U basicsr")


def test_the_list_of_layers_that_was_called_is_named(tmp_path: Path):
    cause = of_example("module_modulelist_forward", tmp_path, "layers(torch", "layers(3 * torch")
    assert cause.fix[0] == "for layer in layers: x = layer(x)"


def test_the_list_that_is_empty_is_named(tmp_path: Path):
    assert of_example("tensor_cat_empty", tmp_path).what == "outputs for cat is empty"


def test_a_loss_without_dimensions_is_named(tmp_path: Path):
    cause = of_example("tensor_zero_dim", tmp_path)
    assert cause.what == "loss is a single number without dimensions, and it was indexed"
    assert cause.fix == ("loss.item()   # the number, in place of .data[0]",)


@pytest.mark.skipif("tensorboard" in sys.modules, reason="tensorboard was imported")
def test_the_real_message_without_tensorboard_is_the_recorded_one(monkeypatch):
    class Nobody:
        """What stands for a Python without that package."""

        def find_spec(self, name, *_):
            if name == "tensorboard":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [name for name in sys.modules if name.startswith(("torch.utils.tensorboard", "tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Nobody(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError) as caught:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401 - the import fails
    assert explain_exception(caught.value).causes[0].code == "RK-MISC-19"


def test_a_tuple_of_tensors_is_told_from_a_tuple_of_the_users_own():
    output = (torch.ones(2), torch.ones(2))
    with pytest.raises(AttributeError) as caught:
        output.size(0)  # type: ignore[attr-defined] # that is the test
    assert [cause.code for cause in explain_exception(caught.value).causes] == ["RK-MISC-20"]
    output = (1, 2)
    with pytest.raises(AttributeError) as caught:
        output.size(0)  # type: ignore[attr-defined] # that is the test
    assert explain_exception(caught.value).causes == ()
    assert causes_of(event_of("AttributeError: 'tuple' object has no attribute 'size'"), strict=True) == []
