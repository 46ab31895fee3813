"""What learnt weights are worth: the same network, pictures, epochs and seeds, begun with and without them.

scikit-learn's handwritten digits are written out as pictures, and a LeNet learns one half. Then it, and one with random
weights, learn from a few pictures of another task: the other half as a bad scanner would give it (turned by 25 degrees,
smaller, with less contrast and with noise), or, with ``--task other-digits``, 5 to 9 after 0 to 4. All of it goes
through `rekindle finetune`, as from the command line. The best epoch is chosen by a small validation part, and the
accuracy is that on pictures which took part in nothing. Each learning rate is tried for all ways, since random weights
want another one than learnt ones; the time is that of a whole call, with looking at the pictures, snapshots and export.

    python benchmarks/finetuning.py [--seeds 5] [--each 3] [--epochs 10] [--task scanner]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from report import header, write_result

RATES = (0.01, 0.03, 0.1)
WAYS = {"random weights": {}, "learnt weights": {"weights": True}, "learnt, backbone frozen": {"weights": True}}


def scanned(image, generator):
    """Return a picture as a bad scanner would give it."""
    import numpy as np
    from PIL import Image

    turned = image.rotate(25, Image.Resampling.BILINEAR).resize((26, 26), Image.Resampling.BILINEAR)
    page = Image.new("L", (32, 32))
    page.paste(turned, (3, 3))
    grey = np.asarray(page) * 0.6 + generator.normal(0, 17, (32, 32)) + 20
    return Image.fromarray(grey.clip(0, 255).astype("uint8"))


def write_pictures(folder, task, each, seed):
    """Write source/{train,val}, target/{train,val} and test, by class; return how many are in the test."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(seed)
    seen = {}
    tested = 0
    for position, index in enumerate(generator.permutation(len(labels)).tolist()):
        label = int(labels[index])
        of_source = label < 5 if task == "other-digits" else position % 2 == 0
        count = seen[label, of_source] = seen.get((label, of_source), 0) + 1
        if of_source:
            place = "source/val" if count <= 20 else "source/train"
        elif count <= each:
            place = "target/train"
        elif count <= 2 * each:
            place = "target/val"
        else:
            place, tested = "test", tested + 1
        path = Path(folder, place, str(label))
        path.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels[index].reshape(8, 8) * 15.9).astype("uint8"))
        image = image.resize((32, 32), Image.Resampling.BILINEAR)
        if task == "scanner" and not of_source:
            image = scanned(image, generator)
        image.save(path / f"{index}.png")
    return tested


def accuracy(source, folder):
    from rekindle.recipes.classifier import batches_of_files, load_classifier, measure
    from rekindle.recipes.picture_folders import find_labelled

    known = load_classifier(source)
    files = find_labelled(folder, known.classes).validation
    return measure(
        known.model, batches_of_files(files, known.about.preprocessing), known.classes, known.device
    ).accuracy


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--task", choices=("scanner", "other-digits"), default="scanner")
    parser.add_argument("--each", type=int, default=3, help="pictures of each class to learn from")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    import torch

    from rekindle.recipes.finetuning import Plan, finetune

    torch.set_num_threads(1)
    common = {"arch": "lenet", "size": 32, "grey": True, "augment": "light"}
    rows = {}
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            tested = write_pictures(folder, args.task, args.each, seed)
            learnt = finetune(
                Plan(f"{folder}/source", f"{folder}/learnt", lr=0.1, epochs=8, seed=seed, **common), progress=False
            )
            if args.task == "scanner":
                untouched = accuracy(learnt.exported, f"{folder}/test")
                rows.setdefault(("learnt, not trained further", 0), []).append((untouched, 0.0))
            for way, options in WAYS.items():
                for rate in RATES:
                    settings = {**common, "lr": rate, "epochs": args.epochs, "batch_size": 10, "seed": seed}
                    if options:
                        settings["weights"] = learnt.exported
                        settings["freeze"] = "backbone" if "frozen" in way else None
                    out = f"{folder}/{way}-{rate}"
                    began = time.perf_counter()
                    result = finetune(Plan(f"{folder}/target", out, **settings), progress=False)
                    seconds = time.perf_counter() - began
                    rows.setdefault((way, rate), []).append((accuracy(result.exported, f"{folder}/test"), seconds))
    about = f"{args.task}: {args.each} pictures of each class, {args.epochs} epochs, {args.seeds} seeds (each with its "
    about += f"own split and its own source network); accuracy on about {tested:,} other pictures; one thread; load of "
    about += f"the machine at the end: {os.getloadavg()[0]:.1f}"
    lines = [
        header("finetuning", " ".join(sys.argv[1:])),
        about,
        "",
        "| begun with | learning rate | accuracy, mean | least to greatest | seconds, median |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (way, rate), found in rows.items():
        right = [100 * each for each, _ in found]
        lines.append(
            f"| {way} | {rate or '-'} | {statistics.mean(right):.1f} % | {min(right):.1f} to {max(right):.1f} % | "
            f"{f'{seconds:.1f}' if (seconds := statistics.median(each for _, each in found)) else '-'} |"
        )
    write_result("finetuning", lines)


if __name__ == "__main__":
    main()
