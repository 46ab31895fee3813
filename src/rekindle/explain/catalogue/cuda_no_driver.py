"""PyTorch can use CUDA, but no driver or no GPU is there."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-11", "cuda-no-driver", "0.2"
TITLE = "Found no NVIDIA driver on your system / No CUDA GPUs are available"
RAISES = ("RuntimeError", "AssertionError", "AcceleratorError")
NEEDLES = (
    "Found no NVIDIA driver",
    "No CUDA GPUs are available",
    "no CUDA-capable device is detected",
    "CUDA unknown error",
)
PATTERNS = (
    r"(?P<driver>Found no NVIDIA driver) on your system",
    r"(?P<hidden>No CUDA GPUs are available)",
    r"(?P<none>no CUDA-capable device is detected)",
    r"(?P<unknown>CUDA unknown error) - this may be due to an incorrectly set up environment",
)
OLD = (
    (
        "AssertionError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"
        " from http://www.nvidia.com/Download/index.aspx"
    ),
    "RuntimeError: No CUDA GPUs are available",
    "RuntimeError: cuda runtime error (38) : no CUDA-capable device is detected at torch/csrc/cuda/Module.cpp:51",
)
WHY = (
    "The build has CUDA, the machine shows no GPU: there is none, the driver is not loaded, a container was started without its"
    " GPUs, the program runs on the login node of a cluster, the job asked for no GPU, or `CUDA_VISIBLE_DEVICES` is empty or"
    " names a GPU that is not there."
)
CHECK = '`nvidia-smi`; `ls /dev/nvidia*`; `echo "$CUDA_VISIBLE_DEVICES"`.'


def explain(event: Event) -> Iterator[Cause]:
    """Driver missing, or GPUs hidden: what was said decides the order of what to do."""
    is_driver = bool(event.facts.get("driver"))
    seen = "rekindle gpus   # what can be seen from here, and why not"
    container = "docker run --gpus all ...   # in a container"
    job = "srun --gres=gpu:1 ...   # on a cluster; the login node has none"
    yield Cause(
        CODE,
        NAME,
        what="CUDA was asked for, and no driver of NVIDIA is there"
        if is_driver
        else "CUDA was asked for, and no GPU can be seen",
        why="this PyTorch can use CUDA; the machine (or the container, or the node) has no loaded driver"
        if is_driver
        else "the driver answers, but shows no GPU to this process: none was asked for, or CUDA_VISIBLE_DEVICES hides them",
        fix=(seen, container, job, 'device = "cuda" if torch.cuda.is_available() else "cpu"   # to run on both')
        if is_driver
        else (
            'echo "$CUDA_VISIBLE_DEVICES"   # empty, -1 or a number that is not there hides all',
            seen,
            job,
            container,
        ),
        likelihood="certain",
    )


EXAMPLE = """
import os
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch

torch.ones(1, device="cuda")
"""
MENDED = """
import os
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch

torch.ones(1, device="cuda" if torch.cuda.is_available() else "cpu")
"""
REQUIRES = ("cuda", "process")
MESSAGE = "RuntimeError: No CUDA GPUs are available"
