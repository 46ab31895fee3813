"""torch.load was given a folder, not a file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

from rekindle.explain.catalogue._files import is_loading
from rekindle.explain.catalogue._words import listed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-43", "load-folder", "0.2"
TITLE = "IsADirectoryError: [Errno 21] Is a directory: 'ckpt' (torch.load)"
RAISES = ("IsADirectoryError",)
NEEDLES = ("Is a directory",)
PATTERNS = (r"Is a directory: '(?P<path>[^'\n]{1,1000})'",)
OLD: tuple[str, ...] = ()
WHY = "`torch.load` reads one file. A folder is a model of Transformers (`config.json` beside the weights), a distributed checkpoint (`.metadata` beside `.distcp` files), shards with an index, or the folder above the checkpoints. `rekindle inspect FOLDER` says which."
CHECK = "`rekindle inspect FOLDER`."


def explain(event: Event) -> Iterator[Cause]:
    """Only where a checkpoint was read; live, with what is in the folder."""
    if not is_loading(event):
        return
    path = event.facts["path"]
    kind, fix = _kind_of(path) if event.live else ("", [])
    yield Cause(
        CODE,
        NAME,
        what=f"{path} is a folder, and torch.load reads one file" + (f": {kind}" if kind else ""),
        why="checkpoints that are folders are read by what wrote them: Transformers by from_pretrained, distributed ones by dcp.load",
        fix=(*fix, f"rekindle inspect {shlex.quote(path)}   # what it is, and what is in it"),
        likelihood="certain",
    )


def _kind_of(path: str) -> tuple[str, list[str]]:
    try:
        names = sorted(os.listdir(path))[:10_000]
    except OSError:
        return "", []
    files = [name for name in names if name.endswith((".pt", ".pth", ".ckpt", ".bin", ".safetensors"))]
    if ".metadata" in names:
        return "a distributed checkpoint", [f"dcp.load(state, checkpoint_id={path!r})"]
    if "config.json" in names:
        return "a model of Transformers", [f"AutoModel.from_pretrained({path!r})"]
    if files:
        return f"it holds {listed(files)}", [f"torch.load({os.path.join(path, files[-1])!r})"]
    return "it is empty" if not names else "", []


EXAMPLE = """
import os

import torch

os.mkdir("checkpoints")
torch.save({"step": 1}, "checkpoints/last.pt")
torch.load("checkpoints")
"""
MENDED = """
import os

import torch

os.mkdir("checkpoints")
torch.save({"step": 1}, "checkpoints/last.pt")
torch.load("checkpoints/last.pt")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
