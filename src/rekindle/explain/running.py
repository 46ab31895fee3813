"""Running a script or a module in this process as python would, with the explanation after its traceback.

The script is ``__main__``, `sys.argv` and `sys.path` are its own, and the frames of rekindle are cut off the traceback,
so that it prints what python prints. Exit codes are python's: what `sys.exit` was given, 1 after an exception.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType, TracebackType

from rekindle.errors import RekindleError
from rekindle.explain.hooks import install

__all__ = ["Done", "run_module", "run_script"]


@dataclass(frozen=True, slots=True)
class Done:
    """How it ended: python's exit code, and the exception that ended it, if one did."""

    code: int
    error: BaseException | None = None


def run_script(path: str, words: Sequence[str]) -> Done:
    """Run a script, a folder with a ``__main__.py`` not included.

    Args:
        path: the script.
        words: its own words, `sys.argv[1:]`.
    """
    with open(path, "rb") as file:
        source = file.read()
    whole = os.path.abspath(path)
    sys.path[0:1] = [os.path.dirname(whole)]
    return _run(lambda: compile(source, whole, "exec", dont_inherit=True), _main(whole), [path, *words])


def run_module(name: str, words: Sequence[str]) -> Done:
    """Run a module or the ``__main__`` of a package, as ``python -m``.

    Args:
        name: dotted name.
        words: its own words, `sys.argv[1:]`.

    Raises:
        RekindleError: there is no such module.
    """
    sys.path[0:1] = [os.getcwd()]
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name = f"{name}.__main__"
            spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None or not hasattr(spec.loader, "get_code"):
        raise RekindleError(f"{name}: there is no such module", why="looked for as python -m does", do="pip list")
    loader = spec.loader
    main = _main(spec.origin)
    main.__spec__ = spec
    main.__package__ = spec.parent
    return _run(lambda: loader.get_code(name), main, [spec.origin, *words])  # type: ignore[union-attr] # asked above


def _main(path: str) -> ModuleType:
    main = ModuleType("__main__")
    main.__file__ = path
    main.__dict__["__builtins__"] = __builtins__
    main.__dict__["__cached__"] = None
    return main


def _run(code: Callable[[], CodeType], main: ModuleType, argv: list[str]) -> Done:
    sys.argv = argv
    sys.modules["__main__"] = main
    install()
    try:
        exec(code(), main.__dict__)  # noqa: S102 - running the user's own script is what was asked for
    except SystemExit as stop:
        return Done(_exit_code(stop))
    except BaseException as error:  # noqa: BLE001 - whatever ends a script ends it here
        shown = error.with_traceback(_without_ours(error))
        sys.excepthook(type(shown), shown, shown.__traceback__)
        return Done(1, shown)
    return Done(0)


def _without_ours(error: BaseException) -> TracebackType | None:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return traceback


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)  # noqa: T201 - what python prints
    return 1
