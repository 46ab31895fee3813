"""Data types: both dtypes by torch's names, the side to convert, the same words told apart by where they were said."""

from __future__ import annotations

from pathlib import Path

import pytest
from explaining import run_example

from rekindle.explain.catalogue._words import dtype_name
from rekindle.explain.event import Event, Frame, event_of
from rekindle.explain.match import causes_of
from rekindle.explain.report import explain_events


def told(text: str, *functions: str):
    frames = [Frame("site-packages/torch/nn/some.py", 1, function, "", is_users=False) for function in functions]
    event = event_of(text)
    causes = causes_of(Event(event.raised, event.message, tuple(frames)), strict=True)
    return [cause for cause in causes if cause.code.startswith("RK-DTYPE")]  # others may have more to say


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("Double", "float64"),
        ("float", "float32"),
        ("c10::Half", "float16"),
        ("c10::BFloat16", "bfloat16"),
        ("unsigned char", "uint8"),
        ("long int", "int64"),
        ("torch.cuda.FloatTensor", "float32"),
        ("CUDAFloatType", "float32"),
        ("torch.float64", "float64"),
        ("Float8_e4m3fn", "float8_e4m3fn"),
    ],
)
def test_every_word_for_a_dtype_becomes_torchs_own_name(word, name):
    assert dtype_name(word) == name


SAME_WORDS = [
    ("expected scalar type Double but found Float", (), "RK-DTYPE-01"),
    ("expected scalar type Double but found Float", ("_conv_forward",), "RK-DTYPE-03"),
    ("expected scalar type Long but found Float", (), "RK-DTYPE-02"),
    ("expected scalar type Half but found Float", (), "RK-DTYPE-13"),
    ("expected scalar type BFloat16 but found Float", ("_conv_forward",), "RK-DTYPE-03"),
    ("mat1 and mat2 must have the same dtype, but got Double and Float", (), "RK-DTYPE-01"),
    ("mat1 and mat2 must have the same dtype, but got Long and Float", (), "RK-DTYPE-01"),
    ("mat1 and mat2 must have the same dtype, but got BFloat16 and Float", (), "RK-DTYPE-13"),
    ("mat1 and mat2 must have the same dtype, but got Float and Half", (), "RK-DTYPE-13"),
    ("Expected object of scalar type Long but got scalar type Float for argument #2 'target'", (), "RK-DTYPE-02"),
    ("Expected object of scalar type Float but got scalar type Double for argument #2 'target'", (), "RK-DTYPE-01"),
    (
        "Expected object of scalar type Long but got scalar type Float for argument #3 'index'",
        ("embedding",),
        "RK-DTYPE-05",
    ),
    (
        "Expected object of scalar type Long but got scalar type Int for argument #3 'index'",
        ("scatter_",),
        "RK-DTYPE-04",
    ),
    ("Input type (double) and bias type (float) should be the same", (), "RK-DTYPE-03"),
    ("Found dtype Double but expected Float", (), "RK-DTYPE-01"),
    ("result type Float can't be cast to the desired output type Long", (), "RK-DTYPE-01"),
    ("scatter(): Expected dtype int64 for index", (), "RK-DTYPE-04"),
]


@pytest.mark.parametrize(("message", "functions", "code"), SAME_WORDS)
def test_the_same_words_are_told_apart_by_what_was_running(message, functions, code):
    assert [cause.code for cause in told(f"RuntimeError: {message}", *functions)] == [code]


def test_one_dtype_on_two_devices_is_no_matter_of_dtypes():
    assert (
        told("RuntimeError: Input type (torch.FloatTensor) and weight type (torch.cuda.FloatTensor) should be the same")
        == []
    )


def test_two_dtypes_on_two_devices_are_said_to_be_both():
    (cause,) = told(
        "RuntimeError: Input type (torch.cuda.FloatTensor) and weight type (torch.DoubleTensor) should be the same"
    )
    assert cause.what == "a convolution has float64 weights and was given float32"
    assert "on the GPU and the other is not" in cause.why
    assert cause.likelihood == "likely"


def test_the_side_in_half_precision_decides_the_fix():
    (left,) = told("RuntimeError: mat1 and mat2 must have the same dtype, but got BFloat16 and Float")
    assert "made under autocast" in left.why
    assert left.fix[0].startswith("x = x.float()")
    (right,) = told("RuntimeError: mat1 and mat2 must have the same dtype, but got Float and Half")
    assert "the weights are float16" in right.why
    assert right.fix[0].startswith("x = x.to(torch.float16)")


