"""`fit`: somebody else's weights into a model of one's own, with a report of every tensor.

`load_state_dict` wants the very keys and shapes; people have files with other prefixes, another library's names,
another number of classes. `fit` finds which tensor belongs to which (`mapping.py`), changes values only where that was
asked for, and says all of it. What it cannot match stays as it was in the model, and is in the report.

Values are copied into the model's own tensors, so their dtype, device and identity stay; a model on the meta device is
given the tensors themselves, so that nothing is held twice.

Law: everything is read and checked before the first value changes; when `fit` raises, the model is as it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from rekindle.bare_model import bare_model
from rekindle.errors import ConfigError, StateMismatch
from rekindle.formats import open_path
from rekindle.keys import near_names, plain_keys
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.load import build
from rekindle.reshape import Rules
from rekindle.selection import Choice
from rekindle.selection import take as take_part
from rekindle.strict import refuse_damaged
from rekindle.tensors import Storage, contiguous_stride
from rekindle.tree import Map, SparseTensor, Tensor, Value
from rekindle.tune.adapt import Wishes, adaptation
from rekindle.tune.families import looks_like
from rekindle.tune.heads import find_head
from rekindle.tune.mapping import Match, Matched, Piece, match_names, match_structure
from rekindle.tune.report import FitReport, FitRow, Unexpected, nearest
from rekindle.weights import find_weights, weights_in

__all__ = ["Source", "fit"]

Source: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | nn.Module"
Shape: TypeAlias = tuple[int, ...]
Rename: TypeAlias = "Mapping[str, str] | Iterable[str]"

# Formats whose files are replaced when they are written again, so that their tensors may stay mapped.
_MAPPED = frozenset({"safetensors", "hub-shards", "snapshot", "run"})


def fit(
    model: nn.Module,
    source: Source,
    *,
    take: str | None = None,
    rename: Rename = (),
    only: str | Sequence[str] = (),
    leave: str | Sequence[str] = (),
    first_layers: int | None = None,
    match: Literal["name", "structure"] = "name",
    partial_rows: bool = False,
    classes: tuple[Sequence[str], Sequence[str]] | None = None,
    adapt_channels: bool = False,
    resize_positions: bool = False,
    strict: bool = False,
    dry_run: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> FitReport:
    """Load the weights of a source into a model, as far as they fit, and report every tensor.

    Args:
        model: changed in place; may be wrapped (DDP, DataParallel, `torch.compile`) or on the meta device.
        source: a path of anything that `rekindle.load` reads, a state dict, a checkpoint dict around one, or a module.
        take: path of the weights inside the source, where there are several; found by itself otherwise.
        rename: old name -> new name of parts of keys, or rules as ``rekindle convert --rename`` takes them
            (``"gamma=weight"``, ``"backbone.=encoder."``, ``"/old/new/"``).
        only: patterns of the model's keys to load; everything where there are none. A module's name means all in it.
        leave: patterns of the model's keys that stay as they are.
        first_layers: load only the first so many modules that have tensors of their own.
        match: ``"name"``, or ``"structure"`` where names differ altogether but order and shapes agree.
        partial_rows: where only the first dimension differs (another number of classes, a grown vocabulary), load the
            rows that both have.
        classes: (names of the model's classes, names of the source's): rows are matched by name instead of by place.
        adapt_channels: where the first convolution takes one channel and the weights three (or the reverse), add them
            up (or spread them), so that a grey picture gives the answer of its RGB copy.
        resize_positions: interpolate position embeddings of another length.
        strict: raise unless every tensor of the model is loaded and every tensor of the source used.
        dry_run: change nothing; the report says what would be done.
        limits: what reading may cost.

    Returns:
        The report; ``print`` it.

    Raises:
        StateMismatch: nothing fits, or ``strict`` and not everything does; the model is as it was, the text is the
            table.
        ConfigError: a request that cannot be meant.
        NotAModel, UnreadableFile: as `rekindle.load`.
        OSError: the file is missing or may not be read.

    Example:
        report = rk.fit(resnet18(num_classes=2), "resnet18-f37072fd.pth")
        print(report)
    """
    mine = _model_tensors(model)
    rules = Rules(renames=_rules(rename))
    wishes = Wishes(partial_rows or classes is not None, _pair(classes), adapt_channels, resize_positions)
    asked = _asked(model, list(mine), _patterns(only), _patterns(leave), first_layers)
    if match not in {"name", "structure"}:
        raise ConfigError(f"match={match!r} is neither 'name' nor 'structure'")
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        with open_path(path, limits) as opened:
            refuse_damaged(opened)
            found = _chosen(opened.tree, mine, take, path)
            mapped = opened.format in _MAPPED or not any(value.is_meta for value in mine.values())

            def read(keys: Iterable[str]) -> dict[str, torch.Tensor]:
                tree = Map([(key, found.nodes[key]) for key in keys])
                return _tensors(build(tree, mmap=mapped))

            return _fit(model, mine, path, found, read, rules, wishes, asked, match, strict=strict, dry_run=dry_run)
    values, found = _from_object(source, mine, take)
    name = type(source).__name__

    def pick(keys: Iterable[str]) -> dict[str, torch.Tensor]:
        return {key: values[key] for key in keys}

    return _fit(model, mine, name, found, pick, rules, wishes, asked, match, strict=strict, dry_run=dry_run)


# ---- the two sides


@dataclass(frozen=True, slots=True)
class _Found:
    """The weights in a source: where they lie, and their nodes by key."""

    taken: tuple[str, ...]
    nodes: Mapping[str, Tensor | SparseTensor]

    @property
    def shapes(self) -> dict[str, Shape]:
        return {key: tuple(node.shape) for key, node in self.nodes.items()}


def _model_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return canonical key -> live tensor, in the order of the state dict."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"rk.fit(model, source): a torch.nn.Module is wanted, not {type(model).__name__}")
    live = {key: value for key, value in model.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}
    sharded = next((key for key, value in live.items() if hasattr(value, "device_mesh")), None)
    if sharded is not None:
        raise ConfigError(
            f"{sharded} is sharded over processes already",
            why="weights are fitted into whole tensors",
            do="call rk.fit before run.prepare(..., shard='fsdp')",
        )
    plain = plain_keys(live)
    return {plain[key]: value for key, value in live.items()}


def _chosen(tree: Value, mine: Mapping[str, torch.Tensor], take: str | None, source: str) -> _Found:
    """Return the weights in a tree that suit the model best."""
    if take is not None:
        part = take_part(tree, take, source)
        weights = find_weights(part)
        if weights is None:
            raise ConfigError(f"{source}: nothing under {take!r} has the shape of a state dict")
        return _Found((*take.split("."), *weights.path), weights.state)
    candidates = weights_in(tree)
    if not candidates:
        raise ConfigError(
            f"{source}: nothing in it has the shape of a state dict",
            why="weights are a dict of names to tensors, or a whole module",
            do=f"rekindle inspect {source} lists what it holds; take= says where the weights are",
        )
    # The usual name decides, unless another suits the model at hand better.
    usual = find_weights(tree)

    def suits(path: tuple[str, ...], nodes: Mapping[str, Tensor | SparseTensor]) -> tuple[int, int, bool]:
        names = sum(1 for name in plain_keys(nodes).values() if name in mine)
        ends = {key.rpartition(".")[0].rpartition(".")[2] + str(tuple(node.shape)) for key, node in nodes.items()}
        alike = sum(1 for key, value in mine.items() if _end(key) + str(_shape(value)) in ends)
        return names, alike, usual is not None and path == usual.path

    best = max(candidates, key=lambda item: suits(item[0], item[1]))
    return _Found(best[0], best[1])


def _end(key: str) -> str:
    return key.rpartition(".")[0].rpartition(".")[2]


def _from_object(
    source: Mapping[str, Any] | nn.Module, mine: Mapping[str, torch.Tensor], take: str | None
) -> tuple[dict[str, torch.Tensor], _Found]:
    if isinstance(source, nn.Module):
        source = source.state_dict()
    if not isinstance(source, Mapping):
        raise TypeError(
            f"rk.fit(model, source): a path, a state dict or a module is wanted, not {type(source).__name__}"
        )
    live: dict[int, torch.Tensor] = {}
    found = _chosen(_described(source, live, frozenset()), mine, take, "the dict")
    return {key: live[id(node)] for key, node in found.nodes.items()}, found


def _described(value: Any, live: dict[int, torch.Tensor], around: frozenset[int]) -> Value:
    """Return a Python object as the tree that a file of it would give, as far as looking for weights needs it.

    Args:
        value: the object.
        live: filled with id of a node -> its tensor.
        around: ids of the containers that the value is in.
    """
    if isinstance(value, torch.Tensor):
        shape = tuple(value.shape)
        node = Tensor(Storage("", 0, None), str(value.dtype).removeprefix("torch."), 0, shape, contiguous_stride(shape))
        live[id(node)] = value
        return node
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if isinstance(value, Mapping) and id(value) not in around:
        inside = around | {id(value)}
        return Map([(key, _described(child, live, inside)) for key, child in value.items() if isinstance(key, str)])
    return value if isinstance(value, (bool, int, float, str)) else None


def _tensors(values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}


# ---- requests


def _patterns(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _rules(rename: Rename) -> tuple[str, ...]:
    if isinstance(rename, str):
        return (rename,)
    if isinstance(rename, Mapping):
        return tuple(f"{old}={new}" for old, new in rename.items())
    return tuple(rename)


def _pair(classes: tuple[Sequence[str], Sequence[str]] | None) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    if classes is None:
        return None
    mine, theirs = (tuple(names) for names in classes)
    for names in (mine, theirs):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"classes=: {twice!r} is named twice, so rows cannot be told by name")
    return mine, theirs


def _asked(
    model: nn.Module, keys: list[str], only: tuple[str, ...], leave: tuple[str, ...], first_layers: int | None
) -> set[str]:
    """Return the model's keys that are to be loaded."""
    choice = Choice(only, leave)
    asked = {key for key in keys if choice.keeps(key)}
    if choice.unused:
        pattern = min(choice.unused)
        owners = {name for name, _ in model.named_modules() if name} | set(keys)
        near = near_names(pattern, owners)
        raise ConfigError(
            f"{pattern!r} fits no key of the model",
            why=f"nearest: {', '.join(near)}" if near else f"its keys look like {keys[0]}" if keys else "it has none",
            do="a pattern is compared with whole keys; * stands for any text",
        )
    if first_layers is not None:
        if not isinstance(first_layers, int) or first_layers < 1:
            raise ConfigError(f"first_layers={first_layers!r} is not a number of at least 1")
        owners_in_order = list(dict.fromkeys(key.rpartition(".")[0] for key in keys))
        if first_layers > len(owners_in_order):
            raise ConfigError(f"first_layers={first_layers}: the model has {len(owners_in_order)} layers with tensors")
        chosen = set(owners_in_order[:first_layers])
        asked = {key for key in asked if key.rpartition(".")[0] in chosen}
    return asked


