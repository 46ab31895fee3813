"""Devices: which tensor stayed behind, what the figures of an out-of-memory say, what a failed assertion means."""

from __future__ import annotations

from pathlib import Path

import pytest
from explaining import run_example

from rekindle.explain.catalogue._devices import device_of_type
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event, Frame, Live, LiveFrame, ModuleFact, TensorFact, event_of
from rekindle.explain.match import causes_of
from rekindle.explain.report import explain_events, explain_text

GIB = 1 << 30


def told(text: str, live: Live | None = None, *frames: Frame) -> list[Cause]:
    event = event_of(text)
    return causes_of(Event(event.raised, event.message, frames, live=live), strict=True)


def ran(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Cause]:
    """The causes of a script's failure, explained in the folder that it ran in."""
    monkeypatch.chdir(folder)
    done = run_example(source, folder)
    assert done.events, done.printed
    return list(explain_events(done.events, strict=True).causes)


@pytest.mark.parametrize(
    ("word", "device"),
    [
        ("torch.cuda.FloatTensor", "cuda"),
        ("torch.FloatTensor", "cpu"),
        ("CUDAFloatType", "cuda"),
        ("torch.mps.HalfTensor", "mps"),
        ("Mkldnntorch.FloatTensor", "mkldnn"),
    ],
)
def test_every_word_for_a_tensor_type_becomes_its_device(word, device):
    assert device_of_type(word) == device


FAKE = """
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = torch.ones(2)

    def forward(self, x):
        return {body}

with FakeTensorMode(allow_non_fake_inputs=True):
    Net()(torch.ones(1, 2, device="cuda"))
"""


def test_a_plain_attribute_that_stayed_on_the_cpu_is_named(tmp_path, monkeypatch):
    (cause,) = ran(FAKE.format(body="x + self.offset"), tmp_path, monkeypatch)
    assert cause.what == "self.offset [2] float32 on cpu meets x on cuda:0 in the Net"
    assert cause.fix[0].startswith('self.register_buffer("offset", ...)')


def test_a_layer_built_in_forward_is_told_from_other_tensors_on_two_devices(tmp_path, monkeypatch):
    (cause,) = ran(FAKE.format(body="nn.Linear(2, 2)(x)"), tmp_path, monkeypatch)
    assert cause.code == "RK-DEV-03"
    assert cause.what == "forward of Net builds a new Linear, which model.to(device) never reached"


def test_a_move_that_was_thrown_away_is_found_in_the_function_around_the_line(tmp_path, monkeypatch):
    source = """
import torch
from torch import nn

def train(model, images):
    images.to("meta")
    model(images)

train(nn.Linear(2, 2, device="meta"), torch.ones(1, 2))
"""
    causes = ran(source, tmp_path, monkeypatch)
    assert causes[0].code == "RK-DEV-04"
    assert causes[0].fix == ("images = images.to(device)",)
    kept = source.replace('    images.to("meta")', '    images = images.to("meta")').replace(
        'device="meta"', 'device="cpu"'
    )
    assert "RK-DEV-04" not in [cause.code for cause in ran(kept, tmp_path, monkeypatch)]


def test_the_optimizers_state_on_another_device_comes_before_the_general_case():
    frame = Frame("/lib/site-packages/torch/optim/adam.py", 1, "_single_tensor_adam", "", is_users=False)
    text = (
        "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
    )
    assert [cause.code for cause in told(text, None, frame)] == ["RK-DEV-06"]
    assert [cause.code for cause in told(text)] == ["RK-DEV-02"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            (
                "Expected all tensors to be on the same device, but got mat1 is on cpu, different from other tensors"
                " on cuda:0"
                " (when checking argument in method wrapper_CUDA_addmm)"
            ),
            "a tensor on cpu (argument mat1) meets tensors on cuda:0 in addmm",
        ),
        (
            (
                "Expected all tensors to be on the same device, but found at least two devices, cuda:1 and cpu!"
                " (when checking"
                " argument for argument index in method wrapper_CUDA__index_select)"
            ),
            "a tensor on cpu (argument index) meets tensors on cuda:1 in index_select",
        ),
        (
            (
                "Tensor for argument #3 'mat2' is on CPU, but expected it to be on GPU (while checking arguments for"
                " addmm)"
            ),
            "a tensor on cpu (argument mat2) meets tensors on gpu in addmm",
        ),
        (
            "expected device cuda:0 and dtype Long but got device cpu and dtype Long",
            "a tensor on cpu meets tensors on cuda:0",
        ),
    ],
)
def test_both_devices_are_read_from_current_and_old_wordings(text, what):
    assert told(f"RuntimeError: {text}")[0].what == what


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("Invalid device string: 'cuda: 1'", 'torch.device("cuda:1")'),
        ("Invalid device string: '0'", 'torch.device("cuda:0")'),
        ("Invalid device string: 'cuda0'", 'torch.device("cuda:0")'),
        ("Expected one of cpu, cuda, mps device type at start of device string: GPU", 'torch.device("cuda")'),
    ],
)
def test_the_device_that_was_meant_is_written_out(text, fix):
    assert told(f"RuntimeError: {text}")[0].fix[0] == fix


