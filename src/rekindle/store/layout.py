"""Names and paths of a run's folder: where everything lies, and nothing else.

    runs/digits/
      run.json                  what the run is; the mark of a run folder
      metrics.jsonl             what was logged
      tensorboard/              event files
      LOCK                      held by the process that writes the run
      snapshots/
        step-00000400/          one committed snapshot, never changed afterwards
        .tmp-400-<random>/      a snapshot that is being written, or that a crash left
        .trash-<name>-<random>/ a snapshot that is being deleted

There is no file that names the newest snapshot: the newest folder that its manifest vouches for is the newest.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from rekindle.errors import RunError
from rekindle.store.atomic import write_beside

__all__ = [
    "LOCK_NAME",
    "MANIFEST_NAME",
    "METRICS_NAME",
    "RUN_FILE_NAME",
    "SNAPSHOTS_NAME",
    "STATE_NAME",
    "TEMPORARY_PREFIX",
    "TENSORBOARD_NAME",
    "TRASH_PREFIX",
    "Listed",
    "check_run_folder",
    "is_run_folder",
    "is_snapshot_folder",
    "list_snapshots",
    "read_run_file",
    "snapshot_name",
    "snapshot_path",
    "snapshots_path",
    "step_of_name",
    "write_run_file",
]

RUN_FILE_NAME = "run.json"
METRICS_NAME = "metrics.jsonl"
TENSORBOARD_NAME = "tensorboard"
LOCK_NAME = "LOCK"
SNAPSHOTS_NAME = "snapshots"
MANIFEST_NAME = "manifest.json"
STATE_NAME = "state.json"
TEMPORARY_PREFIX = ".tmp-"
TRASH_PREFIX = ".trash-"

_MARK = "rekindle-run"
_RUN_FORMAT_VERSION = 1
_RUN_FILE_LIMIT_BYTES = 16 * 1024**2
_SNAPSHOT_NAME = re.compile(r"step-([0-9]{8,18})")
# What may lie in a folder that a first launch left before it wrote run.json.
_OURS = frozenset({LOCK_NAME, SNAPSHOTS_NAME, METRICS_NAME, TENSORBOARD_NAME})


@dataclass(frozen=True, slots=True)
class Listed:
    """A name in the snapshots folder that looks like a snapshot; nothing about it was checked.

    Attributes:
        step: optimizer updates done when it was taken.
        path: where it lies.
    """

    step: int
    path: str

    @property
    def name(self) -> str:
        """The folder's name, such as ``step-00000400``."""
        return os.path.basename(self.path)


def snapshot_name(step: int) -> str:
    """Return the name of a step's snapshot: ``step-`` and at least eight digits.

    Raises:
        ValueError: `step` is negative or has more than 18 digits.
    """
    if not 0 <= step < 10**18:
        raise ValueError(f"a step is between 0 and 10^18, not {step}")
    return f"step-{step:08d}"


def step_of_name(name: str) -> int | None:
    """Return the step of a snapshot's name, None for any other name."""
    found = _SNAPSHOT_NAME.fullmatch(name)
    if found is None:
        return None
    step = int(found[1])
    return step if snapshot_name(step) == name else None


def snapshots_path(run_path: str | os.PathLike[str]) -> str:
    """Return the folder that holds a run's snapshots."""
    return os.path.join(os.fspath(run_path), SNAPSHOTS_NAME)


def snapshot_path(run_path: str | os.PathLike[str], step: int) -> str:
    """Return where the snapshot of a step lies, or would lie."""
    return os.path.join(snapshots_path(run_path), snapshot_name(step))


def list_snapshots(run_path: str | os.PathLike[str]) -> list[Listed]:
    """Return what looks like a snapshot, newest step first; nothing is opened.

    Raises:
        OSError: the folder cannot be listed; a missing one is an empty list.
    """
    folder = snapshots_path(run_path)
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [Listed(step, os.path.join(folder, name)) for name in names if (step := step_of_name(name)) is not None]
    return sorted(found, key=lambda listed: listed.step, reverse=True)


