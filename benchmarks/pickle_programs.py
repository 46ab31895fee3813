"""How fast are pickle programs run, and 100,000 tensors turned into a tree?

    python benchmarks/pickle_programs.py [--tensors 100000] [--repeats 5]

The program is what `torch.save` writes for a state dict of that many tensors. Peers, on the same bytes:
`pickletools.genops`, which only decodes; and CPython's unpickler in pure Python (`pickle._Unpickler`) with stubs in
the place of what the file names, which decodes and runs. Each figure is the best of the repeats, in seconds of the
processor: it is one thread that waits for nothing, and other work on the machine should not count.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gc
import io
import pickle
import pickletools
import sys
import time
import zipfile
from collections.abc import Callable

from report import header, write_result

BUDGET_OPCODES_A_SECOND = 1_000_000
BUDGET_S_FOR_100_000 = 1.3


def state_dict_program(tensors: int) -> bytes:
    """Return the pickle of a state dict of this many small tensors, as torch.save writes it."""
    import torch

    state_dict = collections.OrderedDict(
        (f"layers.{number // 10}.block.{number % 10}.weight", torch.empty((4, 2))) for number in range(tensors)
    )
    file = io.BytesIO()
    torch.save(state_dict, file)
    with zipfile.ZipFile(file) as archive:
        return archive.read("archive/data.pkl")


def run_ours(program: bytes, *, collect: bool = False) -> object:
    """Turn the program into a tree, with storages as a format reader makes them."""
    from rekindle.tensors import DTYPE_OF_STORAGE, Storage
    from rekindle.tree import StorageRef
    from rekindle.unpickling import machine

    storages: dict[str, Storage] = {}

    def persistent(pid):
        _, kind, key, location, numel = pid
        dtype = DTYPE_OF_STORAGE[kind.name]
        storage = storages.get(key)
        if storage is None:
            storage = storages[key] = Storage(key, numel * dtype.itemsize, None, location)
        return StorageRef(storage, dtype.name, 0, numel)

    if not collect:
        return machine.run_program(program, persistent=persistent)
    paused, machine.without_collecting = machine.without_collecting, contextlib.nullcontext  # the collector stays on
    try:
        return machine.run_program(program, persistent=persistent)
    finally:
        machine.without_collecting = paused


class _StubUnpickler(pickle._Unpickler):  # noqa: SLF001 - the C one cannot be compared with Python code
    """CPython's own machine; what the file names is a stub that takes anything."""

    def find_class(self, module, name):  # noqa: ARG002 - pickle's signature
        return collections.OrderedDict if name == "OrderedDict" else lambda *args: args

    def persistent_load(self, pid):
        return pid


def best_of(repeats: int, work: Callable[[], object]) -> float:
    """Return the shortest time of the repeats, in seconds of the processor."""
    times = []
    for _ in range(repeats):
        gc.collect()
        started = time.process_time()
        result = work()
        times.append(time.process_time() - started)
        del result
    return min(times)


def main() -> int:
    """Measure, print, and return 1 where a budget is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tensors", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    settings = parser.parse_args()
    program = state_dict_program(settings.tensors)
    opcodes = sum(1 for _ in pickletools.genops(program))
    lines = [header("pickle_programs", f"--tensors {settings.tensors} --repeats {settings.repeats}")]
    lines.append(f"{settings.tensors:,} tensors, {opcodes:,} opcodes, {len(program):,} bytes\n")

    ours = best_of(settings.repeats, lambda: run_ours(program))
    rows = [
        ("rekindle, program to tree", ours),
        ("the same with the garbage collector on", best_of(2, lambda: run_ours(program, collect=True))),
        ("pickletools.genops (decodes only)", best_of(2, lambda: collections.deque(pickletools.genops(program), 0))),
        ("pickle._Unpickler in Python, stubs", best_of(2, lambda: _StubUnpickler(io.BytesIO(program)).load())),
    ]
    lines.append("| what | seconds | opcodes a second | time against rekindle |\n| --- | --- | --- | --- |")
    for name, seconds in rows:
        lines.append(f"| {name} | {seconds:.2f} | {opcodes / seconds:,.0f} | {seconds / ours:.2f} |")
    per_100_000 = ours / settings.tensors * 100_000
    fast = opcodes / ours >= BUDGET_OPCODES_A_SECOND and per_100_000 <= BUDGET_S_FOR_100_000
    verdict = "held" if fast else "missed"
    lines.append(f"\n100,000 tensors: {per_100_000:.2f} s (budget {BUDGET_S_FOR_100_000} s): {verdict}")
    write_result("pickle_programs", lines)
    return 0 if fast else 1


if __name__ == "__main__":
    sys.exit(main())