@pytest.mark.parametrize(("version", "shown", "wheel"), [(12040, "12.4", "cu126"), (11080, "11.8", "cu118")])
def test_the_drivers_number_is_read_as_a_version(version, shown, wheel):
    text = (
        "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version"
        f" {version}). Please"
    )
    (cause,) = told(text)
    assert f"CUDA {shown} at most" in cause.what
    assert wheel in " ".join(cause.fix)


def test_a_card_older_than_the_build_is_sent_to_a_build_that_has_it():
    warning = (
        "UserWarning: Tesla V100-SXM2-16GB with CUDA capability sm_70 is not compatible with the current"
        " PyTorch installation."
    )
    (cause,) = told(warning)
    assert cause.what == "the installed PyTorch has no code for Tesla V100-SXM2-16GB (sm_70)"
    assert "cu126" in cause.fix[0]
    assert not any("cu130" in line for line in cause.fix)


def test_the_build_that_the_warning_names_is_taken():
    (cause,) = told(
        "UserWarning: Found GPU0 Tesla V100-SXM2-32GB which is of compute capability (CC) 7.0.\n"
        "The following list shows the CCs this version of PyTorch was built for and the hardware CCs it supports:\n"
        "- 7.5 which supports hardware CC >=7.5,<8.0\n"
        "Your installed torch==2.13.0 does not include kernels for this GPU. Reinstall the same version, e.g.:\n"
        "  For CUDA 12.6 use pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126"
    )
    assert cause.what == "the installed PyTorch has no code for Tesla V100-SXM2-32GB (sm_70)"
    assert [line.split("/")[-1][:5] for line in cause.fix] == ["cu126"]


def test_a_card_of_a_generation_that_the_build_knows_is_only_a_possible_case():
    (cause,) = told(
        "UserWarning: Found GPU0 NVIDIA GB10 which is of cuda capability 12.1.\n    Minimum and Maximum cuda capability"
        " supported by this version of PyTorch is\n    (8.0) - (12.0)"
    )
    assert cause.likelihood == "possible"


OUT = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {tried}. GPU 0 has a total capacity"
    " of 80.00 GiB of which"
    " {free} is free. {who} memory in use. Of the allocated memory {allocated} is allocated by PyTorch,"
    " and {idle} is reserved"
    " by PyTorch but unallocated."
)


def out_of_memory(
    tried="2.00 GiB",
    free="1.00 GiB",
    who="Including non-PyTorch memory, this process has 79.00 GiB",
    allocated="76.00 GiB",
    idle="1.00 GiB",
):
    return OUT.format(tried=tried, free=free, who=who, allocated=allocated, idle=idle)


def test_memory_that_another_process_holds_is_told_with_its_number():
    who = "Process 4711 has 60.00 GiB memory in use. Including non-PyTorch memory, this process has 19.00 GiB"
    (cause,) = told(out_of_memory(who=who, allocated="17.00 GiB"))
    assert cause.what == "GPU 0 is full, most of it with another process: 4711 holds 60.00 GiB of 80.00 GiB"
    assert any("4711" in line for line in cause.fix)


def test_in_a_container_the_process_itself_is_not_taken_for_another_one():
    (cause,) = told(out_of_memory(who="Process 4711 has 79.00 GiB"))
    assert "another process" not in cause.what
    assert cause.what == "GPU 0 is full: 2.00 GiB more did not fit"


def test_memory_in_pieces_is_told_from_memory_that_is_full():
    (cause,) = told(out_of_memory(allocated="50.00 GiB", idle="26.00 GiB"))
    assert "lies in pieces: 26.00 GiB reserved and free" in cause.what
    assert "expandable_segments:True" in cause.fix[0]


def test_the_batch_that_would_fit_is_estimated_from_the_figures_and_the_input():
    images = TensorFact("images", (96, 3, 224, 224), "float32", "cuda:0")
    frame = LiveFrame(Frame("train.py", 9, "train", "model(images)"), tensors=(images,))
    live = Live((ModuleFact("", "ResNet", inputs=(images,)), ModuleFact("layer1.0.conv1", "Conv2d")), (frame,))
    (cause,) = told(out_of_memory(), live, frame.frame)
    assert cause.fix[0].startswith("batch_size=32   # images [96, 3, 224, 224] now; an estimate")
    assert cause.fix[1].startswith("accumulate gradients over 3 batches of 32")
    assert "images [96, 3, 224, 224] float32 (55 MiB)" in cause.why


