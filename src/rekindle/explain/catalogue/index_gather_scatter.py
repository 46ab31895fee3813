"""The index of a gather or scatter has not the shape that it takes."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.catalogue._words import numbers, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-SHAPE-29", "index-gather-scatter", "0.2"
TITLE = "Index tensor must have the same number of dimensions as input tensor"
RAISES = ("RuntimeError", "IndexError")
NEEDLES = (
    "Index tensor must have the same number of dimensions",
    "apart from dimension",
    "Index is supposed to be a vector",
    "Number of indices (",
    "Source/destination tensor must have same",
    "ndex tensor must have same dimensions as",
)
PATTERNS = (
    r"Index tensor must have the same number of dimensions as (?P<rank>input|self|src|source) tensor",
    r"ndex tensor must have same dimensions as (?P<rank>input|self|output) tensor",
    r"[Ee]xpected index \[(?P<index>[\d, ]*)\] to be (?:smaller|no larger) than (?P<than>self|src) \[(?P<self>[\d, ]*)\] apart from dimension (?P<dim>-?\d+)(?: and to be (?:smaller size|no larger size|no larger) than src \[(?P<src>[\d, ]*)\])?",
    r"(?P<call>index_\w+)\(\): Index is supposed to be a (?P<vector>vector)",
    r"(?P<call>index_\w+)\(\): Number of indices \((?P<have>\d+)\) should be equal to (?:source|self)\.size\(dim\):? ?\((?P<want>\d+)\)",
    r"(?P<call>index_\w+)\(\): Source/destination tensor must have same (?P<slices>slice shapes|dimensionality)",
)
OLD = ("RuntimeError: invalid argument 4: Index tensor must have same dimensions as input tensor",)
WHY = (
    "`gather` and `scatter` take one index for each element of the result: the index has as many dimensions as the tensor, and is"
    " no larger than it in all dimensions but `dim`. To take the score of each row's label, labels of `[N]` become `[N, 1]`."
    " `index_select` and `index_add_` take whole rows, and their index is a vector."
)
CHECK = "`x.shape`, `index.shape` and `dim`."


def explain(event: Event) -> Iterator[Cause]:
    """Both shapes; labels without their last dimension are the usual case."""
    fix: tuple[str, ...]
    facts = event.facts
    met = tensors_in_line(event)
    seen = f" ({', '.join(f'{fact.name} {shape_text(fact.shape)}' for fact in met[:4])})" if met else ""
    code = code_of(event)
    call = facts.get("call") or (
        "scatter" if "scatter" in code else "gather" if "gather" in code else "gather or scatter"
    )
    name = next((fact.name for fact in met if fact.dtype in {"int64", "int32"}), "index")
    if facts.get("rank"):
        what = f"the index of {call} has another number of dimensions than the tensor{seen}"
        why = "there is one index for each element that is taken or written"
        fix = (
            f"{name}.unsqueeze(1)   # labels [N] become [N, 1] for a tensor of [N, classes] and dim=1",
            f"x.index_select(0, {name})   # if whole rows are meant, or plainly x[{name}]",
        )
    elif "index" in facts and facts.get("dim"):
        index, own = numbers(facts["index"]), numbers(facts["self"])
        dim = int(facts["dim"]) % max(len(own), 1)
        where = next((at for at, (a, b) in enumerate(zip(index, own, strict=False)) if at != dim and a > b), None)
        what = (
            f"the index {shape_text(index)} is larger than the tensor {shape_text(own)} in dimension {where}"
            if where is not None
            else f"the index {shape_text(index)} does not fit the tensor {shape_text(own)} and the values {shape_text(numbers(facts.get('src', '')))}"
        )
        why = f"in all dimensions but {dim}, the one that is indexed, the index may be no larger"
        fix = (
            f"{name}[:{own[where]}]   # if it holds too much"
            if where == 0
            else "print(x.shape, index.shape)   # is another dim meant?",
        )
    elif facts.get("vector"):
        what = f"{call} was given an index with several dimensions{seen}"
        why = "it takes whole rows, by a vector of their numbers"
        fix = (f"x[{name}]   # takes rows by an index of any shape", f"{call}(0, {name}.flatten())")
    elif facts.get("have"):
        what = f"{call} was given {facts['have']} indices for {facts['want']} rows{seen}"
        why = "each row of the source goes to one place"
        fix = (f"print({name}.shape, source.shape)   # one index for each row",)
    else:
        what = f"the rows that {call} writes and those of the tensor differ in their shape{seen}"
        why = "apart from the dimension that is indexed, both have to be of one shape"
        fix = ("print(x.shape, source.shape)",)
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import torch

scores, labels = torch.rand(4, 10), torch.tensor([1, 0, 9, 3])
scores.gather(1, labels)
"""
MENDED = """
import torch

scores, labels = torch.rand(4, 10), torch.tensor([1, 0, 9, 3])
scores.gather(1, labels.unsqueeze(1)).squeeze(1)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
