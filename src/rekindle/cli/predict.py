"""`rekindle predict`: what pictures are taken for by a fine-tuned classifier."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rekindle.cli._pictures import add_source, classifier_of, say
from rekindle.errors import ConfigError

if TYPE_CHECKING:
    from rekindle.recipes.classifier import Prediction

SUMMARY = "say what pictures show, by a fine-tuned classifier"
EXAMPLE = "rekindle predict runs/hymenoptera ant.jpg bee.jpg"

_BATCH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_source(parser)
    parser.add_argument("pictures", metavar="PICTURE", nargs="+", help="files, or folders for all pictures in them")
    parser.add_argument("--top", metavar="N", type=int, default=1, help="the N most likely classes of each picture (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every class's probability")


def run(args: argparse.Namespace) -> int:
    """Predict and print; 2 where a file was no picture."""
    import json

    from rekindle.render import escape

    if args.top < 1:
        raise ConfigError(f"--top is {args.top}", why="wanted: a number of at least 1", do="leave it out")
    classifier = classifier_of(args)
    import torch

    from rekindle.recipes.picture_folders import listed_pictures
    from rekindle.recipes.pictures import BrokenPicture

    files = listed_pictures(args.pictures)
    rows: list[tuple[str, Prediction]] = []
    broken: list[BrokenPicture] = []
    waiting: list[tuple[str, torch.Tensor]] = []
    for place, file in enumerate(files, 1):
        try:
            waiting.append((file.path, classifier.input_of(file.path)))
        except BrokenPicture as error:
            broken.append(error)
        if waiting and (len(waiting) == _BATCH or place == len(files)):
            answers = classifier.answers(torch.stack([inputs for _, inputs in waiting]))
            rows += zip((path for path, _ in waiting), answers, strict=True)
            waiting.clear()
    if args.json:
        body = {
            "source": classifier.source,
            "classes": list(classifier.classes),
            "pictures": [
                {"path": path, "class": found.name, "probability": found.probability}
                | {"probabilities": dict(found.probabilities)}
                for path, found in rows
            ],
            "broken": [{"path": error.path, "reason": error.reason} for error in broken],
        }
        print(json.dumps(body))
    else:
        width = max((len(escape(path)) for path, _ in rows), default=0)
        names = max((len(escape(name, 40)) for name in classifier.classes), default=0)
        for path, found in rows:
            best = list(found.probabilities.items())[: args.top]
            cells = [f"{escape(name, 40):<{names}}  {100 * part:5.1f} %" for name, part in best]
            print(f"{escape(path):<{width}}  {'   '.join(cells)}")
    for each in broken:
        say(str(each))
    return 2 if broken else 0
