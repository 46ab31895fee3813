"""What `rekindle prove` records while a run trains, and how it is read back: one JSON line per event.

Each life of a run (one process, from its start to its end or its death) has a file of its own. Two events follow each
other: a *batch* is delivered (which samples, what is in them, the global generators, the tracked state, and what lies
around: see `surroundings`), and a *step* was counted (gradients as the optimizer met them, the tracked state after
it, and again what lies around). Saves that were promised are events as well. Only what changed since the last event
is written. A line is one `write` to a file opened for appending, so a killed process leaves whole lines and at most
one torn at the end, which reading forgets.

Law: recording never changes the run: nothing is drawn, nothing the training uses is moved or changed, and a fault in
here is itself an event, never an exception in the user's loop.
"""

from __future__ import annotations

import json
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

__all__ = ["EVIDENCE_VARIABLE", "BatchEvent", "Life", "Recorder", "StepEvent", "read_life", "recorder_from_environment"]

EVIDENCE_VARIABLE = "REKINDLE_EVIDENCE"

_SAMPLE_PARTS = 16
_LEAVES = 4096  # beyond this many tensors in one part, one fingerprint stands for all of them


def recorder_from_environment() -> Recorder | None:
    """Return a recorder into the file that `REKINDLE_EVIDENCE` names; None where it names none."""
    path = os.environ.get(EVIDENCE_VARIABLE)
    return Recorder(path) if path else None


