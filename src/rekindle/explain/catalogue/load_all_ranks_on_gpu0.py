"""Every rank loads the checkpoint onto the first GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, is_loading
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-06", "load-all-ranks-on-gpu0", "0.2"
TITLE = "CUDA out of memory on GPU 0 while every rank loads a checkpoint"
RAISES = ("OutOfMemoryError", "RuntimeError")
NEEDLES = ("CUDA out of memory",)
PATTERNS = (r"CUDA out of memory\.[^\n]{0,200}?GPU (?P<gpu>\d+)",)
OLD: tuple[str, ...] = ()
WHY = (
    "Rank 0 wrote the checkpoint, so that its tensors are marked `cuda:0`. When each rank calls `torch.load` without"
    " `map_location`, each puts a full copy on GPU 0 first. With enough memory nothing fails: `nvidia-smi` then shows one"
    " more process per rank on GPU 0, with some hundred MiB each."
)
CHECK = "`nvidia-smi` while the ranks load: more than one process on GPU 0. `rekindle inspect FILE` shows `cuda:0` for the tensors."

_RANK = re.compile(r"^\[rank(\d+)\]: ", re.MULTILINE)


def explain(event: Event) -> Iterator[Cause]:
    """Only where memory ran out on GPU 0 inside `torch.load`."""
    if event.facts["gpu"] != "0" or not is_loading(event):
        return
    file = checkpoint_of(event)
    shown = "path" if file == "FILE" else repr(file.strip("'"))
    number = event.rank or next((int(found) for found in _RANK.findall(event.message)), 0)
    several = number > 0
    rank = f"rank {number}" if several else "a process"
    yield Cause(
        CODE,
        NAME,
        what=f"{rank} ran out of memory on GPU 0 while it loaded {'a checkpoint' if file == 'FILE' else file}",
        why="tensors saved on cuda:0 go back to cuda:0 in every process that loads them without map_location, so that all"
        " ranks fill the first GPU",
        fix=(
            f'torch.load({shown}, map_location="cpu")   # then load_state_dict copies to each rank\'s own GPU',
            "torch.cuda.set_device(local_rank)   # before anything else touches a GPU",
        ),
        likelihood="certain" if several else "likely",
    )


EXAMPLE = """
import os
import torch
import torch.distributed as dist

dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
state = torch.load("last.pt")
"""
MENDED = """
import os
import torch
import torch.distributed as dist

dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
state = torch.load("last.pt", map_location="cpu")
"""
REQUIRES = ("cuda", "process")
MESSAGE = (
    "[rank1]: Traceback (most recent call last):\n"
    '[rank1]:   File "train.py", line 7, in <module>\n'
    '[rank1]:     state = torch.load("last.pt")\n'
    "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 392.00 MiB. GPU 0 has a total capacity of"
    " 23.69 GiB of which 198.81 MiB is free. Including non-PyTorch memory, this process has 3.02 GiB memory in use."
)
