"""Any position of 10**12 samples within 1 ms, in constant memory; the first batch at step 10**6 of 10**9 within 1 s.

python benchmarks/order_of_samples.py [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from report import header, write_result
from torch.utils.data import Dataset

from rekindle.run.loader import make_loader
from rekindle.run.order import index_at, indices, make_order, walk

TRILLION, BILLION, STEP, BATCH = 10**12, 10**9, 10**6, 64


class Numbers(Dataset):
    """A billion samples that cost nothing, so that only the loader is measured."""

    def __len__(self):
        return BILLION

    def __getitem__(self, index):
        return index


def median_s(work, times):
    """Seconds: the median, and what 99 of 100 stay below (the rest is the operating system's)."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken), statistics.quantiles(taken, n=100)[-1]


def first_batch_s(workers):
    """Seconds from nothing to the first batch after a resume at step 10**6."""
    began = time.perf_counter()
    loader = make_loader(Numbers(), seed=1, batch_size=BATCH, num_workers=workers)
    batch = next(loader.batches(loader.pass_key(0, (0,)), STEP))
    taken = time.perf_counter() - began
    assert len(batch) == BATCH
    return taken


def walk_some(order):
    """Walk over two million samples as Python numbers; return how many they were."""
    count = 0
    for block in walk(order, order.length // 2):
        count += len(block.tolist())
        if count > 2_000_000:
            break
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    json_wanted = parser.parse_args().json
    torch.set_num_threads(1)
    order = make_order(TRILLION, 3)
    chance = random.Random(0)
    anywhere, worst = median_s(lambda: index_at(order, chance.randrange(TRILLION)), 2_000)
    first, _ = median_s(lambda: indices(order, chance.randrange(TRILLION - BATCH), BATCH), 200)
    made, _ = median_s(lambda: make_order(TRILLION, chance.randrange(2**63)), 200)
    began = time.perf_counter()
    count = walk_some(order)
    per_sample = (time.perf_counter() - began) / count
    tracemalloc.start()
    walk_some(order)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    results = {
        "make an order of 10^12 (us)": made * 1e6,
        "one position of 10^12, median (us)": anywhere * 1e6,
        "one position of 10^12, 99 of 100 (us)": worst * 1e6,
        "first 64 positions anywhere in 10^12 (us)": first * 1e6,
        "a sample, walking (ns)": per_sample * 1e9,
        "Python memory of a walk over 2 million (MB)": peak / 1e6,
        "first batch at step 10^6 of 10^9, no workers (ms)": statistics.median(first_batch_s(0) for _ in range(5))
        * 1e3,
        "first batch at step 10^6 of 10^9, 2 workers (ms)": statistics.median(first_batch_s(2) for _ in range(5)) * 1e3,
    }
    if json_wanted:
        print(json.dumps(results))
    else:
        rows = [f"| {name} | {value:.2f} |" for name, value in results.items()]
        write_result("order_of_samples", [header("order_of_samples", ""), "| what | figure |", "| --- | --- |", *rows])
    within = worst < 1e-3 and results["first batch at step 10^6 of 10^9, 2 workers (ms)"] < 1_000
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
