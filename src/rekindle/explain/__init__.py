"""Errors explained: what happened, why, and the fix, from a log or from the exception itself.

    import rekindle
    rekindle.explain.install()      # explains what ends this program, after its traceback

`explain_text` reads a log, `explain_exception` an exception that was caught; `add_note` puts the explanation into the
exception. In a notebook, ``%load_ext rekindle.explain`` does what `install` does. The command line has
``rekindle explain`` for logs and ``rekindle exec`` for scripts that are not to be changed.

Law: nothing happens before something is raised; the exception passes on as it was; a fault in here is silent.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers read it as True
if TYPE_CHECKING:
    from rekindle.explain.hooks import add_note as add_note
    from rekindle.explain.hooks import explain_exception as explain_exception
    from rekindle.explain.hooks import install as install
    from rekindle.explain.hooks import load_ipython_extension as load_ipython_extension
    from rekindle.explain.hooks import uninstall as uninstall
    from rekindle.explain.hooks import unload_ipython_extension as unload_ipython_extension
    from rekindle.explain.report import explain_text as explain_text

__all__ = ["add_note", "explain_exception", "explain_text", "install", "uninstall"]

_HOME_OF = {
    "add_note": "hooks",
    "explain_exception": "hooks",
    "explain_text": "report",
    "install": "hooks",
    "load_ipython_extension": "hooks",
    "uninstall": "hooks",
    "unload_ipython_extension": "hooks",
}


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
