"""batch_size is a function or a fraction: the second argument of DataLoader is the batch size."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-12", "data-second-argument", "0.2"
TITLE = "ValueError: batch_size should be a positive integer value, but got batch_size=<function <lambda> at 0x...>"
RAISES = ("ValueError",)
NEEDLES = ("batch_size should be a positive inte",)
PATTERNS = (r"batch_size should be a positive inte\w{3,9} value, but got batch_size=(?P<given>[^\n]{1,300})",)
OLD = ("ValueError: batch_size should be a positive integeral value, but got batch_size=0",)
WHY = "By position, `DataLoader(dataset, x)` makes `x` the batch size. Functions go by their names: `collate_fn=`, `worker_init_fn=`. A division with `/` gives a float even where it comes out even; `//` gives a whole number."
CHECK = "`type(batch_size)`."


def explain(event: Event) -> Iterator[Cause]:
    """A function, a sampler, a float, a text, zero or a tuple."""
    given = event.facts["given"].strip()
    fix: tuple[str, ...]
    if given.startswith(("<function", "<bound method", "functools.partial", "<built-in")):
        what, why = (
            "a function stands where the batch size belongs",
            "the second argument of DataLoader is batch_size; functions go by their names",
        )
        fix = ("DataLoader(dataset, batch_size=32, collate_fn=collate)   # each by its name",)
    elif given.startswith(("<", "(")):
        what, why = f"batch_size is {given[:80]}", "the second argument of DataLoader is batch_size, one whole number"
        fix = ("DataLoader(dataset, batch_size=32, sampler=sampler)   # each by its name",)
    elif given.startswith(("'", '"')) or not given.lstrip("-").replace(".", "").isdigit():
        what, why = (
            f"batch_size is {given[:80]}, no whole number",
            "a value of the command line or of a file is text until it is converted",
        )
        fix = ('parser.add_argument("--batch-size", type=int)   # or int(...) of it',)
    elif "." in given:
        what, why = f"batch_size is {given}, a float", "a division with / gives a float, even where it comes out even"
        fix = ("batch_size // world_size   # whole numbers divide with //",)
    else:
        what, why = (
            f"batch_size is {given}",
            "a batch has at least one sample; a global batch divided by more processes than it has samples gives 0",
        )
        fix = (
            "max(1, batch_size // world_size)",
            "DataLoader(dataset, batch_size=None)   # if the data set gives whole batches itself",
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
from torch.utils.data import DataLoader

def collate(samples):
    return samples

DataLoader([1, 2, 3], lambda samples: collate(samples))
"""
MENDED = """
from torch.utils.data import DataLoader

def collate(samples):
    return samples

DataLoader([1, 2, 3], batch_size=2, collate_fn=lambda samples: collate(samples))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
