"""The data set failed inside a worker; its own traceback stands under Original Traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-16", "data-worker-traceback", "0.2"
TITLE = "KeyError: Caught KeyError in DataLoader worker process 0. Original Traceback (most recent call last)"
RAISES = (
    "ArithmeticError", "AssertionError", "AttributeError", "EOFError", "Exception", "FileNotFoundError", "ImportError",
    "IndexError", "IsADirectoryError", "JSONDecodeError", "KeyError", "LookupError", "MemoryError", "ModuleNotFoundError",
    "NameError", "NotADirectoryError", "NotImplementedError", "OSError", "OverflowError", "PermissionError",
    "RuntimeError", "StopIteration", "TimeoutError", "TypeError", "UnboundLocalError", "UnicodeDecodeError",
    "UnidentifiedImageError", "ValueError", "ZeroDivisionError", "error",
)  # fmt: skip
NEEDLES = ("in DataLoader worker process", "in pin memory thread for device")
PATTERNS = (
    r"Caught (?P<kind>\w+) in DataLoader worker process (?P<worker>\d+)",
    r"Caught (?P<kind>\w+) in pin memory thread for device (?P<device>\d+)",
)
OLD: tuple[str, ...] = ()
WHY = "What a data set raises in a worker is sent to the main process and raised there again, as the same type; its own traceback stands in the message. `num_workers=0` runs the data set in the main process, where a debugger can stop."
CHECK = "The innermost line of your own file under `Original Traceback`."


def explain(event: Event) -> Iterator[Cause]:
    """Only where the inner error has no entry of its own: its type, words and the number of the worker."""
    yield from caught(event)


def caught(event: Event) -> Iterator[Cause]:
    """Say what was caught in which worker."""
    lines = [line for line in event.message.splitlines() if line.strip()]
    last = lines[-1].strip() if len(lines) > 1 and not lines[-1].startswith((" ", "Original")) else ""
    kind, worker = event.facts["kind"], event.facts.get("worker", "")
    where = f"worker {worker} of the loader" if worker else "the thread that pins memory"
    place = _place(event.message)
    yield Cause(
        CODE,
        NAME,
        what=f"the data set failed in {where} with {last or kind}"[:300],
        why="the traceback of the data set itself stands under Original Traceback; the lines above it are the loader's",
        fix=(
            f"read {place}   # the innermost line of the data set"
            if place
            else "read the lines under Original Traceback",
            "DataLoader(..., num_workers=0)   # once: the same failure in the main process, where a debugger can stop",
        ),
        where=place,
    )


_FRAME = re.compile(r"^ *File \"(?P<path>[^\"\n]+)\", line (?P<line>\d+)", re.MULTILINE)


def _place(message: str) -> str:
    from rekindle.explain.log import is_users_path  # noqa: PLC0415 - only for text that holds frames

    users = [found for found in _FRAME.finditer(message) if is_users_path(found["path"])]
    return f"{users[-1]['path']}:{users[-1]['line']}" if users else ""


EXAMPLE = """
from torch.utils.data import DataLoader, Dataset

class Records(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"image": index}["label"]

next(iter(DataLoader(Records(), batch_size=4, num_workers=1, multiprocessing_context="fork")))
"""
MENDED = """
from torch.utils.data import DataLoader, Dataset

class Records(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"label": index}["label"]

next(iter(DataLoader(Records(), batch_size=4, num_workers=1, multiprocessing_context="fork")))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
