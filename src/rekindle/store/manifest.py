"""The manifest of a snapshot: every file with its size and digests; that it is there, and holds, is the commit.

    {
      "block_bytes": 8388608,
      "facts": {...},
      "files": {"model.safetensors": {"sha256_of_blocks": ["...", ...], "size": 44730608}, ...},
      "format": "rekindle-snapshot",
      "format_version": 2,
      "step": 400,
      "sha256_of_all_above": "..."
    }

A file is digested in blocks of `block_bytes` bytes, the last one shorter. In version 1 each file was one block, and its
digest stood as ``"sha256"``; such manifests are read as before. The last field is the SHA-256 of every byte before its
own line, so that a manifest vouches for itself first. The step stands in the manifest and in the folder's name: a
snapshot under another step's name is not taken.

Law: a manifest is data from a stranger. Its size is bounded, its names can only name files in its own folder, links are
not followed, and whatever the bytes, the answer is a `Manifest` or `SnapshotDamaged` with one line of reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from rekindle.errors import OtherVersion, SnapshotDamaged
from rekindle.store.digests import BLOCK_BYTES, block_count, digests_of_file
from rekindle.store.layout import MANIFEST_NAME, step_of_name

__all__ = [
    "Damage",
    "FileFacts",
    "Manifest",
    "encode_manifest",
    "is_safe_name",
    "read_manifest",
    "read_verified",
    "verify",
]

FORMAT_VERSION = 2
_WHOLE_FILES = 1  # the version before, without blocks
_MARK = "rekindle-snapshot"
_LIMIT_BYTES = 128 * 1024**2  # 12 TB of blocks
_LIMIT_FILES = 100_000
_SMALLEST_BLOCK = 4096
_CHUNK_BYTES = 1024**2
_TAIL = re.compile(rb',\n  "sha256_of_all_above": "([0-9a-f]{64})"\n}\n\Z')
_TAIL_BYTES = len(',\n  "sha256_of_all_above": ""\n}\n') + 64
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OF_NOTHING = hashlib.sha256().hexdigest()


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What the manifest says of one file.

    Attributes:
        size: bytes.
        blocks: SHA-256 of each block, in hexadecimal; none for an empty file.
        block_bytes: bytes of each block but the last.
    """

    size: int
    blocks: tuple[str, ...]
    block_bytes: int = BLOCK_BYTES

    def damaged_ranges(self, blocks: Sequence[str]) -> list[tuple[int, int]]:
        """Return (first byte, end) of each block that has another digest, of a file of the right size."""
        pairs = enumerate(zip(self.blocks, blocks, strict=True))
        starts = (at * self.block_bytes for at, (wanted, found) in pairs if wanted != found)
        return [(start, min(start + self.block_bytes, self.size)) for start in starts]

    def difference(self, blocks: Sequence[str]) -> str | None:
        """Return how a file of the right size with these digests differs, in words; None where it does not."""
        ranges = self.damaged_ranges(blocks)
        if not ranges:
            return None
        if len(self.blocks) == 1:
            return "has other bytes than were saved: its SHA-256 does not match the manifest"
        return (
            f"has other bytes than were saved: {len(ranges):,} of its {len(self.blocks):,} blocks, "
            f"between bytes {ranges[0][0]:,} and {ranges[-1][1]:,}, do not match the manifest"
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that vouches for itself; whether the files are as it says is another question (`verify`).

    Attributes:
        step: optimizer updates done when the snapshot was taken.
        files: name -> facts.
        facts: what the writer added: versions, what was promised.
    """

    step: int
    files: Mapping[str, FileFacts]
    facts: Mapping[str, object]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files.values())


@dataclass(frozen=True, slots=True)
class Damage:
    """Why a snapshot is not taken.

    Attributes:
        file: name of the file that is not as it should be; None for the folder itself.
        reason: one line, without the folder's path.
        other_version: it is no damage: the manifest vouches for itself, in a format that this rekindle does not read.
    """

    file: str | None
    reason: str
    other_version: bool = False


def is_safe_name(name: str) -> bool:
    """Tell whether a name may stand in a manifest: letters, digits and ``._+-``, no path, not hidden."""
    return _NAME.fullmatch(name) is not None and not name.endswith(".")


def encode_manifest(step: int, files: Mapping[str, FileFacts], facts: Mapping[str, object]) -> bytes:
    """Return the bytes of a manifest.

    Args:
        step: optimizer updates done.
        files: name -> facts; names as `is_safe_name` wants them.
        facts: JSON values.

    Raises:
        ValueError: a name is not safe, `facts` is not JSON (NaN included), or a file has blocks of another size.
    """
    for name in files:
        if not is_safe_name(name) or name == MANIFEST_NAME:
            raise ValueError(f"{name!r} cannot be the name of a file in a snapshot")
        if files[name].block_bytes != BLOCK_BYTES:
            raise ValueError(f"{name!r} is digested in blocks of {files[name].block_bytes:,} bytes")
    body = {
        "block_bytes": BLOCK_BYTES,
        "facts": dict(facts),
        "files": {name: {"sha256_of_blocks": file.blocks, "size": file.size} for name, file in files.items()},
        "format": _MARK,
        "format_version": FORMAT_VERSION,
        "step": step,
    }
    text = json.dumps(body, indent=2, sort_keys=True, allow_nan=False).removesuffix("\n}").encode()
    digest = hashlib.sha256(text).hexdigest()
    return text + f',\n  "sha256_of_all_above": "{digest}"\n}}\n'.encode()


def decode_manifest(data: bytes, folder_name: str) -> Manifest:
    """Return the manifest that these bytes are.

    Args:
        data: content of ``manifest.json``.
        folder_name: name of the folder it lay in; where it is a snapshot's name, the step must agree.

    Raises:
        SnapshotDamaged: they are not one that vouches for itself; `what` is the one-line reason.
    """
    tail = _TAIL.search(data[-_TAIL_BYTES:])
    body = data[:-_TAIL_BYTES]
    if tail is None:
        raise SnapshotDamaged(f"{MANIFEST_NAME} is cut short or overwritten")
    if hashlib.sha256(body).hexdigest().encode() != tail[1]:
        raise SnapshotDamaged(f"{MANIFEST_NAME} was changed: its own digest does not hold")
    try:
        value = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise SnapshotDamaged(f"{MANIFEST_NAME} is not strict JSON: {str(error)[:100]}") from None
    if not isinstance(value, dict) or value.get("format") != _MARK:
        raise SnapshotDamaged(f"{MANIFEST_NAME} is not a rekindle manifest")
    version = value.get("format_version")
    if version not in (_WHOLE_FILES, FORMAT_VERSION):
        raise OtherVersion(f"written in format {ascii(str(version)[:20])[1:-1]}; this rekindle reads {FORMAT_VERSION}")
    step, files, facts = value.get("step"), value.get("files"), value.get("facts")
    if type(step) is not int or not 0 <= step < 10**18 or not isinstance(files, dict) or not isinstance(facts, dict):
        raise SnapshotDamaged(f"{MANIFEST_NAME} lacks a step, its files or its facts")
    named = step_of_name(folder_name)
    if named is not None and named != step:
        raise SnapshotDamaged(f"{MANIFEST_NAME} is of step {step}, the folder is named for step {named}")
    if len(files) > _LIMIT_FILES:
        raise SnapshotDamaged(f"{MANIFEST_NAME} names {len(files):,} files")
    block_bytes = None
    if version != _WHOLE_FILES:
        block_bytes = value.get("block_bytes")
        if type(block_bytes) is not int or not _SMALLEST_BLOCK <= block_bytes < 2**63:
            raise SnapshotDamaged(f"{MANIFEST_NAME} has blocks of a size that is none")
    return Manifest(step, {name: _file_facts(name, entry, block_bytes) for name, entry in files.items()}, facts)


def read_manifest(snapshot_path: str | os.PathLike[str]) -> Manifest:
    """Return the manifest of a snapshot; the files themselves are not looked at.

    Raises:
        SnapshotDamaged: there is none, or it does not vouch for itself; `what` is one line without the path.
        FileNotFoundError: the folder itself is not there.
        OSError: it cannot be read.
    """
    with _folder(snapshot_path) as folder:
        return _read_manifest(folder, _name_of(snapshot_path))


def verify(snapshot_path: str | os.PathLike[str], *, digests: bool = True) -> Damage | None:
    """Return what is wrong with a snapshot, None where its manifest vouches for all of it.

    Args:
        snapshot_path: the folder.
        digests: compare the SHA-256 of every block; otherwise only that they are there, with the right sizes.

    Raises:
        FileNotFoundError: the folder itself is not there (pruned meanwhile).
    """
    try:
        with _folder(snapshot_path) as folder:
            manifest = _read_manifest(folder, _name_of(snapshot_path))
            for name in sorted(manifest.files):
                reason = _difference(folder, name, manifest.files[name], digests=digests)
                if reason is not None:
                    return Damage(name, f"{name} {reason}")
    except SnapshotDamaged as error:
        return Damage(MANIFEST_NAME, error.what, other_version=isinstance(error, OtherVersion))
    except FileNotFoundError:
        raise
    except NotADirectoryError:
        return Damage(None, "it is not a folder, or it is a symbolic link")
    except OSError as error:
        return Damage(None, f"it cannot be read: {error.strerror or error}")
    return None


def read_verified(snapshot_path: str | os.PathLike[str], name: str, manifest: Manifest, into: memoryview) -> None:
    """Read a whole file of a snapshot into `into`, and make sure that these very bytes are the ones vouched for.

    Args:
        snapshot_path: the folder.
        name: a file of the manifest.
        manifest: of this snapshot.
        into: writable bytes, as many as the manifest says.

    Raises:
        SnapshotDamaged: the bytes differ, or the file is missing or of another size.
        KeyError: the manifest has no such file.
    """
    facts = manifest.files[name]
    reason: str | None = "is gone, and so is the snapshot's folder"
    with suppress(FileNotFoundError, NotADirectoryError), _folder(snapshot_path) as folder:
        reason = _read_into(folder, name, facts, into)
    if reason is not None:
        raise SnapshotDamaged(
            f"{os.fspath(snapshot_path)}: {name} {reason}",
            why="it changed after it was committed, on the disk or on the way from it",
            do="launch again: the newest snapshot that holds is taken",
        )


def _name_of(path: str | os.PathLike[str]) -> str:
    return os.path.basename(os.path.normpath(path))


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _file_facts(name: str, entry: object, block_bytes: int | None) -> FileFacts:
    """Return what an entry says; `block_bytes` is None where a file is one block."""
    if not is_safe_name(name) or name == MANIFEST_NAME:
        raise SnapshotDamaged(f"{MANIFEST_NAME} names a file that cannot be one: {ascii(name)[:80]}")
    field = "sha256" if block_bytes is None else "sha256_of_blocks"
    if not isinstance(entry, dict) or entry.keys() != {field, "size"}:
        raise SnapshotDamaged(f"{MANIFEST_NAME} says of {name} something else than size and {field}")
    size, digests = entry["size"], entry[field]
    if type(size) is not int or not 0 <= size < 2**63:
        raise SnapshotDamaged(f"{MANIFEST_NAME} gives {name} a size that is none")
    if block_bytes is None:
        digests = [digests] if size or digests != _OF_NOTHING else []
        block_bytes = max(size, 1)
    if not isinstance(digests, list) or not all(isinstance(digest, str) for digest in digests):
        raise SnapshotDamaged(f"{MANIFEST_NAME} gives {name} a digest that is none")
    if len(digests) != block_count(size, block_bytes) or not all(map(_DIGEST.fullmatch, digests)):
        raise SnapshotDamaged(f"{MANIFEST_NAME} gives {name} a digest that is none")
    return FileFacts(size, tuple(digests), block_bytes)


# One folder is opened once and its files relative to it, where the system can: all that is read is then of one folder,
# even if another process renames it meanwhile. A folder is (descriptor or None, path).
_Folder = tuple[int | None, str]
_RELATIVE = os.open in os.supports_dir_fd


@contextmanager
def _folder(path: str | os.PathLike[str]) -> Iterator[_Folder]:
    if not _RELATIVE:
        if not os.path.isdir(path):
            os.listdir(path)  # raises the right OSError
        yield None, os.fspath(path)
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_CLOEXEC", 0))
    try:
        yield fd, os.fspath(path)
    finally:
        os.close(fd)


_READ_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe that nobody writes to would block for ever
)


def _open(folder: _Folder, name: str) -> int:
    fd, path = folder
    return os.open(os.path.join(path, name), _READ_FLAGS) if fd is None else os.open(name, _READ_FLAGS, dir_fd=fd)


def _read_manifest(folder: _Folder, folder_name: str) -> Manifest:
    try:
        fd = _open(folder, MANIFEST_NAME)
    except FileNotFoundError:
        raise SnapshotDamaged(f"{MANIFEST_NAME} is missing: the save did not finish") from None
    except OSError as error:
        raise SnapshotDamaged(f"{MANIFEST_NAME} cannot be opened: {error.strerror or error}") from None
    try:
        if not _is_regular(fd):
            raise SnapshotDamaged(f"{MANIFEST_NAME} is not a file")
        pieces = []
        left = _LIMIT_BYTES + 1
        while left and (piece := os.read(fd, min(left, _CHUNK_BYTES))):
            pieces.append(piece)
            left -= len(piece)
        if not left:
            raise SnapshotDamaged(f"{MANIFEST_NAME} has more than {_LIMIT_BYTES:,} bytes")
    finally:
        os.close(fd)
    return decode_manifest(b"".join(pieces), folder_name)


def _difference(folder: _Folder, name: str, facts: FileFacts, *, digests: bool) -> str | None:
    """Return how a file differs from what the manifest says, None where it does not."""
    return _read_into(folder, name, facts, None if digests else memoryview(b""))


def _read_into(folder: _Folder, name: str, facts: FileFacts, into: memoryview | None) -> str | None:
    """Read a file and compare; `into` keeps the bytes, None drops them, an empty view of a full file skips reading."""
    try:
        fd = _open(folder, name)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be opened: {error.strerror or error}"
    try:
        if not _is_regular(fd):
            return "is not a file"
        size = os.fstat(fd).st_size
        if size != facts.size:
            return f"has {size:,} bytes; the manifest says {facts.size:,}"
        if into is not None and not len(into) and size:
            return None
        if into is not None and len(into) != size:
            raise ValueError(f"room for {len(into)} bytes was given, {name} has {size}")
        return facts.difference(digests_of_file(fd, size, facts.block_bytes, into))
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    finally:
        os.close(fd)


def _is_regular(fd: int) -> bool:
    return os.fstat(fd).st_mode & 0o170000 == 0o100000