def test_one_tensor_that_is_far_too_large_makes_the_estimate_smaller_than_half():
    images = TensorFact("images", (96, 3, 224, 224), "float32", "cuda:0")
    live = Live((ModuleFact("", "ResNet", inputs=(images,)),))
    (cause,) = told(out_of_memory(tried="700.00 GiB", free="69.00 GiB", allocated="10.00 GiB"), live)
    assert cause.fix[0].startswith("batch_size=8   # images [96, 3, 224, 224] now; an estimate")


def test_memory_that_ran_out_in_validation_is_told_to_record_no_graph():
    (cause,) = told(out_of_memory(), None, Frame("train.py", 30, "validate", "loss = criterion(model(x), y)"))
    assert "in validate" in cause.what
    assert "inference_mode" in cause.fix[0]


def test_memory_refused_although_some_is_free_is_not_called_a_batch_too_large():
    (cause,) = told(
        "RuntimeError: CUDA out of memory. Tried to allocate 12.50 MiB (GPU 0; 10.92 GiB total capacity;"
        " 8.57 MiB already allocated; 9.28 GiB free; 4.68 MiB cached)"
    )
    assert cause.what == "CUDA was refused memory on GPU 0 although 9.28 GiB of 10.92 GiB are free"


ASSERTED = """../aten/src/ATen/native/cuda/{where}: block: [0,0,0], thread: [3,0,0] Assertion `{what}` failed.
Traceback (most recent call last):
  File "train.py", line 40, in <module>
    loss.backward()
RuntimeError: CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
"""


@pytest.mark.parametrize(
    ("where", "what", "code"),
    [
        ("Loss.cu:250: nll_loss_forward_reduce_cuda_kernel_2d", "t >= 0 && t < n_classes", "RK-LOSS-01"),
        ("Loss.cu:115: operator()", "input_val >= zero && input_val <= one", "RK-LOSS-03"),
        ("Indexing.cu:1290: indexSelectLargeIndex", "srcIndex < srcSelectDimSize", "RK-SHAPE-19"),
        (
            "TensorCompare.cu:110: _assert_async_cuda_kernel",
            "probability tensor contains either `inf`, `nan` or element < 0",
            "RK-LOSS-11",
        ),
        (
            "IndexKernel.cu:93: operator()",
            '-sizes[i] <= index && index < sizes[i] && "index out of bounds"',
            "RK-SHAPE-18",
        ),
    ],
)
def test_the_assertion_in_front_of_the_traceback_says_which_check_failed(where, what, code):
    causes = explain_text(ASSERTED.format(where=where, what=what), strict=True).causes
    assert causes[0].code == code
    late = [cause for cause in causes if cause.code == "RK-DEV-15" and cause.where]
    assert all("only where it was noticed" in cause.why for cause in late)


def test_labels_on_the_cpu_are_compared_with_the_classes_when_an_assertion_failed_on_the_gpu():
    logits = TensorFact("logits", (4, 10), "float32", "cuda:0")
    labels = TensorFact("batch[1]", (4,), "int64", "cpu", low=0, high=10)
    frame = LiveFrame(Frame("train.py", 9, "train", "loss.backward()"), tensors=(logits, labels))
    (cause,) = told("RuntimeError: CUDA error: device-side assert triggered", Live((), (frame,)), frame.frame)
    assert cause.what == "a check on the GPU failed: batch[1] holds the label 10, and the output has 10 classes"
    whole = LiveFrame(frame.frame, tensors=(logits, TensorFact("batch[1]", (4,), "int64", "cpu", low=0, high=9)))
    (cause,) = told("RuntimeError: CUDA error: device-side assert triggered", Live((), (whole,)), frame.frame)
    assert "holds the label" not in cause.what


def test_a_package_with_kernels_of_its_own_is_named_for_an_illegal_access():
    frame = Frame("/lib/site-packages/flash_attn/flash_attn_interface.py", 3, "forward", "", is_users=False)
    (cause,) = told("AcceleratorError: CUDA error: an illegal memory access was encountered", None, frame)
    assert "flash_attn" in cause.why
    assert cause.fix[1].startswith("pip install --upgrade flash_attn")


@pytest.mark.parametrize("kind", ["str", "NoneType"])
def test_a_value_that_is_no_container_of_tensors_is_only_a_possible_case(kind):
    (cause,) = told(f"AttributeError: '{kind}' object has no attribute 'to'")
    assert cause.likelihood == "possible"