class Recorder:
    """Writes the events of one life. Holds the file open until the process ends.

    Args:
        path: the file; made if it is not there, appended to if it is.
    """

    def __init__(self, path: str) -> None:
        """Open the file and note that a life has begun."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        self._fd = os.open(path, flags, 0o644)
        self._pid = os.getpid()
        self._last: dict[str, dict[str, Any]] = {"state": {}, "names": {}}
        self._labels: dict[str, list[str]] = {}
        self._updates: dict[str, dict[str, dict[str, str]]] = {}
        self._hooked: dict[int, object] = {}  # keeps them alive, so that an id is never used twice
        self._left: dict[int, weakref.ref[Any]] = {}  # id of a parameter -> its gradient when the batch was delivered
        self._write({"event": "life", "pid": self._pid})

    def batch(
        self,
        epoch: int,
        loop: int | tuple[int, ...],
        position: int,
        indices: Any,
        batch: object,
        tracked: Mapping[str, object] | None = None,
    ) -> None:
        """Note that a batch is being delivered; call it after the global generators were reseeded for it.

        Args:
            epoch: from 0.
            loop: which loop of the epoch, from 0; the path of a loop inside another one.
            position: batches of this loop delivered before it.
            indices: the samples' indices, None where they are not known.
            batch: what the loop's body gets.
            tracked: name -> object; None where it is not known here.
        """
        self._guarded(lambda: self._batch(epoch, loop, position, indices, batch, tracked))

    def step(self, steps_done: int, epoch: int, tracked: Mapping[str, object], frame: FrameType | None) -> None:
        """Note that an optimizer update was counted.

        Args:
            steps_done: after counting.
            epoch: from 0.
            tracked: name -> object.
            frame: who called `run.step()`.
        """
        self._guarded(lambda: self._step(steps_done, epoch, tracked, frame))

    def saved(self, steps_done: int) -> None:
        """Note that the snapshot after this many steps was promised: it is on disk, whatever happens now."""
        self._guarded(lambda: self._write({"event": "saved", "step": steps_done}))

    def _batch(
        self,
        epoch: int,
        loop: int | tuple[int, ...],
        position: int,
        indices: Any,
        batch: object,
        tracked: Mapping[str, object] | None,
    ) -> None:
        from rekindle.run.digests import generator_states, mark  # noqa: PLC0415 - readers of evidence need none of it
        from rekindle.run.surroundings import caller_frame, scan  # noqa: PLC0415 - as above

        event: dict[str, Any] = {"event": "batch", "epoch": epoch, "position": position}
        event["loop"] = ".".join(map(str, loop)) if isinstance(loop, tuple) else str(loop)
        event["order"] = None if indices is None else mark([int(index) for index in indices])
        event["sample"] = _sample(batch)
        event["generators"] = generator_states()
        if tracked is not None:
            self._watch(tracked)
            self._left = _gradients_left(tracked)
            event["state"] = self._changed("state", self._state(tracked))
        around = scan(caller_frame(sys._getframe(1)), tracked or {})  # noqa: SLF001 - the way to the user's frame
        event["names"] = self._changed("names", around)
        self._write(event)

    def _step(self, steps_done: int, epoch: int, tracked: Mapping[str, object], frame: FrameType | None) -> None:
        from rekindle.run.surroundings import caller_frame, scan  # noqa: PLC0415 - readers of evidence need none of it

        self._watch(tracked)
        event: dict[str, Any] = {"event": "step", "step": steps_done, "epoch": epoch}
        event["update"], self._updates = self._updates, {}
        event["state"] = self._changed("state", self._state(tracked))
        event["names"] = self._changed("names", scan(caller_frame(frame), tracked))
        self._write(event)

    def _state(self, tracked: Mapping[str, object]) -> dict[str, Any]:
        from rekindle.run.digests import parts_of  # noqa: PLC0415 - readers of evidence need none of it

        found: dict[str, Any] = {}
        for name, value in tracked.items():
            for part, leaves in parts_of(value).items():
                found[f"{name}: {part}"] = _bounded(leaves)
        return found

    def _watch(self, tracked: Mapping[str, object]) -> None:
        """Have each tracked optimizer show its gradients and settings whenever it is about to update."""
        torch = sys.modules.get("torch")
        for name, value in tracked.items():
            if torch is not None and isinstance(value, torch.optim.Optimizer) and id(value) not in self._hooked:
                self._hooked[id(value)] = value
                value.register_step_pre_hook(self._hook(name, tracked))

    def _hook(self, name: str, tracked: Mapping[str, object]) -> Callable[..., None]:
        def before_update(optimizer: Any, _args: object, _kwargs: object) -> None:
            self._guarded(lambda: self._note_update(name, optimizer, tracked))

        return before_update  # a function: copying an optimizer copies its hooks, and must not copy the recorder

    def _note_update(self, name: str, optimizer: Any, tracked: Mapping[str, object]) -> None:
        from rekindle.run.digests import crc_of_tensor, leaves  # noqa: PLC0415 - readers of evidence need none of it

        names = _parameter_names(tracked)
        gradients: dict[str, str] = {}
        settings: dict[str, str] = {}
        left: dict[str, str] = {}
        for at, group in enumerate(optimizer.param_groups):
            for index, parameter in enumerate(group["params"]):
                label = names.get(id(parameter), f"group {at}, parameter {index}")
                gradients[label] = "none" if parameter.grad is None else crc_of_tensor(parameter.grad)
                before = self._left.get(id(parameter))
                # Cleared ones are other objects by now; backward adds to one that is still there in place.
                if before is not None and parameter.grad is not None and before() is parameter.grad:
                    left[label] = gradients[label]
            prefix = "" if len(optimizer.param_groups) == 1 else f"group {at} "
            settings.update((prefix + k, text) for k, v in group.items() if k != "params" for _, text in leaves(v))
        count = sum(key == name or key.startswith(f"{name} #") for key in self._updates)
        key = name if not count else f"{name} #{count + 1}"
        self._updates[key] = {"gradients": _bounded(gradients), "settings": settings}
        if left:
            self._updates[key]["left"] = _bounded(left)

    def _changed(self, what: str, now: dict[str, Any]) -> dict[str, Any]:
        """Return what differs from the last event; a name that is gone has the value None."""
        last, self._last[what] = self._last[what], now
        changed = {key: value for key, value in now.items() if last.get(key) != value}
        return {**changed, **{key: None for key in last if key not in now}}

    def _guarded(self, work: Callable[[], None]) -> None:
        if os.getpid() != self._pid:  # a forked worker is not this life
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a fault of the witness must not become a fault of the run
            self._write({"event": "trouble", "what": f"{type(error).__name__}: {error}"})

    def _write(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]


def _sample(batch: object) -> dict[str, str]:
    from rekindle.run.digests import leaves  # noqa: PLC0415 - readers of evidence need none of it

    return _bounded(dict(leaves(batch)), _SAMPLE_PARTS)


def _bounded(leaves: dict[str, str], most: int = _LEAVES) -> dict[str, str]:
    from rekindle.run.digests import mark  # noqa: PLC0415 - readers of evidence need none of it

    return leaves if len(leaves) <= most else {f"{len(leaves):,} values": mark(leaves)}


def _gradients_left(tracked: Mapping[str, object]) -> dict[int, weakref.ref[Any]]:
    """Return the gradients that are there before a step, by their parameters' ids; nothing is kept alive."""
    torch = sys.modules.get("torch")
    modules = [value for value in tracked.values() if torch is not None and isinstance(value, torch.nn.Module)]
    parameters = (one for module in modules for one in module.parameters())
    return {id(one): weakref.ref(one.grad) for one in parameters if one.grad is not None}


