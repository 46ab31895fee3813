"""`rekindle train`: train a recipe or one's own settings; the same command goes on after any interruption."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from rekindle.errors import ConfigError, RekindleError

if TYPE_CHECKING:
    from rekindle.recipes.config import Settings

SUMMARY = "train a network, and go on where it was interrupted"
EXAMPLE = "rekindle train digits --epochs 10 --out runs/ten"

_OVERRIDES = {
    "epochs": ("epochs", int, "N", "passes over the training data"),
    "batch_size": ("batch_size", int, "N", "samples per batch"),
    "lr": ("optimizer.lr", float, "RATE", "learning rate after the warm-up"),
    "seed": ("seed", int, "N", "the one number that everything random follows from"),
    "workers": ("workers", int, "N", "processes that load data; the result does not depend on it"),
    "precision": ("precision", str, "P", "fp32, bf16, fp16, or one of O0 to O3, bf16-true, fp16-true"),
    "out": ("out", str, "DIR", "the run's folder"),
}
_REGRESSION = ("epochs", "lr", "seed", "out")
_INTERRUPTED = {75, 130}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("recipe", metavar="RECIPE", help="digits, regression, or a file of settings: my.toml")
    for flag, (_, kind, letter, help_) in _OVERRIDES.items():
        parser.add_argument("--" + flag.replace("_", "-"), type=kind, metavar=letter, help=help_)
    parser.add_argument(
        "--resume",
        choices=("auto", "must", "never"),
        default="auto",
        help="go on if there is a run (default), only if there is, or refuse if there is",
    )
    parser.add_argument("--settings", action="store_true", help="print all settings as a file, and stop")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Train, and say what to type next."""
    given = {flag: getattr(args, flag) for flag in _OVERRIDES if getattr(args, flag) is not None}
    if args.recipe != "regression":
        settings = _settings(args.recipe, given)
        if args.settings:
            from rekindle.recipes.config import as_toml

            print(as_toml(settings), end="")
            return 0
    elif args.settings:
        raise ConfigError(
            "regression has no file of settings", why=_only_flags(), do="rekindle train regression --help"
        )
    _need("torch")
    try:
        if args.recipe == "regression":
            return _regression(args, given)
        return _classifier(args, given, settings)
    except ModuleNotFoundError as error:
        _need(error.name or "")
        raise
    except SystemExit as stop:
        if stop.code in _INTERRUPTED:
            print(f"go on with: {_again(args, given)}", file=sys.stderr)
        raise


def _settings(recipe: str, given: dict[str, Any]) -> Settings:
    from rekindle.keys import near_names
    from rekindle.recipes.config import RECIPES, read_settings, settings_of

    overrides = {_OVERRIDES[flag][0]: value for flag, value in given.items()}
    if recipe in RECIPES:
        return settings_of(recipe, overrides)
    if os.path.isdir(recipe):
        raise _is_folder(recipe)
    if recipe.endswith(".toml") or os.path.exists(recipe):
        return read_settings(recipe, overrides)
    names = [*RECIPES, "regression"]
    near = near_names(recipe, names)
    raise ConfigError(
        f"{recipe}: neither a recipe nor a file of settings",
        why=f"nearest: {', '.join(near)}" if near else f"recipes: {', '.join(names)}",
        do=f"rekindle train {near[0] if near else 'digits'}",
    )


def _is_folder(path: str) -> ConfigError:
    kept = os.path.join(path, "settings.toml")
    if os.path.isfile(kept):
        return ConfigError(
            f"{path}: a folder; a recipe or a file of settings is wanted",
            why="it is a run, and the settings it was begun with are in it",
            do=f"rekindle train {shlex.quote(kept)} --out {shlex.quote(path)}    goes on with it",
        )
    return ConfigError(
        f"{path}: a folder; a recipe or a file of settings is wanted",
        why=f"there is no settings.toml in it; recipes: {_recipes()}",
        do=f"rekindle train digits --out {shlex.quote(path)}    trains into it",
    )