TEXTS = [
    ("expected target dtype to be Long or Byte, but got Float", "the labels are float32", "target.long()"),
    (
        "Expected floating point type for target with class probabilities, got Long",
        "read as probabilities, and it is int64",
        "argmax(dim=1)",
    ),
    (
        "Input type (unsigned char) and bias type (float) should be the same",
        "float32 weights and was given uint8",
        ".float() / 255",
    ),
    (
        "mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. Got: Bool",
        "mean was asked of a tensor of bool",
        "(pred == target).float().mean()",
    ),
    ("std and var only support floating point and complex dtypes", "a deviation was asked", "x.float().std(...)"),
    ("only Tensors of floating point dtype can require gradients", "whole numbers", "dtype=torch.float32"),
    (
        "a Tensor with 2 elements cannot be converted to Scalar",
        "a tensor of 2 elements is no single number",
        "x.mean().item()",
    ),
]


@pytest.mark.parametrize(("message", "what", "fix"), TEXTS)
def test_the_message_alone_gives_its_own_dtypes_and_a_fix(message, what, fix):
    (cause,) = told(f"RuntimeError: {message}")
    assert what in cause.what, cause.what
    assert any(fix in line for line in cause.fix), cause.fix


@pytest.mark.parametrize(
    ("dtype", "fix"), [("object_", "pad_sequence"), ("str_", "vocabulary[word]"), ("datetime64", 'astype("int64")')]
)
def test_an_array_of_objects_texts_or_dates_has_each_its_own_way_out(dtype, fix):
    (cause,) = told(
        f"TypeError: can't convert np.ndarray of type numpy.{dtype}. The only supported types are: float64."
    )
    assert f"numpy.{dtype}" in cause.what
    assert fix in cause.fix[0]


LIVE = [
    (
        (
            "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.head = nn.Linear(3, 2)\n"
            "    def forward(self, rows):\n        return self.head(rows)\nNet()(torch.ones(4, 3, dtype=torch.float64))"
        ),
        "RK-DTYPE-01",
        "float64 meets float32 in head (Linear)",
        "rows = rows.float()",
    ),
    (
        "model = nn.Linear(3, 2).double()\nmodel(torch.ones(4, 3))",
        "RK-DTYPE-01",
        "float32 meets float64 in the Linear",
        ".double()",
    ),
    (
        "scores = torch.zeros(4, 3)\nprices = torch.tensor([0.5, 1.5, 2.5, 0.1])\nF.cross_entropy(scores, prices)",
        "RK-DTYPE-02",
        "the labels are float32",
        "nn.MSELoss()",
    ),
    (
        "pixels = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)\nnn.Conv2d(1, 1, 1)(pixels)",
        "RK-DTYPE-03",
        "the Conv2d has float32 weights and was given uint8",
        "pixels = pixels.float() / 255",
    ),
    (
        "table = torch.zeros(3, 4)\nplaces = torch.ones(3, 1)\ntable.gather(1, places)",
        "RK-DTYPE-04",
        "gather was given an index",
        ".long()",
    ),
    (
        "features = torch.ones(2, dtype=torch.bfloat16)\nfeatures.cpu().numpy()",
        "RK-DTYPE-06",
        "features is bfloat16",
        "features.detach().float().cpu().numpy()",
    ),
    (
        "losses = torch.ones(3)\nlosses.item()",
        "RK-DTYPE-11",
        "a tensor of 3 elements is no single number (losses [3])",
        "mean()",
    ),
]


@pytest.mark.parametrize(
    ("source", "code", "what", "fix"), LIVE, ids=[f"{code}-{n}" for n, (_, code, *_) in enumerate(LIVE)]
)
def test_live_frames_name_the_layer_the_tensor_and_the_side_to_convert(source, code, what, fix, tmp_path: Path):
    ran = run_example(
        f"import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n{source}\n", tmp_path
    )
    causes = explain_events(ran.events, strict=True).causes
    assert causes[0].code == code
    assert causes[0].what.startswith(what), causes[0].what
    assert any(fix in line for line in causes[0].fix), causes[0].fix


@pytest.mark.parametrize(
    "text",
    [
        "TypeError: not a sequence",
        "TypeError: can't convert complex to float",
        "ValueError: could not convert string to float: 'abc'",
        "RuntimeError: \"addmm_impl_cpu_\" not implemented for 'Half'",
    ],
)
def test_other_types_and_kernels_are_left_to_others(text):
    assert told(text) == []
