"""The disk or the quota is full, so that the checkpoint was not written whole."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, is_saving, named
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-32", "save-disk-full", "0.2"
TITLE = "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"
RAISES = ("RuntimeError", "OSError")
NEEDLES = ("unexpected pos ", "PytorchStreamWriter failed writing", "No space left on device", "Disk quota exceeded")
PATTERNS = (
    r"unexpected pos (?P<pos>\d+) vs (?P<wanted>\d+)",
    r"PytorchStreamWriter failed writing file (?P<member>[^\s:]+)",
    r"(?P<os>\[Errno 28\] No space left on device|\[Errno 122\] Disk quota exceeded)",
)
OLD = (
    "RuntimeError: [enforce fail at inline_container.cc:300] . unexpected pos 64 vs 0",
    "RuntimeError: [enforce fail at inline_container.cc:337] . PytorchStreamWriter failed writing file data/0: file write failed",
)
WHY = (
    "torch wrote fewer bytes than it meant to. Nearly always the disk or the user's quota is full; a network disk that went"
    " away, or a limit of the container, reads the same. The message stands for that and does not say so. The file that is"
    " left is cut short, and if it had the name of the last checkpoint, that one is gone."
)
CHECK = "`df -h` and `df -i` of the folder, the quota (`quota -s`), and the sizes of the old checkpoints."


def explain(event: Event) -> Iterator[Cause]:
    """What was reached of the file; a full disk while nothing is saved is not ours."""
    if event.facts.get("os") and not is_saving(event):
        return
    name = named(event, "the checkpoint")
    file = checkpoint_of(event)
    certain = bool(event.facts.get("os"))
    yield Cause(
        CODE,
        NAME,
        what=f"{name} was not written whole: {'the disk is full' if certain else 'most likely the disk or the quota is full'}",
        why="the disk took fewer bytes than torch gave it; what is left of the file ends early and is not to be resumed from",
        fix=(
            "df -h .; df -i .; quota -s   # in the folder of the checkpoints: bytes, files and quota",
            f"rekindle salvage {file} -o rescued.safetensors   # what was written whole, if there is no other copy",
            'torch.save(state, path + ".tmp"); os.replace(path + ".tmp", path)   # then the last good one stays until the new one is whole',
        ),
        likelihood="certain" if certain else "likely",
    )


EXAMPLE = """
import torch

torch.save({"weight": torch.zeros(100_000)}, "/dev/full")  # a disk that is always full
"""
MENDED = """
import os
import torch

torch.save({"weight": torch.zeros(100_000)}, "last.pt.tmp")
os.replace("last.pt.tmp", "last.pt")
"""
REQUIRES = ("linux",)
MESSAGE = ""
