"""Named tensors do not exist any more."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-11", "tensor-named-removed", "0.2"
TITLE = "TypeError: randn() received an invalid combination of arguments - got (int, int, names=tuple)"
RAISES = ("TypeError", "AttributeError", "RuntimeError", "UserWarning")
NEEDLES = (
    "names=tuple",
    "names=list",
    "'refine_names'",
    "'align_to'",
    "'align_as'",
    "'rename'",
    "named tensor",
    "Named tensors and all their associated APIs",
)
PATTERNS = (
    r"\b(?P<op>\w{1,60})\(\) received an invalid combination of arguments - got \([^)\n]{0,300}\bnames=(?:tuple|list)",
    r"'Tensor' object has no attribute '(?P<method>refine_names|align_to|align_as|rename|names|rename_)'",
    r"(?P<warned>Named tensors and all their associated APIs are an experimental feature)",
    r"\b(?P<op>\w{1,60})(?:\(\))? is not (?:yet )?supported with named tensors",
)
OLD = (
    "UserWarning: Named tensors and all their associated APIs are an experimental feature and subject to change.",
    "RuntimeError: aten::flatten is not yet supported with named tensors.",
)
WHY = 'Dimensions with names (`names=("N", "C")`, `refine_names`, `align_to`) were an experiment from 1.3 on, and newer torch has them no more. Plain dimensions do it, with a comment or letters in the name (`images_NCHW`); `einops` names them in the operation.'
CHECK = "`names=`, `.refine_names`, `.align_to` in the code."


def explain(event: Event) -> Iterator[Cause]:
    """The function that was given names, or the method."""
    facts = event.facts
    what = (
        "named tensors are an experiment that later versions have removed"
        if facts.get("warned")
        else f"{facts.get('op') or facts.get('method')} is of named tensors, which torch has no more"
    )
    if "supported with named" in event.message:
        what = f"{facts['op']} does not take tensors with names"
    yield Cause(
        CODE,
        NAME,
        what=what,
        why="names of dimensions were an experiment from 1.3 on, never finished and then removed",
        fix=(
            "x = torch.randn(2, 3); x.sum(1)   # the number of the dimension in place of its name",
            'einops.reduce(x, "n c -> n", "sum")   # names in the operation; pip install einops',
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

images = torch.randn(2, 3, names=("N", "C"))
print(images.sum("C"))
"""
MENDED = """
import torch

images = torch.randn(2, 3)
print(images.sum(1))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
