"""Putting a snapshot back: read, compare, and only then change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rekindle.errors import StateMismatch, UnreadableFile
from rekindle.keys import near_names
from rekindle.run.host_tensors import alike, copy_bits, expanded_dims, view_of
from rekindle.run.sharded import local_of
from rekindle.run.snapshot_files import SnapshotFiles
from rekindle.run.tracked import canonical_keys, class_name, kind_of_tracked, non_persistent_buffers, place_of
from rekindle.store.plain import decode
from rekindle.store.state import Entry, ModuleEntry, ObjectEntry, OptimizerEntry, OptimizerGroup

__all__ = ["Plan", "plan"]

_SHOWN = 8  # lines of a table of differences


@dataclass(frozen=True, slots=True)
class Plan:
    """A restore that was checked and only needs to be done; `apply` returns notes."""

    rank: int
    apply: Callable[[], list[str]]


def plan(name: str, value: Any, entry: Entry, files: SnapshotFiles, names: Mapping[int, Sequence[str]]) -> Plan:
    """Check that an entry fits an object, and return what will put it there.

    Args:
        name: what it is tracked under.
        value: the object, unchanged until the plan is applied.
        entry: what was saved under this name.
        files: of the snapshot.
        names: id of a parameter -> its full names.

    Raises:
        StateMismatch: it does not fit.
        UnreadableFile: the entry is not what a capture writes.
    """
    kind = kind_of_tracked(value)
    if isinstance(value, torch.nn.Module) and isinstance(entry, ModuleEntry):
        return _plan_module(name, value, entry, files)
    if isinstance(value, torch.optim.Optimizer) and isinstance(entry, OptimizerEntry):
        return _plan_optimizer(name, value, entry, files, names)
    if isinstance(entry, ObjectEntry) and entry.kind == kind:
        return _plan_object(name, value, entry, files)
    saved = (
        entry.kind if isinstance(entry, ObjectEntry) else "module" if isinstance(entry, ModuleEntry) else "optimizer"
    )
    raise StateMismatch(
        f"{name}: the snapshot holds a {saved} ({entry.class_name}), tracked now is a {class_name(value)}",
        do="track the same kind of object under this name",
    )


def _same_class(name: str, value: object, entry: OptimizerEntry | ObjectEntry) -> None:
    # The module differs between a script and an import of it; the class's own name does not.
    if type(value).__qualname__ != entry.class_name.rpartition(".")[2] and not entry.class_name.endswith(
        f".{type(value).__qualname__}"
    ):
        raise StateMismatch(
            f"{name}: saved by {entry.class_name}, tracked now is {class_name(value)}",
            why="the state of one means nothing to the other",
            do="use the class that the run began with, or begin a new run in another folder",
        )


def _plan_module(name: str, module: torch.nn.Module, entry: ModuleEntry, files: SnapshotFiles) -> Plan:
    live = module.state_dict()
    plain = canonical_keys(list(live))
    in_file = set(files.keys(entry.file))
    absent = [key for key in entry.keys if key not in in_file and key not in entry.elsewhere]
    if absent:
        raise UnreadableFile(f"{entry.file} has no tensor {ascii(absent[0])[:80]}")
    wanted: dict[str, object] = {}
    mine = {plain[key]: value for key, value in live.items()}
    for key in entry.keys:
        like = mine.get(key)
        wanted[key] = (
            decode(entry.elsewhere[key], files.make_like(like))
            if key in entry.elsewhere
            else files.tensor(entry.file, key, like)
        )
    _check_keys(name, mine, wanted)
    _check_ties(name, mine, wanted)
    buffers = non_persistent_buffers(module)
    plain_buffer = canonical_keys(list(buffers))
    extras = {key: decode(value, files.make) for key, value in entry.non_persistent.items()}

    def apply() -> list[str]:
        notes = []
        # Torch cannot write to buffers that are expanded; keys were compared already.
        expanded = {key for key, value in live.items() if isinstance(value, torch.Tensor) and expanded_dims(value)}
        given = {key: wanted[plain[key]] for key in live if key not in expanded}
        try:
            module.load_state_dict(given, strict=not expanded)
            for key in expanded:
                copy_bits(live[key], wanted[plain[key]])
        except Exception as error:  # hooks are the user's code
            raise StateMismatch(
                f"{name}: the module refused its state", why=f"{type(error).__name__}: {error}"
            ) from error
        for key, (owner, attribute, buffer) in buffers.items():
            saved = extras.pop(plain_buffer[key], None)
            if not isinstance(saved, torch.Tensor):
                notes.append(f"{name}.{key}: a buffer that the snapshot does not have; it stays as the script made it")
            elif saved.shape == buffer.shape and saved.dtype == buffer.dtype and saved.layout == buffer.layout:
                copy_bits(buffer, saved)
            else:
                # A cache that grew: it is in no state dict, so nobody relies on its shape.
                owner._buffers[attribute] = saved.to(buffer.device)  # noqa: SLF001 - torch has no public setter that keeps it non-persistent
        notes += [f"{name}.{key}: a buffer of the snapshot that the module has not" for key in extras]
        return notes + _frozen_notes(name, module, entry)

    return Plan(0, apply)


def _check_keys(name: str, live: Mapping[str, object], saved: Mapping[str, object]) -> None:
    """Compare keys, shapes and types; raise with a table of all differences."""
    lines = []
    missing = [key for key in live if key not in saved]
    unexpected = [key for key in saved if key not in live]
    for key in missing:
        near = near_names(key, unexpected, 1)
        hint = f"; nearest there: {near[0]}" if near else ""
        lines.append(f"missing     {key}: {_words(live[key])} in the script, not in the snapshot{hint}")
    lines += [f"unexpected  {key}: {_words(saved[key])} in the snapshot, not in the script" for key in unexpected]
    other = 0
    for key in (key for key in live if key in saved):
        mine, theirs = live[key], saved[key]
        if isinstance(mine, torch.Tensor) != isinstance(theirs, torch.Tensor):
            differs = key.rpartition(".")[2] != "_extra_state"
        elif isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor):
            lazy = torch.nn.parameter.is_lazy(mine)
            differs = not lazy and (mine.shape, mine.dtype, mine.layout) != (theirs.shape, theirs.dtype, theirs.layout)
            differs = differs and key.rpartition(".")[2] != "_extra_state"
        else:
            differs = False
        if differs:
            other += 1
            lines.append(f"other       {key}: {_words(theirs)} in the snapshot, {_words(mine)} in the script")
    if lines:
        raise StateMismatch(
            f"{name}: what was saved does not fit: {len(missing)} missing, {len(unexpected)} unexpected, "
            f"{other} of another shape or type",
            why=_table(lines),
            do="run the script with the model it had, or begin a new run in another folder",
        )


def _check_ties(name: str, live: Mapping[str, object], saved: Mapping[str, object]) -> None:
    """Make sure that keys which are one tensor in the script have one value in the snapshot."""
    first: dict[tuple[object, ...], str] = {}
    for key, value in live.items():
        if not isinstance(value, torch.Tensor) or torch.nn.parameter.is_lazy(value) or value.layout != torch.strided:
            continue
        if not local_of(value).numel() or value.is_meta:
            continue
        other = first.setdefault(place_of(value), key)
        if other != key and not _same_bits(saved[other], saved[key]):
            raise StateMismatch(
                f"{name}: {other} and {key} are one tensor in the script, and have two values in the snapshot",
                why="they were not tied when it was saved",
                do="tie them only after the run is over, or begin a new run in another folder",
            )


def _same_bits(one: object, other: object) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return one == other
    same = one.shape == other.shape and one.dtype == other.dtype
    here, there = local_of(one).contiguous(), local_of(other).contiguous()
    return same and bytes(view_of(here.cpu())) == bytes(view_of(there.cpu()))


def _frozen_notes(name: str, module: torch.nn.Module, entry: ModuleEntry) -> list[str]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    plain = canonical_keys(list(parameters))
    known = set(entry.keys)
    frozen = {plain[key] for key, value in parameters.items() if not value.requires_grad}
    changed = sorted((frozen ^ set(entry.frozen)) & known)
    return [
        f"{name}.{key}: {'frozen now, trained' if key in frozen else 'trained now, frozen'} when it was saved"
        for key in changed[:_SHOWN]
    ]


def _plan_optimizer(
    name: str,
    optimizer: torch.optim.Optimizer,
    entry: OptimizerEntry,
    files: SnapshotFiles,
    names: Mapping[int, Sequence[str]],
) -> Plan:
    _same_class(name, optimizer, entry)
    groups = optimizer.param_groups
    if len(groups) != len(entry.groups):
        raise StateMismatch(
            f"{name}: {len(entry.groups)} parameter groups in the snapshot, {len(groups)} in the script",
            do="make the optimizer with the groups it had",
        )
    packed = optimizer.state_dict()
    other = _as_dict(decode(entry.other, files.make), "the rest of an optimizer")
    states = _as_dict(other.pop("state", {}), "the state of an optimizer")
    settings = []
    exact: list[tuple[torch.Tensor, dict[Any, Any]]] = []
    for number, (saved, live) in enumerate(zip(entry.groups, groups, strict=True)):
        order = _match_parameters(f"{name}, group {number}", saved, live["params"], names)
        mine = packed["param_groups"][number]
        for parameter, index, position in zip(live["params"], mine["params"], order, strict=True):
            if saved.state[position] is not None:
                make = files.make_like(parameter)
                state = _as_dict(decode(saved.state[position], make), "the state of a parameter")
                states[index] = state
                exact.append((parameter, dict(state)))
        kept = _as_dict(decode(saved.settings, files.make), "the settings of a group")
        own_names = {"param_names": mine["param_names"]} if "param_names" in mine else {}
        settings.append({**kept, **own_names, "params": mine["params"]})
    notes = _difference_notes(name, decode(entry.defaults, files.make), optimizer.defaults)

    def apply() -> list[str]:
        before = [dict(group) for group in groups]
        try:
            optimizer.load_state_dict({**other, "state": states, "param_groups": settings})
        except Exception as error:  # the optimizer may be the user's
            raise StateMismatch(
                f"{name}: the optimizer refused its state", why=f"{type(error).__name__}: {error}"
            ) from error
        for parameter, state in exact:
            _undo_casts(optimizer.state[parameter], state, parameter)
        for old, new in zip(before, optimizer.param_groups, strict=True):
            _keep_tensors(old, new)
        return notes

    return Plan(1, apply)


def _as_dict(value: object, what: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise UnreadableFile(f"state.json: {what} is not a dict")
    return dict(value)


def _match_parameters(
    where: str, saved: OptimizerGroup, live: Sequence[torch.Tensor], names: Mapping[int, Sequence[str]]
) -> list[int]:
    """Return, for each live parameter, its position in the saved group: by name, else by position."""
    place = {name: position for position, name in enumerate(saved.params) if name is not None}
    order: list[int | None] = []
    for parameter in live:
        found = [place[name] for name in names.get(id(parameter), ()) if name in place]
        order.append(found[0] if found else None)
    free = [position for position in range(len(saved.params)) if position not in set(order)]
    lines = []
    for index, parameter in enumerate(live):
        if order[index] is not None:
            continue
        mine = names.get(id(parameter), ())
        # A parameter that is known under another name must not take a stranger's place.
        stranger = bool(mine) and index < len(saved.params) and saved.params[index] is not None
        if len(live) == len(saved.params) and index in free and not stranger:
            order[index] = index
            free.remove(index)
        else:
            label = mine[0] if mine else f"parameter {index}"
            lines.append(f"missing     {label}: {list(parameter.shape)} in the script, not in the snapshot")
    lines += [f"unexpected  {saved.params[p] or f'parameter {p}'}: in the snapshot, not in the script" for p in free]
    for parameter, position in zip(live, order, strict=True):
        if position is not None and tuple(parameter.shape) != saved.shapes[position]:
            label = saved.params[position] or f"parameter {position}"
            shapes = f"{list(saved.shapes[position])} in the snapshot, {list(parameter.shape)} in the script"
            lines.append(f"other       {label}: {shapes}")
    if lines:
        raise StateMismatch(
            f"{where}: what was saved does not fit its parameters",
            why=_table(lines),
            do="make the optimizer with the groups and parameters it had, and track the model they belong to with it",
        )
    return [position for position in order if position is not None]


def _undo_casts(live: dict[str, object], saved: Mapping[str, object], parameter: torch.Tensor) -> None:
    """Give tensors back the type that they were saved with, where loading cast them to the parameter's."""
    for key, value in saved.items():
        loaded = live.get(key)
        if not isinstance(value, torch.Tensor) or not isinstance(loaded, torch.Tensor):
            continue
        if loaded.dtype != value.dtype:
            device = parameter.device if loaded.device == parameter.device else loaded.device
            live[key] = value.to(device=device)


