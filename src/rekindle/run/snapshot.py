"""What is tracked, as files of a snapshot; and back into the same objects, in place.

`capture` copies: when it returns, training may go on changing tensors while `rekindle.store.commit` writes the copies.
`read` opens a committed snapshot and gives what the run kept for itself; `restore` checks that everything fits before
it changes anything, and then puts it back: modules first, then optimizers, schedulers and other objects, random
generators last.

Law: the same bits, or an error that names what differs. Every file is read whole and compared with the manifest's
SHA-256 in the very bytes that are used. No pickle, no `torch.load`: tensors are ranges of safetensors files, the rest
is strict JSON.

What torch does silently, and this file does not: `Optimizer.load_state_dict` casts state to the type of the parameter
(float32 moments of bfloat16 parameters come back as bfloat16; torch 2.13 `optim/optimizer.py`), matches parameters by
position, and takes over settings without a word; `Module.load_state_dict` casts to the live type; buffers that are not
persistent are in no state dict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from rekindle.errors import SnapshotDamaged, StateMismatch
from rekindle.keys import near_names
from rekindle.run.capture import STATE_TENSORS, Shelf, bytes_writer, capture_all, sample_of, tensor_writer
from rekindle.run.host_tensors import all_finite, new_host_buffer, touch, view_of
from rekindle.run.restore import plan
from rekindle.run.snapshot_files import SnapshotFiles, damaged, or_damaged
from rekindle.run.tracked import kind_of_tracked, names_of_parameters
from rekindle.store.layout import STATE_NAME
from rekindle.store.manifest import Manifest, read_manifest
from rekindle.store.plain import decode, encode
from rekindle.store.state import State, decode_state, encode_state
from rekindle.writers import Out
from rekindle.writers.safetensors import NamedTensor

__all__ = [
    "Captured",
    "Restored",
    "Saved",
    "capture",
    "kind_of_tracked",
    "make_buffers",
    "read",
    "restore",
    "wanted_buffers",
]


@dataclass(frozen=True, slots=True)
class Captured:
    """A copy of everything that is tracked, ready for `rekindle.store.commit.commit`.

    Attributes:
        files: name -> what writes it; may be called from other threads, and again.
        size_bytes: bytes of all files, nearly; for the check of the room.
        notes: what the snapshot cannot hold although training depends on it, one line each.
        frozen: names of files that hold nothing that is trained.
        buffers: (file, key) -> host tensor; hand the whole value to the next `capture` to use them again.
        parameters: (name, host tensor) of what ought to be finite.
        tensors: name -> tensors of a file.
        copied: events of the devices that were told to copy; `wait` before a buffer is looked at.
        layout: SHA-256 of what says where the parts of sharded tensors lie, the same in every process that does not
            disagree; empty where nothing is sharded.
    """

    files: Mapping[str, Callable[[Out], None]]
    size_bytes: int
    notes: tuple[str, ...]
    frozen: frozenset[str]
    buffers: Mapping[tuple[str, str], torch.Tensor] = field(repr=False)
    parameters: Sequence[tuple[str, torch.Tensor]] = field(repr=False)
    tensors: Mapping[str, Sequence[NamedTensor]] = field(repr=False)
    copied: Sequence[torch.cuda.Event] = field(repr=False)
    layout: str = ""

    def wait(self) -> None:
        """Wait until every device has copied; on the CPU it has."""
        for event in self.copied:
            event.synchronize()

    def not_finite(self) -> str | None:
        """Return the first parameter of a module that holds NaN or infinity, such as ``model.0.weight``."""
        return next((name for name, copy in self.parameters if not all_finite(copy)), None)

    def samples(self) -> dict[str, int]:
        """Return name -> CRC-32 over a little of each tensor, for the files that hold tensors."""
        return {name: sample_of(tensors) for name, tensors in self.tensors.items() if tensors}


@dataclass(frozen=True, slots=True)
class Saved:
    """A committed snapshot, opened for restoring.

    Attributes:
        path: its folder.
        step: optimizer updates done when it was taken.
        extra: what the run kept for itself, as it was given to `capture`.
        manifest: sizes, digests and facts.
        state: entries of what was tracked, by name.
    """

    path: str
    step: int
    extra: Mapping[str, object]
    manifest: Manifest
    state: State

    @property
    def names(self) -> tuple[str, ...]:
        """Names that were tracked, in that order."""
        return tuple(self.state.tracked)


@dataclass(frozen=True, slots=True)
class Restored:
    """What `restore` did.

    Attributes:
        extra: as in `Saved`.
        notes: differences that were allowed, one line each; say them.
    """

    extra: Mapping[str, object]
    notes: tuple[str, ...]


def wanted_buffers(
    tracked: Mapping[str, object], *, ranks: tuple[int, int] | None = None
) -> dict[tuple[str, str], torch.Tensor]:
    """Return (file, key) -> tensor of all that `capture` would copy now.

    Raises:
        StateMismatch: as `capture`.
    """
    shelf = Shelf({}, copies=False, ranks=ranks)
    capture_all(tracked, shelf)
    return shelf.wanted or {}


def make_buffers(wanted: Mapping[tuple[str, str], torch.Tensor]) -> dict[tuple[str, str], torch.Tensor]:
    """Return memory for these tensors that is really there; the first copy into it is then as fast as any other."""
    found = {}
    for place, tensor in wanted.items():
        found[place] = new_host_buffer(tensor)
        touch(found[place])
    return found


def capture(
    tracked: Mapping[str, object],
    extra: Mapping[str, object],
    *,
    reuse: Captured | None = None,
    spare: Mapping[tuple[str, str], torch.Tensor] | None = None,
    ranks: tuple[int, int] | None = None,
) -> Captured:
    """Copy the state of everything that is tracked to host memory.

    What a CUDA device holds is copied in the order of its current stream: nothing that is ordered there later can
    change it, and the process goes on meanwhile. `Captured.wait` waits for it, in whatever thread writes.

    Args:
        tracked: name -> module, optimizer, object with a state dict, dict of plain values and tensors, tensor, or
            random generator of torch, NumPy or Python.
        extra: plain values and tensors that the run keeps for itself.
        reuse: an earlier capture that is written; its buffers are filled again instead of making new ones.
        spare: buffers from `make_buffers`, where there is no earlier capture.
        ranks: (rank, processes) where a part of it is sharded: each process captures its own parts, and rank 0
            everything else too. All have to call it.

    Raises:
        StateMismatch: something cannot be saved; named by its path, such as ``scheduler['lr_lambdas'][0]``.
    """
    shelf = Shelf(dict(spare or {}) if reuse is None else dict(reuse.buffers), ranks=ranks)
    entries, notes = capture_all(tracked, shelf)
    kept = encode(dict(extra), ("run",), shelf.leaf(STATE_TENSORS))
    shelf.finish_copies()
    state = encode_state(State(entries, kept))
    shards = shelf.finish_shards()
    writers: dict[str, Callable[[Out], None]] = {file: tensor_writer(tensors) for file, tensors in shelf.files.items()}
    writers |= {file: bytes_writer(data) for file, data in shelf.small.items()}
    if shelf.leads:
        writers[STATE_NAME] = bytes_writer(state)
    header_bytes = sum(len(key) + 160 for _, key in shelf.buffers)
    size = sum(tensor.nbytes for tensor in shelf.buffers.values()) + len(state) + header_bytes
    size += sum(map(len, shelf.small.values())) + shelf.sharded_bytes  # rank 0 looks for room for all
    return Captured(
        writers,
        size,
        tuple(notes),
        frozenset(shelf.frozen),
        shelf.buffers,
        shelf.parameters,
        shelf.files,
        tuple(map(_event_on, shelf.devices)),
        hashlib.sha256(shards).hexdigest() if shards else "",
    )


def _event_on(device: torch.device) -> torch.cuda.Event:
    """Return an event that comes when all that was ordered on a device's current stream is done."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch gives it no types
    event.record(torch.cuda.current_stream(device))
    return event


