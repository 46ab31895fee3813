"""torch._six was removed in 2.0."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._importing import asked_by, importer
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-17", "env-torch-six", "0.2"
TITLE = "ModuleNotFoundError: No module named 'torch._six'"
RAISES = ("ModuleNotFoundError", "ImportError")
NEEDLES = ("No module named 'torch._six'", "No module named 'torch.six'", "from 'torch._six'")
PATTERNS = (r"No module named 'torch\._?six'", r"cannot import name '(?P<name>\w+)' from 'torch\._six'")
OLD = (
    "ImportError: cannot import name 'container_abcs' from 'torch._six' (/opt/venv/lib/python3.8/site-packages/torch/_six.py)",
    "ImportError: cannot import name 'int_classes' from 'torch._six' (/opt/venv/lib/python3.8/site-packages/torch/_six.py)",
)
WHY = "`torch._six` held names for Python 2 and was removed in torch 2.0 (parts of it in 1.9). Old versions of apex, timm, deepspeed and many repositories import it."
CHECK = "The file in the traceback that imports it: a package, or your own code."
_NEW = {
    "container_abcs": "import collections.abc as container_abcs",
    "string_classes": "string_classes = (str, bytes)",
    "int_classes": "int_classes = int",
    "inf": "from math import inf",
    "nan": "from math import nan",
}


def explain(event: Event) -> Iterator[Cause]:
    """Whose line it is, and what each of its names is today."""
    package, line = importer(event, "six"), asked_by(event, "six")
    name = event.facts.get("name", "")
    wanted = [one for one in _NEW if one in line or one == name]
    fix = [f"pip install -U {package}   # the line is its own"] if package else []
    fix += [f"{_NEW[one]}   # in place of from torch._six import {one}" for one in wanted]
    if not wanted:
        fix += [
            "import collections.abc as container_abcs; string_classes = (str, bytes)   # what it gave, in your own code"
        ]
    yield Cause(
        CODE,
        NAME,
        what=f"{package or 'the code'} imports torch._six, which torch has no more",
        why="it held names for Python 2 and was removed in torch 2.0",
        fix=tuple(fix),
        likelihood="certain",
    )


EXAMPLE = """
from torch._six import container_abcs

print(container_abcs.Mapping)
"""
MENDED = """
import collections.abc as container_abcs

print(container_abcs.Mapping)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
