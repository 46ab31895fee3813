"""How fast `rekindle convert` is against a plain copy of the same file, and how much memory it takes.

Every way is timed in turn, several times over, in one run: copy the file and bring it to the disk (`shutil.copyfile`,
fsync), and convert it, which brings it to the disk too and checks it. The ratio of the medians is what the budget is
about: at least 0.8 of the copy's speed, at most 100 MB of memory at any size.

    python benchmarks/converting.py [--megabytes 256] [--repeat 9]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from _files import PEAK_MB, make_file
from report import header, write_result

PAIRS = (("pth", "safetensors"), ("safetensors", "pth"), ("pth", "pth"), ("pth", "stream"), ("stream", "pth"))
TO = {"pth": "torch-zip", "safetensors": "safetensors", "stream": "torch-stream"}


def copy(source, target):
    shutil.copyfile(source, target)
    fd = os.open(target, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


CHILD = (
    """
import sys
from rekindle.verbs.convert import convert
convert(sys.argv[1], sys.argv[2], to=sys.argv[3], force=True)
"""
    + PEAK_MB
)


def timed(function, *args, **kwargs):
    start = time.perf_counter()
    function(*args, **kwargs)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--folder", default=None, help="where the files are made; a temporary folder by default")
    args = parser.parse_args()
    from rekindle.verbs.convert import convert

    lines = [header("converting", f"--megabytes {args.megabytes} --repeat {args.repeat}")]
    lines.append("| from | to | copy s | convert s | speed against the copy | memory MB |")
    lines.append("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        files = {"pth": os.path.join(folder, "a.pth")}
        make_file(files["pth"], args.megabytes)
        for kind in ("safetensors", "stream"):
            files[kind] = os.path.join(folder, f"a.{kind}")
            convert(files["pth"], files[kind], to=TO[kind])
        target = os.path.join(folder, "out")
        for source, kind in PAIRS:
            copies, conversions = [], []
            for _ in range(args.repeat):
                for times, work, options in (
                    (copies, copy, {}),
                    (conversions, convert, {"to": TO[kind], "force": True}),
                ):
                    if os.path.exists(target):
                        os.unlink(target)
                    times.append(timed(work, files[source], target, **options))
            words = [sys.executable, "-c", CHILD, files[source], target, TO[kind]]
            memory = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
            copied, converted = statistics.median(copies), statistics.median(conversions)
            lines.append(
                f"| {source} | {kind} | {copied:.2f} | {converted:.2f} | {copied / converted:.2f} | {memory} |"
            )
            print(lines[-1], flush=True)
    write_result("converting", lines)


if __name__ == "__main__":
    main()
