"""One conversion under way: what was taken from the source, and what became of it."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from rekindle.converting.files import states_of
from rekindle.converting.notes import code_of, prefixes
from rekindle.converting.result import Lost, Written
from rekindle.converting.streams import Checked, place_of, promised_crcs
from rekindle.converting.wishes import Wishes
from rekindle.finding import Finding, Severity, Where
from rekindle.limits import Limits
from rekindle.listing import table_of
from rekindle.source import Bytes
from rekindle.tensors import Storage, TensorTable
from rekindle.tree import Map, Value

if TYPE_CHECKING:
    from rekindle.casting import CastReport
    from rekindle.opened import Opened
    from rekindle.writers.pickle_program import Path

__all__ = ["Job"]


class Job:
    """What is taken, how it was changed, what was written, lost and noted; one per file that is written.

    Its `tree` and `table` are those of the source until `choosing` changes them.
    """

    def __init__(
        self, opened: Opened, source: str, target: str, container: str, limits: Limits, wishes: Wishes
    ) -> None:
        """Begin with the whole object of the source."""
        self.opened = opened
        self.source = source
        self.target = target
        self.container = container
        self.limits = limits
        self.wishes = wishes
        self.casting: CastReport | None = None
        self.values_tree: Value = None  # where the values keep a nesting that the tensors lose
        self.tree: Value = opened.tree
        self.table: TensorTable = opened.table
        self.written: list[Written] = []
        self.lost: list[Lost] = []
        self.findings = [finding for finding in opened.findings if finding.severity is not Severity.NOTE]
        self.promised = promised_crcs(opened)
        # Where bytes were put, and their CRC-32 as they came from the source: by id of the storage, or by key if flat.
        self.places: dict[int, tuple[Storage, int, int]] = {}
        self.places_of_keys: dict[str, tuple[int, int]] = {}
        self.crcs_read_back: dict[int, int] = {}  # by place, as the new file gives them back
        self.key_prefixes: frozenset[str] | None = None
        self.sources = states_of(opened.table)

    def list_tensors(self) -> None:
        """List the tensors of the tree as it is now."""
        self.table, found = table_of(self.tree, self.limits)
        self.findings.extend(finding for finding in found if finding not in self.findings)

    def note(self, name: str, what: str, *, why: str = "", do: str = "", where: Where | None = None) -> None:
        """Say something, under the code that the name has."""
        self.findings.append(Finding(code_of(name), name, Severity.NOTE, what, why, do, where or Where()))

    def lose(self, path: Path, why: str) -> None:
        """Note that what lies at this path of the object does not go over."""
        key = ".".join(str(part) for part in path)
        if self.key_prefixes is None:
            self.key_prefixes = frozenset(prefix for entry in self.table for prefix in prefixes(entry.key))
        self.lost.append(Lost(key, why, is_tensor=key in self.key_prefixes))

    def check_storage(self, storage: Storage) -> None:
        """Compare the CRC of a storage that a flat file takes tensors from."""
        promised = self.promised.get(place_of(storage.data))
        if promised is None or storage.data is None:
            return
        for _ in Checked(storage.data, self.source, *promised).chunks():
            pass

    def checked_bytes(self, storage: Storage) -> Bytes | None:
        """Return a storage's bytes for a cast: their CRC is compared on the way where they pass as a whole."""
        promised = self.promised.get(place_of(storage.data))
        if promised is None or storage.data is None:
            return storage.data
        if self.container == "safetensors":  # which reads tensor by tensor
            self.check_storage(storage)
            return storage.data
        return Checked(storage.data, self.source, *promised)

    def content_bytes(self) -> int:
        """Return the bytes of the tensors, each storage once where the file keeps sharing."""
        keys = {row.key for row in self.written}
        if self.container == "safetensors":
            return sum(entry.size_bytes for entry in self.table if entry.key in keys)
        return sum({id(e.storage): e.storage.size_bytes for e in self.table if e.key in keys}.values())

    def for_shard(self, target: str, tree: Map) -> Job:
        """Return the job of one file of several: its own tree, and nothing of what was written or said so far."""
        shard = copy(self)
        shard.target, shard.tree = target, tree
        shard.written, shard.lost, shard.findings = [], [], []
        shard.places, shard.places_of_keys, shard.crcs_read_back, shard.key_prefixes = {}, {}, {}, None
        shard.list_tensors()
        return shard
