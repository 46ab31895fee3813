"""Zip archives of torch that are cut, overwritten or have lost their directory.

Every record can be found in up to three ways: by the directory's entry, by its own header, and by arithmetic, since
torch writes records one after another, each aligned to 64 bytes, in an order and with lengths that the pickle tells.
Whatever way leads to a place, the CRC-32 decides whether it is the right one. It stands in the directory and once more
behind the record, so a damaged copy of it harms nothing. Where none is left (the file ends there, or torch was told not
to compute it) a record is taken when its header is there and nothing speaks against it, and is called unproven.

The pickle is the first record. One wrong byte in it is put right by its CRC (`mend`); with more damage the part before
it still describes tensors, and the other storages come out flat, named by their record. A file of several archives one
after another (what a rank of torch.distributed.checkpoint writes) is taken archive by archive.

Facts: PyTorch 2.13 `caffe2/serialize/inline_container.cc` (`getPadding`, `writeRecord`), `torch/serialization.py`
(`_save`: order of records; before 2.7 sorted as text), `third_party/miniz`.
"""

from __future__ import annotations

import shlex
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeVar
from zlib import crc32

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.formats._growing import run_growing
from rekindle.formats._nested import nested_reader
from rekindle.formats._storages import read_storage_id
from rekindle.formats._zip_directory import InflatedBytes
from rekindle.limits import Limits
from rekindle.salvaging import Fate, Gone, Wreck
from rekindle.salvaging.mend import mend_one_byte
from rekindle.salvaging.zip_scan import SIZES_FOLLOW, Central, Headers, Local, find_headers
from rekindle.source import BufferBytes, ByteRange, Bytes, Source
from rekindle.tensors import DTYPES, Storage
from rekindle.tree import Global, Map, Record, StorageRef, Tensor, Value, distinct_nodes
from rekindle.unpickling.machine import Outcome, run_partly, run_program

__all__ = ["explore"]

_Header = TypeVar("_Header", Local, Central)

_DESCRIPTOR = b"PK\x07\x08"
_ALIGNMENT = 64
_MAX32 = 0xFFFFFFFF
# Records of a few bytes that torch puts between the pickle and the storages.
_SMALL = {"byteorder": 6, ".format_version": 1, ".storage_alignment": 2}
# How many times over the file may be read to compare checksums; an honest one is read once.
_READS = 4
_FREE_READS = 64 * 1024**2
# How many readings of a broken pickle are tried.
_TRIES = 4


def explore(source: Source, limits: Limits, *, keep_damaged: bool = False) -> Wreck | None:
    """Return what is left of an archive, or of several one after another; None where no header of one is found.

    Args:
        source: the file.
        limits: what reading may cost.
        keep_damaged: leave a storage the bytes that its checksum speaks against, and say so in its fate.

    Raises:
        LimitExceeded: reading on would need more than `limits` allows.
    """
    headers = find_headers(source, limits)
    if not headers.locals and not headers.centrals:
        return None
    wreck = Wreck(source.path, "torch-zip", source.size)
    budget = _Budget(_READS * source.size + _FREE_READS)
    starts = _starts(source, headers)
    values: list[tuple[Value, Value]] = []
    start, upcoming = 0, starts
    while True:
        part = _Archive(source, headers, start, limits, wreck, budget, keep_damaged=keep_damaged)
        following = part.following(upcoming)
        part.bound(following.offset if following is not None else source.size)
        single = start == 0 and following is None
        values.append((f"item_{len(values)}", part.value("" if single else f"item_{len(values)}.")))
        if following is None:
            break
        start = following.offset
        upcoming = starts[bisect_left(starts, start, key=lambda local: local.offset) :]
    if len(values) == 1:
        wreck.tree = values[0][1]
    else:
        wreck.format = "distcp"
        wreck.tree = Map(values)
    return wreck