def _keep_tensors(old: Mapping[str, object], new: dict[str, object]) -> None:
    """Put the values of tensor settings (a learning rate as a tensor) into the very tensors others may hold."""
    for key, value in new.items():
        mine = old.get(key)
        if mine is not value and alike(mine, value):
            copy_bits(mine, value)
            new[key] = mine


# Settings of schedulers that a script chooses; the rest of a scheduler's state moves as it steps.
_CHOSEN = frozenset(
    {
        *("T_max", "T_0", "T_mult", "eta_min", "step_size", "milestones", "gamma", "total_steps", "total_iters"),
        *("base_lrs", "max_lrs", "start_factor", "end_factor", "power", "factor", "patience", "threshold", "cooldown"),
        *("min_lrs", "mode", "init_scale", "growth_factor", "backoff_factor", "growth_interval"),
    }
)


def _plan_object(name: str, value: Any, entry: ObjectEntry, files: SnapshotFiles) -> Plan:
    if entry.kind in {"object", "random.Random"}:
        _same_class(name, value, entry)
    state: Any = decode(entry.state, files.make)
    match entry.kind:
        case "object":
            return _plan_stateful(name, value, state)
        case "dict":
            content = _as_dict(state, "the content of a dict")
            return Plan(3, lambda: _refill(value, content))
        case "tensor":
            _check_keys(name, {name: value}, {name: state})
            return Plan(0, lambda: _copy_into(value, state))
    return Plan(4, _guarded(name, _generator_setter(name, value, entry.kind, state)))


