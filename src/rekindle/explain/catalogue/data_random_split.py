"""The lengths given to random_split do not add up to the data set's."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import code_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-19", "data-random-split", "0.2"
TITLE = "ValueError: Sum of input lengths does not equal the length of the input dataset!"
RAISES = ("ValueError",)
NEEDLES = ("Sum of input lengths does not equal", "Sum of input lengths must equal", "Fraction at index")
PATTERNS = (
    r"Sum of input lengths (?:does not equal|must equal) the length of the input dataset",
    r"Fraction at index (?P<index>\d+) is not between 0 and 1",
)
OLD: tuple[str, ...] = ()
WHY = "`random_split` takes lengths whose sum is `len(dataset)`, or fractions whose sum is 1. `int(0.8 * n)` and `int(0.2 * n)` both round down, so that mostly one sample is left over."
CHECK = "`sum(lengths)` and `len(dataset)`."


def explain(event: Event) -> Iterator[Cause]:
    """The lengths as the user's line has them, live also their sum."""
    code = code_of(event)
    given = code[code.find("random_split(") + 13 :].rstrip(")") if "random_split(" in code else ""
    name = given.partition(",")[0].strip() or "dataset"
    rounds = "int(" in code
    plain = (
        [event.live.find_plain(name) for name in ("n_train", "n_val", "n_test", "train_size", "val_size", "test_size")]
        if event.live
        else []
    )
    known = [value for value in plain if isinstance(value, int)]
    seen = (
        f" ({' + '.join(map(str, known))} = {sum(known)})"
        if len(known) > 1
        else f" ({given[given.find('[') :]})"
        if "[" in given
        else ""
    )
    fractions = f"Fraction {event.facts['index']} is not between 0 and 1; " if event.facts.get("index") else ""
    yield Cause(
        CODE,
        NAME,
        what=f"the lengths for random_split do not add up to the data set's{seen}",
        why=f"{fractions}lengths have to sum to len(dataset), fractions to 1"
        + (
            "; int() of each part rounds down, and one sample is left over"
            if rounds
            else "; int() of each part rounds down, so that one is often left over"
        ),
        fix=(
            f"random_split({name}, [0.8, 0.2])   # fractions; torch 1.13 and newer",
            f"n_train = int(0.8 * len({name})); random_split({name}, [n_train, len({name}) - n_train])",
        ),
        likelihood="certain",
    )


EXAMPLE = """
from torch.utils.data import random_split

numbers = list(range(9))
random_split(numbers, [int(0.8 * 9), int(0.2 * 9)])
"""
MENDED = """
from torch.utils.data import random_split

numbers = list(range(9))
n_train = int(0.8 * 9)
random_split(numbers, [n_train, 9 - n_train])
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
