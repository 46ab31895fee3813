"""`rekindle finetune`: a classifier from a folder of pictures; the same command goes on after any interruption."""

from __future__ import annotations

import argparse
import os
import shlex
from typing import Any

from rekindle.cli._pictures import arguments_of, need_torch_and_pillow, say

SUMMARY = "fine-tune a network on a folder of pictures, and go on where it was interrupted"
EXAMPLE = "rekindle finetune hymenoptera --weights resnet18.pth --freeze layer2 --epochs 10"

# Option -> (field of the plan, type, letter, help).
_OPTIONS: dict[str, tuple[str, Any, str, str]] = {
    "--arch": (
        "arch",
        str,
        "NAME",
        "resnet18 (default), resnet34, resnet50, lenet, timm:NAME, torchvision:NAME or package.module:factory",
    ),
    "--weights": ("weights", str, "FILE", "weights to begin with: a file of any format, or a run"),
    "--freeze": ("freeze", str, "LAYER", "freeze up to and with this layer; `backbone` for all but the head"),
    "--thaw": ("thaw", int, "EPOCH", "train what was frozen too, from this epoch on (counted from 0)"),
    "--epochs": ("epochs", int, "N", "passes over the pictures (15)"),
    "--batch-size": ("batch_size", int, "N", "pictures in a batch (32)"),
    "--lr": ("lr", float, "RATE", "learning rate of the head after the warm-up (0.01)"),
    "--backbone-lr": ("backbone_lr", float, "RATE", "learning rate of everything else (that of the head)"),
    "--optimizer": ("optimizer", str, "NAME", "sgd (default) or adamw"),
    "--weight-decay": ("weight_decay", float, "X", "of all but norms and biases (0.0005)"),
    "--size": ("size", int, "PIXELS", "rows and columns that the network gets (160)"),
    "--augment": ("augment", str, "HOW", "standard (default), light (nothing is mirrored) or none"),
    "--validation": ("share", float, "PART", "where there is no val/: part of each class for validation (0.2)"),
    "--split": ("split", int, "N", "number that this part follows from (0)"),
    "--best": ("best", str, "METRIC", "val_accuracy (default) or val_loss: whose best weights are exported"),
    "--patience": ("patience", int, "N", "end after N epochs without a better value (never)"),
    "--seed": ("seed", int, "N", "the one number that everything random follows from (0)"),
    "--workers": ("workers", int, "N", "processes that open pictures; the result does not depend on it (0)"),
    "--precision": ("precision", str, "P", "fp32 (default), bf16 or fp16"),
    "--save-every": ("save_every", str, "WHEN", 'such as "50 steps", "5 minutes" or "1 epoch" (default)'),
    "--out": ("out", str, "DIR", "the run's folder (runs/NAME, after the folder of pictures)"),
}
_SWITCHES = {
    "--grey": ("grey", "make pictures grey, one channel"),
    "--partial": ("partial", "take weights that fit only in part"),
    "--skip-broken": ("skip_broken", "leave out files that are no whole pictures, instead of refusing"),
}
_INTERRUPTED = {75, 130}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("folder", metavar="FOLDER", help="with train/ and val/, or with one folder for each class")
    for option, (field, kind, letter, help_) in _OPTIONS.items():
        parser.add_argument(option, dest=field, type=kind, metavar=letter, help=help_.replace("%", "%%"))
    parser.add_argument("--arguments", metavar="JSON", help="keyword arguments of a factory of yours")
    for option, (field, help_) in _SWITCHES.items():
        parser.add_argument(option, dest=field, action="store_true", help=help_)
    parser.add_argument(
        "--resume",
        choices=("auto", "must", "never"),
        default="auto",
        help="go on if there is a run (default), only if there is, or refuse if there is",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Fine-tune, and say what to type next."""
    import json

    from rekindle.cli._progress import progress_line

    need_torch_and_pillow()
    from rekindle.factories import UserCodeFailed
    from rekindle.recipes.finetuning import Plan, finetune

    names = [field for field, *_ in _OPTIONS.values()] + [field for field, _ in _SWITCHES.values()]
    given = {name: value for name in names if (value := getattr(args, name)) is not None and value is not False}
    out = given.pop("out", None) or os.path.join("runs", os.path.basename(os.path.abspath(args.folder)) or "pictures")
    plan = Plan(args.folder, out, arguments=arguments_of(args.arguments), **given)
    line = progress_line(lambda _, done, total: f"looking at the pictures: {done:,} of {total:,}")
    try:
        result = finetune(plan, resume=args.resume, progress=None, on_check=line, say=say)
    except UserCodeFailed as error:
        say(error.trace)
        raise
    except SystemExit as stop:
        if stop.code in _INTERRUPTED:
            say(f"go on with: {_again(args, {})}")
        raise
    if args.json:
        print(json.dumps(result.to_json()))
        return 0
    found = result.metrics
    if result.was_complete:
        print(f"{result.folder}: all {result.epochs} epochs were already done")
        say(f"go on with: {_again(args, {'epochs': 2 * result.epochs})}")
    print(
        f"validation accuracy {100 * found.accuracy:.2f} %   "
        f"({found.right:,} of {found.count:,} pictures; the best of {result.epochs} epochs, after {result.best_epoch})"
    )
    print()
    for row in found.lines():
        print(row)
    print()
    print(f"weights           {result.exported}")
    if result.confusion:
        print(f"confusion matrix  {result.confusion}")
    if result.curve:
        print(f"learning curve    {result.curve}")
    print("next")
    print(f"  rekindle predict {shlex.quote(result.folder)} PICTURE.jpg")
    print(f"  rekindle evaluate {shlex.quote(result.folder)} FOLDER")
    return 0


def _again(args: argparse.Namespace, instead: dict[str, Any]) -> str:
    words = ["rekindle", "finetune", args.folder]
    for option, (field, *_) in _OPTIONS.items():
        value = instead.get(field, getattr(args, field))
        if value is not None:
            words += [option, str(value)]
    if args.arguments is not None:
        words += ["--arguments", args.arguments]
    words += [option for option, (field, _) in _SWITCHES.items() if getattr(args, field)]
    return shlex.join(words)
