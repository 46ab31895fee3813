"""What a run logs: ``metrics.jsonl``, and TensorBoard's event files, never a line twice.

A line is appended and handed to the operating system at once, so that a killed process leaves whole lines behind, and
at most one torn at the end. Every snapshot records how long the files were. A resumed run cuts them back to that
length: the lines after it belong to steps that will be made, and logged, again.

A line of ``metrics.jsonl`` is strict JSON: ``{"step": 400, "epoch": 3, "lr": 0.05, "val_accuracy": 0.97}``. It holds no
time of day, so two lives of a run write the same bytes. JSON has no NaN and no infinity: they stand there as the
strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.

Law: nothing is cut before the snapshot that says where was restored.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rekindle.errors import RunError
from rekindle.store.atomic import fsync_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Elsewhere", "EventFiles", "MetricsFile", "plain_value"]


def plain_value(name: str, value: Any) -> Any:
    """Return a logged value as JSON has it.

    Args:
        name: what it is called, for the message.
        value: a number, text, bool or None, or a tensor or NumPy value of one element.

    Raises:
        TypeError: anything else.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if not isinstance(value, float):
        item = getattr(value, "item", None)
        if item is None or getattr(value, "size", None) is None:
            raise TypeError(f"run.log({name}=...) takes a number, text or a tensor of one element, not {_kind(value)}")
        try:
            value = item()
        except (ValueError, RuntimeError):
            shape = tuple(value.shape)
            raise TypeError(
                f"run.log({name}=...) takes one number, and this has the shape {shape}: log its mean, or each by name"
            ) from None
        if isinstance(value, (bool, int)):
            return value
        if not isinstance(value, float):
            raise TypeError(f"run.log({name}=...) takes a real number, not {_kind(value)}")
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


