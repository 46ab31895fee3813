"""How fast `rk.save` is against torch.save, safetensors, and writing the same bytes plainly, all brought to the disk.

Every way is timed in turn, several times over, in one run, and ends with fsync: torch and safetensors do not do that
themselves, so it is done for them. The budget: at least 0.9 of plain sequential writes.

    python benchmarks/saving.py [--megabytes 1024] [--tensors 100] [--repeat 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time

from report import header, write_result


def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def plain(state, path):
    """Write the tensors' memory one after another, nothing else."""
    with open(path, "wb", buffering=0) as out:
        for tensor in state.values():
            view = memoryview(tensor.numpy()).cast("B")
            out.writelines(view[at : at + 8 * 1024**2] for at in range(0, len(view), 8 * 1024**2))
        os.fsync(out.fileno())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--tensors", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", default=None, help="where the files are made; a temporary folder by default")
    args = parser.parse_args()

    import torch
    from safetensors.torch import save_file

    from rekindle.save import save

    torch.set_num_threads(1)
    rows = max(args.megabytes * 1024**2 // args.tensors // 4096, 1)
    state = {f"layer.{n}.weight": torch.randn(rows, 1024) for n in range(args.tensors)}

    def torchs(path):
        torch.save(state, path)
        sync(path)

    def safetensors(path):
        save_file(state, path)
        sync(path)

    ways = {
        "plain writes": ("bin", lambda path: plain(state, path)),
        "rk.save, .pth": ("pth", lambda path: save(state, path)),
        "rk.save, .safetensors": ("safetensors", lambda path: save(state, path)),
        "torch.save": ("pt", torchs),
        "safetensors save_file": ("st", safetensors),
    }
    times = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for _ in range(args.repeat):
            for name, (suffix, way) in ways.items():
                path = os.path.join(folder, f"a.{suffix}")
                start = time.perf_counter()
                way(path)
                times[name].append(time.perf_counter() - start)
                os.unlink(path)
    lines = [
        header("saving", f"--megabytes {args.megabytes} --tensors {args.tensors} --repeat {args.repeat}"),
        "| way | s | MB/s | speed against plain writes |",
        "| --- | --- | --- | --- |",
    ]
    base = statistics.median(times["plain writes"])
    size = rows * 4096 * args.tensors / 1e6
    for name, found in times.items():
        seconds = statistics.median(found)
        lines.append(f"| {name} | {seconds:.2f} | {size / seconds:,.0f} | {base / seconds:.2f} |")
    write_result("saving", lines)


if __name__ == "__main__":
    main()
