"""rekindle brings PyTorch models back: from any checkpoint file, after any crash, onto any hardware.

Public names are loaded when they are first used, so that `import rekindle` imports no torch.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_HOME_OF = {
    "Run": "rekindle.run.loop",
    "load": "rekindle.load",
    "save": "rekindle.save",
    "inspect": "rekindle.verbs.inspect",
    "convert": "rekindle.verbs.convert",
    "schedule": "rekindle.run.schedules",
    "RekindleError": "rekindle.errors",
}

__all__ = [
    "RekindleError",
    "Run",
    "__version__",
    "convert",
    "inspect",
    "load",
    "save",
    "schedule",
]


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'rekindle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