class MetricsFile:
    """``metrics.jsonl``, open for appending until `close`.

    Args:
        path: the file; made with the first line.

    Attributes:
        size: bytes in it, as far as this process knows.
    """

    def __init__(self, path: str) -> None:
        """Open nothing yet."""
        self.path = path = os.path.abspath(path)  # the script may go elsewhere before the first line
        self.size = os.path.getsize(path) if os.path.exists(path) else 0
        self._fd = -1
        self._synced = True
        self._pid = os.getpid()

    def cut(self, size: int) -> str | None:
        """Cut the file back to what a snapshot vouches for; return a word where it is shorter than that."""
        if self.size > size:
            os.truncate(self.path, size)
            self.size = size
            self._synced = False
        elif self.size < size:
            return f"{self.path} has {self.size:,} bytes, and had {size:,} at the snapshot: lines of it are lost"
        return None

    def write(self, step: int, epoch: int, values: Mapping[str, Any]) -> None:
        """Append one line; values called ``step`` and ``epoch`` are left out, since the line has its own.

        Raises:
            RunError: this process was forked from the one that the file belongs to.
            OSError: it could not be written; what was written of it is cut away again.
        """
        if os.getpid() != self._pid:
            raise RunError(
                "run.log was called in a process that was forked from the run's own, such as a data loader's worker",
                why="the run does not know of lines that others write, and would cut in the wrong place on a resume",
                do="have the data set return the value with its sample, and log it in the loop",
            )
        body = {"step": step, "epoch": epoch, **values} | {"step": step, "epoch": epoch}
        line = json.dumps(body, allow_nan=False, ensure_ascii=False)
        data = memoryview(line.encode("utf-8", "backslashreplace") + b"\n")
        if self._fd < 0:
            made = not os.path.exists(self.path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            self._fd = os.open(self.path, flags, 0o666)
            if made:
                fsync_folder(os.path.dirname(self.path) or ".")
        self._synced = False
        whole = self.size + len(data)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            with contextlib.suppress(OSError):  # the folder may be gone
                os.truncate(self.path, self.size)
            error.add_note(f"while writing a line of {self.path}; the lines before it are untouched")
            raise
        self.size = whole

    def sync(self) -> int:
        """Bring all lines to the disk, and return the size of the file: what a snapshot may vouch for.

        Raises:
            OSError: they may not be there.
        """
        if not self._synced:
            if self._fd < 0 and self.size:
                self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0))
            if self._fd >= 0:
                os.fsync(self._fd)
            self._synced = True
        return self.size

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class EventFiles:
    """TensorBoard's event files of a run, written by torch's own writer, which is imported with the first value.

    Args:
        folder: where they lie; made with the first value.
        wanted: None for "where TensorBoard is installed", and can write.
    """

    def __init__(self, folder: str, *, wanted: bool | None) -> None:
        """Open nothing yet."""
        self.folder = os.path.abspath(folder)
        # TensorBoard cannot write where a name is no text.
        self._wanted = False if wanted is None and not _is_text(self.folder) else wanted
        self._writer: SummaryWriter | None = None
        self._dirty = False
        self._sizes: dict[str, int] | None = None

    @property
    def writer(self) -> SummaryWriter | None:
        """The `SummaryWriter`, made now if there is none; None where TensorBoard is not wanted or not installed.

        Raises:
            ImportError: it was asked for and is not installed.
        """
        if self._writer is None and self._wanted is not False:
            try:
                with warnings.catch_warnings():
                    # protobuf and TensorBoard speak about their own future when they are imported
                    warnings.simplefilter("ignore")
                    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - half a second
            except ImportError as error:
                if self._wanted:
                    error.add_note("Run(..., tensorboard=True) needs it: pip install tensorboard")
                    raise
                self._wanted = False
                return None
            self._writer = SummaryWriter(self.folder)
        self._dirty = True
        return self._writer

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the numbers among `values`, and the texts as texts."""
        writer = self.writer
        if writer is None:
            return
        for name, value in values.items():
            if isinstance(value, str):
                number = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(value)
                if number is None:
                    # Markdown swallows single line breaks.
                    writer.add_text(name, value.replace("\n", "  \n"), step)
                    continue
                value = number  # noqa: PLW2901 - the number that the text stands for
            if value is not None:
                writer.add_scalar(name, float(value), step)

    def sync(self) -> dict[str, int]:
        """Bring all events to the disk; return name -> size of each file: what a snapshot may vouch for."""
        sizes = self.sizes()
        if self._dirty:
            for name in sizes:
                fd = os.open(os.path.join(self.folder, name), os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            if os.path.isdir(self.folder):
                fsync_folder(self.folder)
            self._dirty = False
        return sizes

    def sizes(self) -> dict[str, int]:
        """Return name -> size of each file, with all events handed over."""
        if self._writer is not None and (self._dirty or self._sizes is None):
            self._writer.flush()
            self._sizes = None
        if self._sizes is None:
            self._sizes = {name: os.path.getsize(os.path.join(self.folder, name)) for name in _event_files(self.folder)}
        return dict(self._sizes)

    def cut(self, sizes: Mapping[str, int]) -> None:
        """Cut each file back to its size, and remove those that came later; only before the first value."""
        for name in _event_files(self.folder):
            path = os.path.join(self.folder, name)
            size = sizes.get(name)
            if size is None:
                os.unlink(path)
            elif os.path.getsize(path) > size:
                os.truncate(path, size)
        self._sizes = None

    def close(self) -> None:
        """Hand over what is left, and close."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()


class Elsewhere:
    """Stands for the log files in the processes that do not write them: rank 0 does, for all.

    Attributes:
        size: 0.
        writer: None.
    """

    size = 0
    writer = None

    def write(self, *_: Any) -> None:
        """Write nothing."""

    def cut(self, _: object) -> str | None:
        """Cut nothing."""
        return None

    def sync(self) -> None:
        """Nothing is to be brought to the disk."""

    def sizes(self) -> dict[str, int]:
        """Return no files."""
        return {}

    def close(self) -> None:
        """Nothing is open."""


def _event_files(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if name.startswith("events.out.tfevents."))


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 stand in it
        return False
    return True


def _kind(value: object) -> str:
    return type(value).__name__
