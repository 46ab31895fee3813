"""Models that a function of the user's own makes, named ``package.module:factory`` on a command line or in a file.

What the user's code raises is shown with the user's own lines only.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from torch import nn

from rekindle.errors import ConfigError
from rekindle.keys import near_names

__all__ = ["UserCodeFailed", "model_from"]


class UserCodeFailed(ConfigError):
    """The user's own module or factory raised: `__cause__` is what it raised, `trace` the lines in the user's files."""

    def __init__(self, what: str, error: Exception) -> None:
        """Keep the traceback without our own frames and those of the import system."""
        super().__init__(what, why=f"{type(error).__name__}: {error}".splitlines()[0], do="correct it there")
        place = error.__traceback__
        while place is not None and _is_ours(place.tb_frame.f_code.co_filename):
            place = place.tb_next
        self.trace = "".join(traceback.format_exception(type(error), error, place)).rstrip()


def _is_ours(file: str) -> bool:
    return file in {__file__, importlib.__file__} or file.startswith("<frozen importlib")


def model_from(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Import `package.module` from the current folder or the environment, call its `factory`, and return the model.

    Args:
        name: ``package.module:factory``.
        arguments: keyword arguments of the factory.

    Raises:
        UserCodeFailed: the module or the factory raised.
        ConfigError: the name leads to no function that returns a module.
    """
    module_name, _, factory_name = name.partition(":")
    if not module_name or not factory_name.isidentifier():
        raise ConfigError(f"`{name}` names no function", do="write it as package.module:factory")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserCodeFailed(f"model `{name}`: importing `{module_name}` failed", error) from error
        raise ConfigError(
            f"model `{name}`: there is no module `{error.name}`",
            why=f"looked in {os.getcwd()} and where Python looks",
            do=f"run the command in the folder that holds {module_name.split('.')[0]}, or install it",
        ) from None
    except Exception as error:  # the user's module may raise anything
        raise UserCodeFailed(f"model `{name}`: importing `{module_name}` failed", error) from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        near = near_names(factory_name, vars(module))
        raise ConfigError(
            f"model `{name}`: no function `{factory_name}` in {module.__file__}",
            why=f"nearest: {', '.join(near)}" if near else "nothing there has a name like it",
            do="correct the name behind the colon",
        )
    try:
        model = factory(**arguments)
    except Exception as error:  # the user's function may raise anything
        called = error.__traceback__ is not None and error.__traceback__.tb_next is not None
        if isinstance(error, TypeError) and not called:
            raise ConfigError(
                f"model `{name}`: {error}", why="", do="correct the arguments that it is called with"
            ) from None
        raise UserCodeFailed(f"model `{name}`: `{factory_name}` raised {type(error).__name__}", error) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model `{name}` returned {type(model).__name__}", why="a torch.nn.Module is wanted", do="return the module"
        )
    return model
