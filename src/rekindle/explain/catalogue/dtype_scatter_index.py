"""An index is not of a whole-number dtype."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import is_in, tensors_in_line
from rekindle.explain.catalogue._words import dtype_name
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DTYPE-04", "dtype-scatter-index", "0.2"
TITLE = "scatter(): Expected dtype int32/int64 for index"
RAISES = ("RuntimeError", "IndexError")
NEEDLES = (
    " for index",
    "argument #3 'index'",
    "tensors used as indices must be",
    "dtype of indices should be Long",
    "index tensor of type LongTensor",
    "Variables are valid indices",
    "Expected self.dtype to be equal to src.dtype",
)
PATTERNS = (
    r"(?P<call>\w{1,60})\(\): Expected dtype int(?:32/int|32 or int)?64 for index",
    r"Expected object of scalar type Long but got scalar type (?P<found>\w+) for argument #\d+ 'index'",
    r"(?P<used>tensors used as indices) must be long, (?:int, )?byte or bool tensors",
    r"dtype of indices should be Long but got (?P<found>\w+)",
    r"(?P<call>one_hot) is only applicable to index tensor",
    r"None and long or byte Variables are valid indices \(got (?P<plain>\w+)\)",
    r"(?P<call>\w{1,60})\(\): (?P<source>Expected self\.dtype to be equal to src\.dtype)",
)
OLD = (
    (
        "RuntimeError: Expected object of scalar type Long but got scalar type Int for argument #3 'index' in call to"
        " _th_scatter_"
    ),
    "RuntimeError: scatter(): Expected dtype int64 for index",
    "IndexError: tensors used as indices must be long, byte or bool tensors",
)
WHY = (
    "An index says which element, so that it has to be a whole number: int64, in newer releases int32 too. Labels that became"
    " floats on the way (a DataFrame, a division, `torch.zeros`) are refused rather than rounded."
)
CHECK = "`index.dtype`, and where it is made."


def explain(event: Event) -> Iterator[Cause]:
    """The operation and, where it can be seen, the index by its name and dtype."""
    facts = defaultdict(str, event.facts)
    if is_in(event, "embedding"):
        return  # dtype-embedding-float
    if facts["source"]:
        yield Cause(
            CODE,
            NAME,
            what=f"{facts['call']} writes values of another dtype than the tensor they go into",
            why="it writes in place and does not convert",
            fix=("x.scatter_(dim, index, src.to(x.dtype))",),
            likelihood="certain",
        )
        return
    met = [fact for fact in tensors_in_line(event) if not fact.dtype.startswith(("int64", "int32"))]
    floats = [fact for fact in met if fact.dtype != "bool"]
    index = (
        floats[-1]
        if len(floats) == 1
        else next((fact for fact in floats if "ind" in fact.name or "label" in fact.name or "id" in fact.name), None)
    )
    name = index.name if index else "index"
    found = dtype_name(facts["found"]) or (index.dtype if index else "") or facts["plain"]
    call = facts["call"] or "indexing"
    fix = [f"{name}.long()   # if they are whole numbers already; a division made with // stays whole"]
    if call in {"scatter", "scatter_", "one_hot"}:
        fix.append(f"F.one_hot({name if call == 'one_hot' else 'labels'}.long(), num_classes)   # for one-hot rows")
    yield Cause(
        CODE,
        NAME,
        what=f"{call} was given an index that is {found or 'no int64'}" + (f" ({name})" if index else ""),
        why="an index has to be a whole number, int64 (int32 too in newer releases); floats are not rounded",
        fix=tuple(fix),
        likelihood="certain" if event.frames or not facts["found"] else "likely",
    )


EXAMPLE = """
import torch

labels = torch.tensor([[1.0], [2.0], [0.0]])
torch.zeros(3, 4).scatter_(1, labels, 1)
"""
MENDED = """
import torch

labels = torch.tensor([[1.0], [2.0], [0.0]])
torch.zeros(3, 4).scatter_(1, labels.long(), 1)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