# ---- the fit itself


def _fit(
    model: nn.Module,
    mine: Mapping[str, torch.Tensor],
    source: str,
    found: _Found,
    read: Callable[[Iterable[str]], dict[str, torch.Tensor]],
    rules: Rules,
    wishes: Wishes,
    asked: set[str],
    match: str,
    *,
    strict: bool,
    dry_run: bool,
) -> FitReport:
    shapes = found.shapes
    wanted = {key: _shape(value) for key, value in mine.items()}
    matched = _matched(wanted, shapes, rules, match, source)
    if rules.unused:
        raise ConfigError(
            f"{min(rules.unused)} changed no key of {source}",
            why=f"its keys look like {next(iter(shapes))}",
            do="a rename is compared with whole parts of keys; rekindle inspect lists them",
        )
    plan: dict[str, Callable[[Mapping[str, torch.Tensor]], torch.Tensor]] = {}
    rows = _rows(mine, wanted, found.nodes, matched, asked, wishes, _rows_of_classes(model, wishes), plan)
    used = {key for row in rows if row.state in {"loaded", "adapted"} for key in row.sources}
    left = {key for row in rows if row.state in {"other-shape", "left-out"} for key in row.sources}
    unexpected = tuple(
        Unexpected(key, shapes[key], _dtype_of(node)) for key, node in found.nodes.items() if key not in used | left
    )
    notes = list(matched.notes)
    rows = [_with_near(row, {row.key: row.shape for row in unexpected}) for row in rows]
    report = FitReport(
        source, found.taken, type(bare_model(model)).__name__, tuple(rows), unexpected, tuple(notes), matched.confidence
    )
    if not report.loaded:
        raise _nothing_fits(report, shapes, wanted)
    if strict and not report.whole:
        raise StateMismatch(f"{source} does not fit {report.model} as a whole", why=str(report))
    if not dry_run:
        keys = list(dict.fromkeys(piece.source for key in plan for piece in matched.found[key].pieces))
        values = read(keys)
        ready = {key: make(values) for key, make in plan.items()}
        _put(model, mine, ready)
    return report


