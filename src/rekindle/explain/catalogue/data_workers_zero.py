"""A loader without workers was given an option of workers."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-29", "data-workers-zero", "0.2"
TITLE = "ValueError: prefetch_factor option could only be specified in multiprocessing. let num_workers > 0 to enable multiprocessing"
RAISES = ("ValueError",)
NEEDLES = (
    "prefetch_factor option could only be specified",
    "persistent_workers option needs num_workers",
    "multiprocessing_context can only be used",
    "num_workers option should be non-negative",
    "timeout option should be non-negative",
)
PATTERNS = (
    r"(?P<option>prefetch_factor) option could only be specified in multiprocessing",
    r"(?P<option>persistent_workers) option needs num_workers > 0",
    r"(?P<option>multiprocessing_context) can only be used with multi-process loading",
    r"(?P<negative>num_workers|timeout) option should be non-negative",
)
OLD: tuple[str, ...] = ()
WHY = "With `num_workers=0` samples are loaded in the training process itself, and options of worker processes have nothing to act on. It comes up when workers are switched off for a debugger or on a small machine."
CHECK = "The arguments of the `DataLoader`; `num_workers` may come from a config file."


def explain(event: Event) -> Iterator[Cause]:
    """The option, and a form that holds for both cases."""
    negative = event.facts.get("negative")
    if negative:
        yield Cause(
            CODE,
            NAME,
            what=f"{negative} of a loader is below 0",
            why="0 means loading in the training process itself (num_workers), or waiting without a limit (timeout)",
            fix=(
                f"DataLoader(data, {negative}=0)",
                "DataLoader(data, num_workers=os.cpu_count() // 2)   # there is no -1 for all processors",
            ),
            likelihood="certain",
        )
        return
    option = event.facts["option"]
    value = {
        "prefetch_factor": "4 if workers else None",
        "persistent_workers": "workers > 0",
        "multiprocessing_context": '"spawn" if workers else None',
    }[option]
    yield Cause(
        CODE,
        NAME,
        what=f"{option} was given to a loader without workers",
        why="with num_workers=0 no process is started that it could act on",
        fix=(f"DataLoader(data, num_workers=workers, {option}={value})",),
        likelihood="certain",
    )


EXAMPLE = """
from torch.utils.data import DataLoader

workers = 0
DataLoader([1, 2, 3], num_workers=workers, persistent_workers=True)
"""
MENDED = """
from torch.utils.data import DataLoader

workers = 0
DataLoader([1, 2, 3], num_workers=workers, persistent_workers=workers > 0)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
