"""The folder that the file should go into does not exist."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rekindle.explain.catalogue._files import is_saving
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-30", "save-no-parent", "0.2"
TITLE = "RuntimeError: Parent directory runs/exp1 does not exist."
RAISES = ("RuntimeError", "FileNotFoundError")
NEEDLES = ("Parent directory ", "No such file or directory")
PATTERNS = (
    r"Parent directory (?P<folder>[^\n]{1,1000}?) does not exist",
    r"No such file or directory: '(?P<path>[^'\n]{1,1000})'",
)
OLD: tuple[str, ...] = ()
WHY = "`torch.save` creates the file and never a folder. The folder has to be made first, by every process that saves."
CHECK = "`os.path.isdir(os.path.dirname(path))`, and `os.getcwd()` for a relative path."


def explain(event: Event) -> Iterator[Cause]:
    """The folder, from either wording; a file that is only read is something else."""
    path = event.facts.get("path", "")
    if path and not is_saving(event):
        return
    folder = event.facts.get("folder") or os.path.dirname(path)
    if not folder:
        return
    yield Cause(
        CODE,
        NAME,
        what=f"the folder {folder} does not exist",
        why="torch.save creates no folders"
        + ("" if os.path.isabs(folder) else "; a relative path starts at the working directory of the process"),
        fix=(f"os.makedirs({folder!r}, exist_ok=True)   # before torch.save",),
        likelihood="certain",
    )


EXAMPLE = """
import torch

torch.save({"weight": torch.zeros(2)}, "runs/exp1/last.pt")
"""
MENDED = """
import os
import torch

os.makedirs("runs/exp1", exist_ok=True)
torch.save({"weight": torch.zeros(2)}, "runs/exp1/last.pt")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