def _matched(
    wanted: Mapping[str, Shape], shapes: Mapping[str, Shape], rules: Rules, match: str, source: str
) -> Matched:
    if match == "name":
        return match_names(wanted, shapes, rules if rules.renames else None)
    found = match_structure(list(wanted.items()), list(shapes.items()))
    if found is None:
        there = looks_like(plain_shapes(shapes))
        raise StateMismatch(
            f"{source} does not have the structure of the model",
            why=f"{len(shapes)} tensors there, {len(wanted)} here, and too few align in one way only"
            + (f"; it looks like {there}" if there else ""),
            do="name what belongs together: rename={'old': 'new'}",
        )
    return found


def _rows(
    mine: Mapping[str, torch.Tensor],
    wanted: Mapping[str, Shape],
    nodes: Mapping[str, Tensor | SparseTensor],
    matched: Matched,
    asked: set[str],
    wishes: Wishes,
    by_class: Collection[str],
    plan: dict[str, Callable[[Mapping[str, torch.Tensor]], torch.Tensor]],
) -> list[FitRow]:
    """Decide about every tensor of the model; what is to be loaded goes into the plan.

    The rows of the keys in `by_class` go by the names of their classes, also where the shapes are the same.
    """
    rows: dict[str, FitRow] = {}
    for key, live in mine.items():
        shape, dtype = wanted[key], _dtype_of(live)
        match = matched.found.get(key)
        if match is None:
            state = "missing" if key in asked else "left-out"
            rows[key] = FitRow(key, shape, dtype, state)  # type: ignore[arg-type]  # one of the two states above
            continue
        first = nodes[match.pieces[0].source]
        sources = tuple(piece.source for piece in match.pieces)
        facts = {
            "sources": sources,
            "source_shape": tuple(first.shape),
            "source_dtype": _dtype_of(first),
            "how": match.how,
        }
        if key not in asked:
            rows[key] = FitRow(key, shape, dtype, "left-out", **facts)  # type: ignore[arg-type]  # as named
            continue
        joined = _joined_shape(match, nodes)
        if (joined == shape and key not in by_class) or nn.parameter.is_lazy(live):
            plan[key] = _joining(match)
            rows[key] = FitRow(key, shape, dtype, "loaded", **facts)  # type: ignore[arg-type]  # as named
            continue
        change = adaptation(key, shape, joined, wishes) if joined is not None else None
        if change is not None and change.make is not None:
            plan[key] = _changed(_joining(match), change.make, live)
            rows[key] = FitRow(key, shape, dtype, "adapted", change=change.words, **facts)  # type: ignore[arg-type]  # as named
        else:
            hint = "" if change is None else change.words
            rows[key] = FitRow(key, shape, dtype, "other-shape", change=hint, **facts)  # type: ignore[arg-type]  # as named
    return _tied(mine, rows, plan)


