"""One rank of a launch: the user's script, as `python` itself would run it, with a note at its start and its end.

    python -m rekindle.parallel.rank script PATH ARGS...
    python -m rekindle.parallel.rank module NAME ARGS...

Started by `rekindle.parallel.agent` through torch's launcher. A script that leaves as it was asked to (75, 130) ends
with 0 here, since torch's launcher kills the others after any other code, and they may still be saving.

Law: the script sees what it would see without this: its name, its arguments, its path, its traceback.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import runpy
import sys
import threading
import traceback
from importlib.machinery import SourceFileLoader
from types import ModuleType, TracebackType
from typing import Any

from rekindle.parallel import notes
from rekindle.parallel.standing import place_of

__all__ = ["main"]


def main() -> None:
    """Run the script or module of ``sys.argv``, and end this process."""
    kind, script, *args = sys.argv[1:]
    folder = os.environ.pop(notes.NOTES_VARIABLE, "")
    agent = os.environ.pop(notes.AGENT_VARIABLE, "")
    if agent:
        notes.end_with_parent(int(agent))
    attempt, rank = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ.get("RANK", "0")
    me = {"rank": int(rank), "local_rank": int(os.environ.get("LOCAL_RANK", "0")), "pid": os.getpid()}
    notes.introduce(folder, attempt, me)
    end = _run(kind, script, args)
    notes.tell_end(end)
    _leave(0 if end["code"] in notes.GOOD_ORDER else end["code"])


def _run(kind: str, script: str, args: list[str]) -> dict[str, Any]:
    """Run it, print its traceback if there is one, and return how it ended."""
    sys.argv = [script, *args]
    sys.orig_argv = [sys.executable, *(["-m"] if kind == "module" else []), script, *args]
    try:
        if kind == "module":
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            _run_script(script)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return {"code": (stop.code or 0) & 0xFF, "error": "", "place": ""}
        with contextlib.suppress(OSError, ValueError):
            print(stop.code, file=sys.stderr)  # noqa: T201 - as Python does
        return {"code": 1, "error": str(stop.code)[:500], "place": ""}
    except BaseException as error:  # noqa: BLE001 - a rank's end is noted whatever it is
        shown = _without_us(error.__traceback__)
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, shown  # as Python does
        sys.excepthook(type(error), error.with_traceback(shown), shown)
        words = traceback.format_exception_only(error)
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
        return {"code": code, "error": _last_line(words), "place": place_of(shown, script)}
    return {"code": 0, "error": "", "place": ""}


def _run_script(path: str) -> None:
    module = ModuleType("__main__")
    module.__dict__.update(__file__=path, __loader__=SourceFileLoader("__main__", path), __builtins__=__builtins__)
    sys.modules["__main__"] = module
    sys.path[0] = os.path.dirname(os.path.realpath(path))
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, module.__dict__)  # noqa: S102 - the user's own script, which the user asked to run


def _leave(code: int) -> None:
    """End the process with everything flushed and every exit handler run, but without taking the interpreter apart.

    Threads of gloo that outlive it abort the process then, now and then, after all work is done (seen with torch 2.13).
    """
    if "torch" not in sys.modules:
        raise SystemExit(code)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()  # noqa: SLF001 - the interpreter's own way; there is no public one
    sys.last_value = sys.last_traceback = None  # its frames hold what is open, too
    vars(sys.modules["__main__"]).clear()  # what the script left open is closed, and so written
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _without_us(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the script's first line on."""
    ours = {__file__, runpy.__file__}
    while trace is not None and (
        trace.tb_frame.f_code.co_filename in ours or trace.tb_frame.f_code.co_filename.startswith("<frozen runpy")
    ):
        trace = trace.tb_next
    return trace


def _last_line(words: list[str]) -> str:
    lines = [line.strip() for line in "".join(words).splitlines() if line.strip()]
    # An error of several lines says what it is on its first; a syntax error, on its last.
    first = lines[0] if lines else ""
    return (lines[-1] if first.startswith("File ") else first)[:500]


if __name__ == "__main__":
    main()
