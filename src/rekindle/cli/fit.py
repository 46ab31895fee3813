"""`rekindle fit`: say what of a file would fit into a model, without training anything."""

from __future__ import annotations

import argparse
import json
import sys

SUMMARY = "say which tensors of a file fit into a model of yours, and which do not"
EXAMPLE = "rekindle fit resnet18.pth my_models:build --arguments '{\"classes\": 2}'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", help="weights, in any format that rekindle reads")
    parser.add_argument("factory", metavar="PACKAGE.MODULE:FACTORY", help="a function of yours that returns the model")
    parser.add_argument("--arguments", metavar="JSON", default="{}", help="keyword arguments of the factory")
    parser.add_argument("--take", metavar="KEY", help="where in the file the weights are")
    parser.add_argument("--rename", metavar="OLD=NEW", action="append", default=[], help="as of rekindle convert")
    parser.add_argument("--only", metavar="PATTERN", action="append", default=[], help="keys of the model to load")
    parser.add_argument("--leave", metavar="PATTERN", action="append", default=[], help="keys that stay as they are")
    parser.add_argument("--first-layers", metavar="K", type=int, help="load only the first K layers")
    parser.add_argument(
        "--match", choices=("name", "structure"), default="name", help="by names, or by order and shapes"
    )
    parser.add_argument("--partial-rows", action="store_true", help="take the rows that both have")
    parser.add_argument("--adapt-channels", action="store_true", help="add up the colours for grey pictures")
    parser.add_argument("--resize-positions", action="store_true", help="interpolate position embeddings")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Report; 0 everything fits, 1 something does not, 2 could not."""
    from rekindle.cli._pictures import arguments_of
    from rekindle.errors import StateMismatch
    from rekindle.factories import UserCodeFailed, model_from
    from rekindle.tune.fit import fit

    try:
        model = model_from(args.factory, arguments_of(args.arguments))
    except UserCodeFailed as error:
        print(error.trace, file=sys.stderr)
        raise
    try:
        report = fit(
            model,
            args.file,
            take=args.take,
            rename=args.rename,
            only=args.only,
            leave=args.leave,
            first_layers=args.first_layers,
            match=args.match,
            partial_rows=args.partial_rows,
            adapt_channels=args.adapt_channels,
            resize_positions=args.resize_positions,
            dry_run=True,
        )
    except StateMismatch as error:
        if args.json:
            print(json.dumps({"source": args.file, "tensors": [], "unexpected": [], "notes": [str(error)]}))
        else:
            print(error)
        return 1
    print(json.dumps(report.to_json()) if args.json else report)
    return 0 if report.whole else 1