def is_snapshot_folder(path: str | os.PathLike[str]) -> bool:
    """Tell whether a folder is a snapshot, or was one: it has a manifest and a state, or the name and one of them."""
    has_manifest = os.path.lexists(os.path.join(path, MANIFEST_NAME))
    has_state = os.path.lexists(os.path.join(path, STATE_NAME))
    if has_manifest and has_state:
        return True
    named = step_of_name(os.path.basename(os.path.normpath(path))) is not None
    return named and (has_manifest or has_state)


def is_run_folder(path: str | os.PathLike[str]) -> bool:
    """Tell whether a folder is a run of rekindle's: its ``run.json`` says so, or it has snapshots."""
    if not os.path.isdir(path):
        return False
    try:
        if read_run_file(path) is not None:
            return True
        return bool(list_snapshots(path))
    except RunError:  # run.json bears our mark, and is damaged or of another version
        return True
    except OSError:
        return False


def check_run_folder(path: str | os.PathLike[str]) -> None:
    """Make sure that a run may live at `path`: nothing there, an empty folder, or a run of rekindle's.

    Raises:
        RunError: it is a file, or a folder of something else; nothing in it was touched.
        OSError: it cannot be looked at.
    """
    given = os.fspath(path)
    other = "give the run a folder of its own: another name, or one that does not exist yet"
    if not os.path.lexists(given):
        return
    if not os.path.isdir(given):
        raise RunError(f"{given}: a run needs a folder, and this is a file", do=other)
    if is_run_folder(given):
        return
    foreign = sorted(name for name in os.listdir(given) if name not in _OURS and not name.startswith(TEMPORARY_PREFIX))
    # A temporary file of run.json is named after it.
    foreign = [name for name in foreign if not name.startswith(f".{RUN_FILE_NAME}{TEMPORARY_PREFIX}")]
    if foreign:
        shown = ", ".join(ascii(name)[1:-1][:60] for name in foreign[:3])
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise RunError(
            f"{given}: the folder belongs to something else",
            why=f"it holds {shown}{more}, and no {RUN_FILE_NAME} of a rekindle run",
            do=other,
        )


def write_run_file(run_path: str | os.PathLike[str], facts: Mapping[str, object]) -> None:
    """Write ``run.json``, whole or not at all; only the holder of the run's lock may.

    Args:
        run_path: the run's folder.
        facts: JSON values (dict, list, str, int, finite float, bool, None).
    """
    body = {**facts, "format": _MARK, "format_version": _RUN_FORMAT_VERSION}
    text = json.dumps(body, indent=2, sort_keys=True, allow_nan=False)
    with write_beside(os.path.join(run_path, RUN_FILE_NAME)) as out:
        out.write(text.encode() + b"\n")


def read_run_file(run_path: str | os.PathLike[str]) -> dict[str, object] | None:
    """Return what ``run.json`` says, None where there is none or where it is another program's.

    Raises:
        RunError: it is marked as rekindle's by its first bytes, and is damaged or from a newer version.
        OSError: it cannot be read.
    """
    path = os.path.join(run_path, RUN_FILE_NAME)
    try:
        with open(path, "rb") as file:
            data = file.read(_RUN_FILE_LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    marked = f'"{_MARK}"'.encode() in data
    try:
        if len(data) > _RUN_FILE_LIMIT_BYTES:
            raise ValueError(f"it has more than {_RUN_FILE_LIMIT_BYTES:,} bytes")  # noqa: TRY301 - one way to fail
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        if not marked:
            return None
        raise RunError(
            f"{path}: is damaged",
            why=f"it is not JSON: {error}" if isinstance(error, ValueError) else "it is nested too deeply",
            do="delete the file: the snapshots hold the state, and the next launch writes it anew",
        ) from None
    if not isinstance(body, dict) or body.get("format") != _MARK:
        return None
    if body.get("format_version") != _RUN_FORMAT_VERSION:
        raise RunError(
            f"{path}: written by another version of rekindle (format {str(body.get('format_version'))[:20]})",
            do="pip install --upgrade rekindle",
        )
    return body
