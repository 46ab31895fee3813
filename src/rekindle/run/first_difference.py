"""Where a killed run and an undisturbed one part, in causal order, and what most likely parts them.

The lives of the killed run overlap: what a life did after its last snapshot is done again by the next one. What
counts for the end is the *surviving* course: for each batch and each step, the last life that did it. It is walked in
the order of the undisturbed run, and at each event the questions are asked in the order of cause: which samples were
drawn, what was in them, the global generators, the tracked state before the step, the gradients, the optimizer's
settings, the tracked state after the step. The first "no" is the first difference; all questions before it were
answered with "yes", which is half of the diagnosis.

The other half are names: values around the step that no snapshot holds and that were not the same when the batch was
delivered. A name that also differs between two lives that both began from nothing (a clock, a process number) is no
suspect; one that differed beside steps that came out equal is a lesser one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rekindle.run.evidence import BatchEvent, Life, StepEvent

__all__ = ["Aspect", "Difference", "Suspect", "first_difference", "left_behind", "suspects_at_step"]

Aspect = Literal[
    "batch", "order", "sample", "generator", "state before", "gradients", "settings", "state after", "log", "end"
]
Event = BatchEvent | StepEvent
_Key = tuple[str, int, str, int]

_MOST_SUSPECTS = 4


@dataclass(frozen=True, slots=True)
class Suspect:
    """A value outside the snapshot that was not the same.

    Attributes:
        name: as its author writes it: ``COUNTER``, ``self.seen``.
        place: ``train.py``, ``main() of train.py``, ``the tracked object``.
        straight: its value in the undisturbed run, as text.
        killed: its value in the killed run.
    """

    name: str
    place: str
    straight: str
    killed: str


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that differs.

    Attributes:
        aspect: the question that was answered with "no" first.
        what: the parts concerned: names of samples' parts, generators, or ``object: part``.
        details: (leaf, straight, killed) of the first few that differ.
        step: the step it belongs to, counted from 1; None where unknown.
        epoch: from 0; None where unknown.
        batch: position in its loop, from 0; None where unknown.
        life: which life of the killed run, from 1; None where unknown.
        resumed_from: step of the snapshot that life went on from; 0 where it began from nothing.
        first_of_life: whether it is at the first step of that life.
        equal: what was still equal there, in causal order.
        suspects: most suspicious first.
        left: parameters whose gradients, in the undisturbed run alone, were added to what the step before had left.
    """

    aspect: Aspect
    what: tuple[str, ...]
    details: tuple[tuple[str, str, str], ...] = ()
    step: int | None = None
    epoch: int | None = None
    batch: int | None = None
    life: int | None = None
    resumed_from: int = 0
    first_of_life: bool = False
    equal: tuple[str, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    left: tuple[str, ...] = ()


def first_difference(straight: Life, lives: Sequence[Life]) -> Difference | None:
    """Return the first event of the surviving course that differs from the undisturbed run; None where none does."""
    surviving = _surviving(lives)
    delivered: list[str] = []  # what was equal at the last delivery
    for at, event in enumerate(straight.events):
        if _key(event) not in surviving:
            continue
        life_at, there = surviving[_key(event)]
        life = lives[life_at]
        found, equal = _compare(event, life.events[there])
        if isinstance(event, BatchEvent):
            delivered = []
        if found is None:
            delivered = equal if isinstance(event, BatchEvent) else []
            continue
        aspect, what, details = found
        step = event.step if isinstance(event, StepEvent) else _step_after(straight, at)
        where = event.batch if isinstance(event, StepEvent) else (event.epoch, event.loop, event.position)
        return Difference(
            aspect,
            what,
            details,
            step=step,
            epoch=event.epoch,
            batch=where[2] if where else None,
            life=life_at + 1,
            resumed_from=_base_of(life, there),
            first_of_life=not any(isinstance(before, StepEvent) for before in life.events[:there]),
            equal=() if aspect == "batch" else (*delivered, *equal),
            suspects=_suspects(straight, lives, at, life_at, there),
            left=_left(event, life.events[there]) if aspect == "gradients" else (),
        )
    return None


def suspects_at_step(straight: Life, lives: Sequence[Life], step: int) -> tuple[Suspect, ...]:
    """Return the names that differ just after the last step up to `step` in the surviving course."""
    surviving = _surviving(lives)
    for at in range(len(straight.events) - 1, -1, -1):
        event = straight.events[at]
        if isinstance(event, StepEvent) and event.step <= step and _key(event) in surviving:
            life_at, there = surviving[_key(event)]
            names = _differing(_names_at(straight, at), _names_at(lives[life_at], there))
            wandering, _ = _habits(straight, lives)
            return _ranked([suspect for suspect in names if _full(suspect) not in wandering], Counter())
    return ()


def left_behind(straight: Life, lives: Sequence[Life]) -> tuple[Suspect, ...]:
    """Return objects with a state of their own (schedules, averages, generators) that ended differently, untracked."""
    last = max((event.step for event in straight.steps), default=0)
    return tuple(suspect for suspect in suspects_at_step(straight, lives, last) if " #" in suspect.killed)


def _key(event: Event) -> _Key:
    if isinstance(event, StepEvent):
        return ("step", event.step, "", 0)
    return ("batch", event.epoch, event.loop, event.position)


def _surviving(lives: Sequence[Life]) -> dict[_Key, tuple[int, int]]:
    """Return for each event (life, index) of the last life that did it."""
    found: dict[_Key, tuple[int, int]] = {}
    for life_at, life in enumerate(lives):
        for at, event in enumerate(life.events):
            found[_key(event)] = (life_at, at)
    return found


def _base_of(life: Life, at: int) -> int:
    """Steps done before this life's first step; from an event's own words where it never made one."""
    if life.resumed_from is not None:
        return life.resumed_from
    event = life.events[at]
    return (event.after_step or 0) if isinstance(event, BatchEvent) else event.step - 1


def _step_after(life: Life, at: int) -> int | None:
    return next((event.step for event in life.events[at:] if isinstance(event, StepEvent)), None)


_Found = tuple[Aspect, tuple[str, ...], tuple[tuple[str, str, str], ...]]


def _compare(straight: Event, killed: Event) -> tuple[_Found | None, list[str]]:
    """Return the first question answered with "no", and what was equal before it."""
    questions = _questions_of_step if isinstance(straight, StepEvent) else _questions_of_batch
    equal: list[str] = []
    for aspect, label, one, other in questions(straight, killed):  # type: ignore[arg-type] # the key names the kind
        details = _details(one, other)
        if details:
            what = tuple(dict.fromkeys(part for part, _, _, _ in details))
            return (aspect, what, tuple((leaf, a, b) for _, leaf, a, b in details[:3])), equal
        if label:
            equal.append(label)
    return None, equal


_Parts = Mapping[str, Mapping[str, str]]
_Question = tuple[Aspect, str, _Parts, _Parts]


def _questions_of_batch(one: BatchEvent, other: BatchEvent) -> Iterator[_Question]:
    if one.order is not None and other.order is not None:
        yield "order", "the order of samples", {"": {"order": one.order}}, {"": {"order": other.order}}
    yield "sample", "the samples", {"": one.sample}, {"": other.sample}
    yield "generator", "the generators", {"": one.generators}, {"": other.generators}
    if one.state is not None and other.state is not None:
        yield "state before", "all tracked state before that step", one.state, other.state


def _questions_of_step(one: StepEvent, other: StepEvent) -> Iterator[_Question]:
    if one.batch is not None and other.batch is not None:
        yield "batch", "", {"": {"batch": repr(one.batch)}}, {"": {"batch": repr(other.batch)}}
    for what in ("gradients", "settings"):
        aspect: Aspect = "gradients" if what == "gradients" else "settings"
        mine = {f"{name}: {what}": parts.get(what, {}) for name, parts in one.update.items()}
        theirs = {f"{name}: {what}": parts.get(what, {}) for name, parts in other.update.items()}
        if mine or theirs:
            yield aspect, "the gradients" if what == "gradients" else "the optimizer's settings", mine, theirs
    parts = [part for part in {**one.state, **other.state} if one.state.get(part) or other.state.get(part)]
    for part in sorted(parts, key=_cause_order):
        mine = {part: one.state[part]} if part in one.state else {}
        theirs = {part: other.state[part]} if part in other.state else {}
        yield "state after", f"{_words_of_part(part)} after the step", mine, theirs


def _cause_order(part: str) -> int:
    kinds = ("parameters", "buffers", "extra state", "settings", "state")
    kind = part.rpartition(": ")[2]
    return kinds.index(kind) if kind in kinds else len(kinds)


def _words_of_part(part: str) -> str:
    name, _, kind = part.rpartition(": ")
    return f"{kind} of `{name}`"


def _details(one: _Parts, other: _Parts) -> list[tuple[str, str, str, str]]:
    """Return (part, leaf, straight, killed) for each leaf that differs; what is missing on one side is ``-``."""
    found: list[tuple[str, str, str, str]] = []
    for part in dict.fromkeys([*one, *other]):
        mine, theirs = one.get(part, {}), other.get(part, {})
        if mine is not theirs and mine != theirs:
            both = ((leaf, mine.get(leaf, "-"), theirs.get(leaf, "-")) for leaf in dict.fromkeys([*mine, *theirs]))
            found.extend((part, leaf, a, b) for leaf, a, b in both if a != b)
    return found


def _left(straight: Event, killed: Event) -> tuple[str, ...]:
    """Return the parameters that met gradients of the step before, and did not in the killed run."""
    one, other = (
        {name for parts in event.update.values() for name in parts.get("left", {})}
        if isinstance(event, StepEvent)
        else set()
        for event in (straight, killed)
    )
    return tuple(sorted(one - other))


# ---- names


def _names_at(life: Life, at: int) -> dict[str, str]:
    for index, names in enumerate(life.names()):
        if index == at:
            return dict(names)
    return {}


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[Suspect]:
    found = []
    for full, value in one.items():
        if full in other and other[full] != value:
            name, _, place = full.rpartition(" in ")
            found.append(Suspect(name, place, value, other[full]))
    return found


def _full(suspect: Suspect) -> str:
    return f"{suspect.name} in {suspect.place}"


def _suspects(straight: Life, lives: Sequence[Life], at: int, life_at: int, there: int) -> tuple[Suspect, ...]:
    """Names that differed when the batch before the difference was delivered (or, without batches, right there)."""
    before_at, before_there = _delivery(straight, at), _delivery(lives[life_at], there)
    names = _differing(_names_at(straight, before_at), _names_at(lives[life_at], before_there))
    wandering, harmless = _habits(straight, lives)
    return _ranked([suspect for suspect in names if _full(suspect) not in wandering], harmless)


def _delivery(life: Life, at: int) -> int:
    for index in range(at, -1, -1):
        if isinstance(life.events[index], BatchEvent):
            return index
    return at


def _habits(straight: Life, lives: Sequence[Life]) -> tuple[set[str], Counter[str]]:
    """Return the names that differ between lives that both began from nothing, and how often a name did no harm.

    A name did no harm where it differed at a delivery, and the next step came out equal. Each life is looked at up to
    its own first difference.
    """
    wandering: set[str] = set()
    harmless: Counter[str] = Counter()
    index_of = {_key(event): at for at, event in enumerate(straight.events)}
    for life in lives:
        fresh = life.resumed_from == 0
        course = straight.names()
        reached, names = -1, {}
        differing: set[str] = set()
        for event, around in zip(life.events, life.names(), strict=True):
            at = index_of.get(_key(event))
            if at is None:
                continue
            if at < reached or _compare(straight.events[at], event)[0] is not None:
                break
            while reached < at:
                names = next(course)
                reached += 1
            now = {name for name, value in names.items() if name in around and around[name] != value}
            if fresh:
                wandering |= now
            if isinstance(event, StepEvent):
                harmless.update(differing)
            else:
                differing = now
    return wandering, harmless


def _ranked(suspects: Sequence[Suspect], harmless: Mapping[str, int]) -> tuple[Suspect, ...]:
    def order(suspect: Suspect) -> tuple[bool, bool, int, int]:
        stateful = " #" in suspect.killed
        depth = suspect.name.count(".") + suspect.name.count("[")
        return (harmless.get(_full(suspect), 0) > 0, not stateful, depth, len(suspect.name))

    found: list[Suspect] = []
    for suspect in sorted(suspects, key=order):
        same = (suspect.straight, suspect.killed)
        if not any((other.straight, other.killed) == same and other.name in suspect.name for other in found):
            found.append(suspect)
    return tuple(found[:_MOST_SUSPECTS])
