"""Why it happened, as a value: what an entry of the catalogue says about one event.

The words are of this case: its names, shapes, dtypes, devices, keys. How they are shown is `rekindle.explain.words`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Cause", "Likelihood"]

Likelihood = Literal["certain", "likely", "possible"]


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause of an event.

    Attributes:
        code: stable code of the entry, ``RK-SHAPE-01``; empty for an error of rekindle itself that has no page.
        name: stable name of the entry, ``shape-linear``.
        what: what happened, with the names and sizes of this case; one line, lower case, no full stop.
        why: the cause; one or a few sentences.
        fix: lines to type or lines of code, with the names of this case; the best first.
        where: the user's own line; filled in by the engine where it is left empty.
        likelihood: ``certain`` where the facts leave nothing else (less likely causes are then not shown);
            ``likely`` for the usual cause; ``possible`` where another cause is as good or better.
    """

    code: str
    name: str
    what: str
    why: str
    fix: tuple[str, ...]
    where: str = ""
    likelihood: Likelihood = "likely"
