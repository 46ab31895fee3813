"""The GPU itself failed, is taken, or hangs."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-21", "cuda-hardware", "0.2"
TITLE = "CUDA error: uncorrectable ECC error encountered"
RAISES = ("RuntimeError", "AcceleratorError", "OutOfMemoryError")
NEEDLES = (
    "uncorrectable ECC error",
    "busy or unavailable",
    "GPU has fallen off the bus",
    "hardware stack error",
    "uncorrectable NVLink error",
    "Unable to determine the device handle",
    "the launch timed out and was terminated",
    "GPU is lost",
    "too many resources requested for launch",
    "CUDA error: invalid configuration argument",
)
PATTERNS = (
    r"CUDA error: (?P<ecc>uncorrectable (?:ECC|NVLink) error|hardware stack error)",
    r"(?P<busy>all CUDA-capable devices are busy or unavailable|CUDA-capable device\(s\) is/are busy or unavailable)",
    r"(?P<lost>GPU has fallen off the bus|GPU is lost|Unable to determine the device handle)",
    r"(?P<timeout>the launch timed out and was terminated)",
    r"CUDA error: (?P<launch>too many resources requested for launch|invalid configuration argument)",
)
OLD = (
    "RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable",
    "NVRM: GPU at PCI:0000:3b:00: GPU has fallen off the bus.",
    "RuntimeError: CUDA error: the launch timed out and was terminated",
    "RuntimeError: CUDA error: invalid configuration argument",
)
WHY = (
    "An ECC error is memory of the GPU that lost a bit for good; a GPU off the bus is one that no longer answers. Neither is the program's"
    " fault, and the machine needs its administrator. `busy` means that the GPU is in exclusive mode and another process has it, or one that"
    " died still holds it. A launch that timed out was ended by the display's watchdog."
)
CHECK = "`nvidia-smi -q -d ECC,COMPUTE`, `dmesg | grep -i xid`."


def explain(event: Event) -> Iterator[Cause]:
    """Which of them, and who can mend it."""
    facts = event.facts
    resume = "rekindle runs DIR   # the last snapshot, and the command that goes on from it elsewhere"
    if facts.get("busy"):
        what, why = (
            "the GPU is taken",
            "it is in exclusive mode and another process has it, or a process that died still holds it",
        )
        fix: tuple[str, ...] = (
            "nvidia-smi --query-gpu=index,compute_mode --format=csv; nvidia-smi   # the mode, and who has it",
            "rekindle launch --gpus 1 train.py   # takes a GPU that is free",
        )
    elif facts.get("timeout"):
        what, why = (
            "a kernel ran longer than the display's watchdog allows",
            "the GPU also drives a screen, and the system ends kernels after some seconds",
        )
        fix = ("a smaller batch, or a GPU without a screen",)
    elif facts.get("launch"):
        what, why = (
            f"a kernel was started in a form that the GPU refuses: {facts['launch']}",
            "mostly a tensor without elements or with a huge dimension, or a kernel built for another GPU",
        )
        fix = (
            "print([t.shape for t in inputs])   # a dimension of 0, or more than 2**31 elements?",
            "CUDA_LAUNCH_BLOCKING=1 python train.py   # the line it is",
        )
    else:
        what = (
            "the GPU no longer answers"
            if facts.get("lost")
            else f"the GPU reports broken memory or links: {facts['ecc']}"
        )
        why = "hardware, power, heat or driver; no program can mend it"
        fix = ("dmesg | grep -i xid   # for the administrator: the number says what failed", resume)
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain" if not facts.get("launch") else "likely")


EXAMPLE = ""
MENDED = ""
MESSAGE = "RuntimeError: CUDA error: uncorrectable ECC error encountered"
REQUIRES: tuple[str, ...] = ()
