"""A NumPy array is used like a tensor, or a tensor like an array."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.catalogue._not_tensors import given_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-10", "tensor-numpy-attribute", "0.2"
TITLE = "AttributeError: 'numpy.ndarray' object has no attribute 'unsqueeze'"
RAISES = ("AttributeError",)
NEEDLES = ("ndarray' object has no attribute", "'Tensor' object has no attribute")
PATTERNS = (
    r"'(?P<got>(?:numpy\.)?ndarray)' object has no attribute '(?P<name>to|cuda|cpu|unsqueeze|permute|view|float|double|long|half|int|numpy|detach|backward|requires_grad|grad|device|dim|size|softmax|numel|contiguous|expand|norm|item_|exp|log|abs|sqrt|argmax_|topk|type|cat|chunk|unfold|scatter|gather|masked_fill|unbind|is_cuda)'",
    r"'(?P<got>Tensor)' object has no attribute '(?P<name>astype|copy|tolist_|fill|tofile|append|keys|items|ravel_|nonzero_|dot_|ptp|tobytes|flags|strides|convert|save|resize_image|shuffle)'",
)
OLD = ("AttributeError: 'Tensor' object has no attribute 'astype'",)
WHY = "Arrays and tensors look alike and have other methods: `astype` is `to`, `copy` is `clone`, `transpose(2, 0, 1)` is `permute(2, 0, 1)`, `expand_dims` is `unsqueeze`. Which of the two a function returns is easily forgotten."
CHECK = "`type(x)`."
_OF_TENSOR = {
    "astype": "to(torch.float32)",
    "copy": "clone()",
    "fill": "fill_(0)",
    "append": "torch.cat([x, y])",
    "tobytes": "numpy().tobytes()",
    "strides": "stride()",
    "convert": "transforms.ToPILImage()(x)",
    "keys": "",
    "items": "",
}


def explain(event: Event) -> Iterator[Cause]:
    """The variable by its name where the line tells; inside a layer it is the model's input."""
    got, name = event.facts["got"], event.facts["name"]
    if got != "Tensor" and given_of(event).is_in_layer:
        return  # module-numpy-input
    found = re.search(rf"([A-Za-z_]\w*)\.{name}\b", code_of(event))
    variable = found[1] if found else "x"
    if got == "Tensor":
        other = _OF_TENSOR.get(name, "")
        fix = (
            (
                f"{variable}.{other}   # the tensor's way"
                if other and "(x)" not in other and "[x" not in other
                else other.replace("x", variable)
                if other
                else f"print(type({variable}))   # a tensor, where a dictionary or another object was expected",
                f"{variable}.detach().cpu().numpy().{name}   # or as an array",
            )
            if name not in {"keys", "items"}
            else (f"print(type({variable}), {variable}.shape)   # a tensor, where a dictionary was expected",)
        )
        what, why = f"{variable} is a tensor, and {name} belongs to NumPy arrays", "the same is done under another name"
        if name in {"keys", "items"}:
            what, why = f"{variable} is a tensor, not a dictionary", "what was called or loaded gives a tensor here"
    else:
        dtype = ".float()" if name not in {"long", "int"} else ""
        fix = (
            f"torch.from_numpy({variable}){dtype}   # then .{name}",
            f"np.expand_dims({variable}, 0)   # or stay with NumPy"
            if name == "unsqueeze"
            else f"{variable}.transpose(...)   # or stay with NumPy"
            if name == "permute"
            else f"print(type({variable}))   # where did it become an array",
        )
        what, why = (
            f"{variable} is a NumPy array, and {name} belongs to tensors",
            "an array is made into a tensor first, or something in front made an array of a tensor",
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import numpy as np

image = np.ones((3, 4, 4), dtype=np.float32)
image.unsqueeze(0)
"""
MENDED = """
import numpy as np
import torch

image = np.ones((3, 4, 4), dtype=np.float32)
torch.from_numpy(image).unsqueeze(0)
"""
REQUIRES = ("numpy",)
MESSAGE = "AttributeError: 'numpy.ndarray' object has no attribute 'unsqueeze'"
