"""How fast `rekindle verify` compares checksums, against reading the same file and doing nothing with it.

The file is read from the page cache, in turn by a plain loop (`readinto` of 128 kB), by the CRC-32 of `zlib` alone
on memory that is in the processor's cache, and by `verify`. The budget is 2 GB/s a core, or the disk.

    python benchmarks/verifying.py [--megabytes 1024] [--repeat 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from zlib import crc32

from _files import PEAK_MB, make_file
from report import header, write_result

CHILD = (
    """
import sys
from rekindle.verbs.verify import verify
assert verify(sys.argv[1]).is_whole
"""
    + PEAK_MB
)


def read(path):
    buffer = bytearray(128 * 1024)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def checksum(path):
    block = os.urandom(128 * 1024)
    for _ in range(os.path.getsize(path) >> 17):
        crc32(block)


def compare(path):
    from rekindle.verbs.verify import verify

    assert verify(path).is_whole


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", default=None, help="where the file is made; a temporary folder by default")
    args = parser.parse_args()
    lines = [header("verifying", f"--megabytes {args.megabytes} --repeat {args.repeat}")]
    lines.append("| what | GB/s |")
    lines.append("| --- | --- |")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = os.path.join(folder, "a.pth")
        make_file(path, args.megabytes)
        size = os.path.getsize(path)
        times = {"read": [], "crc32 alone": [], "verify": []}
        for _ in range(args.repeat):
            for name, work in (("read", read), ("crc32 alone", checksum), ("verify", compare)):
                start = time.perf_counter()
                work(path)
                times[name].append(time.perf_counter() - start)
        lines += [f"| {name} | {size / statistics.median(spent) / 1e9:.2f} |" for name, spent in times.items()]
        done = subprocess.run([sys.executable, "-c", CHILD, path], check=True, capture_output=True, text=True)
        lines.append(f"\nMemory of a whole process: {done.stdout.strip()} MB.")
    write_result("verifying", lines)


if __name__ == "__main__":
    main()
