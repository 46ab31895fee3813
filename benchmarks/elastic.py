"""What `elastic="bits"` costs a step, against ordinary DDP on as many processes and the same batch.

A perceptron of a few million parameters trains on batches of fixed size, on 1, 2 and 4 processes of one machine, in two
ways: under DDP, and with a fixed number of shards added up along a fixed tree. Both are runs of rekindle; medians of
the steps after the first few. Where processes outnumber processors both are slow, and only the ratio means something.
The last column is the digest of the final weights: one value for all rows of `elastic`, and one per row of DDP.

    python benchmarks/elastic.py [--shards 8] [--steps 40] [--width 1024]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

from report import header, write_result


def work(rank, processes, port, way, args, folder):
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    import rekindle as rk
    from rekindle.parallel.ranks import Ranks, start

    torch.set_num_threads(1)
    if processes > 1:
        start(Ranks(rank, processes, rank, processes, "127.0.0.1", port))
    name = f"{way}-{processes}"
    elastic = "bits" if way == "elastic" else None
    with rk.Run(
        f"{folder}/{name}", seed=0, save_every=None, tensorboard=False, elastic=elastic, shards=args.shards
    ) as run:
        model = nn.Sequential(nn.Linear(256, args.width), nn.ReLU(), nn.Linear(args.width, args.width), nn.ReLU())
        model.append(nn.Linear(args.width, 10))
        parameters = sum(p.numel() for p in model.parameters())
        model, _ = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
        data = TensorDataset(torch.randn(args.batch * args.steps, 256), torch.randint(10, (args.batch * args.steps,)))
        seconds, began = [], time.perf_counter()
        for _ in run.epochs(1):
            for inputs, targets in run.batches(run.loader(data, global_batch_size=args.batch)):
                run.backward(nn.functional.cross_entropy(model(inputs), targets))
                if run.update():
                    seconds.append(time.perf_counter() - began)
                    began = time.perf_counter()
                run.step()
        digest = hashlib.sha256()
        for parameter in model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
    if not rank:
        found = {"ms": statistics.median(seconds[5:]) * 1000, "digest": digest.hexdigest()[:12], "size": parameters}
        Path(folder, f"{name}.json").write_text(json.dumps(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=256, help="samples of all processes together")
    parser.add_argument("--processes", default="1,2,4")
    args = parser.parse_args()
    import torch.multiprocessing as mp

    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for processes in map(int, args.processes.split(",")):
            for way in ("ddp", "elastic"):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    port = probe.getsockname()[1]
                mp.spawn(work, (processes, port, way, args, folder), nprocs=processes)
                rows[way, processes] = json.loads(Path(folder, f"{way}-{processes}.json").read_text())
    found = next(iter(rows.values()))
    about = f"{found['size']:,} parameters, batches of {args.batch}, {args.shards} shards, one thread a process; "
    about += f"load of the machine at the end: {os.getloadavg()[0]:.1f}"
    lines = [
        header("elastic", " ".join(sys.argv[1:])),
        about,
        "",
        "| processes | DDP, ms a step | elastic, ms a step | ratio | DDP weights | elastic weights |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for processes in map(int, args.processes.split(",")):
        plain, fixed = rows["ddp", processes], rows["elastic", processes]
        ratio = fixed["ms"] / plain["ms"]
        lines.append(
            f"| {processes} | {plain['ms']:.1f} | {fixed['ms']:.1f} | {ratio:.2f} | {plain['digest']} | "
            f"{fixed['digest']} |"
        )
    write_result("elastic", lines)


if __name__ == "__main__":
    main()
