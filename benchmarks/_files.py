"""The file that benchmarks of converting and verifying work on, and how a process says what memory it took."""

from __future__ import annotations

import os

# The last line of a child's script: it prints the megabytes that the process held at most.
PEAK_MB = """
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def make_file(path, megabytes):
    """Write a state dict of 100 tensors with values that do not compress."""
    from rekindle.source import BufferBytes
    from rekindle.tensors import Storage
    from rekindle.tree import Map, Tensor
    from rekindle.writers import torch_zip

    size = megabytes * 1024**2 // 100 // 4096 * 4096
    block = memoryview(os.urandom(size))
    pairs = []
    for number in range(100):
        storage = Storage(str(number), size, BufferBytes(block))
        pairs.append((f"layer.{number}.weight", Tensor(storage, "float32", 0, (size // 4096, 1024), (1024, 1))))
    with open(path, "wb") as out:
        torch_zip.write_tree(Map(pairs, "OrderedDict"), out)
