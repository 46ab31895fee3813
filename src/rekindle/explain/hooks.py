"""Explanations where exceptions end: Python's hooks, IPython's, and by hand.

`install` puts a function in front of `sys.excepthook` and `threading.excepthook`. It calls the hook that was there, so
that the traceback is printed as before, and then prints the explanation to stderr. The frames are read only then; until
something is raised there is nothing that could cost time. In IPython, where exceptions do not reach `sys.excepthook`,
the same is done after `showtraceback`.

Law: type, arguments, traceback and exit code are what they were. Whatever goes wrong in here is silent: an explanation
that fails must not take the traceback's place.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

TYPE_CHECKING = False  # type checkers read it as True: reading logs and frames is imported when something was raised
if TYPE_CHECKING:
    from rekindle.explain.report import Explained

__all__ = [
    "add_note",
    "explain_exception",
    "explanation",
    "install",
    "load_ipython_extension",
    "silent_explanation",
    "uninstall",
    "unload_ipython_extension",
]

_HEADING = "rekindle explains:"
_before: dict[str, Any] = {}  # the hooks that were there, while ours are
_LEFT_ALONE = (SystemExit, KeyboardInterrupt, GeneratorExit)


def explain_exception(error: BaseException) -> Explained:
    """Return why an exception that was caught was raised, with what its frames held.

    Args:
        error: the exception; it is not changed.

    Returns:
        The event and its causes, most likely first; no causes where no known error fits.
    """
    from rekindle.explain.live import events_of_exception  # noqa: PLC0415 - only when something was raised
    from rekindle.explain.report import explain_events  # noqa: PLC0415

    return explain_events(events_of_exception(error))


def explanation(error: BaseException) -> str:
    """Return the explanation as text, without a line end; empty where no known error fits."""
    from rekindle.explain.words import explained_lines  # noqa: PLC0415 - only when something was raised

    if isinstance(error, _LEFT_ALONE):
        return ""
    return "\n".join(explained_lines(explain_exception(error)))


def add_note(error: BaseException) -> bool:
    """Put the explanation into the exception as a note, which Python prints below it; False where there is none.

    Example:
        >>> try:
        ...     train()
        ... except Exception as error:
        ...     add_note(error)
        ...     raise
    """  # doctest: +SKIP
    text = silent_explanation(error)
    if text and text not in getattr(error, "__notes__", ()):
        error.add_note(text)
    return bool(text)


def install() -> None:
    """Explain every exception that ends this program, a thread of it or a cell of a notebook, after its traceback.

    A second call changes nothing. `uninstall` puts the hooks back.
    """
    if "sys" not in _before:
        _before["sys"] = sys.excepthook
        sys.excepthook = _excepthook
    if "threading" not in _before:
        _before["threading"] = threading.excepthook
        threading.excepthook = _thread_hook
    shell = _running_shell()
    if shell is not None:
        load_ipython_extension(shell)


def uninstall() -> None:
    """Put back the hooks that `install` found; one that somebody else has replaced since stays theirs."""
    if sys.excepthook is _excepthook:
        sys.excepthook = _before["sys"]
    if threading.excepthook is _thread_hook:
        threading.excepthook = _before["threading"]
    _before.pop("sys", None)
    _before.pop("threading", None)
    shell = _running_shell()
    if shell is not None:
        unload_ipython_extension(shell)


def load_ipython_extension(shell: Any) -> None:
    """Explain below the traceback of a cell: ``%load_ext rekindle.explain``."""
    if getattr(shell.showtraceback, "is_rekindles", False):
        return
    show: Callable[..., None] = shell.showtraceback

    def showtraceback(*args: Any, **named: Any) -> None:
        show(*args, **named)
        given = args[0] if args else named.get("exc_tuple")
        _print_explanation((given or sys.exc_info())[1])

    showtraceback.is_rekindles = True  # type: ignore[attr-defined] # a mark on our own function
    showtraceback.shown_before = show  # type: ignore[attr-defined] # for unload
    shell.showtraceback = showtraceback


def unload_ipython_extension(shell: Any) -> None:
    """Show tracebacks of cells as before."""
    if getattr(shell.showtraceback, "is_rekindles", False):
        shell.showtraceback = shell.showtraceback.shown_before


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    _before.get("sys", sys.__excepthook__)(kind, error, traceback)
    _print_explanation(error)


def _thread_hook(args: threading.ExceptHookArgs) -> None:
    _before.get("threading", threading.__excepthook__)(args)
    _print_explanation(args.exc_value)


def _print_explanation(error: BaseException | None) -> None:
    text = silent_explanation(error) if error is not None else ""
    if text:
        with suppress(Exception):
            print(f"\n{_HEADING}\n{text}", file=sys.stderr, flush=True)  # noqa: T201 - it ends a program


def silent_explanation(error: BaseException) -> str:
    """Return `explanation`, empty where making it fails: it must not take the traceback's place."""
    try:
        return explanation(error)
    except Exception:  # noqa: BLE001 - see the law above
        return ""


def _running_shell() -> Any:
    shells = sys.modules.get("IPython")
    return shells.get_ipython() if shells is not None and hasattr(shells, "get_ipython") else None
