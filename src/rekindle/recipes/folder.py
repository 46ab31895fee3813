"""Where a recipe's run may be put: what is in the way is said before anything is loaded, trained or written."""

from __future__ import annotations

import os
import shlex

from rekindle.errors import ConfigError
from rekindle.store.layout import LOCK_NAME

__all__ = ["check_folder", "elsewhere"]


def check_folder(path: str) -> None:
    """Refuse a folder that cannot be made or cannot be a run's.

    Args:
        path: as the user gave it.

    Raises:
        ConfigError: the path or a parent of it is a file, or its lock is a folder.
    """
    parent = path
    while parent and not os.path.lexists(parent) and os.path.dirname(parent) != parent:
        parent = os.path.dirname(parent)
    if parent and os.path.lexists(parent) and not os.path.isdir(parent):
        raise ConfigError(
            f"{path}: the run's folder cannot be made",
            why=f"{parent} is no folder",
            do=f"choose another folder: {elsewhere(parent)}",
        )
    lock = os.path.join(path, LOCK_NAME)
    if os.path.isdir(lock):
        raise ConfigError(
            f"{path}: the folder cannot be a run's",
            why=f"{lock} is a folder, and a run keeps its lock there, in a file",
            do=f"choose another folder: {elsewhere(path)}; or remove it: rmdir {shlex.quote(lock)}",
        )


def elsewhere(path: str) -> str:
    """Return the option that names a folder beside `path`."""
    return f"--out {shlex.quote(path.rstrip(os.sep) + '-2')}"
