"""Which file was being read or written, from the frames that are alive or from the user's own line."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

from rekindle.explain.event import Event

if TYPE_CHECKING:
    from rekindle.verbs.doctor import Diagnosis

__all__ = [
    "UNKNOWN",
    "asked",
    "bytes_of",
    "checkpoint_of",
    "danger_of",
    "is_buffer",
    "is_loading",
    "is_saving",
    "named",
    "really",
    "stem_of",
]

UNKNOWN = "FILE"

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".tar", ".th", ".pkl", ".pickle", ".t7", ".model")
_WRITTEN = re.compile(
    r"\b(?:load|load_file|load_model|safe_open|save|save_file)\([^\"'\n]{0,80}?[rf]?[\"']([^\"'\n]+)[\"'](?!\s?[:\]])"
)
_READERS = (
    "torch/serialization.py",
    "torch/_weights_only_unpickler.py",
    "torch/jit/_serialization.py",
    "torch/hub.py",
    "safetensors/",
)
_READS = re.compile(
    r"\b(?:torch(?:\.jit|\.hub)?|dcp|safetensors\.torch|rk|rekindle)\.(?:load|load_file|load_state_dict_from_url)\("
)
_WRITES = re.compile(r"\b(?:torch(?:\.jit)?|dcp|safetensors\.torch)\.(?:save|save_file|dump)\(|save_pretrained\(")


def checkpoint_of(event: Event) -> str:
    """Return the file's name as a shell takes it, or ``FILE`` where nothing tells it."""
    return shlex.quote(_path_of(event) or UNKNOWN)


def stem_of(event: Event) -> str:
    """Return the file's name without its suffix, for the name of a new file beside it; ``new`` where it is unknown."""
    path = _path_of(event)
    if path is None:
        return "new"
    stem = path
    for _ in range(2):  # .pth.tar
        stem = next((stem.removesuffix(suffix) for suffix in _SUFFIXES if stem.endswith(suffix)), stem)
    return shlex.quote(stem or path)


def named(event: Event, otherwise: str = "the file") -> str:
    """Return the file's name for a sentence: as it was given, or `otherwise`."""
    return _path_of(event) or otherwise


def bytes_of(event: Event) -> int | None:
    """Return the file's size where the exception was caught alive and the file is there, else None."""
    path = _path_of(event) if event.live else None
    try:
        return None if path is None else os.path.getsize(path)
    except (OSError, ValueError):
        return None


def is_buffer(event: Event) -> bool:
    """Whether `torch.load` was given an open file or a buffer in memory, and not a path."""
    frames = event.live.frames if event.live else ()
    given = {frame.kinds.get("f", "") for frame in frames if frame.frame.function == "load" and "f" in frame.kinds}
    return bool(
        given & {"BytesIO", "BufferedReader", "BufferedRandom", "SpooledTemporaryFile", "_TemporaryFileWrapper"}
    )


def asked(event: Event) -> Diagnosis | None:
    """Return what `rekindle doctor` says of the file, or None where it cannot look.

    Only where the exception was caught alive: the file of a log may be another one by now, or on another machine.
    Nothing of the file is executed or imported, and its tensors are not read.
    """
    path = _path_of(event) if event.live else None
    if path is None or not os.path.isfile(path):
        return None
    from rekindle.errors import RekindleError  # noqa: PLC0415 - the file side, only where a file is at hand
    from rekindle.verbs.doctor import doctor  # noqa: PLC0415

    try:
        return doctor(path)
    except (RekindleError, OSError):
        return None


def really(event: Event) -> str:
    """Return what `rekindle doctor` finds wrong with the file first, as the end of a sentence, or an empty text."""
    found = asked(event)
    worst = next((finding for finding in found.findings if finding.severity.rank < 2), None) if found else None
    return f"; rekindle doctor finds: {worst.what.removeprefix(f'{named(event)}: ')} [{worst.code}]" if worst else ""


def danger_of(event: Event) -> str:
    """Return what the file would run when it is unpickled, where it is at hand and does; else an empty text."""
    found = asked(event)
    return next((finding.what for finding in found.findings if finding.severity.rank == 0), "") if found else ""


def is_loading(event: Event) -> bool:
    """Whether the event happened while something was read: in torch's or safetensors' reader, or on such a line."""
    if not event.frames:  # a pasted text, whose calls stand in it
        return bool(_READS.search(event.message))
    reads = any(_is_within(frame.path, _READERS) or _READS.search(frame.code) for frame in event.frames)
    return reads and not is_saving(event)


def is_saving(event: Event) -> bool:
    """Whether the event happened while something was written."""
    return any(
        (_is_within(frame.path, _READERS) and frame.function in {"save", "_save", "_legacy_save"})
        or _WRITES.search(frame.code)
        for frame in event.frames
    )


def _path_of(event: Event) -> str | None:
    live = event.live
    if live is not None:
        for name, function in (("f", "load"), ("f", "save"), ("filename", "load_file"), ("filename", "save_file")):
            found = live.find_plain(name, function=function)
            if isinstance(found, str):
                return found
    for frame in reversed(event.frames):
        written = _WRITTEN.search(frame.code) if frame.is_users else None
        if written and not ("{" in written[1] and "}" in written[1]):  # an f-string names no file
            return written[1]
    if live is None:
        return None
    named = {
        value
        for frame in live.frames
        if frame.frame.is_users
        for value in frame.plain.values()
        if isinstance(value, str) and value.lower().endswith(_SUFFIXES)
    }
    return named.pop() if len(named) == 1 else None


def _is_within(path: str, parts: tuple[str, ...]) -> bool:
    plain = path.replace("\\", "/")
    return any(part in plain for part in parts)
