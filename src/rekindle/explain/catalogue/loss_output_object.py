"""The loss was given all that the model returns, not a tensor."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._losses import argument_names
from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOSS-06", "loss-output-object", "0.2"
TITLE = "cross_entropy_loss(): argument 'input' (position 1) must be Tensor, not InceptionOutputs"
RAISES = ("TypeError", "AttributeError")
NEEDLES = (
    "_loss",
    "kl_div(): argument 'input'",
    "softmax(): argument 'input'",
    "has no attribute 'log_softmax'",
    "has no attribute 'softmax'",
    "has no attribute 'size'",
    "has no attribute 'argmax'",
    "binary_cross_entropy",
)
PATTERNS = (
    r"\b(?P<loss>\w*_loss(?:_nd)?|kl_div|log_softmax|softmax|binary_cross_entropy\w*)\(\): argument '(?P<argument>input|target|self)' \(position \d+\) must be Tensor, not (?P<kind>\w+)",
    r"'(?P<kind>\w+)' object has no attribute '(?P<attribute>log_softmax|softmax|size|argmax)'",
)
OLD = (
    "AttributeError: 'InceptionOutputs' object has no attribute 'log_softmax'",
    "AttributeError: 'tuple' object has no attribute 'log_softmax'",
)
WHY = (
    "Some models return more than the scores: Inception and GoogLeNet their auxiliary outputs (while training), segmentation models"
    " of torchvision a dict, models of Transformers an object with fields, recurrent layers a pair. A loss takes the tensor of"
    " scores alone."
)
CHECK = "`type(output)`; its fields: `output._fields`, `output.keys()`, `len(output)`."
_PLAIN = frozenset({"tuple", "list", "dict", "OrderedDict"})
_ORDINARY = frozenset({"str", "int", "float", "bool", "NoneType", "ndarray", "Image", "module", "type", "function"})


def explain(event: Event) -> Iterator[Cause]:
    """Which field to take, by the class."""
    kind, attribute = event.facts["kind"], event.facts.get("attribute", "")
    output, labels = argument_names(event)
    if event.facts.get("argument") == "target":
        yield _target(kind, labels, event.facts.get("loss", "the loss"))
        return
    if kind in _ORDINARY or (not event.frames and attribute == "size"):
        return
    if attribute in {"size", "argmax"} and not is_in(event, "torch/nn/functional.py", "torch/nn/modules/loss.py"):
        return
    if kind in {"InceptionOutputs", "GoogLeNetOutputs"}:
        aux = "aux_logits" if kind == "InceptionOutputs" else "aux_logits1"
        fix = (
            f"criterion({output}.logits, {labels}) + 0.4 * criterion({output}.{aux}, {labels})   # while training",
            f"criterion({output}.logits, {labels})   # or without the auxiliary output",
        )
    elif kind in {"dict", "OrderedDict"}:
        fix = (
            f'{output}["out"]   # segmentation models of torchvision',
            f"print({output}.keys())   # which field holds the scores",
        )
    elif kind in {"tuple", "list"}:
        fix = (
            f"{output}[0]   # mostly the scores; an LSTM or attention gives its state second",
            f"scores, *rest = model(x)   # print(len({output})) to see what there is",
        )
    else:
        fix = (
            f"{output}.logits   # models of Transformers; or {output}.loss, which they compute from labels=",
            f"print({output}.keys())   # which field holds the scores",
        )
    name = event.facts.get("loss", "").removesuffix("_nd")
    yield Cause(
        CODE,
        NAME,
        what=f"{name or 'the loss'} was given {_article(kind)}, not a tensor",
        why="the model returns more than the scores; a loss takes the tensor of scores alone",
        fix=fix,
        likelihood="likely" if kind in _PLAIN and not name else "certain",
    )


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"


def _target(kind: str, labels: str, loss: str) -> Cause:
    return Cause(
        CODE,
        NAME,
        what=f"the target of {loss} is {_article(kind)}, not a tensor",
        why="labels of a batch have to be one tensor; a list of numbers is one after torch.tensor, a tuple of a batch after stack",
        fix=(
            f"torch.tensor({labels}, device=output.device)   # numbers",
            f"torch.stack({labels})   # tensors of one shape",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from collections import namedtuple
from torch.nn import functional as F

InceptionOutputs = namedtuple("InceptionOutputs", "logits aux_logits")
outputs = InceptionOutputs(torch.zeros(2, 3), torch.zeros(2, 3))
labels = torch.tensor([0, 1])
F.cross_entropy(outputs, labels)
"""
MENDED = """
import torch
from collections import namedtuple
from torch.nn import functional as F

InceptionOutputs = namedtuple("InceptionOutputs", "logits aux_logits")
outputs = InceptionOutputs(torch.zeros(2, 3), torch.zeros(2, 3))
labels = torch.tensor([0, 1])
F.cross_entropy(outputs.logits, labels) + 0.4 * F.cross_entropy(outputs.aux_logits, labels)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
