"""Parameters on the `meta` device have no values that could be moved."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._words import listed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-26", "load-meta-tensor", "0.2"
TITLE = "NotImplementedError: Cannot copy out of meta tensor; no data!"
RAISES = ("NotImplementedError", "RuntimeError")
NEEDLES = ("Cannot copy out of meta tensor",)
PATTERNS = (r"Cannot copy out of meta tensor; no data!(?P<module> Please use torch\.nn\.Module\.to_empty)?",)
OLD = ("NotImplementedError: Cannot copy out of meta tensor; no data!",)
WHY = (
    "On the `meta` device a tensor has a shape and a dtype and no memory. A model is built there to be filled by"
    " `load_state_dict(..., assign=True)`, or by a library (`device_map`, `low_cpu_mem_usage`). What the file did not have"
    " stays without values, and `.to()` has nothing to copy."
)
CHECK = "`[name for name, p in model.named_parameters() if p.is_meta]`."


def explain(event: Event) -> Iterator[Cause]:
    """Which tensors are empty, where they can be seen."""
    empty = [fact.name for fact in event.live.find_tensors() if fact.device == "meta"] if event.live else []
    module = event.live.module if event.live else None
    if module:
        empty += [
            f"{module.name}.{fact.name}" if module.name else fact.name
            for fact in module.parameters
            if fact.device == "meta"
        ]
    seen = f" ({listed(list(dict.fromkeys(empty)))})" if empty else ""
    yield Cause(
        CODE,
        NAME,
        what=f"a tensor on the meta device was to be copied, and it has no values{seen}",
        why="the model was built without memory, and not every parameter was filled from a file since",
        fix=(
            "model.load_state_dict(state, assign=True)   # before .to(); takes the tensors of the file as they are",
            'model.to_empty(device="cpu")   # or memory without values: then every parameter has to be initialised',
            (
                "print([name for name, p in model.named_parameters() if p.is_meta])   # which are empty; a model loaded with"
                " device_map is not to be moved at all"
            ),
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

with torch.device("meta"):
    model = nn.Linear(2, 2)
model.to("cpu")
"""
MENDED = """
import torch
from torch import nn

with torch.device("meta"):
    model = nn.Linear(2, 2)
model.load_state_dict(nn.Linear(2, 2).state_dict(), assign=True)
model.to("cpu")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
