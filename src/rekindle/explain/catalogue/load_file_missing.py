"""There is no checkpoint at that path."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator

from rekindle.explain.catalogue._files import is_loading, is_saving
from rekindle.explain.catalogue._words import listed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event
from rekindle.keys import near_names

CODE, NAME, SINCE = "RK-LOAD-27", "load-file-missing", "0.2"
TITLE = "FileNotFoundError: [Errno 2] No such file or directory: 'best.pt'"
RAISES = ("FileNotFoundError", "ValueError")
NEEDLES = ("No such file or directory", "The provided filename ")
PATTERNS = (
    r"No such file or directory: '(?P<path>[^'\n]{1,1000})'",
    r"No such file or directory: \"(?P<path>[^\"\n]{1,1000})\"",
    r"No such file or directory: (?P<path>[^\s'\"]{1,1000})$",
    r"The provided filename (?P<path>[^\n]{1,1000}?) does not exist",
)
OLD: tuple[str, ...] = ()
WHY = (
    "A relative path is looked for in the working directory of the process, which under a scheduler, a notebook or an IDE"
    " is another one than on the shell. Else the run wrote another name, or the job runs on a machine that does not have"
    " that disk."
)
CHECK = "`print(os.getcwd(), os.path.abspath(path))`; `ls -la` of the folder."

_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".tar", ".pkl", ".th")


def explain(event: Event) -> Iterator[Cause]:
    """Only for checkpoints; live, with the deepest folder that exists and the near names in it."""
    path = event.facts["path"]
    if is_saving(event) or path.endswith(".metadata"):
        return
    if not is_loading(event) and not (not event.frames and path.endswith(_SUFFIXES)):
        return
    if re.match(r"[a-z0-9]{1,20}://", path):
        yield Cause(
            CODE,
            NAME,
            what=f"{path} is an address, and was looked for as a file",
            why="torch.load opens files of this machine; an address has to be fetched first",
            fix=("torch.hub.load_state_dict_from_url(address)   # fetches it once, and keeps it",),
            likelihood="certain",
        )
        return
    folder, near = _looked_up(path) if event.live else ("", [])
    relative = not os.path.isabs(path)
    what = f"there is no {path}"
    if folder:
        what += (
            f"; the path exists up to {folder}" if folder != os.path.dirname(os.path.abspath(path)) else f" in {folder}"
        )
    why = (
        "a relative path starts at the working directory of the process"
        if relative
        else "nothing was written under this name, or the disk is not mounted on this machine"
    )
    parent = os.path.dirname(path) or "."
    fix = [f"torch.load({_beside(path, near[0])!r})   # near names: {listed(near)}"] if near else []
    fix.append(f"ls -la {shlex.quote(folder or parent)}   # what is there")
    if relative:
        fix.append(
            f"print(os.path.abspath({path!r}))   # where it was looked for; give an absolute path if that is not it"
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=tuple(fix), likelihood="certain")


def _looked_up(path: str) -> tuple[str, list[str]]:
    """Return the deepest folder of the path that exists, and near names in it if it is the file's own."""
    full = os.path.abspath(path)
    folder = os.path.dirname(full)
    while folder and not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    try:
        names = os.listdir(folder) if folder == os.path.dirname(full) else []
    except OSError:
        names = []
    return folder, near_names(os.path.basename(full), [name for name in names[:10_000] if name.endswith(_SUFFIXES)])


def _beside(path: str, name: str) -> str:
    return os.path.join(os.path.dirname(path), name)


EXAMPLE = """
import torch

torch.save({"weight": torch.zeros(2)}, "best.pth")
torch.load("best.pt")
"""
MENDED = """
import torch

torch.save({"weight": torch.zeros(2)}, "best.pth")
torch.load("best.pth")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
