"""How long does `rekindle inspect` take as a whole process, how much memory, and does the file's size matter?

    python benchmarks/inspecting.py [--repeats 15]

Files with 1,000 tensors in each container, of 10 MB and of 4 GB (their zeros are holes, so that no disk space is
needed), warm and cold (dropped from the page cache by posix_fadvise). Each figure is the median over whole processes,
taken in turns with two peers: a bare interpreter, and `torch.load` with mmap (the old stream has none), which prints
keys, types and shapes. Then files of 100,000 tensors are listed inside one process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import header, write_result

TENSORS = 1000
SIZES = (10 * 10**6, 4 * 10**9)
CONTAINERS = ("torch-zip", "torch-stream", "safetensors")
BUDGET = "budget: 150 ms and 40 MB a process; 100,000 tensors in 2 s"
LOAD = (
    "import sys, torch\n"
    "for key, value in torch.load(sys.argv[1], mmap=sys.argv[2] == 'torch-zip').items():\n"
    "    print(key, value.dtype, value.shape)"
)
LIST = (
    "import sys, time\n"
    "from rekindle.formats import open_path\n"
    "start = time.perf_counter()\n"
    "with open_path(sys.argv[1]) as opened: print(len(opened.table), time.perf_counter() - start)"
)


class HoleFile:
    """A file in which long runs of zeros become holes."""

    zeros = bytes(2**24)

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")

    def write(self, data):
        """Write, or leave a hole."""
        view = memoryview(data).cast("B")
        if 65536 <= len(view) <= len(self.zeros) and view == memoryview(self.zeros)[: len(view)]:
            self.file.seek(len(view), os.SEEK_CUR)
        else:
            self.file.write(view)
        return len(view)

    def flush(self):
        """Write what is buffered."""
        self.file.flush()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.truncate()
        self.file.close()


def make(path: Path, container: str, tensors: int, numel: int) -> None:
    """Write a state dict of equal tensors of zeros."""
    import torch

    if container == "safetensors":
        size = numel * 4
        rows = {
            f"layers.{i}.weight": {"dtype": "F32", "shape": [numel], "data_offsets": [i * size, (i + 1) * size]}
            for i in range(tensors)
        }
        text = json.dumps(rows).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + size * tensors)
        return
    state = {f"layers.{i}.weight": torch.zeros(numel) for i in range(tensors)}
    with HoleFile(path) as file:
        torch.save(state, file, _use_new_zipfile_serialization=container == "torch-zip")


def make_apart(path: Path, container: str, tensors: int, numel: int) -> None:
    """Do it in another process: the memory that a child is charged with begins with its parent's."""
    subprocess.run([sys.executable, __file__, "--make", str(path), container, str(tensors), str(numel)], check=True)


def process(*words: str) -> tuple[float, float]:
    """Run a process; return (milliseconds, megabytes of its memory at most)."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    took = time.perf_counter() - start
    child.returncode = status
    if status:
        raise SystemExit(f"{words}: exit status {status}")
    return took * 1000, usage.ru_maxrss / 1000


def drop_from_cache(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def measure(path: Path, container: str, repeats: int, *, cold: bool) -> str:
    bare, ours, theirs = [], [], []
    for _ in range(repeats):
        bare.append(process("-c", "pass")[0])
        if cold:
            drop_from_cache(path)
        ours.append(process("-m", "rekindle", "inspect", str(path)))
    for _ in range(0 if container == "safetensors" else 3):
        if container == "torch-stream" and path.stat().st_size > 10**9:
            break  # torch reads all of it into memory
        theirs.append(process("-c", LOAD, str(path), container)[0])
    ms = statistics.median(time for time, _ in ours)
    memory = max(memory for _, memory in ours)
    peer = f"{statistics.median(theirs):,.0f}" if theirs else ""
    size = f"{path.stat().st_size / 10**6:,.0f}"
    state = "cold" if cold else "warm"
    return (
        f"| {container} | {size} | {state} | {statistics.median(bare):.0f} | {ms:.0f} | {min(o[0] for o in ours):.0f} "
        f"| {memory:.0f} | {peer} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--make", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        path, container, tensors, numel = args.make
        make(Path(path), container, int(tensors), int(numel))
        return
    lines = [
        header("inspecting", f"--repeats {args.repeats}"),
        "1,000 tensors; ms of whole processes, median (and best)\n",
        "| container | MB | cache | bare python ms | inspect ms | best ms | memory MB | torch.load ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for container in CONTAINERS:
            for size in SIZES:
                path = Path(folder) / "file"
                make_apart(path, container, TENSORS, size // TENSORS // 4)
                lines += [measure(path, container, args.repeats, cold=cold) for cold in (False, True)]
        lines += ["\n| container | tensors | s to list, best of 5 |", "| --- | --- | --- |"]
        for container in CONTAINERS:
            make_apart(path, container, 100_000, 6)
            outs = [
                subprocess.run([sys.executable, "-c", LIST, path], capture_output=True, text=True, check=True).stdout
                for _ in range(5)
            ]
            lines.append(f"| {container} | {outs[0].split()[0]} | {min(float(out.split()[1]) for out in outs):.2f} |")
    write_result("inspecting", [*lines, f"\n{BUDGET}"])


if __name__ == "__main__":
    main()
