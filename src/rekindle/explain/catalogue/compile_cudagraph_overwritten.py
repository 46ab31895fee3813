"""A result of a CUDA graph is read after the next run has written over it."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-COMPILE-07", "compile-cudagraph-overwritten", "0.2"
TITLE = "RuntimeError: Error: accessing tensor output of CUDAGraphs that has been overwritten by a subsequent run."
RAISES = ("RuntimeError",)
NEEDLES = ("of CUDAGraphs that has been overwritten",)
PATTERNS = (
    r"accessing tensor output of CUDAGraphs that has been overwritten by a subsequent run(?:\. Stack trace: File \"(?P<path>[^\"\n]{1,300})\", line (?P<line>\d+))?",
)
OLD: tuple[str, ...] = ()
WHY = '`mode="reduce-overhead"` records the kernels once and runs them again in the same memory, so each call writes over the results of the one before. Results that are kept (a list of outputs, an EMA, gradients of two forward passes) are gone by then.'
CHECK = "Where are the outputs kept over two calls of the compiled model?"


def explain(event: Event) -> Iterator[Cause]:
    """Clone, or say that a step begins."""
    place = event.facts.get("path")
    yield Cause(
        CODE,
        NAME,
        what="a result of an earlier call of a compiled model is read after a later call wrote over it",
        why="with CUDA graphs every call uses the same memory",
        fix=(
            "out = model(x).clone()   # what is to be kept over the next call",
            "torch.compiler.cudagraph_mark_step_begin()   # in front of each step, where only one call's results are used",
            'torch.compile(model, mode="default")   # without CUDA graphs',
        ),
        where=f"{place}:{event.facts['line']}" if place else "",
        likelihood="certain",
    )


EXAMPLE = """
import torch

model = torch.compile(torch.nn.Linear(4, 4).cuda(), mode="reduce-overhead")
outputs = [model(torch.ones(2, 4, device="cuda")) for _ in range(3)]
print(sum(out.sum() for out in outputs))
"""
MENDED = """
import torch

model = torch.compile(torch.nn.Linear(4, 4).cuda(), mode="reduce-overhead")
outputs = [model(torch.ones(2, 4, device="cuda")).clone() for _ in range(3)]
print(sum(out.sum() for out in outputs))
"""
REQUIRES = ("cuda",)
MESSAGE = 'RuntimeError: Error: accessing tensor output of CUDAGraphs that has been overwritten by a subsequent run. Stack trace: File "train.py", line 5. To prevent overwriting, clone the tensor outside of torch.compile() or call torch.compiler.cudagraph_mark_step_begin() before each model invocation.'
