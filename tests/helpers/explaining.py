"""Running the examples of the catalogue: what they raise, with its live facts, or what they print."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import runpy
import subprocess
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

from rekindle.explain.catalogue import headings
from rekindle.explain.event import Event
from rekindle.explain.live import events_of_exception

try:  # entries as they are now; that the index is current is a test of its own
    from rekindle.explain.catalogue import _index
except ImportError:
    pass
else:
    _index.INDEX.clear()
    headings.cache_clear()

MISSING = {"cuda", "gpus", "mps", "rocm"}  # what no test machine without an accelerator has
ELSEWHERE = {"process", "linux"}  # can run here; `process`: only as a process of its own


@dataclass(frozen=True)
class Ran:
    """What an example did: the events of the exception it ended with, its traceback, and what it printed."""

    events: tuple[Event, ...]
    traceback: str
    printed: str


def can_run(requires: tuple[str, ...]) -> bool:
    return all(
        word not in MISSING and (word in ELSEWHERE or importlib.util.find_spec(word) is not None) for word in requires
    )


def run_example(source: str, folder: Path, requires: tuple[str, ...] = ()) -> Ran:
    """Run a script in `folder`: here, or with ``process`` among its needs in a Python of its own."""
    script = folder / "example.py"
    script.write_text(source)
    if "process" in requires:
        done = subprocess.run(
            [sys.executable, "example.py"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
        )
        return Ran((), done.stderr if done.returncode else "", done.stdout + done.stderr)
    return _run_here(script, folder)


def _run_here(script: Path, folder: Path) -> Ran:
    import torch

    printed = io.StringIO()
    dtype, before, path, argv = torch.get_default_dtype(), os.getcwd(), list(sys.path), sys.argv
    variables = dict(os.environ)
    events: list[Event] = []
    text = ""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv = ["example.py"]
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, category, *rest, **_: print(
                f"{rest[0] if rest else ''}:1: {category.__name__}: {message}", file=printed
            )
            try:
                runpy.run_path(str(script), run_name="__main__")
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - the example may raise anything; CheckpointException is no Exception
                if not isinstance(error, SystemExit) or error.code:
                    events = events_of_exception(error)
                    text = "".join(traceback.format_exception(error))
    finally:
        os.chdir(before)
        sys.path[:] = path
        sys.argv = argv
        os.environ.clear()
        os.environ.update(variables)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(True)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return Ran(tuple(events), text, printed.getvalue())
