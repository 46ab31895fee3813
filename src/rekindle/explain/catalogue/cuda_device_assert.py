"""A check inside a GPU kernel failed, and the Python line is only where that was noticed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-15", "cuda-device-assert", "0.2"
TITLE = "CUDA error: device-side assert triggered"
RAISES = ("AcceleratorError", "RuntimeError")
NEEDLES = ("device-side assert triggered",)
PATTERNS = (r"device-side assert triggered",)
OLD = (
    "RuntimeError: reduce failed to synchronize: device-side assert triggered",
    "RuntimeError: cuda runtime error (59) : device-side assert triggered at /pytorch/aten/src/THC/generic/THCTensorMath.cu:26",
    "RuntimeError: CUDA error: device-side assert triggered",
)
WHY = (
    "Kernels check what they are given: that labels are classes, that an index is inside of a tensor, that probabilities are"
    " between 0 and 1. A GPU works behind Python's back, so that the traceback shows a later line. What failed is printed before"
    " the traceback, as `Assertion ... failed` (in a notebook: in the terminal that started it). Afterwards the process cannot"
    " use the GPU any more; a notebook's kernel has to be started again."
)
CHECK = (
    "The line with `Assertion` above the traceback; then the smallest and largest label or index on the CPU against the number of"
    " classes or rows. `CUDA_LAUNCH_BLOCKING=1` makes the traceback true."
)
_ASSERTED = re.compile(r"([\w.]+\.cuh?):\d+:[^\n]{0,300}?Assertion `([^\n]{1,200}?)` failed")
_MEANS = (
    ("t >= 0 && t < n_classes", "a label is not one of the classes"),
    ("cur_target", "a label is not one of the classes"),
    ("srcIndex < srcSelectDimSize", "an index (an embedding's id, or of index_select) is beyond the rows"),
    ("index out of bounds", "an index is out of bounds"),
    ("ndexValue >= 0", "an index is out of bounds"),
    ("idx_dim >= 0", "an index of gather or scatter is out of bounds"),
    ("input_val >= zero", "BCELoss was given values outside of 0 to 1"),
    ("probability tensor", "probabilities to sample from hold inf, nan or a negative number"),
)


def explain(event: Event) -> Iterator[Cause]:
    """What the assertion says, where it was printed; labels on the CPU against the classes, where the frames are alive."""
    said = _ASSERTED.search(event.before) or _ASSERTED.search(event.message)
    means = next((words for mark, words in _MEANS if said and mark in said[2]), "")
    found = _label_out_of_range(event)
    if found is not None:
        label, classes, name = found
        yield Cause(
            CODE,
            NAME,
            what=f"a check on the GPU failed: {name} holds the label {label:g}, and the output has {classes} classes",
            why=f"labels count from 0 to {classes - 1}; this was looked up in the copy on the CPU, the line of the traceback is"
            " only where it was noticed",
            fix=(
                f"print({name}.min(), {name}.max())   # every label of the data set has to be in 0 to {classes - 1}",
                f"nn.CrossEntropyLoss(ignore_index={label:g})   # if {label:g} marks what is not to be learnt",
                f"nn.Linear(..., {int(label) + 1})   # or so many outputs"
                if label >= classes
                else f"{name} - {name}.min()   # if they begin below 0 by mistake",
            ),
            likelihood="likely",
        )
        return
    if means:
        yield _cause(
            f"a check on the GPU failed: {means}",
            f"{said[1] if said else ''} says `{said[2] if said else ''}`; the line of the traceback is only where it was noticed",
            "likely",
        )
    else:
        yield _cause(
            "a check on the GPU failed; the traceback shows where it was noticed, not where it happened",
            "mostly a label that is not a class, or an id beyond the rows of an embedding; the line `Assertion ... failed`"
            " before the traceback says which",
            "likely",
        )


def _cause(what: str, why: str, likelihood: Literal["likely", "possible"]) -> Cause:
    return Cause(
        CODE,
        NAME,
        what=what,
        why=why,
        fix=(
            "CUDA_LAUNCH_BLOCKING=1 python train.py   # slow, and the traceback names the true line",
            "model.cpu(); model(batch.cpu())   # in a new process: on the CPU the message says which value",
            "print(labels.min(), labels.max())   # of every batch: from 0 to the number of classes minus 1",
        ),
        likelihood=likelihood,
    )


def _label_out_of_range(event: Event) -> tuple[float, int, str] | None:
    """Return a label on the CPU that is no class of the output at hand: label, classes, the tensor's name."""
    if event.live is None:
        return None
    output = event.live.find_tensor("logits", "outputs", "output", "out", "pred", "preds", "scores", "input")
    if output is None or len(output.shape) < 2 or "float" not in output.dtype:
        return None
    classes = output.shape[1]
    for fact in event.live.find_tensors():
        same_batch = fact.shape[:1] == output.shape[:1] and len(fact.shape) == len(output.shape) - 1
        if not same_batch or fact.dtype not in {"int64", "int32", "uint8"} or fact.low is None or fact.high is None:
            continue
        if fact.high >= classes:
            return fact.high, classes, fact.name
        if fact.low < 0 and fact.low != -100:
            return fact.low, classes, fact.name
    return None


EXAMPLE = """
import torch
from torch.nn import functional as F

logits = torch.zeros(2, 10, device="cuda")
labels = torch.tensor([10, 1], device="cuda")
print(F.cross_entropy(logits, labels).item())
"""
MENDED = """
import torch
from torch.nn import functional as F

logits = torch.zeros(2, 10, device="cuda")
labels = torch.tensor([9, 1], device="cuda")
print(F.cross_entropy(logits, labels).item())
"""
REQUIRES = ("cuda", "process")
MESSAGE = (
    "torch.AcceleratorError: CUDA error: device-side assert triggered\n"
    "Search for `cudaErrorAssert' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more"
    " information.\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\n"
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."
)
