"""Which part of a saved object is meant: `take` finds what lies under a key, `Choice` picks tensors by patterns.

A key is a path through the object joined with ``.``, and the keys of a state dict contain dots themselves; so a path is
followed by the longest name that fits at each turn. A pattern is compared with whole keys; ``*`` stands for any
text, dots included, ``?`` for one character, ``[ab]`` for one of several. A pattern that is the name of a container
means everything in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import translate

from rekindle.errors import CannotWrite
from rekindle.keys import near_names
from rekindle.tree import Map, Record, Value, children

__all__ = ["Choice", "take"]

_SHOWN = 8


@dataclass(slots=True)
class Choice:
    """Patterns that say which keys are kept.

    Attributes:
        only: keep what one of these fits; everything where there are none.
        drop: of that, leave out what one of these fits.
        unused: patterns that have fitted nothing so far.
    """

    only: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    unused: set[str] = field(init=False)
    _only: list[tuple[str, re.Pattern[str]]] = field(init=False)
    _drop: list[tuple[str, re.Pattern[str]]] = field(init=False)

    def __post_init__(self) -> None:
        """Compile the patterns."""
        self.unused = {*self.only, *self.drop}
        self._only = [(pattern, re.compile(translate(pattern))) for pattern in self.only]
        self._drop = [(pattern, re.compile(translate(pattern))) for pattern in self.drop]

    def keeps(self, key: str) -> bool:
        """Tell whether a key is kept."""
        if self._only and not self._fits(self._only, key):
            return False
        return not self._fits(self._drop, key)

    def _fits(self, patterns: list[tuple[str, re.Pattern[str]]], key: str) -> bool:
        found = False
        for pattern, compiled in patterns:
            if compiled.match(key) or any(compiled.match(key[:at]) for at in _dots(key)):
                self.unused.discard(pattern)
                found = True
        return found


def take(tree: Value, path: str, source: str) -> Value:
    """Return what lies under a key.

    The whole key is looked for first, then its parts one after another, through dicts, lists, modules and the state of
    objects. Where no value has the name but keys of a state dict begin with it, these are taken, without it.

    Args:
        tree: the whole object.
        path: such as ``model``, ``ema.weights`` or ``optimizers.0``.
        source: name of the file, for the message.

    Raises:
        CannotWrite: nothing lies there; the message has the nearest names.
    """
    node, rest = tree, path
    while rest:
        names = _names(node)
        head = rest if rest in names else next((rest[:at] for at in _dots(rest) if rest[:at] in names), None)
        if head is None:
            begun = _beginning_with(node, rest + ".")
            if begun is not None:
                return begun
            raise _nothing_there(node, path, rest, source)
        node, rest = names[head], rest[len(head) + 1 :]
    if node is None or isinstance(node, (bool, int, float, complex, str, bytes)):
        raise CannotWrite(
            f"{source}: {path!r} is a plain value, {node!r:.60}",
            why="only tensors and what holds them can be taken",
            do=f"rekindle inspect {source} --tree",
        )
    return node


def _names(node: Value) -> dict[str, Value]:
    if isinstance(node, Record):
        return dict(children(node.state)) if isinstance(node.state, Map) else {}
    return dict(children(node))


def _beginning_with(node: Value, prefix: str) -> Value:
    if not isinstance(node, Map):
        return None
    pairs: list[tuple[Value, Value]] = [
        (key[len(prefix) :], child) for key, child in node.pairs if isinstance(key, str) and key.startswith(prefix)
    ]
    return Map(pairs, node.type if node.type in {"dict", "OrderedDict"} else "dict") if pairs else None


def _nothing_there(node: Value, path: str, rest: str, source: str) -> CannotWrite:
    found = path[: len(path) - len(rest)].rstrip(".")
    names = [name for name, _ in children(node)] if not isinstance(node, Record) else list(_names(node))
    near = near_names(rest, names)
    if not names:
        why = f"what lies under {found!r} holds nothing by name" if found else "it is not a dict"
    elif near:
        why = f"closest: {', '.join(f'{found}.{name}' if found else name for name in near)}"
    else:
        where = f"the keys under {found!r} are" if found else "its keys are"
        why = f"{where} {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
    what = f"{source}: nothing lies under the key {path!r}"
    return CannotWrite(what, why=why, do=f"rekindle inspect {source} --tree")


def _dots(text: str) -> Iterator[int]:
    """Yield the places of the dots, last first."""
    at = text.rfind(".")
    while at >= 0:
        yield at
        at = text.rfind(".", 0, at)