def read(snapshot_path: str) -> Saved:
    """Open a committed snapshot: its manifest, its entries, and what the run kept for itself.

    Raises:
        SnapshotDamaged: its manifest does not vouch for these bytes, or they are not a state.
        OSError: it cannot be read.
    """
    try:
        manifest = read_manifest(snapshot_path)
    except SnapshotDamaged as error:
        raise damaged(snapshot_path, error.what) from None
    files = SnapshotFiles(snapshot_path, manifest)
    state = or_damaged(snapshot_path, lambda: decode_state(bytes(view_of(files.bytes_of(STATE_NAME)))))
    extra = or_damaged(snapshot_path, lambda: decode(state.extra, files.make))
    if not isinstance(extra, dict):
        raise damaged(snapshot_path, "state.json holds no values of the run")
    return Saved(snapshot_path, manifest.step, extra, manifest, state)


def restore(
    saved: Saved | str, tracked: Mapping[str, object], *, context: Mapping[str, object] | None = None
) -> Restored:
    """Put a snapshot back into the objects, in place.

    Everything is read and checked first; nothing is changed when something does not fit.

    Args:
        saved: from `read`, or the path of a snapshot.
        tracked: name -> object; names that the snapshot has and `tracked` lacks are left alone.
        context: everything that is tracked so far, where `tracked` is only a part of it: an optimizer finds the names
            of its parameters there.

    Returns:
        What the run kept for itself, and notes on differences that were allowed.

    Raises:
        StateMismatch: a name, key, shape, type, class or parameter group does not fit; with a table of what differs.
        SnapshotDamaged: the bytes are not those that were saved.
    """
    opened = read(saved) if isinstance(saved, str) else saved
    files = SnapshotFiles(opened.path, opened.manifest)
    _check_tracked(opened, tracked)
    names = names_of_parameters({**(context or {}), **tracked})
    plans = []
    for name, value in tracked.items():
        entry = opened.state.tracked[name]
        plans.append(or_damaged(opened.path, partial(plan, name, value, entry, files, names)))
    notes: list[str] = []
    for planned in sorted(plans, key=lambda planned: planned.rank):
        notes += planned.apply()
    return Restored(opened.extra, tuple(notes))


def _check_tracked(saved: Saved, tracked: Mapping[str, object]) -> None:
    missing = [name for name in tracked if name not in saved.state.tracked]
    if missing:
        there = ", ".join(saved.names) or "nothing"
        near = near_names(missing[0], [name for name in saved.names if name not in tracked], 1)
        raise StateMismatch(
            f"{', '.join(missing)}: tracked now, and not in the snapshot of step {saved.step}",
            why=f"it holds {there}",
            do=f"track it under the name it had: {near[0]}={missing[0]}"
            if near
            else "track what was tracked when the run began, or begin a new run in another folder",
        )