def _rows_of_classes(model: nn.Module, wishes: Wishes) -> set[str]:
    """Return the keys of the head, where its rows are other classes in the source, or the same in another order."""
    if wishes.classes is None or wishes.classes[0] == wishes.classes[1]:
        return set()
    head = find_head(model)
    return set() if head is None else {f"{head.name}.weight", f"{head.name}.bias"}


def _tied(
    mine: Mapping[str, torch.Tensor],
    rows: Mapping[str, FitRow],
    plan: Mapping[str, object],
) -> list[FitRow]:
    """Call a missing tensor tied where it is the very tensor that another key loads."""
    by_identity = {id(mine[key]): key for key in plan}
    made = []
    for key, row in rows.items():
        other = by_identity.get(id(mine[key]))
        tied = row.state == "missing" and other is not None
        made.append(FitRow(key, row.shape, row.dtype, "tied", change=f"one tensor with {other}") if tied else row)
    return made


def _with_near(row: FitRow, unexpected: Mapping[str, Shape]) -> FitRow:
    if row.state != "missing":
        return row
    return FitRow(row.key, row.shape, row.dtype, row.state, near=nearest(row.key, unexpected, row.shape))


def _joined_shape(match: Match, nodes: Mapping[str, Tensor | SparseTensor]) -> Shape | None:
    """Return the shape of all pieces together; None where they cannot be joined."""
    total, rest = 0, None
    for piece in match.pieces:
        shape = tuple(nodes[piece.source].shape)
        if len(match.pieces) == 1 and piece.part is None:
            return shape
        if not shape or shape[0] % piece.parts or rest not in {None, shape[1:]}:
            return None
        total, rest = total + shape[0] // piece.parts, shape[1:]
    return (total, *(rest or ()))


