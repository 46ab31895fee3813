"""This build of torch has no NCCL (or another backend that was asked for)."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-12", "ddp-nccl-not-built", "0.2"
TITLE = "RuntimeError: Distributed package doesn't have NCCL built in"
RAISES = ("RuntimeError",)
NEEDLES = ("Distributed package doesn't have", "NCCL support is not compiled")
PATTERNS = (
    r"Distributed package doesn't have (?P<backend>\w+) built in",
    r"the (?P<backend>\w+) backend, but NCCL support is not compiled",
)
OLD = ("RuntimeError: Distributed package doesn't have NCCL built in",)
WHY = "NCCL is in the builds for CUDA on Linux. The builds for the CPU, for macOS and for Windows have `gloo`, which works on the CPU. A CPU build on a machine with GPUs is the wrong build."
CHECK = "`torch.distributed.is_nccl_available()`, `torch.version.cuda` (None in a CPU build)."


def explain(event: Event) -> Iterator[Cause]:
    """The backend; live, which build it is."""
    backend = event.facts["backend"].upper()
    torch = sys.modules.get("torch") if event.live else None
    build = f"torch {torch.__version__} on {sys.platform}" if torch is not None else "this build of torch"
    fix = ['dist.init_process_group("gloo")   # works on the CPU, and for small things on GPUs too']
    if backend == "NCCL":
        fix += [
            'python -c "import torch; print(torch.__version__, torch.version.cuda)"   # None: a CPU build; with NVIDIA GPUs on Linux install the one with CUDA',
            'dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")   # for both',
        ]
    yield Cause(
        CODE,
        NAME,
        what=f"{build} has no {backend}",
        why="NCCL is in the CUDA builds for Linux only"
        if backend == "NCCL"
        else f"{backend} is only in builds that were made with it",
        fix=tuple(fix),
        likelihood="certain",
    )


EXAMPLE = """
import os

import torch.distributed as dist

store = f"file://{os.path.abspath('store')}"
dist.init_process_group("nccl", init_method=store, rank=0, world_size=1)
"""
MENDED = """
import os

import torch
import torch.distributed as dist

store = f"file://{os.path.abspath('store')}"
dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", init_method=store, rank=0, world_size=1)
"""
REQUIRES = ("torch without NCCL",)
MESSAGE = "RuntimeError: Distributed package doesn't have NCCL built in"
