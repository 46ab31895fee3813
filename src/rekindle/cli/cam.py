"""`rekindle cam`: which region of a picture spoke for a class, as a picture."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rekindle.recipes.pictures import Preprocessing

SUMMARY = "lay over a picture which region of it decided the class (Grad-CAM)"
EXAMPLE = "rekindle cam runs/ants-and-bees bee.jpg -o cam.png"

_SIZE = 224  # rows and columns that most published weights were trained on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="RUN|FILE", help="a run of `rekindle finetune`, what it exported, or weights")
    parser.add_argument("picture", metavar="PICTURE", help="a picture of any kind that Pillow opens")
    parser.add_argument("-o", "--output", metavar="PNG", default="cam.png", help="where to write (cam.png)")
    parser.add_argument("--layer", metavar="NAME", help="a layer whose output has rows and columns; chosen by default")
    parser.add_argument(
        "--class", metavar="NAME|NUMBER", dest="wanted", help="the class to ask about; the model's answer by default"
    )
    parser.add_argument("--strength", metavar="S", type=float, default=0.5, help="how much is covered, 0 to 1 (0.5)")
    weights = parser.add_argument_group("for weights that say nothing about their network")
    weights.add_argument(
        "--arch", metavar="ARCH", help="resnet18, timm:NAME, torchvision:NAME, or PACKAGE.MODULE:FACTORY of yours"
    )
    weights.add_argument("--arguments", metavar="JSON", default="{}", help="keyword arguments of your factory")
    weights.add_argument("--size", metavar="N", type=int, help="rows and columns of its input (224)")
    weights.add_argument("--grey", action="store_true", help="its input has one channel")
    weights.add_argument("--mean", metavar="X,X,X", help="what is taken off each channel (ImageNet's, 0.5 for grey)")
    weights.add_argument("--std", metavar="X,X,X", help="what each channel is divided by (ImageNet's, 0.5 for grey)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Write the picture; 0, or 2 where it could not be made."""
    from rekindle.cli._pictures import need_torch_and_pillow
    from rekindle.errors import ConfigError
    from rekindle.render import escape

    need_torch_and_pillow()
    from rekindle.view.gradcam import grad_cam, overlay, save_overlay

    if not 0 <= args.strength <= 1:
        raise ConfigError(f"--strength {args.strength:g} is not from 0 to 1")
    if not args.output.lower().endswith(".png"):
        raise ConfigError(f"{args.output}: the overlay is a PNG picture", do="give a name that ends in .png")
    model, how, classes = _loaded(args)
    x_CHW = _input(args.picture, how)
    wanted = None if args.wanted is None else _class_number(args.wanted, classes)
    cam = grad_cam(model, x_CHW, wanted, args.layer)
    save_overlay(overlay(_shown(x_CHW, how), cam.heat[0], strength=args.strength), args.output)
    number, answer = cam.classes[0], cam.predicted[0]
    called, says = (_called(index, classes) for index in (number, answer))
    silent = float(cam.heat.max()) == 0
    if args.json:
        answer_json = {
            "picture": args.picture,
            "output": args.output,
            "layer": cam.layer,
            "layer_chosen": cam.chosen,
            "class": {"number": number, "name": called},
            "score": cam.scores[0],
            "predicted": {"number": answer, "name": says},
            "places": list(cam.maps.shape[1:]),
            "map": [[round(value, 6) for value in row] for row in cam.maps[0].tolist()],
        }
        print(json.dumps(answer_json))
        return 0
    doubt = f"; the model says {escape(says)}" if answer != number else ""
    print(f"{escape(args.picture, 400)}: {escape(called)}, score {cam.scores[0]:.4g}{doubt}")
    places = "x".join(map(str, cam.maps.shape[1:]))
    how_chosen = "chosen: the last with a convolution in it; --layer names another" if cam.chosen else "as asked"
    print(f"  layer   {escape(cam.layer)} ({places} places; {how_chosen})")
    if silent:
        print("  note    nothing in the picture speaks for this class at this layer: the map is empty")
    print(f"  wrote   {escape(args.output, 400)}")
    return 0


