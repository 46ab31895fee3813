"""`rekindle summary`: the layers of a model, or of a file, with their sizes and costs."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

SUMMARY = "list the layers of a model with output shapes, parameters and FLOPs, or those of a file without its code"
EXAMPLE = "rekindle summary my_models:build --input 1,3,224,224"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "model",
        metavar="FILE|PACKAGE.MODULE:FACTORY",
        help="a checkpoint in any format that rekindle reads, or a function of yours that returns the model",
    )
    parser.add_argument(
        "--input",
        metavar="[NAME=]SHAPE[:DTYPE]",
        action="append",
        default=[],
        help="what the model takes, such as 1,3,224,224 or ids=1,128:int64; once for each input",
    )
    parser.add_argument("--arguments", metavar="JSON", default="{}", help="keyword arguments of the factory")
    parser.add_argument("--depth", metavar="N", type=int, help="names down to N parts, with all below added up")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the summary; 0, or 2 where it could not be made."""
    from rekindle.cli._pictures import arguments_of
    from rekindle.errors import ConfigError
    from rekindle.view.summary import summary

    if args.depth is not None and args.depth < 1:
        raise ConfigError(f"--depth {args.depth} shows nothing", do="a number of at least 1")
    if os.path.exists(args.model) or not _is_factory(args.model):
        if args.arguments != "{}":
            raise ConfigError(f"--arguments is for a function, and {args.model} is a file", do="leave it away")
        found = summary(args.model, _inputs(args.input), depth=args.depth)
    else:
        found = summary(_built(args.model, arguments_of(args.arguments)), _inputs(args.input), depth=args.depth)
    print(json.dumps(found.to_json()) if args.json else found)
    return 0


def _is_factory(name: str) -> bool:
    module, colon, factory = name.partition(":")
    return bool(colon) and factory.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _inputs(given: list[str]) -> Any:
    """Return the inputs for `summary`: None, a list in their order, or a dict where they have names."""
    from rekindle.errors import ConfigError

    if not given:
        return None
    named = [text.partition("=") for text in given]
    if all(equals for _, equals, _ in named):
        return {name: shape for name, _, shape in named}
    if any(equals for _, equals, _ in named):
        raise ConfigError("--input: some have names and some do not", do="write NAME=SHAPE for all of them, or none")
    return list(given)


def _built(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build the model on the meta device, where it takes no memory; on the CPU where its code needs values."""
    import importlib.util

    from rekindle.cli._pictures import say
    from rekindle.errors import RekindleError

    if importlib.util.find_spec("torch") is None:
        raise RekindleError(
            f"{name}: a model needs torch, which is not installed in this Python",
            why="rekindle itself installs without, for machines that only open files",
            do="install torch, or give the file of the weights: rekindle summary model.pth",
        )
    import torch

    from rekindle.factories import UserCodeFailed, model_from

    with suppress(UserCodeFailed), torch.device("meta"):
        return model_from(name, arguments)
    try:
        return model_from(name, arguments)
    except UserCodeFailed as error:
        say(error.trace)
        raise
