"""What a disk may hold after the power went, rebuilt from a record of file calls.

The weak model: all that POSIX leaves open. A file's bytes are what they were at its last fsync; later writes may be
lost, cut, zeroed at their full length, or there. A folder's names are what they were at its last fsync; of the later
creations, renames and deletions any subset may be there (a rename is one change: both names or neither), so they are
reordered as well. A folder's fsync says nothing about the bytes of the files in it, nor a file's fsync about its name.

The journal model, as of XFS: changes of names reach the disk in the order in which they were made, whatever folder they
are in, and any fsync brings all of them up to then. Bytes that were not synced are as in the weak model.

The ext4 model, with its default settings (data=ordered, delayed allocation): names as in the journal model. Blocks get
their place late, and a file's size with them: unsynced bytes may be missing, but zeros do not stand for them. A rename
over a file that is there has the new one's bytes brought to the disk before it.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from crash import Call


@dataclass
class Node:
    """A file or a folder, whatever its name.

    `durable` and `pending` are bytes and writes of a file, or names and changes of a folder.
    """

    is_folder: bool
    data: bytes = b""
    synced_data: bytes = b""
    names: dict[str, Node] = field(default_factory=dict)
    synced_names: dict[str, Node] = field(default_factory=dict)
    changes: list[dict[str, Node | None]] = field(default_factory=list)  # name -> node, or None where it goes
    numbers: list[int] = field(default_factory=list)  # of the changes, over all folders

    def change(self, change: dict[str, Node | None], number: int = 0) -> None:
        self.changes.append(change)
        self.numbers.append(number)
        _apply(self.names, change)

    def sync(self) -> None:
        self.synced_data = self.data
        self.sync_names()

    def sync_names(self) -> None:
        self.synced_names = dict(self.names)
        self.changes, self.numbers = [], []


def _apply(names: dict[str, Node], change: dict[str, Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


MODELS = ("weak", "journal", "ext4")


class Disk:
    """A folder's life, call by call; `under` itself is taken as durable."""

    def __init__(self, under: str, model: str = "weak") -> None:
        assert model in MODELS
        self.under = os.path.realpath(under)
        self.root = Node(is_folder=True)
        self.model = model
        self.made = 0  # changes of names so far
        self.whole_before: dict[int, Node] = {}  # number of a rename -> the file whose bytes reach the disk first

    def find(self, path: str) -> Node:
        node = self.root
        relative = os.path.relpath(path, self.under)
        for part in [] if relative == "." else relative.split(os.sep):
            node = node.names[part]
        return node

    def parent(self, path: str) -> tuple[Node, str]:
        return self.find(os.path.dirname(path)), os.path.basename(path)

    def change(self, folder: Node, change: dict[str, Node | None]) -> None:
        self.made += 1
        folder.change(change, self.made)

    def follow(self, call: Call) -> None:
        """Do a call that succeeded."""
        match call.name:
            case "open" | "mkdir":
                folder, name = self.parent(call.path)
                if name in folder.names:  # truncated
                    folder.names[name].data = b""
                else:
                    self.change(folder, {name: Node(is_folder=call.name == "mkdir")})
            case "write":
                self.find(call.path).data += call.data
            case "ftruncate":
                self.find(call.path).data = self.find(call.path).data[: int(call.other)]
            case "fsync":
                self.find(call.path).sync()
                if self.model != "weak":
                    for node in self.nodes():
                        node.sync_names()
            case "link":
                folder, name = self.parent(call.other)
                self.change(folder, {name: self.find(call.path)})
            case "rename" | "exchange":
                folder, old = self.parent(call.path)
                other, new = self.parent(call.other)
                assert folder is other, "all our renames stay in one folder"
                replaced = folder.names.get(new) if call.name == "exchange" else None
                if call.name == "rename" and new in folder.names and self.model == "ext4":
                    self.whole_before[self.made + 1] = folder.names[old]
                self.change(folder, {old: replaced, new: folder.names[old]})
            case "unlink" | "rmdir":
                folder, name = self.parent(call.path)
                self.change(folder, {name: None})
            case "close" | "reopen":
                pass
            case _:
                raise AssertionError(call.name)

    def nodes(self) -> list[Node]:
        """Every file and folder that can still be reached by a durable or a pending name."""
        found, stack = [], [self.root]
        while stack:
            node = stack.pop()
            if any(node is other for other in found):
                continue
            found.append(node)
            stack.extend(node.names.values())
            stack.extend(node.synced_names.values())
            stack.extend(n for change in node.changes for n in change.values() if n is not None)
        return found

    def states(self, rng: random.Random, mixes: int = 6) -> Iterator[dict[str, bytes | None]]:
        """Yield legal states: path -> bytes, or None for a folder.

        First the extremes (every choice of bytes with no, all, and all but one of the pending names), then mixtures.
        """
        nodes = self.nodes()
        folders = [node for node in nodes if node.is_folder and node.changes]
        dirty = [node for node in nodes if not node.is_folder and node.data != node.synced_data]
        pending = [(node, index) for node in folders for index in range(len(node.changes))]
        if self.model != "weak":
            pending.sort(key=lambda place: place[0].numbers[place[1]])
            hows = [0, 2, 3] if self.model == "ext4" else [0, 1, 2, 3]
            for count in range(len(pending) + 1):
                chosen = {*range(count)}
                whole = {id(self.whole_before.get(pending[index][0].numbers[pending[index][1]])) for index in chosen}
                for how in [*((how,) * len(dirty) for how in hows), *_mixes(rng, hows, len(dirty))]:
                    ways = {id(node): 3 if id(node) in whole else way for node, way in zip(dirty, how, strict=True)}
                    yield self._state(pending, chosen, ways)
            return
        choices = [set(), {*range(len(pending))}]
        choices += [{*range(len(pending))} - {index} for index in range(len(pending))]
        choices += [{index} for index in range(len(pending))]
        choices += [{*range(count)} for count in range(2, len(pending))]
        for chosen, how in itertools.product(choices, range(4)):
            yield self._state(pending, chosen, {id(node): how for node in dirty})
        for _ in range(mixes):
            chosen = {index for index in range(len(pending)) if rng.random() < 0.5}
            yield self._state(pending, chosen, {id(node): rng.randrange(4) for node in dirty})

    def _state(self, pending, chosen, how) -> dict[str, bytes | None]:
        kept = {(id(pending[index][0]), pending[index][1]) for index in chosen}
        state: dict[str, bytes | None] = {}
        stack: list[tuple[str, Node, int]] = [("", self.root, 0)]
        while stack:
            path, node, depth = stack.pop()
            if not node.is_folder:
                state[path] = _bytes_of(node, how.get(id(node), 3))
                continue
            state[path] = None
            names = dict(node.synced_names)
            for index, change in enumerate(node.changes):
                if (id(node), index) in kept:
                    _apply(names, change)
            if depth < 10:
                stack.extend((os.path.join(path, name), child, depth + 1) for name, child in names.items())
        return state


def _mixes(rng: random.Random, hows: list[int], count: int) -> list[tuple[int, ...]]:
    """Two random ways to keep the bytes of so many files."""
    return [tuple(rng.choice(hows) for _ in range(count)) for _ in range(2 if count > 1 else 0)]


def _bytes_of(node: Node, how: int) -> bytes:
    """Bytes of a file: 0 as synced, 1 full length but zeros, 2 cut in half, 3 all of it."""
    if node.data == node.synced_data or how == 3:
        return node.data
    if how == 0:
        return node.synced_data
    if how == 1:
        return node.synced_data[: len(node.data)].ljust(len(node.data), b"\0")
    return node.data[: max(len(node.synced_data), len(node.data) // 2)]


def lay_out(state: dict[str, bytes | None], folder: str) -> None:
    """Make a folder that holds a state."""
    for path in sorted(state):
        data = state[path]
        target = os.path.join(folder, path) if path else folder
        if data is None:
            os.makedirs(target, exist_ok=True)
        else:
            with open(target, "wb") as file:
                file.write(data)
