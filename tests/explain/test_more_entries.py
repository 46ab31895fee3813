# ruff: noqa: E501 - messages stand whole, as they are printed
"""One message, one cause: what is said of the wordings that the entries' own examples do not raise."""

from __future__ import annotations

import explaining  # noqa: F401 - the entries as they are now
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rekindle.explain import explain_exception, explain_text
from rekindle.explain.report import explain_events


def causes(text):
    return explain_text(text, strict=True).causes


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("RuntimeError: einsum(): fewer operands were provided than specified in the equation", "RK-SHAPE-28", "more tensors than it was given"),
        ("RuntimeError: einsum(): output subscript z does not appear in the equation for any input operand", "RK-SHAPE-28", "letter z stands behind ->"),
        ("RuntimeError: Expected index [6, 1] to be no larger than self [4, 5] apart from dimension 1 and to be no larger size than src [6, 1]", "RK-SHAPE-29", "[6, 1] is larger than the tensor [4, 5] in dimension 0"),
        ("IndexError: index_select(): Index is supposed to be a vector", "RK-SHAPE-29", "several dimensions"),
        ("RuntimeError: index_add_(): Number of indices (2) should be equal to source.size(dim): (3), for dim: 0", "RK-SHAPE-29", "2 indices for 3 rows"),
        ("ValueError: num_channels (20) must be divisible by num_groups (8)", "RK-SHAPE-30", "the 20 channels"),
        ("ValueError: in_channels must be divisible by groups", "RK-SHAPE-30", "in_channels"),
        ("RuntimeError: Expected weight to be a vector of size equal to the number of channels in input, but got weight of shape [8] and input of shape [2, 12, 4, 4]", "RK-SHAPE-30", "made for 8 channels and got 12"),
        ("RuntimeError: unflatten: Provided sizes [3, 4] don't multiply up to the size of dim 1 (10) in the input tensor", "RK-SHAPE-32", "make 12"),
        ("RuntimeError: start (3) + length (4) exceeds dimension size (5).", "RK-SHAPE-32", "4 elements from 3 on"),
        ("RuntimeError: self must be a matrix", "RK-SHAPE-34", "mm takes matrices"),
        ("RuntimeError: linalg.inv: A must be batches of square matrices, but they are 3 by 4 matrices", "RK-SHAPE-34", "3 by 4"),
        ("IndexError: argmax(): Expected reduction dim 0 to have non-zero size.", "RK-MISC-22", "argmax"),
        ("RuntimeError: Negation, the `-` operator, on a bool tensor is not supported. If you are trying to invert a mask", "RK-DTYPE-15", "negated"),
        ("RuntimeError: where expected condition to be a boolean tensor, but got a tensor with dtype Float", "RK-DTYPE-16", "where is float32"),
        ("RuntimeError: value cannot be converted to type uint8 without overflow", "RK-DTYPE-17", "0 to 255"),
        ("RuntimeError: Setting requires_grad=True on inference tensor outside InferenceMode is not allowed.", "RK-GRAD-25", "require gradients"),
        ("RuntimeError: Function FBackward returned an invalid gradient at index 0 - got [4] but expected shape compatible with [3]", "RK-GRAD-26", "gives [4]"),
        ("RuntimeError: attempting to assign a gradient of size '[4]' to a tensor of size '[3]'. Please ensure that the gradient and the tensor are the same size", "RK-GRAD-27", "assigned"),
        ("TypeError: LBFGS.step() missing 1 required positional argument: 'closure'", "RK-GRAD-31", "step() of LBFGS"),
        ("TypeError: CosineAnnealingLR.__init__() missing 1 required positional argument: 'T_max'", "RK-GRAD-32", "T_max"),
        ("TypeError: Linear is not an Optimizer", "RK-GRAD-32", "class Linear"),
        ("TypeError: cannot assign 'list' object to buffer 'weight' (torch Tensor or None required)", "RK-LOSS-16", "given as list"),
        ("TypeError: list is not a Module subclass", "RK-MISC-24", "one by one"),
        ("ValueError: num_workers option should be non-negative; use num_workers=0 to disable multiprocessing.", "RK-DATA-29", "below 0"),
        ("ValueError: SyncBatchNorm expected input tensor to be on GPU", "RK-DIST-22", "SyncBatchNorm runs on the CPU"),
        ("RuntimeError: Tensors must be CUDA and dense", "RK-DIST-22", "cpu"),
        ("RuntimeError: ProcessGroupGloo::broadcast: invalid root rank: 3", "RK-DIST-23", "rank 3"),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "RK-DEV-20", "while it ran"),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm( handle, opa)`", "RK-DEV-20", "refused a product"),
        ("torch.AcceleratorError: CUDA error: invalid configuration argument", "RK-DEV-21", "in a form that the GPU refuses"),
        ("torch._C._LinAlgError: linalg.cholesky: (Batch element 3): The factorization could not be completed because the input is not positive-definite (the leading minor of order 1 is not positive-definite).", "RK-MISC-34", "matrix 3 of the batch"),
    ],
)  # fmt: skip
def test_a_wording_is_said_with_its_own_numbers(text, code, said):
    found = causes(text)
    assert found
    assert found[0].code == code
    assert said in found[0].what + found[0].why


@pytest.mark.parametrize(
    "text",
    [
        "KeyError: 42",
        "AttributeError: 'NoneType' object has no attribute 'item'",
        "AttributeError: 'NoneType' object has no attribute 'data'",
        "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
        "TypeError: 'builtin_function_or_method' object is not subscriptable",
        "RuntimeError: Trying to resize storage that is not resizable",
        "TypeError: Reader.__init__() got an unexpected keyword argument 'verbose'",
    ],
)
def test_without_a_call_that_decides_nothing_is_said(text):
    assert causes(text) == ()


def raised_by(act):
    try:
        act()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("it went well")


def first_of(act):
    from rekindle.explain.live import events_of_exception

    return explain_events(events_of_exception(raised_by(act)), strict=True).causes[0]


def test_labels_without_their_last_dimension_are_named():
    scores, labels = torch.rand(4, 10), torch.tensor([1, 0, 9, 3])
    cause = first_of(lambda: scores.gather(1, labels))
    assert "labels [4]" in cause.what
    assert cause.fix[0].startswith("labels.unsqueeze(1)")


def test_group_counts_that_divide_are_offered():
    cause = first_of(lambda: nn.Conv2d(6, 8, 3, groups=4))
    assert (cause.code, "6 channels" in cause.what) == ("RK-SHAPE-30", True)
    assert "3" in cause.fix[0]


def test_random_numbers_of_a_whole_type_are_no_norm():
    cause = first_of(lambda: torch.randn(3, dtype=torch.long))
    assert "random numbers" in cause.what


def test_a_tensor_as_the_index_of_a_list_is_no_list_of_tensors():
    names, index = ["a", "b"], torch.tensor([0, 1])
    assert "index [2] int64" in first_of(lambda: names[index]).what


def test_a_dtype_given_as_a_text_is_told_from_a_device():
    x = torch.ones(1)
    assert first_of(lambda: x.to("float16")).fix[0] == "x.to(torch.float16)"


def test_a_loss_whose_parentheses_are_missing():
    loss = nn.CrossEntropyLoss
    assert "class of a loss" in first_of(lambda: loss(torch.ones(2, 3), torch.tensor([1, 2]))).what


def test_a_reflecting_padding_says_how_much_can_be_added():
    assert "at most 2" in first_of(lambda: F.pad(torch.ones(1, 1, 3, 3), (4, 4, 4, 4), mode="reflect")).why


def test_the_last_reason_of_a_recompilation_is_quoted():
    text = (
        "W1121 01:27:32.352000 29225 torch/_dynamo/convert_frame.py:1994] [1/2]    last reason: 1/1: step == 3\n"
        "W1121 01:27:32.352000 29225 torch/_dynamo/convert_frame.py:1994] [1/2] torch._dynamo hit config.recompile_limit (8)\n"
    )
    assert "8 times" in causes(text)[0].what


def test_explaining_live_says_the_same_as_the_note():
    error = raised_by(lambda: torch.einsum("ij,jk->ik", torch.ones(2, 3), torch.ones(4, 5)))
    assert explain_exception(error)