def _parameter_names(tracked: Mapping[str, object]) -> dict[int, str]:
    torch = sys.modules.get("torch")
    names: dict[int, str] = {}
    for owner, value in tracked.items():
        if torch is not None and isinstance(value, torch.nn.Module):
            for name, parameter in torch.nn.Module.named_parameters(value):
                names.setdefault(id(parameter), f"{owner}.{name}")
    return names


# ---- reading


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """A batch was delivered.

    Attributes:
        epoch, position: from 0.
        loop: ``0`` for the first loop of an epoch.
        after_step: steps counted before it, as far as this life knows; None before its first step.
        order: fingerprint of the samples' indices; None where they are unknown.
        sample: path in the batch -> fingerprint.
        generators: name -> fingerprint.
        state: ``object: part`` -> leaf -> fingerprint or text; None where it was not recorded.
        changed_names: ``name in place`` -> text; None for a name that is gone.
    """

    epoch: int
    loop: str
    position: int
    after_step: int | None
    order: str | None
    sample: Mapping[str, str]
    generators: Mapping[str, str]
    state: Mapping[str, Mapping[str, str]] | None
    changed_names: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class StepEvent:
    """An optimizer update was counted.

    Attributes:
        step: steps done.
        epoch: from 0.
        batch: where the last batch before it lay (epoch, loop, position); None where none was seen.
        update: optimizer -> ``gradients`` and ``settings`` as it met them, and ``left``: those of the gradients that
            were added to what was there when the batch was delivered.
        state: as in `BatchEvent`, after the step.
        changed_names: as in `BatchEvent`.
    """

    step: int
    epoch: int
    batch: tuple[int, str, int] | None
    update: Mapping[str, Mapping[str, Mapping[str, str]]]
    state: Mapping[str, Mapping[str, str]]
    changed_names: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a run.

    Attributes:
        began: whether it came as far as making its `Run`.
        events: in order.
        promised: steps of the snapshots it promised, in order.
        troubles: what the recorder could not do.
    """

    began: bool = False
    events: tuple[BatchEvent | StepEvent, ...] = ()
    promised: tuple[int, ...] = ()
    troubles: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[StepEvent, ...]:
        """The counted updates, in order."""
        return tuple(event for event in self.events if isinstance(event, StepEvent))

    @property
    def resumed_from(self) -> int | None:
        """Steps that were done before its first one; None where it made no step."""
        return next((event.step - 1 for event in self.events if isinstance(event, StepEvent)), None)

    def names(self) -> Iterator[dict[str, str]]:
        """Yield, beside each event, all that lay around it: ``name in place`` -> text. One dict, changed in place."""
        now: dict[str, str] = {}
        for event in self.events:
            for name, text in event.changed_names.items():
                if text is None:
                    now.pop(name, None)
                else:
                    now[name] = text
            yield now


@dataclass(slots=True)
class _Reading:
    began: bool = False
    events: list[BatchEvent | StepEvent] = field(default_factory=list)
    promised: list[int] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    state: dict[str, Mapping[str, str]] = field(default_factory=dict)
    batch: tuple[int, str, int] | None = None
    step: int | None = None


def read_life(path: str) -> Life:
    """Read the evidence of one life.

    A file that is not there is a life that never began; a line torn by a kill, and all after it, is left out.
    """
    reading = _Reading()
    try:
        with open(path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    _take(reading, json.loads(line))
                except (ValueError, KeyError, TypeError):
                    break
    except FileNotFoundError:
        return Life()
    return Life(reading.began, tuple(reading.events), tuple(reading.promised), tuple(reading.troubles))


def _take(reading: _Reading, event: Mapping[str, Any]) -> None:
    kind = event["event"]
    if kind == "life":
        reading.began = True
    elif kind == "saved":
        reading.promised.append(event["step"])
    elif kind == "trouble":
        reading.troubles.append(event["what"])
    elif kind == "batch":
        reading.batch = (event["epoch"], event["loop"], event["position"])
        state = _applied(reading, event["state"]) if "state" in event else None
        reading.events.append(
            BatchEvent(
                *reading.batch,
                reading.step,
                order=event["order"],
                sample=event["sample"],
                generators=event["generators"],
                state=state,
                changed_names=event["names"],
            )
        )
    elif kind == "step":
        reading.step = event["step"]
        state = _applied(reading, event["state"])
        step = StepEvent(event["step"], event["epoch"], reading.batch, event["update"], state, event["names"])
        reading.events.append(step)


def _applied(reading: _Reading, changed: Mapping[str, Mapping[str, str] | None]) -> Mapping[str, Mapping[str, str]]:
    if changed:
        whole = {**reading.state, **{key: value for key, value in changed.items() if value is not None}}
        reading.state = {key: value for key, value in whole.items() if changed.get(key, value) is not None}
    return reading.state
