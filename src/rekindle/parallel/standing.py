"""Where in the user's own script something stands: the last line of it that a traceback or a thread went through.

Law: looking costs the thread that is looked at nothing, and never fails.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from types import TracebackType

__all__ = ["place_of", "where_main_thread_is"]


def place_of(trace: TracebackType | None, script: str) -> str:
    """Return the innermost place of a traceback in the script's own folder, else the innermost of all; "" for none."""
    return _place(traceback.extract_tb(trace), script)


def where_main_thread_is() -> str:
    """Return where in the script the main thread is just now: ``train.py, line 40, in load``; "" if that is unknown."""
    script = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - the documented way
    return "" if frame is None else _place(traceback.extract_stack(frame), script)


def _place(frames: traceback.StackSummary, script: str) -> str:
    folder = os.path.dirname(os.path.realpath(script))
    near = [
        frame
        for frame in frames
        if os.path.realpath(frame.filename).startswith(folder + os.sep) and "site-packages" not in frame.filename
    ]
    if not frames:
        return ""
    frame = (near or frames)[-1]
    inside = "" if frame.name == "<module>" else f", in {frame.name}"
    return f"{os.path.basename(frame.filename)}, line {frame.lineno}{inside}"
