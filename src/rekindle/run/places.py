"""Where a run is: the epoch, and how far each of its loops over batches has come.

A loop is known by its *path*. The first `run.batches(...)` of an epoch has the path ``(0,)``, the second ``(1,)``, and
so on; loops that are walked together (``zip``) are simply two of them. A loop that is opened inside the body of another
one belongs to the batch that body is working on: the n-th one inside batch k of loop ``(0,)`` is ``(0, k, n)``.

A place is taken where the next batch of a loop is asked for: the body of that loop has then done its work, while the
bodies of the loops around it have not. So those are put down one batch earlier, and that batch is handed out again.

Law: `Places(saved)` opens each loop where `saved` says, and a loop that `saved` does not know starts at its beginning.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Loop", "Place", "Places", "Walker"]

Path = tuple[int, ...]


class Walker(Protocol):
    """The iterator of a loop."""

    def keep_state(self) -> None:
        """Put what the loader wants kept into the loop's `state`."""
        ...


@dataclass(slots=True, eq=False, weakref_slot=True)
class Loop:
    """One walk over batches.

    Attributes:
        path: its name within the epoch.
        delivered: batches handed out.
        length: batches in all; None where nobody knows.
        finished: whether it came to its end.
        around: the loop whose body opened it.
        inside: loops opened in the body of the current batch.
        state: what the loader itself wants kept, for loaders that keep their own position.
        shape: of a loader of ours, what it deals out: samples, size of batches...
    """

    path: Path
    delivered: int = 0
    length: int | None = None
    finished: bool = False
    around: Loop | None = None
    inside: int = 0
    state: Any = None
    shape: Mapping[str, Any] | None = None

    def lies_in(self, other: Loop) -> bool:
        """Whether it was opened in the body of another loop, or of one in there."""
        around = self.around
        while around is not None and around is not other:
            around = around.around
        return around is not None

    @property
    def is_at_its_end(self) -> bool:
        """Whether the last batch was handed out, as far as anybody knows."""
        return self.finished or self.delivered == self.length


@dataclass(frozen=True, slots=True)
class Place:
    """A place to go on from.

    Attributes:
        epoch: from 0.
        loops: path -> (batches delivered, whether it came to its end, what its loader wants kept).
        current: path of the loop whose body had done its work; None between epochs.
        shapes: between epochs, path -> shape of the loops of the epoch before; where to go on does not depend on it.
    """

    epoch: int = 0
    loops: Mapping[Path, tuple[int, bool, Any]] = field(default_factory=dict)
    current: Path | None = None
    shapes: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict, compare=False)

    def encode(self) -> dict[str, Any]:
        """Return the place as plain values."""
        loops = [
            {"path": list(path), "delivered": delivered, "finished": finished, "state": state}
            for path, (delivered, finished, state) in self.loops.items()
        ]
        current = None if self.current is None else list(self.current)
        shapes = [{"path": list(path), "shape": dict(shape)} for path, shape in self.shapes.items()]
        return {"epoch": self.epoch, "loops": loops, "current": current, **({"shapes": shapes} if shapes else {})}

    @staticmethod
    def decode(values: Mapping[str, Any]) -> Place:
        """Return the place that `encode` made the values of."""
        loops = {tuple(loop["path"]): (loop["delivered"], loop["finished"], loop["state"]) for loop in values["loops"]}
        current = values["current"]
        shapes = {tuple(each["path"]): each["shape"] for each in values.get("shapes", ())}
        return Place(values["epoch"], loops, None if current is None else tuple(current), shapes)


class Places:
    """The loops of the epoch in progress.

    Args:
        saved: the place the run goes on from; None at the start.

    Attributes:
        epoch: from 0.
        replaying: True from a resume until the loop that was interrupted is reached: what the script does until then
            it has done before.
        current: the loop that handed out the last batch.
    """

    def __init__(self, saved: Place | None = None) -> None:
        """Start where `saved` says."""
        self._saved = saved or Place()
        self.epoch = self._saved.epoch
        self.replaying = self._saved.current is not None
        self.current: Loop | None = None
        self._loops: dict[Path, Loop] = {}
        # A loop that was left with `break` is forgotten by the script, and so here.
        self._walkers: weakref.WeakKeyDictionary[Walker, Loop] = weakref.WeakKeyDictionary()
        self._opened = 0

    def begin_epoch(self, epoch: int) -> None:
        """Enter an epoch; the one that was interrupted keeps its loops' places."""
        if epoch != self._saved.epoch:
            self._saved = Place(epoch)
            self.replaying = False
        self.epoch = epoch
        self.current = None
        self._loops.clear()
        self._walkers.clear()
        self._opened = 0

    @property
    def any_loop(self) -> bool:
        """Whether this epoch had a loop over batches yet."""
        return bool(self._loops)

    def open(self, walker: Walker, length: int | None) -> Loop:
        """Return the loop that `walker` is about to walk, at the place where it goes on."""
        around = self._innermost()
        if around is None:
            path: Path = (self._opened,)
            self._opened += 1
        else:
            path = (*around.path, around.delivered - 1, around.inside)
            around.inside += 1
        delivered, finished, state = self._saved.loops.get(path, (0, False, None))
        loop = Loop(path, delivered, length, finished, around, 0, state)
        self._loops[path] = loop
        self._walkers[walker] = loop
        return loop

    def arrive(self, loop: Loop) -> None:
        """Note that the next batch of a loop is asked for."""
        if self.replaying and loop.path == self._saved.current:
            self.replaying = False

    def deliver(self, loop: Loop) -> int:
        """Count a batch as handed out, and return its number."""
        number = loop.delivered
        loop.delivered = number + 1
        if loop.inside:  # loops inside the body of the batch before are history
            depth = len(loop.path)
            for path in [path for path in self._loops if len(path) > depth and path[:depth] == loop.path]:
                del self._loops[path]
            loop.inside = 0
        self.current = loop
        return number

    def is_walked(self, loop: Loop) -> bool:
        """Whether the script still holds the iterator of a loop."""
        return any(known is loop for known in self._walkers.values())

    def shapes(self) -> dict[Path, Mapping[str, Any]]:
        """Return path -> shape of the loops of this epoch that are not inside another one."""
        return {path: loop.shape for path, loop in self._loops.items() if len(path) == 1 and loop.shape is not None}

    def shape_before(self, path: Path) -> Mapping[str, Any] | None:
        """Return the shape that a loop had in the epoch before an earlier life ended; None where nobody knows."""
        return self._saved.shapes.get(path)

    def place(self, loop: Loop) -> Place:
        """Return the place to go on from when the next batch of `loop` is asked for, or it came to its end."""
        for walker in list(self._walkers):
            walker.keep_state()
        around = set()
        outer = loop.around
        while outer is not None:
            around.add(outer.path)
            outer = outer.around
        loops = {
            path: (known.delivered - (path in around), known.finished, known.state)
            for path, known in self._loops.items()
        }
        return Place(self.epoch, loops, loop.path)

    def _innermost(self) -> Loop | None:
        """Return the loop whose body is being executed."""
        found = None
        for loop in self._walkers.values():
            if loop.delivered and not loop.finished and loop.path in self._loops:
                if not self._started_here(loop):
                    continue
                if found is None or len(loop.path) > len(found.path):
                    found = loop
        return found

    def _started_here(self, loop: Loop) -> bool:
        """Whether the loop handed out a batch in this life: before that, its body is not being executed."""
        return loop.delivered > self._saved.loops.get(loop.path, (0,))[0]