def _joining(match: Match) -> Callable[[Mapping[str, torch.Tensor]], torch.Tensor]:
    def make(values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        parts = [_piece(values[piece.source], piece) for piece in match.pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return make


def _piece(value: torch.Tensor, piece: Piece) -> torch.Tensor:
    value = value.detach()
    return value if piece.part is None else value.chunk(piece.parts)[piece.part]


def _changed(
    join: Callable[[Mapping[str, torch.Tensor]], torch.Tensor],
    make: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    live: torch.Tensor,
) -> Callable[[Mapping[str, torch.Tensor]], torch.Tensor]:
    def both(values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return make(join(values), live.detach())

    return both


def _put(model: nn.Module, mine: Mapping[str, torch.Tensor], ready: Mapping[str, torch.Tensor]) -> None:
    """Give the model its values; everything was checked before."""
    replaced: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for key, value in ready.items():
            live = mine[key]
            if nn.parameter.is_lazy(live):
                live.materialize(value.shape)
            if live.is_meta:
                whole = value.to(live.dtype)
                is_parameter = isinstance(live, nn.Parameter)
                replaced[id(live)] = nn.Parameter(whole, requires_grad=live.requires_grad) if is_parameter else whole
            else:
                live.copy_(value)
    if not replaced:
        return
    for module in model.modules():
        # torch keeps both in plain dicts, and has no public way to put a tensor in the place of another.
        places: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)  # noqa: SLF001 - as the line above
        for place in places:
            for name, old in place.items():
                if old is not None and id(old) in replaced:
                    place[name] = replaced[id(old)]


# ---- words


def _shape(value: torch.Tensor) -> Shape:
    return () if nn.parameter.is_lazy(value) else tuple(value.shape)


def _dtype_of(value: torch.Tensor | Tensor | SparseTensor) -> str:
    if isinstance(value, SparseTensor):
        return _dtype_of(value.parts["values"]) if "values" in value.parts else ""
    return str(value.dtype).removeprefix("torch.")


def plain_shapes(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the shapes under keys without wrappers, and without what all keys begin with."""
    plain = plain_keys(shapes)
    names = {plain[key]: shape for key, shape in shapes.items()}
    while names:
        first = next(iter(names)).partition(".")[0] + "."
        if not re.fullmatch(r"(model|backbone|encoder|net|network|base_model|student|teacher)\.", first):
            break
        if not all(name.startswith(first) for name in names):
            break
        names = {name.removeprefix(first): shape for name, shape in names.items()}
    return names


def _nothing_fits(report: FitReport, shapes: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> StateMismatch:
    there, here = looks_like(plain_shapes(shapes)), looks_like(plain_shapes(wanted))
    words = f"no tensor of {report.source} fits {report.model}"
    mine = plain_shapes(wanted)
    same = next((key for key in plain_shapes(shapes) if key in mine), None)
    if same is None:
        keys = f"its keys look like {next(iter(shapes))}, the model's like {next(iter(wanted), 'none')}"
    else:
        keys = f"{same} is {list(plain_shapes(shapes)[same])} there and {list(mine[same])} here"
    if there:
        keys = f"the weights look like {there}" + (f", the model like {here}" if here else "") + f"; {keys}"
    if report.notes:  # what was found to fit in more than one way
        return StateMismatch(words, why="; ".join(report.notes), do="say which is meant: take='...'")
    return StateMismatch(
        words,
        why=keys,
        do="match='structure' where only the names differ, rename={'old': 'new'}, or the network the weights are of",
    )
