"""A generator is on another device than what it is to fill."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of, is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-22", "device-generator", "0.2"
TITLE = "RuntimeError: Expected a 'cuda' device type for generator but found 'cpu'"
RAISES = ("RuntimeError",)
NEEDLES = ("device type for generator", "generator device but found")
PATTERNS = (
    r"Expected a '?(?P<want>[\w:]+)'? (?:generator )?device type for generator but found '(?P<have>[\w:]+)'",
    r"Expected a '(?P<want>[\w:]+)' generator device but found '(?P<have>[\w:]+)'",
)
OLD = ("RuntimeError: Expected a 'cuda:0' generator device but found 'cpu'",)
WHY = 'A generator makes numbers on its own device. `torch.set_default_device("cuda")` moves what is made from then on, and the shuffling of a `DataLoader` or `random_split` then meets a generator of the CPU, or the other way round.'
CHECK = "`generator.device`, `torch.get_default_device()`."


def explain(event: Event) -> Iterator[Cause]:
    """Both devices; shuffling is told apart."""
    fix: tuple[str, ...]
    want, have = event.facts["want"], event.facts["have"]
    shuffles = is_in(event, "torch/utils/data/", "random_split") or "DataLoader" in code_of(event)
    fix = (f'torch.Generator(device="{want}")   # the generator where the numbers are made',)
    if shuffles or not event.frames:
        fix += (
            f'DataLoader(data, shuffle=True, generator=torch.Generator(device="{want}"))   # with torch.set_default_device',
        )
    yield Cause(
        CODE,
        NAME,
        what=f"a generator of {have} is to make numbers on {want}",
        why="torch.set_default_device moved the one and not the other"
        if shuffles
        else "a generator makes numbers on its own device",
        fix=fix,
        likelihood="certain",
    )


EXAMPLE = """
import torch

torch.randn(3, device="meta", generator=torch.Generator("cpu"))
torch.randn(3, device="cuda", generator=torch.Generator("cpu"))
"""
MENDED = """
import torch

torch.randn(3, device="cuda", generator=torch.Generator("cuda"))
"""
REQUIRES = ("cuda",)
MESSAGE = "RuntimeError: Expected a 'cuda' device type for generator but found 'cpu'"
