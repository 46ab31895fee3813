"""How long does `rekindle inspect` take as a whole process, how much memory, and does the file's size matter?

    python benchmarks/inspecting.py [--repeats 5] [--megabytes 1000] [--no-torch] [--folder FOLDER]

Files with 1,000 tensors in each container, of 10 MB and of 1 GB (their zeros are holes, so that no disk space is
needed), warm and cold (dropped from the page cache by posix_fadvise). Each figure is the median over whole processes,
taken in turns with a bare interpreter. The other peer, `torch.load` with mmap (the old stream has none), prints keys,
types and shapes; it runs twice for each file, since importing torch is most of it and takes seconds. Then files of
100,000 tensors are listed inside one process.
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
SMALL_BYTES = 10 * 10**6
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

    least = 65536

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.zeros = b""

    def write(self, data):
        """Write, or leave a hole."""
        view = memoryview(data).cast("B")
        if len(view) >= self.least and self.is_zero(view):
            self.file.seek(len(view), os.SEEK_CUR)
        else:
            self.file.write(view)
        return len(view)

    def is_zero(self, view):
        """Tell whether all bytes are zero; bytes are compared at memory speed, views one by one."""
        if len(self.zeros) != len(view):
            self.zeros = bytes(len(view))
        return bytes(view) == self.zeros

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


def make_apart(*files: tuple[Path, str, int, int]) -> None:
    """Make them in another process: the memory that a child is charged with begins with its parent's.

    Args:
        files: (path, container, tensors, elements of each).
    """
    work = json.dumps([(str(path), *rest) for path, *rest in files])
    subprocess.run([sys.executable, __file__, "--make", work], check=True)


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


def load_ms(path: Path, container: str) -> str:
    """Return the faster of two processes that open the file with torch and print what is in it."""
    if container == "safetensors" or (container == "torch-stream" and path.stat().st_size > 10**9):
        return ""  # no file of torch's; torch reads all of it into memory
    return f"{min(process('-c', LOAD, str(path), container)[0] for _ in range(2)):,.0f}"


def measure(path: Path, container: str, repeats: int, peer: str, *, cold: bool) -> str:
    bare, ours = [], []
    for _ in range(repeats):
        bare.append(process("-c", "pass")[0])
        if cold:
            drop_from_cache(path)
        ours.append(process("-m", "rekindle", "inspect", str(path)))
    ms = statistics.median(time for time, _ in ours)
    memory = max(memory for _, memory in ours)
    size = f"{path.stat().st_size / 10**6:,.0f}"
    state = "cold" if cold else "warm"
    return (
        f"| {container} | {size} | {state} | {statistics.median(bare):.0f} | {ms:.0f} | {min(o[0] for o in ours):.0f} "
        f"| {memory:.0f} | {peer} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the large files; they take no disk space")
    parser.add_argument("--no-torch", action="store_true", help="do not time `torch.load`: it takes seconds")
    parser.add_argument("--folder", default=None, help="where the files are made; a temporary folder by default")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        for path, *rest in json.loads(args.make):
            make(Path(path), *rest)
        return
    lines = [
        header("inspecting", f"--repeats {args.repeats} --megabytes {args.megabytes}"),
        "1,000 tensors; ms of whole processes, median (and best)\n",
        "| container | MB | cache | bare python ms | inspect ms | best ms | memory MB | torch.load ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    sizes = (SMALL_BYTES, args.megabytes * 10**6)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        files = {(kind, size): Path(folder, f"{kind}-{size}") for kind in CONTAINERS for size in sizes}
        many = {kind: Path(folder, f"{kind}-many") for kind in CONTAINERS}
        make_apart(
            *((path, kind, TENSORS, size // TENSORS // 4) for (kind, size), path in files.items()),
            *((path, kind, 100_000, 6) for kind, path in many.items()),
        )
        for (kind, _), path in files.items():
            peer = "" if args.no_torch else load_ms(path, kind)
            for cold in (False, True):
                lines.append(measure(path, kind, args.repeats, "" if cold else peer, cold=cold))
                print(lines[-1], flush=True)
        lines += ["\n| container | tensors | s to list, best of 2 |", "| --- | --- | --- |"]
        for kind, path in many.items():
            outs = [
                subprocess.run([sys.executable, "-c", LIST, path], capture_output=True, text=True, check=True).stdout
                for _ in range(2)
            ]
            lines.append(f"| {kind} | {outs[0].split()[0]} | {min(float(out.split()[1]) for out in outs):.2f} |")
            print(lines[-1], flush=True)
    write_result("inspecting", [*lines, f"\n{BUDGET}"])


if __name__ == "__main__":
    main()
