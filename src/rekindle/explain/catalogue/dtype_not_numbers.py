"""A tensor was to be made of something that is no numbers: None, texts, a dict."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-14", "dtype-not-numbers", "0.2"
TITLE = "RuntimeError: Could not infer dtype of NoneType"
RAISES = ("RuntimeError", "ValueError", "TypeError")
NEEDLES = (
    "Could not infer dtype of ",
    "too many dimensions 'str'",
    "expected np.ndarray (got ",
    "new(): invalid data type 'str'",
)
PATTERNS = (
    r"Could not infer dtype of (?P<kind>[\w.]+)",
    r"too many dimensions '(?P<text>str)'",
    r"expected np\.ndarray \(got (?P<got>\w+)\)",
    r"new\(\): invalid data type '(?P<text>str)'",
)
OLD: tuple[str, ...] = (
    "ValueError: too many dimensions 'str'",
    "TypeError: expected np.ndarray (got list)",
    "TypeError: new(): invalid data type 'str'",
)
WHY = "`torch.tensor` reads numbers, and lists of numbers. A `None` among them is a label that is missing or a function without `return`; texts have to become numbers (the number of the class) first; a dictionary has no order of numbers."
CHECK = "Print what is given; `[i for i, row in enumerate(rows) if row is None]`."


def explain(event: Event) -> Iterator[Cause]:
    """What was given instead of numbers; inside a loader's collate it is data-collate-type's."""
    facts = event.facts
    if is_in(event, "torch/utils/data/_utils/collate.py"):
        return
    kind = facts.get("kind", "") or facts.get("got", "") or "str"
    fix: tuple[str, ...]
    if facts.get("got", ""):
        what, why = f"torch.from_numpy was given {_article(kind)}", "it takes NumPy arrays, and shares their memory"
        fix = ("torch.tensor(values)   # lists and numbers", "torch.as_tensor(values)   # arrays, lists and tensors")
    elif kind == "NoneType":
        what = "None, or a list with None in it, was to be made a tensor"
        why = "a function without return, or a value that is missing in the data"
        fix = (
            "[i for i, value in enumerate(values) if value is None]   # which ones",
            "float('nan') if value is None else value   # or leave these samples out",
        )
    elif kind == "str":
        what, why = "a text, or a list with texts in it, was to be made a tensor", "a tensor holds numbers"
        fix = (
            "number = {name: i for i, name in enumerate(sorted(set(labels)))}; torch.tensor([number[x] for x in labels])   # classes",
            "float(text)   # numbers that were read as text, from a CSV file for instance",
        )
    else:
        what, why = (
            f"{_article(kind)} was to be made a tensor",
            "torch.tensor reads numbers, lists of numbers and arrays",
        )
        fix = (
            "torch.tensor(list(values.values()))   # the numbers of a dict"
            if kind == "dict"
            else "print(type(values))",
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


EXAMPLE = """
import torch

labels = [1, 2, None]
torch.tensor(labels)
"""
MENDED = """
import torch

labels = [1, 2, None]
torch.tensor([label for label in labels if label is not None])
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