def _loaded(args: argparse.Namespace) -> tuple[nn.Module, Preprocessing, tuple[str, ...]]:
    """Return the model, how pictures are prepared for it, and the names of its classes (empty where unknown)."""
    import shlex

    from rekindle.cli._pictures import arguments_of, say
    from rekindle.errors import ConfigError
    from rekindle.factories import UserCodeFailed
    from rekindle.recipes.classifier import about_of, load_classifier

    arguments = arguments_of(args.arguments)
    try:
        if about_of(args.model) is not None:
            ignored = _ignored(args)
            if ignored:
                say(
                    f"note: {' and '.join(ignored)} {'has' if len(ignored) == 1 else 'have'} no effect: "
                    f"{args.model} says itself how pictures are prepared for it"
                )
            found = load_classifier(args.model, arch=args.arch, arguments=arguments or None)
            return found.model, found.about.preprocessing, found.classes
        if args.arch is None:
            raise ConfigError(
                f"{args.model}: nothing in it says which network it belongs to",
                why="it holds weights alone; `rekindle finetune` writes the network's name beside them",
                do=f"rekindle cam {shlex.quote(args.model)} {shlex.quote(args.picture)} --arch resnet18    "
                "or package.module:factory",
            )
        how = _preprocessing(args)
        return _network(args.arch, arguments, how, args.model), how, ()
    except UserCodeFailed as error:
        say(error.trace)
        raise


def _ignored(args: argparse.Namespace) -> list[str]:
    """Return the options that were given and that only weights without a description of their network need."""
    given = {"--size": args.size, "--mean": args.mean, "--std": args.std, "--grey": args.grey or None}
    return [name for name, value in given.items() if value is not None]


def _network(arch: str, arguments: Mapping[str, Any], how: Preprocessing, weights: str) -> nn.Module:
    """Build a network for weights that say only by their shapes how many classes they know."""
    from rekindle.factories import model_from
    from rekindle.recipes.architectures import build_architecture, is_users_code
    from rekindle.tune.fit import fit

    if is_users_code(arch):
        model = model_from(arch, arguments)
    else:
        # The number of classes is that of the rows of the head in the file.
        built = build_architecture(arch, 2, how, arguments)
        head = next(
            (row for row in fit(built.model, weights, dry_run=True).rows if row.key == f"{built.head}.bias"), None
        )
        rows = head.source_shape if head is not None else None
        model = build_architecture(arch, rows[0], how, arguments).model if rows and rows[0] != 2 else built.model
    fit(model, weights, strict=True)
    return model.eval()


def _preprocessing(args: argparse.Namespace) -> Preprocessing:
    from rekindle.recipes.pictures import Preprocessing

    size = _SIZE if args.size is None else args.size
    made: dict[str, Any] = {"size": size, "resize": size, "channels": 1 if args.grey else 3}
    usual = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    for name, values in usual.items():
        given = getattr(args, name)
        made[name] = _numbers(name, given) if given is not None else [0.5] if args.grey else list(values)
    return Preprocessing.from_json(made)


def _numbers(name: str, text: str) -> list[float]:
    from rekindle.errors import ConfigError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--{name} {text}: numbers with commas are wanted", do="one for each channel") from None


def _input(path: str, how: Preprocessing) -> torch.Tensor:
    from rekindle.recipes.pictures import open_picture, prepared

    return prepared(open_picture(path, how.channels), how)


def _shown(x_CHW: torch.Tensor, how: Preprocessing) -> torch.Tensor:
    """Return the picture as the network saw it, from 0 to 1: the middle, cut and scaled."""
    import torch

    return x_CHW * torch.tensor(how.std)[:, None, None] + torch.tensor(how.mean)[:, None, None]


def _class_number(wanted: str, classes: tuple[str, ...]) -> int:
    from rekindle.errors import ConfigError
    from rekindle.keys import near_names

    if wanted in classes:
        return classes.index(wanted)
    if wanted.isdecimal():
        return int(wanted)
    near = near_names(wanted, classes) or list(classes[:8])
    raise ConfigError(
        f"--class {wanted}: the model has no such class",
        why=f"nearest: {', '.join(near)}" if near else "the weights name no classes",
        do="give a name of them" if near else "give its number, counted from 0",
    )


def _called(number: int, classes: tuple[str, ...]) -> str:
    return classes[number] if number < len(classes) else f"class {number}"
