r"""Other keys for the tensors of a saved object: prefixes taken away or put in front, parts renamed, patterns.

Rules are given in the words of people and act on whole keys: first `strip`, then the renames in their order, then
`add`. ``old=new`` replaces whole parts (``gamma=weight`` turns ``bn.gamma`` into ``bn.weight`` and leaves ``gammas``
alone); ``old.=new.``, with a dot at its end, replaces the beginning of a key only; ``/old/new/`` is a regular
expression, with ``\1`` for its groups.

Law: nothing is overwritten. Two tensors that would get one key are an error that names both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from rekindle.errors import CannotWrite
from rekindle.selection import Choice
from rekindle.tree import Map, Module, SparseTensor, Tensor, Value, children

__all__ = ["Reshaped", "Rules", "flattened", "renaming", "reshape", "without_modules"]

Rename = Callable[[str], str]

# Stands for "something in here" where the name of a container is renamed; no key of a file is mistaken for it.
_INSIDE = "\0inside"
_GONE = object()
_TENSOR = "tensor"


@dataclass(slots=True)
class Rules:
    """How keys are changed.

    Attributes:
        strip: prefixes to take away, whole parts.
        renames: see `renaming`; their texts.
        add: prefix to put in front of every key, whole parts.
        unused: rules that have changed no key so far.
    """

    strip: tuple[str, ...] = ()
    renames: tuple[str, ...] = ()
    add: str = ""
    unused: set[str] = field(init=False)
    _steps: list[tuple[str, Rename]] = field(init=False)

    def __post_init__(self) -> None:
        """Understand the renames.

        Raises:
            CannotWrite: one of them cannot be meant as it is written.
        """
        self._steps = [(f"strip {text}", _stripping(text)) for text in self.strip if text.strip(".")]
        self._steps += [(f"rename {text}", renaming(text)) for text in self.renames]
        self.unused = {name for name, _ in self._steps}

    def __call__(self, key: str) -> str:
        """Return the new key."""
        for name, step in self._steps:
            new = step(key)
            if new != key:
                self.unused.discard(name)
                key = new
        return f"{self.add.rstrip('.')}.{key}" if self.add.strip(".") else key


def renaming(text: str) -> Rename:
    r"""Return the function that a rename of the command line means: ``old=new``, ``old.=new.`` or ``/old/new/``.

    Raises:
        CannotWrite: it is none of them, or the regular expression is wrong.
    """
    if len(text) > 2 and text.startswith("/") and text.endswith("/"):
        parts = re.split(r"(?<!\\)/", text[1:-1])
        if len(parts) == 2:
            try:
                pattern = re.compile(parts[0].replace("\\/", "/"))
                new = parts[1].replace("\\/", "/")
                pattern.sub(new, "")
                re.compile(f"(?:{pattern.pattern})|").sub(new, "")  # a match, so that missing groups show
            except (re.error, IndexError) as error:
                raise CannotWrite(
                    f"{text!r}: the regular expression is wrong: {error}", do=r"such as '/^layer(\d+)\./blocks.\1./'"
                ) from None
            return lambda key: pattern.sub(new, key)
    old, equals, new = text.partition("=")
    if not equals or not old.strip(".") or text.startswith("/"):
        raise CannotWrite(
            f"{text!r} does not say what to rename",
            why="OLD=NEW replaces whole parts, OLD.=NEW. the beginning, /OLD/NEW/ is a regular expression",
            do="such as --rename gamma=weight or --rename backbone.=encoder.",
        )
    if old.endswith("."):
        return lambda key: new + key[len(old) :] if key.startswith(old) else key
    parts_old, parts_new = old.split("."), [part for part in new.split(".") if part]
    return lambda key: _replace_parts(key, parts_old, parts_new)


def _replace_parts(key: str, old: list[str], new: list[str]) -> str:
    parts = key.split(".")
    made: list[str] = []
    at = 0
    while at < len(parts):
        if parts[at : at + len(old)] == old:
            made += new
            at += len(old)
        else:
            made.append(parts[at])
            at += 1
    return ".".join(made) or key


def _stripping(prefix: str) -> Rename:
    begin = prefix.rstrip(".") + "."
    return lambda key: key.removeprefix(begin)


@dataclass(slots=True)
class Reshaped:
    """An object with fewer tensors and other keys.

    Attributes:
        tree: the object; its tensors are the very nodes of the old one.
        left_out: keys that the choice does not keep.
        renamed: old key -> new key, of those that changed.
    """

    tree: Value
    left_out: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)


def reshape(tree: Value, choice: Choice, rules: Rules) -> Reshaped:
    """Keep what the choice keeps, and rename by the rules; the nesting stays.

    Args:
        tree: without modules (`without_modules`).
        choice: acts on the old keys.
        rules: give the new ones.

    Raises:
        CannotWrite: nothing is left, two keys become one, or a new key would leave the dict that the tensor is in.
    """
    work = _Work(choice, rules)
    made = work.node(tree, "", "")
    if made is _GONE:
        raise CannotWrite(
            "nothing is left to write",
            why=f"no key fits {', '.join(choice.only) or 'what is left'}, such as {work.first}",
            do="rekindle inspect lists the keys; a pattern is compared with whole keys, * stands for any text",
        )
    work.result.tree = made  # type: ignore[assignment]  # only _GONE is no value
    return work.result


class _Work:
    """One reshaping: where new keys came from, and what was left out."""

    def __init__(self, choice: Choice, rules: Rules) -> None:
        self.choice = choice
        self.rules = rules
        self.result = Reshaped(None)
        self.origin: dict[str, str] = {}
        self.open: set[int] = set()
        self.first = ""

    def node(self, node: Value, old: str, new: str) -> object:
        """Return the new form of a value, or `_GONE`. One frame a level: readers bound how deep values are."""
        if not isinstance(node, (Map, list, tuple)) or id(node) in self.open:
            return self.leaf(node, old)
        parts = children(node)
        if not parts:
            return self.leaf(node, old)
        self.open.add(id(node))
        made: list[object] = []
        if isinstance(node, Map):
            pairs: list[tuple[Value, Value]] = []
            for (key, child), (name, _) in zip(node.pairs, parts, strict=True):
                path = f"{old}.{name}" if old else name
                place, called = self.place(child, path, new, name)
                child_made = self.node(child, path, place)
                if child_made is not _GONE:
                    new_key = called if isinstance(key, str) else key
                    pairs.append((new_key, child_made))  # type: ignore[arg-type]  # only _GONE is no value
            made.extend(pairs)
            result: object = Map(pairs, node.type, self.attributes(node, old, new))
        else:
            for name, child in parts:
                path = f"{old}.{name}" if old else name
                made.append(self.node(child, path, f"{new}.{name}" if new else name))
            result = type(node)([None if child is _GONE else child for child in made])  # type: ignore[misc]  # the same
            made = [child for child in made if child is not _GONE]
        self.open.discard(id(node))
        return result if made else _GONE

    def leaf(self, node: Value, key: str) -> object:
        self.first = self.first or key
        if key and not self.choice.keeps(key):
            self.result.left_out.append(key)
            return _GONE
        return node

    def place(self, child: Value, old: str, parent: str, name: str) -> tuple[str, str]:
        """Return the new path of a child and its new name in its dict."""
        begin = f"{parent}." if parent else ""
        if isinstance(child, (Map, list, tuple)) and children(child):
            inside = self.rules(f"{old}.{_INSIDE}")
            path = inside[: -len(_INSIDE) - 1] if inside.endswith(f".{_INSIDE}") else ""
            if path.startswith(begin) and len(path) > len(begin):
                return path, path[len(begin) :]
            return begin + name, name
        key = self.rules(old) if isinstance(child, (Tensor, SparseTensor)) else begin + name
        if not key.startswith(begin) or len(key) == len(begin):
            raise CannotWrite(
                f"{old} would become {key or 'nothing'}, outside of the dict it is in",
                why="keys are whole paths; the tensors lie in a dict of their own",
                do=f"take them out of it first: --take {old[: -len(name) - 1]}",
            )
        if self.choice.keeps(old):
            earlier = self.origin.setdefault(key, old)
            if earlier != old:
                raise CannotWrite(
                    f"{earlier} and {old} would both be called {key}",
                    why="a key can name one tensor only",
                    do="make the pattern narrower, or --drop one of them",
                )
            if key != old:
                self.result.renamed[old] = key
        return key, key[len(begin) :]

    def attributes(self, node: Map, old: str, new: str) -> Map | None:
        """Return what is set on a state dict; the names of modules in its ``_metadata`` change with the keys."""
        if node.attributes is None:
            return None
        pairs: list[tuple[Value, Value]] = []
        for name, value in node.attributes.pairs:
            if name == "_metadata" and isinstance(value, Map):
                begin = f"{new}." if new else ""
                moved: dict[str, tuple[Value, Value]] = {}
                for key, version in value.pairs:
                    if not isinstance(key, str):
                        continue
                    path = ".".join(part for part in (old, key) if part)
                    inside = self.rules(f"{path}.{_INSIDE}" if path else _INSIDE)
                    renamed = inside[: -len(_INSIDE)].rstrip(".") if inside.endswith(_INSIDE) else path
                    renamed = renamed[len(begin) :] if renamed.startswith(begin) else "" if renamed == new else key
                    moved.setdefault(renamed, (renamed, version))
                pairs.append((name, Map(list(moved.values()), value.type)))
            else:
                pairs.append((name, value))
        return Map(pairs, node.attributes.type)


def flattened(tree: Value) -> Map:
    """Return an object as one dict of whole keys: tensors, and values of any other kind."""
    pairs: list[tuple[Value, Value]] = []
    entered: set[int] = set()
    pending: list[tuple[str, Value, bool]] = [("", tree, False)]
    while pending:
        path, node, leaving = pending.pop()
        if leaving:
            entered.discard(id(node))
            continue
        parts = children(node) if isinstance(node, (Map, list, tuple)) else []
        if not parts:
            pairs.append((path or _TENSOR, node))
        elif id(node) not in entered:
            entered.add(id(node))
            pending.append((path, node, True))
            pending.extend((f"{path}.{name}" if path else name, child, False) for name, child in reversed(parts))
    return Map(pairs)


def without_modules(tree: Value) -> Value:
    """Return an object in which state dicts stand in the place of whole modules; the same where there are none."""
    from rekindle.listing import state_dict_of  # noqa: PLC0415 - only whole modules need it

    done: dict[int, Value] = {}
    kept: list[Value] = []  # holds what ids belong to

    def changed(node: Value) -> Value:
        if isinstance(node, Module):
            if id(node) not in done:
                done[id(node)] = state_dict_of(node)
            return done[id(node)]
        if not isinstance(node, (Map, list, tuple)):
            return node
        if id(node) in done:
            return done[id(node)]
        kept.append(node)
        if isinstance(node, tuple):
            made: Value = tuple([changed(child) for child in node])
            done[id(node)] = made
            return made
        if isinstance(node, list):
            items: list[Value] = []
            done[id(node)] = items
            for child in node:
                items.append(changed(child))  # noqa: PERF401 - the list is known before its items
            return items
        found = Map([], node.type, node.attributes)
        done[id(node)] = found
        for key, child in node.pairs:
            found.pairs.append((key, changed(child)))
        return found

    return changed(tree)
