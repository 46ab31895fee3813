"""The folder is not a finished distributed checkpoint."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-34", "dcp-no-metadata", "0.2"
TITLE = "AssertionError: metadata is None; global metadata read failed: No such file or directory: 'ck/.metadata'"
RAISES = ("CheckpointException", "AssertionError", "FileNotFoundError")
NEEDLES = (".metadata'", "metadata is None")
PATTERNS = (
    r"No such file or directory: '(?P<path>[^'\n]{0,1000}\.metadata)'",
    r"(?P<none>metadata is None)",
)
OLD = ("FileNotFoundError: [Errno 2] No such file or directory: 'checkpoints/step_400/.metadata'",)
WHY = (
    "`torch.distributed.checkpoint` writes each rank's tensors into `__N_M.distcp` files and, last of all, rank 0 writes"
    " `.metadata`, the list of what is where. A folder without it is a save that did not end, a copy"
    " without hidden files (`cp folder/*` leaves it behind), or the folder above the checkpoint."
)
CHECK = "`ls -A` of the folder: `.distcp` files without `.metadata` are an unfinished save; sub-folders with one are the checkpoints."


def explain(event: Event) -> Iterator[Cause]:
    """The folder, and live what is in it."""
    folder = os.path.dirname(event.facts.get("path", "")) or "the folder"
    typed = shlex.quote(folder) if folder != "the folder" else "FOLDER"
    inside, below = _seen(folder) if event.live else ("", [])
    fix = [f"dcp.load(state, checkpoint_id={path!r})   # a finished checkpoint is in there" for path in below[-1:]]
    fix.append(f"ls -A {typed}   # .distcp files without .metadata: the save did not end, take the one before")
    fix.append(f"rekindle inspect {typed}   # what can be read of it")
    yield Cause(
        CODE,
        NAME,
        what=f"{folder} has no .metadata, so that it is no finished distributed checkpoint"
        + (f": {inside}" if inside else ""),
        why="rank 0 writes .metadata last: the save was interrupted before, the folder was copied without hidden files (cp"
        " folder/* leaves it behind), or this is the folder above the checkpoint",
        fix=tuple(fix),
        likelihood="certain",
    )


def _seen(folder: str) -> tuple[str, list[str]]:
    try:
        names = sorted(os.listdir(folder))[:10_000]
    except OSError:
        return "it does not exist", []
    shares = sum(name.endswith(".distcp") for name in names)
    below = [os.path.join(folder, name) for name in names if os.path.exists(os.path.join(folder, name, ".metadata"))]
    return f"it holds {shares} .distcp files" if shares else "it is empty" if not names else "", below


EXAMPLE = """
import os
import torch
import torch.distributed.checkpoint as dcp

os.mkdir("step_400")  # the save that was killed before rank 0 wrote .metadata
dcp.load({"weight": torch.zeros(2)}, checkpoint_id="step_400")
"""
MENDED = """
import torch
import torch.distributed.checkpoint as dcp

state = {"weight": torch.zeros(2)}
dcp.save(state, checkpoint_id="step_400")
dcp.load(state, checkpoint_id="step_400")
"""
REQUIRES = ("process",)  # CheckpointException is no Exception: it ends whatever runs it
MESSAGE = ""
