"""What lies in a folder that a data set is to be read from: how many files of which kind, or that it is not there.

Law: only for failures that are alive here; at most 5,000 names are looked at, no file is opened.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from itertools import islice

from rekindle.explain.event import Event

__all__ = ["data_paths", "folder_said"]

_MOST = 5_000
_NAMED = re.compile(r"root|path|dir$|_dir|folder|data|files|pattern", re.IGNORECASE)
_LITERAL = re.compile(r"[\"']([^\"'\n]{1,300})[\"']")


def data_paths(event: Event) -> list[str]:
    """Return paths that the user's frames hold under a telling name or write in the line that failed."""
    if event.live is None:
        return []
    found: list[str] = []
    for frame in reversed(event.live.frames):
        if not frame.frame.is_users:
            continue
        found += [text for text in _LITERAL.findall(frame.frame.code) if "/" in text or os.path.isdir(text)]
        found += [
            value
            for name, value in frame.plain.items()
            if isinstance(value, str) and value and _NAMED.search(name) and "\n" not in value
        ]
    return list(dict.fromkeys(found))[:3]


def folder_said(path: str) -> str:
    """Return what a path is, as a sentence about it.

    Example:
        >>> folder_said("/nowhere/at/all")
        '/nowhere/at/all does not exist'
    """
    if any(sign in path for sign in "*?["):
        from glob import glob  # noqa: PLC0415 - only for patterns

        return f"{path} fits {len(list(islice(glob(path, recursive=False), _MOST)))} files"
    if not os.path.exists(path):
        return f"{path} does not exist"
    if not os.path.isdir(path):
        return f"{path} is a file of {os.path.getsize(path)} bytes"
    folders = 0
    kinds: Counter[str] = Counter()
    with os.scandir(path) as entries:
        for entry in islice(entries, _MOST):
            if entry.is_dir():
                folders += 1
            else:
                kinds[os.path.splitext(entry.name)[1] or "no suffix"] += 1
    files = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
    return f"{path} holds {folders} {'folder' if folders == 1 else 'folders'} and {f'files: {files}' if files else 'no file'}"