def _starts(source: Source, headers: Headers) -> list[Local]:
    """Return where archives may begin: the headers of their pickles, and what follows an archive's end.

    There a header whose signature or name was changed is taken as well: one of the two is enough.
    """
    starts = {local.offset: local for local in headers.locals if _is_pickle(local.name)}
    if not starts:
        return []
    first = starts[min(starts)]
    begins = [end for end in headers.ends if end + 30 <= source.size]
    if first.offset in begins:
        begins.append(0)
    name = first.name.encode()
    for at in begins:
        if at in starts:
            continue
        opening = source.read(at, min(30 + len(name), source.size - at))
        if opening[30:] == name or opening.startswith(b"PK\x03\x04"):
            starts[at] = replace(first, offset=at, data_at=at + (first.data_at - first.offset))
    return [starts[offset] for offset in sorted(starts)]


# How a pickle may be known, from the best to the worst.
_STATES = ("whole", "mended", "doubtful", "partly", "lost")


@dataclass(slots=True)
class _Budget:
    """Bytes that may still be read to compare checksums."""

    left: int


@dataclass(slots=True)
class _Declared:
    """What the pickle says of a storage."""

    storage: Storage
    size: int
    dtype: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a record may lie.

    Attributes:
        data_at: its first byte.
        packed: its bytes in the file.
        size: bytes of its content.
        method: 0 stored, 8 deflated.
        promised: what is said of its CRC-32 beside the descriptor; zeros promise nothing.
        seen: whether a header says so; otherwise it is arithmetic.
    """

    data_at: int
    packed: int
    size: int
    method: int = 0
    promised: tuple[int, ...] = ()
    seen: bool = True
    flags: int = SIZES_FOLLOW


@dataclass(slots=True)
class _Description:
    """The pickle, as far as it goes."""

    value: Value = None
    state: str = "lost"
    proven: bool = False
    end: int = 0


@dataclass(slots=True)
class _Archive:
    """One archive of a file.

    Attributes:
        source: the file.
        headers: of the whole file.
        start: its first byte.
        limits: caps.
        wreck: where results go.
        budget: for checksums.
        keep_damaged: whether bytes stay that a checksum speaks against.
        end: the byte behind it.
    """

    source: Source
    headers: Headers
    start: int
    limits: Limits
    wreck: Wreck
    budget: _Budget
    keep_damaged: bool = False
    end: int = 0
    root: str = ""
    locals: list[Local] = field(default_factory=list)
    centrals: dict[str, Central] = field(default_factory=dict)
    declared: dict[str, _Declared] = field(default_factory=dict)
    description: _Description = field(default_factory=_Description)
    byteorder: str = "little"

    # --- where it begins and ends -------------------------------------------------------------------------------------

    def following(self, starts: Sequence[Local]) -> Local | None:
        """Return the header with which the next archive of the file begins, None where this one is the last."""
        for other in starts[1:]:
            if other.name != starts[0].name and other.offset not in self.headers.ends:
                continue
            self.bound(other.offset)
            if self.description.state == "lost":
                self.read_description()
            if not self.holds(other.offset):
                return other
        return None

    def bound(self, end: int) -> None:
        """Keep what lies in front of a byte."""
        if end == self.end:
            return
        self.end = end
        self.locals = _between(self.headers.locals, self.start, end)
        self.centrals = {}
        doubtful: list[Central] = []
        for central in _between(self.headers.centrals, self.start, end):
            if self.start + central.header_at >= central.offset:
                continue
            local = self.local_at(self.start + central.header_at)
            if local is not None and local.name == central.name:
                self.centrals.setdefault(central.name, central)
            else:
                doubtful.append(central)
        for central in doubtful:  # one of the two names was changed: the entry stands only where no better one does
            self.centrals.setdefault(central.name, central)
        self.root = self.find_root()

    def find_root(self) -> str:
        """Return the folder that most records lie in."""
        counts: dict[str, int] = {}
        for name in (*self.centrals, *(local.name for local in self.locals)):
            if _is_pickle(name):
                root = name[:-8]
            else:
                root, found, _ = name.rpartition("data/")
                if not found or root.endswith("."):
                    continue
            counts[root] = counts.get(root, 0) + 1
        return max(counts, key=lambda root: (counts[root], -len(root)), default="archive/")

    def holds(self, offset: int) -> bool:
        """Tell whether a byte lies in a storage of this archive, by the headers before that byte."""
        for local in self.locals:
            if local.offset >= offset:
                return False
            declared = self.declared.get(self.key_of(local.name))
            if declared is not None and local.data_at <= offset < local.data_at + declared.size:
                return True
        return False

    def key_of(self, name: str) -> str:
        """Return the key of a storage's record; empty for other records."""
        prefix = self.root + "data/"
        return name[len(prefix) :] if name.startswith(prefix) else ""

    # --- the pickle ---------------------------------------------------------------------------------------------------

    def read_description(self) -> None:
        """Run the pickle, or what is left of it."""
        self.declared.clear()
        self.description = _Description()
        name = self.root + "data.pkl"
        damaged: list[tuple[bytes, _Place]] = []
        for place in self.places_of_pickle(name):
            if place.data_at + place.packed > self.end:
                continue
            if place.size > self.limits.pickle_bytes:
                raise LimitExceeded(
                    f"{self.source.path}: {name} has {place.size:,} bytes",
                    why="reading is bounded by Limits.pickle_bytes, so that a file cannot fill the memory",
                    do="raise Limits.pickle_bytes if you trust this file",
                )
            data, fate = self.content(place)
            if data is None:
                if not place.method and len(damaged) < _TRIES:
                    damaged.append((self.source.read(place.data_at, place.size), place))
                continue
            program = b"".join(data.chunks())
            if self.run(program, place, "whole", proven=fate.proven):
                return
            damaged.append((program, place))
        for program, place in damaged:
            promised = [crc for crc in (*place.promised, self.described_crc(place)) if crc]
            for crc in dict.fromkeys(promised):
                mended = mend_one_byte(program, crc)
                if mended is not None and self.run(mended[0], place, "mended"):
                    self.report_mended(name, program, *mended, place)
                    return
        for program, place in damaged:
            if self.run(program, place, "doubtful"):
                self.report("RK-SALV-02", "doubtful-description", Severity.WARNING, _doubtful(name), member=name)
                return
        if self.search_pickle():
            return
        if damaged:
            self.run_part(*damaged[0])

    def places_of_pickle(self, name: str) -> Iterator[_Place]:
        """Yield where the pickle may be, the most telling way first."""
        central = self.centrals.get(name)
        if central is not None:
            yield from self.places_by_directory(central, central.size)
        for local in self.locals:
            if local.name != name:
                continue
            if not local.flags & SIZES_FOLLOW and local.size:
                yield _Place(local.data_at, local.packed, local.size, local.method, (local.crc32,), flags=local.flags)
            for data_at in dict.fromkeys((local.data_at, self.aligned(local.offset, name, 0))):
                if data_at >= self.end:
                    continue
                for size in self.sizes_by_descriptor(data_at):
                    yield _Place(data_at, size, size)
                size = self.size_by_running(data_at)
                if size:
                    yield _Place(data_at, size, size)
            after = next((other for other in self.locals if other.offset > local.data_at + 16), None)
            if after is not None:  # its end is not marked, and it breaks off: it reaches at most to the next header
                size = after.offset - 16 - local.data_at
                yield _Place(local.data_at, size, size)
            break

    def size_by_running(self, at: int) -> int:
        """Return how long the program that starts at a byte is; 0 where it does not end as programs do."""
        try:
            _, outcome = run_growing(self.source, at, self.limits, lambda: (None, _unnoticed))
        except LimitExceeded:
            raise
        except UnreadableFile:
            return 0
        return min(outcome.end, self.end) - at

    def search_pickle(self) -> bool:
        """Look for the pickle where torch puts it, with its header gone: on one of the first aligned bytes."""
        for at in range(self.start + _ALIGNMENT, min(self.start + 4096, self.end - 2), _ALIGNMENT):
            opening = self.source.read(at, 2)
            if len(opening) < 2 or opening[0] != 0x80 or not 2 <= opening[1] <= 5:
                continue
            size = self.size_by_running(at)
            place = _Place(at, size, size, seen=False)
            data, fate = self.content(place)
            if data is not None and fate.proven and self.run(b"".join(data.chunks()), place, "whole", proven=True):
                return True
        return False

    def run(self, program: bytes, place: _Place, state: str, *, proven: bool = False) -> bool:
        """Run a whole program; False, with nothing noted, where it breaks."""
        self.declared.clear()
        found: list[Finding] = []
        try:
            outcome = run_program(
                program, persistent=self.persistent, nested=nested_reader(self.limits, found), limits=self.limits
            )
        except LimitExceeded:
            raise
        except UnreadableFile:
            self.declared.clear()
            return False
        self.note_run(outcome, place, state, proven=proven)
        return True

    def run_part(self, program: bytes, place: _Place) -> None:
        """Run a program as far as it goes."""
        self.declared.clear()
        name = self.root + "data.pkl"
        try:
            outcome = run_partly(program, persistent=self.persistent, limits=self.limits)
        except LimitExceeded:
            raise
        except UnreadableFile as error:
            self.declared.clear()
            what = f"{name}, the description of the tensors, cannot be read: {error.what}"
        else:
            what = (
                f"{name}, the description of the tensors, breaks off at byte {outcome.end:,} of {len(program):,}; "
                f"{len(self.declared):,} storages are described before it"
            )
            self.note_run(outcome, place, "partly")
        self.report(
            "RK-SALV-03",
            "broken-description",
            Severity.ERROR,
            what,
            "bytes of it were overwritten or lost",
            f"with another file of the same model: rekindle salvage {shlex.quote(self.source.path)} --like OTHER",
            member=name,
        )

    def note_run(self, outcome: Outcome, place: _Place, state: str, *, proven: bool = False) -> None:
        self.description = _Description(outcome.value, state, proven, place.data_at + place.packed)

    def persistent(self, pid: Value) -> Value:
        """Return the storage that a persistent id means; its bytes are looked for later."""
        said = read_storage_id(pid)
        if said is None:
            return Record(Global("rekindle", "persistent_id"), (pid,))
        size = said.numel * said.dtype.itemsize
        declared = self.declared.get(said.key)
        if declared is None:
            storage = Storage(said.key, size, None, said.location)
            declared = self.declared[said.key] = _Declared(storage, size, said.dtype.name)
        elif size > declared.size:
            declared.size = declared.storage.size_bytes = size
        return StorageRef(declared.storage, said.dtype.name, 0, said.numel)

    # --- the storages -------------------------------------------------------------------------------------------------

    def value(self, prefix: str) -> Value:
        """Return the object, with bytes behind its storages; `prefix` is put in front of names that are made up."""
        if self.description.state == "lost":
            self.read_description()
        state = self.description.state
        self.byteorder = self.read_byteorder()
        walked = self.walk()
        for key, declared in self.declared.items():
            storage = declared.storage
            storage.byteorder = self.byteorder
            storage.id = prefix + key
            if storage.device == "meta":
                self.wreck.decide(storage, Fate(proven=False, why="it has no values (meta device)"))
                continue
            storage.data, fate = self.storage(key, declared.size, walked.get(key))
            self.wreck.decide(storage, replace(fate, proven=fate.proven and self.description.proven))
        self.wreck.described = max(self.wreck.described, state, key=_STATES.index)
        tree = self.description.value
        if state in {"partly", "lost"}:
            used = {node.storage.id for node in distinct_nodes(tree) if isinstance(node, (Tensor, StorageRef))}
            nameless = list(self.nameless(prefix, used))
            if not nameless:
                return tree
            flat: list[tuple[Value, Value]] = list(nameless)
            if isinstance(tree, Map):
                return Map([*tree.pairs, *flat], "OrderedDict")
            return Map([*([] if tree is None else [("object", tree)]), *flat], "OrderedDict")
        return tree

    def read_byteorder(self) -> str:
        """Return what the record of that name says; little where it says nothing."""
        name = self.root + "byteorder"
        central = self.centrals.get(name)
        places = [] if central is None else list(self.places_by_directory(central, central.size))
        places += [_Place(local.data_at, 3, 3) for local in self.locals if local.name == name]
        for place in places:
            if place.data_at + 3 <= self.end and not place.method:
                text = self.source.read(place.data_at, 3)
                if text in {b"big", b"lit"}:
                    return "big" if text == b"big" else "little"
        return "little"

    def storage(self, key: str, size: int, walked: _Place | None) -> tuple[Bytes | None, Fate]:
        """Return the bytes of a storage, None where they are not whole, and what became of it."""
        if not size:
            return BufferBytes(memoryview(b"")), Fate(proven=True)
        central = self.centrals.get(f"{self.root}data/{key}")
        places = [] if central is None else list(self.places_by_directory(central, size))
        if walked is not None:
            places.append(walked)
        why = ""
        unproven: tuple[Bytes, Fate] | None = None
        damaged: tuple[Bytes, Fate] | None = None
        for place in sorted(places, key=lambda place: place.size != size):
            if place.size < size:
                why = why or f"its record has {place.size:,} bytes, it needs {size:,}"
                continue
            data, fate = self.content(place)
            if data is not None and fate.proven and place.size == size:
                return data, fate
            if data is not None and unproven is None:
                unproven = data, Fate(proven=False)
            why = why or fate.why
            if fate.damaged and damaged is None and not place.method:
                damaged = ByteRange(self.source, place.data_at, place.packed), fate
        if unproven is not None:
            return _first_bytes(unproven[0], size), unproven[1]
        if damaged is not None and self.keep_damaged:
            return _first_bytes(damaged[0], size), damaged[1]
        if not why:
            why = "the file ends before it" if self.ends_early() else "its record is not found"
        return None, Fate(proven=False, why=why)

    def ends_early(self) -> bool:
        """Tell whether the archive has no directory: what is missing then lay behind its end."""
        return not self.centrals

    def places_by_directory(self, central: Central, size: int) -> Iterator[_Place]:
        """Yield where an entry of the directory leads: to a header that is there, or to where one would be."""
        at = self.start + central.header_at
        local = self.local_at(at)
        stored = central.method == 0
        # A stored record has its size twice; where one of the two was changed, the other and the pickle's may be right.
        for content in dict.fromkeys((size, central.size, central.packed)) if stored else (central.size,):
            packed = content if stored else central.packed
            place = _Place(0, packed, content, central.method, (central.crc32,))
            if local is not None:
                yield replace(place, data_at=local.data_at, flags=local.flags)
            predicted = self.aligned(at, central.name, content)
            if local is None or local.data_at != predicted:
                yield replace(place, data_at=predicted)
            if local is None:
                yield replace(place, data_at=at + 30 + len(central.name.encode()))  # as other zip writers place it

    def local_at(self, at: int) -> Local | None:
        index = bisect_left(self.locals, at, key=lambda local: local.offset)
        return self.locals[index] if index < len(self.locals) and self.locals[index].offset == at else None

    def aligned(self, header_at: int, name: str, size: int) -> int:
        """Return where the bytes of a record start whose header is at a byte, as torch computes it."""
        relative = header_at - self.start
        fields = (16 if size >= _MAX32 else 0) + (8 if relative >= _MAX32 else 0)
        unpadded = relative + 30 + len(name.encode()) + (fields + 4 if fields else 0) + 4
        return self.start + unpadded + -unpadded % _ALIGNMENT

    def walk(self) -> dict[str, _Place]:
        """Return where the storages are by their own headers, and by arithmetic where a header is missing."""
        places: dict[str, _Place] = {}
        order = self.order()
        reached = max(self.description.end, self.start)
        step = 16
        at = 0  # index into `order` of the storage that should come next
        for local in self.locals:
            if local.offset < reached:
                continue
            key = self.key_of(local.name)
            if key not in self.declared or key in places:
                small = _SMALL.get(local.name[len(self.root) :])
                if small is not None and local.name.startswith(self.root):
                    reached, step = local.data_at + small, 16
                continue
            index = order.index(key, at) if key in order[at:] else at
            if local.offset - reached > 64 and index > at:
                behind = self.predict(order[at:index], reached, step, places)
                if behind > local.offset and any(self.local_at(behind + skip) is not None for skip in (0, 16, 24)):
                    reached, step, at = behind, 0, index
                    continue  # this header is inside a storage whose own header is gone
            place = places[key] = self.place_by_header(local, self.declared[key].size)
            reached = place.data_at + place.packed
            step = _descriptor_bytes(place.size, local.offset - self.start)
            at = index + 1
        self.predict(order[at:], reached, step, places)
        self.predict_backwards(order, places)
        return places

    def place_by_header(self, local: Local, size: int) -> _Place:
        """Return where a record of known length is by its header; where that has wrong lengths, by arithmetic."""
        if not local.flags & SIZES_FOLLOW:
            packed = local.packed if local.method else size
            return _Place(local.data_at, packed, size, local.method, (local.crc32,), flags=local.flags)
        predicted = self.aligned(local.offset, local.name, size)
        for data_at in (local.data_at, predicted):
            end = data_at + size
            if end + 4 <= self.source.size and self.source.read(end, 4) == _DESCRIPTOR:
                return _Place(data_at, size, size)
        return _Place(local.data_at, size, size)

    def order(self) -> list[str]:
        """Return the keys in the order of the file: as they appear in the pickle, or sorted as text (before 2.7)."""
        order = list(self.declared)
        rank = {key: index for index, key in enumerate(order)}
        seen = [rank[key] for local in self.locals if (key := self.key_of(local.name)) in rank]
        falls = sum(1 for a, b in pairwise(seen) if b < a)
        by_text = sorted(order)
        if falls and by_text != order:
            rank = {key: index for index, key in enumerate(by_text)}
            seen = [rank[key] for local in self.locals if (key := self.key_of(local.name)) in rank]
            if sum(1 for a, b in pairwise(seen) if b < a) < falls:
                return by_text
        return order

    def predict(self, keys: Sequence[str], reached: int, step: int, places: dict[str, _Place]) -> int:
        """Place records whose headers are gone one behind the other; return the byte behind the last."""
        for key in keys:
            size = self.declared[key].size
            header_at = reached + step
            data_at = self.aligned(header_at, f"{self.root}data/{key}", size)
            if data_at + size > self.end:
                return reached
            places.setdefault(key, _Place(data_at, size, size, seen=False))
            reached, step = data_at + size, _descriptor_bytes(size, header_at - self.start)
        return reached

    def predict_backwards(self, order: Sequence[str], places: dict[str, _Place]) -> None:
        """Place a record whose header is gone in front of one that has its own."""
        headers = {self.key_of(local.name): local for local in self.locals}
        for key, after in pairwise(order):
            header = headers.get(after)
            place = places.get(key)
            if header is None or (place is not None and place.seen):
                continue
            size = self.declared[key].size
            for step in (16, 24):
                data_at = header.offset - step - size
                if data_at > self.start and (data_at - self.start) % _ALIGNMENT == 0:
                    if place is None or place.data_at != data_at:
                        places[key] = _Place(data_at, size, size, seen=False)
                    break

    # --- records without a description --------------------------------------------------------------------------------

    def nameless(self, prefix: str, used: set[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, flat tensor) of the storages that no part of the object refers to."""
        names = dict.fromkeys([*self.centrals, *(local.name for local in self.locals)])
        keys = [key for name in names if (key := self.key_of(name)) and prefix + key not in used]
        for key in keys:
            for place in self.places_of_record(key):
                if not place.size:
                    break
                data, fate = self.content(place)
                if data is None and fate.damaged and self.keep_damaged and not place.method:
                    data = ByteRange(self.source, place.data_at, place.packed)
                if data is None:
                    self.wreck.gone.append(Gone(f"{prefix}storage_{key}", fate.why))
                    break
                declared = self.declared.get(key)
                itemsize = DTYPES[declared.dtype].itemsize if declared is not None else 1
                dtype = declared.dtype if declared is not None and place.size % itemsize == 0 else "uint8"
                storage = Storage(prefix + key, place.size, data, "cpu", self.byteorder)
                self.wreck.decide(storage, fate)
                count = place.size // DTYPES[dtype].itemsize
                yield f"storage_{key}", Tensor(storage, dtype, 0, (count,), (1,))
                break

    def places_of_record(self, key: str) -> Iterator[_Place]:
        """Yield where a record may lie whose length the pickle does not tell."""
        name = f"{self.root}data/{key}"
        central = self.centrals.get(name)
        if central is not None:
            yield from self.places_by_directory(central, central.size)
            return
        local = next((local for local in self.locals if local.name == name), None)
        if local is None:
            return
        if not local.flags & SIZES_FOLLOW:
            yield _Place(local.data_at, local.packed, local.size, local.method, (local.crc32,), flags=local.flags)
            return
        if self.local_at(local.data_at) is not None:  # an empty record has no descriptor
            return
        found = False
        for size in self.sizes_by_descriptor(local.data_at):
            place = _Place(local.data_at, size, size)
            if self.content(place)[0] is not None:
                yield place
                return
            found = True
        if found or self.end - local.data_at > 0:
            yield _Place(local.data_at, self.source.size, self.source.size)  # its end is not found: reported as such

    def sizes_by_descriptor(self, data_at: int) -> Iterator[int]:
        """Yield the lengths that what looks like a descriptor gives to the record that starts at a byte."""
        descriptors = self.headers.descriptors
        tried = 0
        for index in range(bisect_left(descriptors, data_at), len(descriptors)):
            at = descriptors[index]
            if at >= self.end or tried >= 4:
                return
            field_ = self.source.read(at, min(24, self.source.size - at))
            size = at - data_at
            if size and (
                int.from_bytes(field_[12:16], "little") == size or field_[16:24] == size.to_bytes(8, "little")
            ):
                tried += 1
                yield size

    # --- checksums ----------------------------------------------------------------------------------------------------

    def described_crc(self, place: _Place) -> int:
        """Return the CRC-32 that stands behind a record; 0 where none does."""
        at = place.data_at + place.packed
        tail = self.source.read(at, min(8, max(self.source.size - at, 0)))
        return int.from_bytes(tail[4:8], "little") if tail[:4] == _DESCRIPTOR and len(tail) == 8 else 0

    def content(self, place: _Place) -> tuple[Bytes | None, Fate]:
        """Return the content of a record, None where it is not whole, and what speaks for or against it."""
        end = place.data_at + place.packed
        if place.data_at < self.start or end > self.end:
            missing = min(end - max(self.source.size, place.data_at), place.packed)
            why = (
                f"the file ends inside it: {max(place.packed - missing, 0):,} of {place.packed:,} bytes are there"
                if end > self.source.size
                else "its record would reach into the next archive"
            )
            return None, Fate(proven=False, why=why)
        if place.method not in {0, 8}:
            return None, Fate(proven=False, why=f"it is packed by compression method {place.method}")
        if self.budget.left < place.size:
            return None, Fate(proven=False, why="the records claim more bytes than the file has, many times over")
        self.budget.left -= place.size
        raw = ByteRange(self.source, place.data_at, place.packed)
        data: Bytes = InflatedBytes(raw, place.size, self.root) if place.method else raw
        crc = 0
        try:
            for chunk in data.chunks():
                crc = crc32(chunk, crc)
        except UnreadableFile as error:
            return None, Fate(proven=False, why=error.what.removeprefix(self.source.path + ": "))
        return self.judged(data, crc, place, end)

    def judged(self, data: Bytes, crc: int, place: _Place, end: int) -> tuple[Bytes | None, Fate]:
        tail = self.source.read(end, min(24, self.source.size - end))
        promised = [value for value in place.promised if value]
        descriptor = tail[:4] == _DESCRIPTOR and len(tail) >= 8
        if len(tail) >= 8:
            behind = int.from_bytes(tail[4:8], "little")
            if crc == behind and (descriptor or crc):
                return data, Fate(proven=bool(crc) or descriptor)
            if descriptor and behind:
                promised.append(behind)
        if crc in promised:
            return data, Fate(proven=True)
        if promised:
            why = f"its bytes were changed: CRC-32 {crc:08x}, written as {promised[0]:08x}"
            return None, Fate(proven=False, why=why, damaged=True)
        if not place.seen:
            return None, Fate(proven=False, why="its header is gone, and no checksum shows where its bytes are")
        cut = len(tail) < 16 and tail[: min(len(tail), 4)] == _DESCRIPTOR[: len(tail)]
        if descriptor or cut or place.promised or not place.flags & SIZES_FOLLOW:
            # The writer computed no CRC, or the file was cut just here.
            return data, Fate(proven=False)
        return None, Fate(proven=False, why="what follows its bytes is not the end of a record: they were overwritten")

    # --- what is worth saying -----------------------------------------------------------------------------------------

    def report(
        self, code: str, name: str, severity: Severity, what: str, why: str = "", do: str = "", *, member: str = ""
    ) -> None:
        self.wreck.findings.append(Finding(code, name, severity, what, why, do, Where(member=member or None)))

    def report_mended(self, name: str, was: bytes, mended: bytes, at: int, place: _Place) -> None:
        self.wreck.findings.append(
            Finding(
                "RK-SALV-01",
                "mended-description",
                Severity.WARNING,
                f"byte {at:,} of {name}, the description of the tensors, was {was[at]:#04x} and is read as "
                f"{mended[at]:#04x}: then its CRC-32 is right",
                why="one byte of it was changed; the CRC tells which, other damage looks like this very rarely",
                where=Where(member=name, offset=place.data_at + at),
            )
        )


def _doubtful(name: str) -> str:
    return (
        f"{name}, the description of the tensors, was changed: its CRC-32 is wrong; it can still be read, "
        "but a name, a shape or a type in it may be another than was saved"
    )


def _between(headers: Sequence[_Header], start: int, end: int) -> list[_Header]:
    """Return the headers that stand from one byte up to another."""
    first = bisect_left(headers, start, key=lambda header: header.offset)
    return list(headers[first : bisect_left(headers, end, key=lambda header: header.offset)])


def _is_pickle(name: str) -> bool:
    return name == "data.pkl" or name.endswith("/data.pkl")


def _descriptor_bytes(size: int, header_at: int) -> int:
    """Return how long the descriptor behind a record is."""
    if not size:
        return 0
    return 24 if size >= _MAX32 or header_at >= _MAX32 else 16


def _first_bytes(data: Bytes, size: int) -> Bytes:
    return data.sub(0, size) if isinstance(data, ByteRange) and data.size > size else data


def _unnoticed(pid: Value) -> Value:
    """Stand for a storage while only the length of a program is wanted."""
    said = read_storage_id(pid)
    if said is None:
        return None
    return StorageRef(Storage(said.key, said.numel * said.dtype.itemsize, None), said.dtype.name, 0, said.numel)
