"""Lines of the user's own code, as they are said: `train.py:12`."""

from __future__ import annotations

import os
import sys
from types import FrameType

from rekindle.explain.live import is_users_file

__all__ = ["line_of", "users_line"]

# Ours, around the calls of the model and the loss.
_OUTERMOST = {"look_at_batch", "drawn_in_eval"}


def users_line() -> str:
    """Return file and line of the innermost caller within `rk.check` that is the user's own; else nothing."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - there is no public way to a caller's frame
    while frame is not None and frame.f_code.co_name not in _OUTERMOST:
        if is_users_file(frame.f_code.co_filename):
            return line_of(frame)
        frame = frame.f_back
    return ""


def line_of(frame: FrameType) -> str:
    """Return a frame's file and line; a file below the working folder is named from there."""
    path, here = frame.f_code.co_filename, os.path.join(os.getcwd(), "")
    return f"{path.removeprefix(here)}:{frame.f_lineno}"
