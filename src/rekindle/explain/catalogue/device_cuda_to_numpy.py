"""NumPy is to read a tensor that is on a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-10", "device-cuda-to-numpy", "0.2"
TITLE = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
RAISES = ("TypeError",)
NEEDLES = ("tensor to numpy", "tensor to numpy (it doesn't support GPU arrays)")
PATTERNS = (
    r"can't convert (?P<device>[\w:]+) device type tensor to numpy",
    r"can't convert (?P<device>CUDA) tensor to numpy",
)
OLD = (
    "TypeError: can't convert CUDA tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.",
    "TypeError: can't convert CUDA tensor to numpy (it doesn't support GPU arrays). Use .cpu() to move the tensor to host memory first.",
)
WHY = (
    "NumPy reads memory of the CPU. `plt.plot(t)`, `np.array(list_of_tensors)`, metrics of scikit-learn and PIL ask for a NumPy"
    " array too, so that the line need not say `numpy`."
)
CHECK = "`t.device` and `t.requires_grad`."


def explain(event: Event) -> Iterator[Cause]:
    """With the tensor's name, and `detach` where it needs that too."""
    device = event.facts["device"].lower()
    moved = next((fact for fact in tensors_in_line(event) if fact.device != "cpu"), None)
    found = re.search(r"([A-Za-z_]\w*)\.numpy\(", code_of(event))
    name = moved.name if moved else found[1] if found else "t"
    fix: tuple[str, ...]
    if device == "meta":
        fix = ("model.load_state_dict(state, assign=True)   # on meta a tensor has no values: load them first",)
        why = "a tensor on the meta device has a shape and no values"
    else:
        fix = (f"{name}.detach().cpu().numpy()", "loss.item()   # for one number")
        why = "NumPy cannot read the memory of a GPU; plotting, metrics and np.array ask NumPy too"
    yield Cause(
        CODE,
        NAME,
        what=f"{moved or name if moved else 'a tensor'} is on {device} and was to become a NumPy array",
        why=why,
        fix=fix,
        likelihood="certain",
    )


EXAMPLE = """
import torch

scores = torch.ones(3, device="cuda")
scores.numpy()
"""
MENDED = """
import torch

scores = torch.ones(3, device="cuda")
scores.cpu().numpy()
"""
REQUIRES = ("cuda",)
MESSAGE = "TypeError: can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
