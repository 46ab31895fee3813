"""torch.save was given the name of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rekindle.explain.catalogue._files import is_saving, named
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-45", "save-to-folder", "0.2"
TITLE = "[enforce fail at inline_container.cc:747] . open file failed with strerror: Is a directory"
RAISES = ("RuntimeError", "IsADirectoryError")
NEEDLES = ("open file failed with strerror: Is a directory", "Is a directory: '")
PATTERNS = (
    r"open file failed with strerror: Is a directory",
    r"Is a directory: '(?P<path>[^'\n]{1,1000})'",
)
OLD: tuple[str, ...] = ()
WHY = "The path that `torch.save` was given is a folder that exists. It needs the name of a file in it."
CHECK = "`os.path.isdir(path)`."


def explain(event: Event) -> Iterator[Cause]:
    """Only where something was saved."""
    if event.frames and not is_saving(event):
        return
    path = event.facts.get("path", "")
    if path and not event.frames:
        return  # a pasted line that may be about anything
    name = path or named(event, "folder")
    yield Cause(
        CODE,
        NAME,
        what=f"{path or named(event, 'the path')} is a folder, and torch.save writes one file",
        why="the name of the file is missing behind that of the folder",
        fix=(f"torch.save(state, {os.path.join(name, 'last.pt')!r})",),
        likelihood="certain",
    )


EXAMPLE = """
import os

import torch

os.mkdir("checkpoints")
torch.save({"step": 1}, "checkpoints")
"""
MENDED = """
import os

import torch

os.mkdir("checkpoints")
torch.save({"step": 1}, "checkpoints/last.pt")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
