"""Labels of classes have to be whole numbers (int64)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rekindle.explain.catalogue._dtypes import place_of
from rekindle.explain.catalogue._words import dtype_name, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event, TensorFact

CODE, NAME, SINCE = "RK-DTYPE-02", "dtype-target-long", "0.2"
TITLE = "expected target dtype to be Long or Byte, but got Float"
RAISES = ("RuntimeError", "NotImplementedError")
NEEDLES = (
    "expected target dtype to be Long",
    "expected scalar type Long but found",
    "Expected object of scalar type Long but got",
    "nll_loss_forward",
    "for target with class probabilities",
    "nll_loss2d_forward",
)
PATTERNS = (
    r"expected target dtype to be Long(?: or Byte)?, but got (?P<found>\w+)",
    r"expected scalar type Long but found (?P<found>\w+)",
    r"Expected object of scalar type Long but got scalar type (?P<found>\w+) for argument #\d+ '(?P<argument>\w+)'",
    r"nll_loss\w*\" not implemented for '(?P<found>\w+)'",
    r"Expected floating point type for target with class probabilities, got (?P<onehot>\w+)",
)
OLD = (
    (
        "RuntimeError: Expected object of scalar type Long but got scalar type Float for argument #2 'target' in call to"
        " _thnn_nll_loss_forward"
    ),
    "RuntimeError: expected scalar type Long but found Float",
    "RuntimeError: \"nll_loss_forward_reduce_cuda_kernel_2d_index\" not implemented for 'Float'",
)
WHY = (
    "`CrossEntropyLoss` and `NLLLoss` take the number of the right class for each sample, and a number of a class is an index:"
    " `torch.long`. Floats come from a DataFrame, from NumPy or from `torch.tensor([1., 0.])`. Labels with decimals are no"
    " classes: that is regression, with another loss. Targets as probabilities are floats and have the shape of the output."
)
CHECK = "`target.dtype`, `target.shape`, `output.shape`; are the labels whole numbers?"


def explain(event: Event) -> Iterator[Cause]:
    """The dtype that came; one-hot labels and labels with decimals are told from a missing cast where they can be seen."""
    facts = defaultdict(str, event.facts)
    output = event.live.find_tensor("input", "output", "outputs", "logits") if event.live else None
    target = event.live.find_tensor("target", "targets", "labels", "y") if event.live else None
    name = _name_of(target, event)
    shapes = f" (output {shape_text(output.shape)}, target {shape_text(target.shape)})" if output and target else ""
    if facts["onehot"]:
        yield Cause(
            CODE,
            NAME,
            what=f"a target of the output's own shape is read as probabilities, and it is {dtype_name(facts['onehot'])}{shapes}",
            why="labels as one-hot rows count as probabilities, which are floats; labels as class numbers have one dimension less",
            fix=(
                f"{name}.argmax(dim=1)   # class numbers: needs less memory",
                f"{name}.float()   # or probabilities, as they are",
            ),
            likelihood="certain",
        )
        return
    found = dtype_name(facts["found"])
    if facts["argument"] not in {"", "target"} or (
        "expected scalar type" in event.message and place_of(event, "int64", found) != "target"
    ):
        return
    decimals = target is not None and any(edge is not None and edge % 1 != 0 for edge in (target.low, target.high))
    cast = f"loss = criterion(output, {name}.long())"
    made = "torch.tensor(labels, dtype=torch.long)   # where they are made"
    regression = "nn.MSELoss()   # if these are measured values, not classes"
    yield Cause(
        CODE,
        NAME,
        what=f"the labels are {found}, and the numbers of classes have to be int64{shapes}",
        why="they have decimals, so that they are no classes"
        if decimals
        else "a class number is an index; a DataFrame, NumPy or a decimal point made it a float"
        if found.startswith("float")
        else "a class number is an index, which torch takes as int64",
        fix=(regression, cast) if decimals else (cast, made, regression) if found.startswith("float") else (cast, made),
        likelihood="likely" if "expected scalar type" in event.message and not event.frames else "certain",
    )


def _name_of(target: TensorFact | None, event: Event) -> str:
    """Return what the user calls the target, which inside of torch is called ``target``."""
    frame = event.live.user_frame if event.live else None
    if frame is None or target is None:
        return "target"
    same = (fact.name for fact in frame.tensors if (fact.shape, fact.dtype) == (target.shape, target.dtype))
    return next(same, "target")


EXAMPLE = """
import torch
from torch.nn import functional as F

logits = torch.ones(4, 3)
labels = torch.tensor([0.0, 1.0, 2.0, 1.0])
F.cross_entropy(logits, labels)
"""
MENDED = """
import torch
from torch.nn import functional as F

logits = torch.ones(4, 3)
labels = torch.tensor([0.0, 1.0, 2.0, 1.0])
F.cross_entropy(logits, labels.long())
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
