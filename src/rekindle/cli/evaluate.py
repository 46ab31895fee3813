"""`rekindle evaluate`: how well a fine-tuned classifier tells the pictures of a folder apart."""

from __future__ import annotations

import argparse
import os

from rekindle.cli._pictures import add_source, classifier_of, say
from rekindle.errors import ConfigError

SUMMARY = "measure a fine-tuned classifier on a folder of pictures"
EXAMPLE = "rekindle evaluate runs/hymenoptera hymenoptera --confusion confusion.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_source(parser)
    parser.add_argument("folder", metavar="FOLDER", help="with val/, or with one folder for each class")
    parser.add_argument(
        "--part",
        choices=("auto", "val", "train", "all"),
        default="auto",
        help="which pictures: those of val/ where it is there and all otherwise (default); without val/, `val` is the "
        "share that the training kept apart",
    )
    parser.add_argument("--confusion", metavar="FILE.png", help="draw the confusion matrix")
    parser.add_argument("--skip-broken", action="store_true", help="leave out files that are no whole pictures")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure and print the table."""
    import json

    from rekindle.cli._progress import progress_line

    classifier = classifier_of(args)
    from rekindle.recipes.classifier import batches_of_files, measure
    from rekindle.recipes.metrics import draw_confusion
    from rekindle.recipes.picture_folders import digest_of, find_labelled, find_pictures
    from rekindle.recipes.pictures import check_pictures

    about = classifier.about
    share = about.share or 0.2
    found = find_labelled(args.folder, about.classes, part=args.part, share=share, split=about.split)
    for note in found.notes:
        say(f"{args.folder}: {note}")
    if args.part == "auto" and about.share:
        try:
            whole = find_pictures(args.folder, share=about.share, split=about.split)
            same = digest_of((*whole.train, *whole.validation)) == about.pictures
        except ConfigError:
            same = False
        if same:
            say(f"{args.folder}: these are the pictures that it was trained with; --part val takes those kept apart")
    files = found.validation
    line = progress_line(lambda _, done, total: f"looking at the pictures: {done:,} of {total:,}")
    broken = {error.path: error.reason for error in check_pictures(files, line).broken}
    if broken and not args.skip_broken:
        first = [f"{path}: {reason}" for path, reason in list(broken.items())[:8]]
        raise ConfigError(
            f"{args.folder}: {len(broken):,} of {len(files):,} files are no whole pictures",
            why="\n          ".join(first),
            do="mend or remove them; --skip-broken leaves them out",
        )
    for path, reason in broken.items():
        say(f"left out: {path}: {reason}")
    files = tuple(file for file in files if file.path not in broken)
    if not files:
        raise ConfigError(f"{args.folder}: no whole picture is left", do="add pictures")
    metrics = measure(classifier.model, batches_of_files(files, about.preprocessing), about.classes, classifier.device)
    drawn = None
    if args.confusion and draw_confusion(metrics, args.confusion, title=f"{100 * metrics.accuracy:.1f} % right"):
        drawn = args.confusion
    elif args.confusion:
        say("the confusion matrix was not drawn: matplotlib is not installed")
    if args.json:
        body = {"source": classifier.source, "folder": args.folder, "left_out": sorted(broken), **metrics.to_json()}
        print(json.dumps({**body, "confusion_picture": drawn}))
        return 0
    print(
        f"accuracy {100 * metrics.accuracy:.2f} %   "
        f"({metrics.right:,} of {metrics.count:,} pictures; loss {metrics.loss:.4f})"
    )
    print(f"weights  {os.fspath(classifier.source)}")
    print()
    for row in metrics.lines():
        print(row)
    if drawn:
        print(f"\nconfusion matrix  {drawn}")
    return 0
