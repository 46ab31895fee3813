"""A GPU number beyond the GPUs that this process sees."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-07", "device-visible-devices", "0.2"
TITLE = "CUDA error: invalid device ordinal"
RAISES = ("AcceleratorError", "RuntimeError", "AssertionError")
NEEDLES = ("invalid device ordinal", "Invalid device id", "cudaErrorInvalidDevice", "device >= 0 && device < num_gpus")
PATTERNS = (
    r"invalid device ordinal",
    r"^(?:AssertionError: )?Invalid device id",
    r"RuntimeError: Invalid device id",
    r"device >= 0 && device < num_gpus",
)
OLD = (
    "RuntimeError: CUDA error: invalid device ordinal",
    "RuntimeError: cuda runtime error (10) : invalid device ordinal at torch/csrc/cuda/Module.cpp:32",
    "AssertionError: Invalid device id",
    "RuntimeError: Invalid device id",
)
WHY = (
    "GPUs are numbered from 0 among those that the process sees. `CUDA_VISIBLE_DEVICES=2,3` leaves two, which are then called"
    " `cuda:0` and `cuda:1`. The same comes of more processes on a machine than it has GPUs. The variable counts only if it is"
    " set before CUDA starts: in the shell, or in front of `import torch`."
)
CHECK = "`torch.cuda.device_count()`, `echo $CUDA_VISIBLE_DEVICES`, and the number that was asked for. `rekindle gpus` lists what is there."
_ASKED = re.compile(r"cuda:(\d+)|set_device\((\d+)\)|cuda\((\d+)\)|device_ids=\[([\d, ]+)\]")


def explain(event: Event) -> Iterator[Cause]:
    """The number that was asked for, from the user's line or the frames."""
    found = _ASKED.search(code_of(event))
    asked = next((text for text in found.groups() if text), "") if found else ""
    if not asked and event.live:
        rank = event.live.find_plain("local_rank", "rank", "device", "gpu", "gpu_id")
        asked = str(rank).removeprefix("cuda:") if isinstance(rank, (int, str)) and not isinstance(rank, bool) else ""
        asked = asked if asked.replace(",", "").replace(" ", "").isdigit() else ""
    yield Cause(
        CODE,
        NAME,
        what=f"GPU {asked} was asked for, and this process does not see so many"
        if asked
        else "a GPU was asked for that this process does not see",
        why="numbers count from 0 among the visible GPUs: under CUDA_VISIBLE_DEVICES=2,3 they are cuda:0 and cuda:1; or there"
        " are more processes on the machine than GPUs",
        fix=(
            "rekindle gpus   # which GPUs there are, and which are free",
            'torch.device("cuda:0")   # numbers start at 0, whatever CUDA_VISIBLE_DEVICES says',
            "rekindle launch --gpus 2 train.py   # a process for each of so many GPUs, the freest",
            "CUDA_VISIBLE_DEVICES=2,3 python train.py   # set in the shell, not after import torch",
        ),
    )


EXAMPLE = """
import torch

torch.cuda.set_device(64)
torch.ones(1, device="cuda")
"""
MENDED = """
import torch

torch.cuda.set_device(torch.cuda.device_count() - 1)
torch.ones(1, device="cuda")
"""
REQUIRES = ("cuda",)
MESSAGE = (
    "torch.AcceleratorError: CUDA error: invalid device ordinal\n"
    "GPU device may be out of range, do you have enough GPUs?"
)
