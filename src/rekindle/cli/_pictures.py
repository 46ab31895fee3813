"""What `finetune`, `evaluate` and `predict` have in common."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rekindle.errors import ConfigError, RekindleError

if TYPE_CHECKING:
    import argparse

    from rekindle.recipes.classifier import Classifier

__all__ = ["add_source", "arguments_of", "classifier_of", "need_torch_and_pillow", "say"]

_PACKAGES = {"torch": "torch", "PIL": "pillow"}


def say(text: str) -> None:
    """Print to stderr; names from a disk cannot move the cursor or colour the terminal."""
    from rekindle.render import escape

    print("\n".join(escape(line, 4000) for line in text.split("\n")), file=sys.stderr, flush=True)


def need_torch_and_pillow() -> None:
    """Refuse to start without what pictures need, with the command that installs it."""
    import importlib.util

    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise RekindleError(
            f"pictures need what is not installed in this Python: {', '.join(missing)}",
            why="rekindle itself installs without, for machines that only open files",
            do=f"{shlex.quote(sys.executable)} -m pip install torch numpy pillow matplotlib",
        )


def arguments_of(text: str | None) -> Mapping[str, Any]:
    """Return the JSON object of ``--arguments``.

    Raises:
        ConfigError: it is none.
    """
    example = "such as --arguments '{\"width\": 64}'"
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--arguments is no JSON: {error}", do=example) from None
    if not isinstance(found, dict):
        raise ConfigError("--arguments is not an object", do=example)
    return found


def add_source(parser: argparse.ArgumentParser) -> None:
    """Declare the classifier, and what belongs to it."""
    parser.add_argument("source", metavar="RUN-OR-FILE", help="a run of rekindle finetune, or its model.safetensors")
    parser.add_argument(
        "--arch", metavar="PACKAGE.MODULE:FACTORY", help="the function that makes the network, where it is one of yours"
    )
    parser.add_argument("--arguments", metavar="JSON", help="keyword arguments of that function")
    parser.add_argument("--device", metavar="DEVICE", default="auto", help="cpu, cuda, ...; a GPU where there is one")


def classifier_of(args: argparse.Namespace) -> Classifier:
    """Return the classifier that the command line names."""
    need_torch_and_pillow()
    from rekindle.factories import UserCodeFailed
    from rekindle.recipes.classifier import load_classifier

    try:
        return load_classifier(args.source, arch=args.arch, arguments=arguments_of(args.arguments), device=args.device)
    except UserCodeFailed as error:
        say(error.trace)
        raise