def _generator_setter(name: str, value: Any, kind: str, state: Any) -> Callable[[], object]:
    """Return what gives a random generator its state, after a look at whether it can be its."""
    if kind == "random.Random":
        return lambda: value.setstate(state)
    fields = _as_dict(state, "the state of a generator")
    if kind == "torch.Generator":
        if str(value.device).partition(":")[0] != str(fields["device"]).partition(":")[0]:
            raise StateMismatch(
                f"{name}: a generator of {fields['device']} was saved, tracked now is one of {value.device}",
                why="generators of different devices draw different numbers",
            )
        return lambda: value.set_state(fields["state"])
    _check_numpy_state(fields)
    if kind == "numpy.RandomState":
        return lambda: value.set_state(fields)
    mine = type(value.bit_generator).__name__
    if fields["bit_generator"] != mine:
        raise StateMismatch(f"{name}: the state of a {fields['bit_generator']} was saved, tracked now is a {mine}")
    return lambda: setattr(value.bit_generator, "state", fields)


def _check_numpy_state(fields: Mapping[str, Any]) -> None:
    """Refuse positions that NumPy would read outside its buffers with: it does not look at them itself."""
    inner = fields.get("state")
    places = [(fields.get("buffer_pos"), 4), (inner.get("pos") if isinstance(inner, dict) else None, 624)]
    for place, last in places:
        if place is not None and not (type(place) is int and 0 <= place <= last):
            raise UnreadableFile("state.json: the state of a generator points outside it")


