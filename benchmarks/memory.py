"""Does the memory of any file command grow with the file?

    python benchmarks/memory.py [--megabytes 1000] [--containers torch-zip,torch-stream,safetensors]

Every command runs as a process of its own on a file of 10 MB and on one of 1 GB with the same 1,000 tensors, in each
container. The large files are made of holes, so that they need no disk space (what `convert` and `salvage` write does,
for as long as it is there). The peak is what the system counted for the process (`ru_maxrss`). `salvage` gets the file
cut in the middle of its last tensor.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from inspecting import HoleFile, make_apart
from report import header, write_result

TENSORS = 1000
SMALL = 10 * 10**6
BUDGET = "fact: no command needs more for a large file; budget: 100 MB to convert a file of any size"

# Words of each command; FILE, OTHER, CUT and OUT are replaced. Exit status 1 is an answer.
COMMANDS = {
    "inspect": ("inspect", "FILE"),
    "inspect --digest": ("inspect", "FILE", "--digest"),
    "scan": ("scan", "FILE"),
    "verify": ("verify", "FILE"),
    "doctor": ("doctor", "FILE"),
    "doctor --values": ("doctor", "FILE", "--values"),
    "diff": ("diff", "FILE", "OTHER"),
    "diff --values": ("diff", "FILE", "OTHER", "--values"),
    "convert to safetensors": ("convert", "FILE", "OUT.safetensors"),
    "convert to torch-zip": ("convert", "FILE", "OUT.pth"),
    "salvage": ("salvage", "CUT", "-o", "OUT.safetensors"),
}


def run(words: tuple[str, ...], names: dict[str, Path]) -> tuple[float, float]:
    """Run a command; return (seconds, megabytes at most)."""
    filled = [str(names[word]) if word in names else word.replace("OUT", str(names["OUTPUT"])) for word in words]
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "rekindle", *filled], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _, status, usage = os.wait4(child.pid, 0)
    except KeyboardInterrupt:
        child.kill()
        raise
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in {0, 1}:
        raise SystemExit(f"{filled}: exit status {child.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss / 1000


def cut_copy(path: Path, target: Path) -> None:
    """Copy a file without its last hundredth; holes stay holes."""
    end = os.path.getsize(path) * 99 // 100
    with path.open("rb") as source, HoleFile(target) as out:
        while (left := end - source.tell()) > 0:
            out.write(source.read(min(left, 2**20)))


def measure(folder: Path, container: str, size: int) -> dict[str, tuple[float, float]]:
    """Run every command on a file of a size; return command -> (seconds, megabytes)."""
    names = {"FILE": folder / "file", "OTHER": folder / "other", "CUT": folder / "cut", "OUTPUT": folder / "out"}
    make_apart((names["FILE"], container, TENSORS, size // TENSORS // 4))
    os.link(names["FILE"], names["OTHER"])
    cut_copy(names["FILE"], names["CUT"])
    found = {}
    for label, words in COMMANDS.items():
        found[label] = run(words, names)
        took, peak = found[label]
        print(f"{container} {size // 10**6:,} MB {label}: {took:.1f} s, {peak:.0f} MB", flush=True)
        for path in folder.glob("out*"):
            path.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--containers", default="torch-zip,torch-stream,safetensors")
    args = parser.parse_args()
    lines = [
        header("memory", f"--megabytes {args.megabytes} --containers {args.containers}"),
        "1,000 tensors; peak memory of whole processes, once each\n",
        f"| container | command | MB at 10 MB | MB at {args.megabytes:,} MB | s at {args.megabytes:,} MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for container in args.containers.split(","):
        found = []
        for size in (SMALL, args.megabytes * 10**6):
            with tempfile.TemporaryDirectory() as folder:
                found.append(measure(Path(folder), container, size))
        small, large = found
        lines += [
            f"| {container} | {label} | {small[label][1]:.0f} | {large[label][1]:.0f} | {large[label][0]:.1f} |"
            for label in COMMANDS
        ]
    write_result("memory", [*lines, f"\n{BUDGET}"])


if __name__ == "__main__":
    main()
