"""A compiled function was compiled again and again until it gave up."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-COMPILE-05", "compile-recompile-limit", "0.2"
TITLE = "torch._dynamo hit config.recompile_limit (8)"
RAISES = ("FailOnRecompileLimitHit", "FailOnCacheLimitHit", "Unsupported", "RecompileLimitExceeded")
NEEDLES = (
    "hit config.recompile_limit",
    "hit config.cache_size_limit",
    "FailOnRecompileLimitHit",
    "recompile limit exceeded",
    "recompile_limit reached",
)
PATTERNS = (
    r"hit config\.(?:accumulated_)?(?:recompile_limit|cache_size_limit) \((?P<limit>\d+)\)",
    r"^(?P<hard>FailOn(?:Recompile|Cache)LimitHit)",
    r"(?P<hard>recompile limit exceeded|recompile_limit reached)",
)
OLD = ("W0301 10:00:00.000000 4711 torch/_dynamo/convert_frame.py:357] torch._dynamo hit config.cache_size_limit (8)",)
WHY = (
    "A graph is made for the shapes, dtypes and Python values of its first call; others need another one. After eight, torch runs the"
    " function without compiling it, or refuses with `fullgraph=True`. What changes is mostly a number that is a Python `int` or `float` (a"
    " step, a learning rate), the number of dimensions, or a list of growing length."
)
CHECK = "`TORCH_LOGS=recompiles python train.py` names the guard that failed each time."
_REASON = re.compile(r"last reason: ([^\n]{1,300})")


def explain(event: Event) -> Iterator[Cause]:
    """The last reason, where it was printed."""
    found = _REASON.search(f"{event.message}\n{event.before}")
    reason = re.sub(r"^\d+/\d+: ", "", found[1].strip()) if found else ""
    limit = event.facts.get("limit") or ""
    number = "float" in reason or "int" in reason or "==" in reason
    yield Cause(
        CODE,
        NAME,
        what=f"a compiled function was made anew {limit or 'too many'} times and is no longer compiled"
        + (f": {reason[:160]}" if reason else ""),
        why="something that the graph was made for changes from call to call: a Python number, a shape, the number of dimensions",
        fix=(
            *(("torch.tensor(value)   # a number that changes goes in as a tensor",) if number or not reason else ()),
            "torch.compile(model, dynamic=True)   # sizes that change from the first call on",
            "TORCH_LOGS=recompiles python train.py   # names what changed, each time",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch

torch._dynamo.reset()

@torch.compile(fullgraph=True, backend="eager")
def total(x):
    return x.sum()

with torch._dynamo.config.patch(recompile_limit=2):
    for dimensions in range(1, 5):
        total(torch.ones(*[1] * dimensions))
"""
MENDED = """
import torch

torch._dynamo.reset()

@torch.compile(fullgraph=True, backend="eager")
def total(x):
    return x.sum()

with torch._dynamo.config.patch(recompile_limit=2):
    for dimensions in range(1, 5):
        total(torch.ones(*[1] * dimensions).flatten())
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
