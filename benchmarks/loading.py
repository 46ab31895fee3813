"""How fast `rk.load` is against `torch.load` and safetensors' own reader, on the same tensors.

A state dict of a transformer's shape is written in each container; every way is timed in turn, several times over, in
one run, with the files in the page cache. *open* is the call alone; *every byte* also adds up all elements. The budget:
at most 1.2 times safetensors' `load_file`, at least 5 times faster than `torch.load`.

    python benchmarks/loading.py [--megabytes 512] [--tensors 100] [--repeat 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time

from report import header, write_result


def touch(state):
    """Read every byte, as int64, so that the sum itself costs little."""
    import torch

    return sum(int(tensor.view(torch.int64).sum()) for tensor in state.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--tensors", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", default=None, help="where the files are made; a temporary folder by default")
    args = parser.parse_args()

    import torch
    from safetensors.torch import load_file

    from rekindle.load import load
    from rekindle.save import save
    from rekindle.verbs.convert import convert

    torch.set_num_threads(1)
    rows = max(args.megabytes * 1024**2 // args.tensors // 4096, 1)
    block = torch.randint(0, 2**31, (rows, 1024), dtype=torch.int32).view(torch.float32)
    lines = [
        header("loading", f"--megabytes {args.megabytes} --tensors {args.tensors} --repeat {args.repeat}"),
        "| way | open ms | every byte ms | open, times safetensors | open, times faster than torch.load |",
        "| --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        paths = {kind: os.path.join(folder, f"a.{kind}") for kind in ("pth", "safetensors", "stream")}
        save({f"layer.{n}.weight": block.clone() for n in range(args.tensors)}, paths["pth"])
        for kind, to in (("safetensors", "safetensors"), ("stream", "torch-stream")):
            convert(paths["pth"], paths[kind], to=to)
        ways = {
            "safetensors load_file, .safetensors": lambda: load_file(paths["safetensors"]),
            "rk.load, .safetensors": lambda: load(paths["safetensors"]),
            "torch.load, .pth": lambda: torch.load(paths["pth"]),
            "torch.load mmap=True, .pth": lambda: torch.load(paths["pth"], mmap=True),
            "rk.load, .pth": lambda: load(paths["pth"]),
            "rk.load mmap=True, .pth": lambda: load(paths["pth"], mmap=True),
            "torch.load, old stream": lambda: torch.load(paths["stream"]),
            "rk.load, old stream": lambda: load(paths["stream"]),
        }
        opens = {way: [] for way in ways}
        reads = {way: [] for way in ways}
        for way in ways.values():
            way()  # imports, and the files into the page cache
        for _ in range(args.repeat):
            for name, way in ways.items():
                start = time.perf_counter()
                state = way()
                opens[name].append(time.perf_counter() - start)
                touch(state)
                reads[name].append(time.perf_counter() - start)
                del state
    middle = {name: statistics.median(times) for name, times in opens.items()}
    base = middle["safetensors load_file, .safetensors"]
    for name, seconds in middle.items():
        peer = middle["torch.load, old stream" if "stream" in name else "torch.load, .pth"]
        lines.append(
            f"| {name} | {seconds * 1e3:.1f} | {statistics.median(reads[name]) * 1e3:.0f} | {seconds / base:.2f} "
            f"| {peer / seconds:.1f} |"
        )
    write_result("loading", lines)


if __name__ == "__main__":
    main()
