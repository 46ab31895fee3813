"""The state of a generator in a checkpoint was moved to a GPU, or is no byte tensor."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-47", "load-rng-state", "0.2"
TITLE = "TypeError: RNG state must be a torch.ByteTensor"
RAISES = ("TypeError", "RuntimeError")
NEEDLES = ("RNG state must be a torch.ByteTensor", "the input RNG state size")
PATTERNS = (r"RNG state must be a torch\.ByteTensor", r"found the input RNG state size to be (?P<size>\d+)")
OLD: tuple[str, ...] = ()
WHY = '`torch.get_rng_state()` gives bytes on the CPU, also for a GPU\'s generator. `torch.load(path, map_location="cuda")` moves them like all other tensors, and a cast of the whole checkpoint turns them into floats. States of a CPU and of a GPU differ in size.'
CHECK = "`state.dtype` is uint8, `state.device` is cpu; 5,056 bytes for the CPU, 16 for CUDA."


def explain(event: Event) -> Iterator[Cause]:
    """Where it is, or its size."""
    met = next(
        (fact for fact in event.live.find_tensors("new_state", "state", "rng_state", "state_copy"))
        if event.live
        else iter(()),
        None,
    )
    size = event.facts.get("size")
    is_moved = met is not None and met.device.startswith("cuda")
    if size:
        what, why = (
            f"a generator was given a state of {size} bytes that is another generator's",
            "states of the CPU (5,056 bytes) and of a GPU (16) are not exchanged",
        )
        fix: tuple[str, ...] = (
            'torch.set_rng_state(checkpoint["cpu_rng"])',
            'torch.cuda.set_rng_state(checkpoint["cuda_rng"])   # each its own',
        )
    else:
        what = "the state of a generator " + (
            f"is on {met.device}"
            if is_moved and met
            else f"is {met.dtype}"
            if met and met.dtype != "uint8"
            else "is no byte tensor on the CPU"
        )
        why = "map_location or a cast of the whole checkpoint took it along"
        fix = (
            "torch.set_rng_state(state.cpu().to(torch.uint8))   # bytes moved by map_location are unchanged",
            'torch.load(path, map_location="cpu", weights_only=True)   # load_state_dict moves the weights by itself',
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import torch

checkpoint = {"rng": torch.get_rng_state()}
checkpoint = {key: value.float() for key, value in checkpoint.items()}
torch.set_rng_state(checkpoint["rng"])
"""
MENDED = """
import torch

checkpoint = {"rng": torch.get_rng_state()}
torch.set_rng_state(checkpoint["rng"])
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