def _recipes() -> str:
    from rekindle.recipes.config import RECIPES

    return ", ".join([*RECIPES, "regression"])


def _classifier(args: argparse.Namespace, given: dict[str, Any], settings: Settings) -> int:
    from rekindle.factories import UserCodeFailed
    from rekindle.recipes.training import train

    try:
        result = train(settings, resume=args.resume, progress=True, on_start=_to_stderr)
    except UserCodeFailed as error:
        _to_stderr(error.trace)
        raise
    if args.json:
        _print_json(result)
        return 0
    right = round(result.test_accuracy * result.test_samples)
    if result.was_complete:
        print(f"{result.folder}: all {result.epochs} epochs were already done")
        _to_stderr(f"go on with: {_again(args, {**given, 'epochs': 2 * result.epochs})}")
    print(
        f"test accuracy {100 * result.test_accuracy:.2f} %   "
        f"({right} of {result.test_samples} samples; {result.parameters:,} parameters, {result.steps:,} steps)"
    )
    _print_next(result.folder, result.curve, os.path.basename(os.path.normpath(result.folder)) + ".pth")
    return 0


def _regression(args: argparse.Namespace, given: dict[str, Any]) -> int:
    other = [flag for flag in given if flag not in _REGRESSION]
    if other:
        flag = "--" + other[0].replace("_", "-")
        raise ConfigError(f"regression does not take {flag}", why=_only_flags(), do="leave it out")
    _check_regression(given)
    from rekindle.recipes.regression import train_regression

    result = train_regression(resume=args.resume, progress=True, on_start=_to_stderr, **given)
    if args.json:
        _print_json(result)
        return 0 if result.equal else 1
    if result.was_complete:
        print(f"{result.folder}: all {result.epochs} epochs were already done")
        _to_stderr(f"go on with: {_again(args, {**given, 'epochs': 2 * result.epochs})}")
    print(f"mean squared error {result.loss:.4f}   ({result.steps:,} steps)")
    print(f"saved as a whole module: {result.whole}")
    print(f"saved as weights:        {result.weights}")
    if result.picture:
        print(f"three plots:             {result.picture}")
    says = "equal, bit for bit" if result.equal else "NOT equal"
    print(f"the predictions of the trained net and of both restored ones are {says}")
    _print_next(result.folder, None, "regression.safetensors")
    return 0 if result.equal else 1


def _check_regression(given: dict[str, Any]) -> None:
    from rekindle.recipes.config import settings_of

    settings_of("digits", {_OVERRIDES[flag][0]: value for flag, value in given.items()})  # the same bounds


def _print_next(folder: str, curve: str | None, target: str) -> None:
    quoted = shlex.quote(folder)
    if curve:
        print(f"learning curve {curve}")
    print("next")
    print(f"  rekindle inspect {quoted}")
    print(f"  rekindle convert {quoted} {shlex.quote(target)}")
    boards = os.path.join(folder, "tensorboard")
    if os.path.isdir(boards):
        print(f"  tensorboard --logdir {shlex.quote(boards)}")


def _print_json(result: Any) -> None:
    import json
    from dataclasses import asdict

    print(json.dumps(asdict(result)))


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _again(args: argparse.Namespace, given: dict[str, Any]) -> str:
    words = ["rekindle", "train", args.recipe]
    for flag, value in given.items():
        words += ["--" + flag.replace("_", "-"), str(value)]
    return shlex.join(words)


def _only_flags() -> str:
    return "it takes: " + ", ".join(f"--{flag}" for flag in _REGRESSION)


_PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "sklearn": "scikit-learn",
}


def _need(module: str) -> None:
    """Refuse to start without what training needs, with the command that installs it."""
    import importlib.util

    name = module.split(".", maxsplit=1)[0]
    if name in _PACKAGES and importlib.util.find_spec(name) is None:
        raise RekindleError(
            f"training needs {_PACKAGES[name]}, which is not installed in this Python",
            why="rekindle itself installs without it, for machines that only open files",
            do=f"{shlex.quote(sys.executable)} -m pip install torch numpy scikit-learn matplotlib tensorboard",
        )
