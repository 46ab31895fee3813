"""rekindle brings PyTorch models back: from any checkpoint file, after any crash, onto any hardware.

Public names are loaded when they are first used, so that `import rekindle` imports no torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False  # type checkers read it as True; importing typing would cost as much as all the rest
if TYPE_CHECKING:
    from rekindle import explain as explain
    from rekindle.devices.memory import MemoryWatch as MemoryWatch
    from rekindle.devices.move import to_device as to_device
    from rekindle.devices.pick import pick_gpus as pick_gpus
    from rekindle.devices.tuning import torch_settings as torch_settings
    from rekindle.errors import RekindleError as RekindleError
    from rekindle.load import load as load
    from rekindle.pitfalls._probe import check as check
    from rekindle.recipes.classifier import load_classifier as load_classifier
    from rekindle.run.averages import average as average
    from rekindle.run.averages import copy_weights as copy_weights
    from rekindle.run.loop import Run as Run
    from rekindle.run.schedules import schedule as schedule
    from rekindle.save import save as save
    from rekindle.tune.fit import fit as fit
    from rekindle.tune.freeze import Thaw as Thaw
    from rekindle.tune.freeze import describe_frozen as describe_frozen
    from rekindle.tune.freeze import freeze as freeze
    from rekindle.tune.freeze import unfreeze as unfreeze
    from rekindle.tune.groups import param_groups as param_groups
    from rekindle.tune.heads import replace_head as replace_head
    from rekindle.verbs.average import average_files as average_files
    from rekindle.verbs.convert import convert as convert
    from rekindle.verbs.diff import diff as diff
    from rekindle.verbs.doctor import doctor as doctor
    from rekindle.verbs.inspect import inspect as inspect
    from rekindle.verbs.salvage import salvage as salvage
    from rekindle.verbs.scan import scan as scan
    from rekindle.verbs.verify import verify as verify
    from rekindle.view import tensorboard as tensorboard
    from rekindle.view.convert import to_numpy as to_numpy
    from rekindle.view.convert import to_pil as to_pil
    from rekindle.view.convert import to_tensor as to_tensor
    from rekindle.view.gradcam import grad_cam as grad_cam
    from rekindle.view.initialise import initialise as initialise
    from rekindle.view.labels import check_labels as check_labels
    from rekindle.view.labels import one_hot as one_hot
    from rekindle.view.summary import summary as summary
    from rekindle.view.trace import trace as trace

__version__ = "0.1.0"

_HOME_OF = {
    "Run": "rekindle.run.loop",
    "load": "rekindle.load",
    "load_classifier": "rekindle.recipes.classifier",
    "save": "rekindle.save",
    "inspect": "rekindle.verbs.inspect",
    "verify": "rekindle.verbs.verify",
    "doctor": "rekindle.verbs.doctor",
    "average_files": "rekindle.verbs.average",
    "convert": "rekindle.verbs.convert",
    "diff": "rekindle.verbs.diff",
    "salvage": "rekindle.verbs.salvage",
    "scan": "rekindle.verbs.scan",
    "schedule": "rekindle.run.schedules",
    "average": "rekindle.run.averages",
    "copy_weights": "rekindle.run.averages",
    "MemoryWatch": "rekindle.devices.memory",
    "check": "rekindle.pitfalls._probe",
    "to_device": "rekindle.devices.move",
    "pick_gpus": "rekindle.devices.pick",
    "torch_settings": "rekindle.devices.tuning",
    "Thaw": "rekindle.tune.freeze",
    "describe_frozen": "rekindle.tune.freeze",
    "fit": "rekindle.tune.fit",
    "freeze": "rekindle.tune.freeze",
    "param_groups": "rekindle.tune.groups",
    "replace_head": "rekindle.tune.heads",
    "unfreeze": "rekindle.tune.freeze",
    "check_labels": "rekindle.view.labels",
    "grad_cam": "rekindle.view.gradcam",
    "initialise": "rekindle.view.initialise",
    "one_hot": "rekindle.view.labels",
    "summary": "rekindle.view.summary",
    "to_numpy": "rekindle.view.convert",
    "to_pil": "rekindle.view.convert",
    "to_tensor": "rekindle.view.convert",
    "trace": "rekindle.view.trace",
    "RekindleError": "rekindle.errors",
}

__all__ = [
    "MemoryWatch",
    "RekindleError",
    "Run",
    "Thaw",
    "__version__",
    "average",
    "average_files",
    "check",
    "check_labels",
    "convert",
    "copy_weights",
    "describe_frozen",
    "diff",
    "doctor",
    "fit",
    "freeze",
    "grad_cam",
    "initialise",
    "inspect",
    "load",
    "load_classifier",
    "one_hot",
    "param_groups",
    "pick_gpus",
    "replace_head",
    "salvage",
    "save",
    "scan",
    "schedule",
    "summary",
    "to_device",
    "to_numpy",
    "to_pil",
    "to_tensor",
    "torch_settings",
    "trace",
    "unfreeze",
    "verify",
]


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        try:
            return getattr(import_module(_HOME_OF[name]), name)
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0]
            if library not in {"torch", "numpy"}:
                raise
            raise _missing(name, library) from None
    if name == "explain":  # a package of its own, with its own public names
        return import_module("rekindle.explain")
    if name == "tensorboard":  # a module of helpers, used as rk.tensorboard.histograms(...)
        try:
            return import_module("rekindle.view.tensorboard")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "torch":
                raise
            raise _missing(name, "torch") from None
    raise AttributeError(f"module 'rekindle' has no attribute {name!r}")


def _missing(name: str, library: str) -> ImportError:
    return ImportError(
        f"rekindle.{name} needs {library}, which is not installed in this Python\n"
        "  why     rekindle itself installs without it, for machines that only open files\n"
        f"  do      {sys.executable} -m pip install 'rekindle[train]', or {library} alone",
        name=library,
    )


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """The package itself: importing the module `rekindle.load` must not put it in the place of the function `load`."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOME_OF or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