def _guarded(name: str, work: Callable[[], object]) -> Callable[[], list[str]]:
    """Return a plan's `apply` that turns what a foreign object raises into a `StateMismatch`."""

    def apply() -> list[str]:
        try:
            work()
        except Exception as error:  # it may be the user's code, and the state may be a stranger's
            raise StateMismatch(f"{name}: refused its state", why=f"{type(error).__name__}: {error}") from error
        return []

    return apply


def _plan_stateful(name: str, value: Any, state: Any) -> Plan:
    live = value.state_dict()
    notes = []
    if isinstance(live, dict) and isinstance(state, dict):
        chosen = {key for key in live.keys() & state.keys() if key in _CHOSEN}
        notes = _difference_notes(name, {key: state[key] for key in chosen}, {key: live[key] for key in chosen})

    guarded = _guarded(name, lambda: value.load_state_dict(state))

    # GradScaler after everything that may step a dummy optimizer.
    return Plan(3 if "Scaler" in type(value).__name__ else 2, lambda: [*guarded(), *notes])


def _refill(live: dict[object, object], saved: Mapping[object, object]) -> list[str]:
    """Give a dict the saved content; a tensor that is there already keeps its identity and takes the values."""
    for key in [key for key in live if key not in saved]:
        del live[key]
    for key, value in saved.items():
        mine = live.get(key)
        if alike(mine, value):
            copy_bits(mine, value)
        else:
            live[key] = value
    return []


def _copy_into(live: torch.Tensor, saved: torch.Tensor) -> list[str]:
    copy_bits(live, saved)
    return []


def _difference_notes(name: str, saved: object, live: Mapping[str, object]) -> list[str]:
    """Say which settings the script gives otherwise than the snapshot; the snapshot's are gone on with."""
    if not isinstance(saved, dict):
        return []
    return [
        f"{name}: {key} was {_short(saved[key])} when it was saved, the script says {_short(live[key])}; "
        f"going on with {_short(saved[key])}"
        for key in sorted(saved.keys() & live.keys(), key=str)
        if not _equal(saved[key], live[key])
    ]


def _equal(one: object, other: object) -> bool:
    one, other = (value.tolist() if hasattr(value, "tolist") else value for value in (one, other))
    return bool(one == other) or (one != one and other != other)  # noqa: PLR0124 - NaN


def _short(value: object) -> str:
    text = str(value.tolist() if isinstance(value, torch.Tensor) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _words(value: object) -> str:
    if isinstance(value, torch.Tensor):
        if torch.nn.parameter.is_lazy(value):
            return "a parameter without a shape yet"
        layout = "" if value.layout == torch.strided else f" {str(value.layout).removeprefix('torch.')}"
        return f"{str(value.dtype).removeprefix('torch.')}{layout} {list(value.shape)}"
    return f"a {type(value).__name__}"


def _table(lines: Sequence[str]) -> str:
    shown = list(lines[:_SHOWN])
    if len(lines) > _SHOWN:
        shown.append(f"and {len(lines) - _SHOWN} more")
    return "\n          ".join(shown)
