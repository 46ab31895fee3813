"""TensorDataset takes its tensors by position; the old keywords are gone."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-09", "data-tensordataset-kw", "0.2"
TITLE = "TypeError: TensorDataset.__init__() got an unexpected keyword argument 'data_tensor'"
RAISES = ("TypeError",)
NEEDLES = ("unexpected keyword argument 'data_tensor'", "unexpected keyword argument 'target_tensor'")
PATTERNS = (r"__init__\(\) got an unexpected keyword argument '(?P<name>data_tensor|target_tensor)'",)
OLD = ("TypeError: __init__() got an unexpected keyword argument 'data_tensor'",)
WHY = "`TensorDataset` took `data_tensor=` and `target_tensor=` until 0.3. Since 0.4 it takes any number of tensors, by position; their first dimensions have to be equal."
CHECK = "The keywords of the call."


def explain(event: Event) -> Iterator[Cause]:
    """The keyword that is gone."""
    yield Cause(
        CODE,
        NAME,
        what=f"{event.facts['name']}= is no argument of TensorDataset",
        why="since 0.4 it takes the tensors by position, any number of them",
        fix=("TensorDataset(x, y)   # in place of TensorDataset(data_tensor=x, target_tensor=y)",),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch.utils.data import TensorDataset

TensorDataset(data_tensor=torch.ones(3, 2), target_tensor=torch.ones(3))
"""
MENDED = """
import torch
from torch.utils.data import TensorDataset

TensorDataset(torch.ones(3, 2), torch.ones(3))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
