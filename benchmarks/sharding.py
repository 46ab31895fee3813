"""What a snapshot of a model cut into parts costs: `rk.Run` with FSDP2, and torch.distributed.checkpoint beside it.

Processes of one machine share a model and AdamW's state with `fully_shard` (gloo, no GPU), and save in turn: with
`rk.Run`, with `dcp.async_save` and with `dcp.save`. Each is timed on every process from a common start: the stall,
until the loop may change tensors again; the promise, until every file is on the disk for all processes. The slowest
process counts. Then each is read back, by all processes together, into a model and an optimizer that were just made:
the files are in the page cache, and rekindle compares every byte that it uses with its SHA-256; torch has none.

Beside them a plain copy of a process's part into memory that is there already, one thread, by all at once; where
processes outnumber processors only the ratios mean something. torch brings its data files to the disk, and its index
not.

    python benchmarks/sharding.py [--megabytes 256] [--processes 2] [--repeat 5]
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import json
import os
import shutil
import socket
import statistics
import tempfile
import time
from pathlib import Path

from report import header, write_result

WAYS = ("rk.Run", "dcp.async_save", "dcp.save")


def size_of(folder):
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def make_model(args):
    import torch

    rows = max(args.megabytes * 1024**2 // args.tensors // 3 // 4096, 2)
    model = torch.nn.Module()
    for number in range(args.tensors):
        model.register_parameter(f"w{number}", torch.nn.Parameter(torch.randn(rows, 1024)))
    return model


def make_optimizer(model):
    import torch

    return torch.optim.AdamW(model.parameters(), lr=1e-4)


def work(rank, args, port, folder):
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.fsdp import fully_shard

    import rekindle as rk
    from rekindle.parallel.ranks import Ranks, start
    from rekindle.run.sharded import local_of
    from rekindle.store.layout import snapshot_path

    torch.set_num_threads(1)
    start(Ranks(rank, args.processes, rank, args.processes, "127.0.0.1", port))
    run = rk.Run(f"{folder}/run", seed=0, save_every="2 steps", keep_last=2, tensorboard=False)
    model = make_model(args)
    model, optimizer = run.prepare(model, make_optimizer(model), shard="fsdp", fsdp={"blocks": []})
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    weights = [local_of(p.detach()) for p in model.parameters()]
    held = [
        *weights,
        *(local_of(value) for state in optimizer.state.values() for value in state.values() if value.dim()),
    ]
    room = [torch.zeros_like(tensor) for tensor in held]
    times = {f"{way}, {part}": [] for way in WAYS for part in ("stall", "promise", "resume")} | {"memcpy": []}
    sizes, kept = {}, {}

    def begin():
        with torch.no_grad():  # every tensor changes, as in a training
            for tensor in held:
                tensor[0, :4] += 1
        dist.barrier()
        return time.perf_counter()

    def note(name, since):
        times[name].append(time.perf_counter() - since)

    def whole():
        parts, state = get_state_dict(model, optimizer)
        return {"model": parts, "optimizer": state}

    run.step()
    for turn in range(args.repeat + 1):
        since = begin()
        for target, source in zip(room, held, strict=True):
            ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes)
        note("memcpy", since)

        since = begin()
        run.step()
        note("rk.Run, stall", since)
        path = snapshot_path(run.folder, run.steps_done)
        while not os.path.exists(path):
            time.sleep(0.001)
        note("rk.Run, promise", since)
        sizes["rk.Run"], kept["rk.Run"] = size_of(path), [tensor.clone() for tensor in weights]
        run.step()

        for way in WAYS[1:]:
            path = f"{folder}/{way}"
            since = begin()
            with contextlib.redirect_stdout(io.StringIO()):
                if way == "dcp.save":
                    dcp.save(whole(), checkpoint_id=path)
                    note(f"{way}, stall", since)
                else:
                    future = dcp.async_save(whole(), checkpoint_id=path)
                    note(f"{way}, stall", since)
                    future.result()
            note(f"{way}, promise", since)
            dist.barrier()
            sizes[way], kept[way] = size_of(path), [tensor.clone() for tensor in weights]
            dist.barrier()
            if not rank and turn < args.repeat:
                shutil.rmtree(path)

    for turn in range(args.repeat + 1):
        for way in ("rk.Run", "dcp.save"):
            fresh = make_model(args)
            fully_shard(fresh)
            again = make_optimizer(fresh)
            dist.barrier()
            since = time.perf_counter()
            if way == "rk.Run":
                path = snapshot_path(run.folder, run.steps_done - 1)
                with rk.Run(
                    f"{folder}/again-{turn}", save_every=None, resume=path, tensorboard=False, progress=False
                ) as other:
                    other.track(model=fresh, optimizer=again)
                    note("rk.Run, resume", since)
            else:
                parts, state = get_state_dict(fresh, again)
                found = {"model": parts, "optimizer": state}
                dcp.load(found, checkpoint_id=f"{folder}/dcp.save")
                set_state_dict(fresh, again, model_state_dict=found["model"], optim_state_dict=found["optimizer"])
                note("dcp.save, resume", since)
            if not all(map(torch.equal, map(local_of, fresh.parameters()), kept[way])):
                raise AssertionError(f"{way} gave other weights back")
    held_bytes = sum(tensor.nbytes for tensor in held)
    found = {"times": times, "sizes": sizes, "bytes": held_bytes}
    Path(folder, f"rank-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    run.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256, help="of parameters and AdamW's state together")
    parser.add_argument("--tensors", type=int, default=40)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", default=None, help="where the files are made; a temporary folder by default")
    args = parser.parse_args()

    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        mp.spawn(work, (args, port, folder), nprocs=args.processes)
        ranks = [
            json.loads(Path(folder, f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(args.processes)
        ]
    # The slowest process of each turn; the first turn also gets its memory, and is not counted.
    slowest = {
        name: [max(turn) for turn in zip(*(rank["times"][name] for rank in ranks), strict=True)][1:]
        for name in ranks[0]["times"]
    }
    options = f"--megabytes {args.megabytes} --tensors {args.tensors} --processes {args.processes}"
    total = sum(rank["bytes"] for rank in ranks) / 1e6
    copy_s = statistics.median(slowest["memcpy"])
    words = f"{total:.0f} MB on {args.processes} processes; medians, best of {args.repeat} in brackets."
    lines = [
        header("sharding", f"{options} --repeat {args.repeat}"),
        f"Load when it ended: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.\n",
        words + f" The plain copy of a part takes {copy_s * 1000:.0f} ms.\n",
        "| | stall, ms | times the copy | until promised, s | on the disk, MB | to resume, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for way in WAYS:
        stall, promise, resume = (slowest[f"{way}, {part}"] for part in ("stall", "promise", "resume"))
        copies = statistics.median(stall) / copy_s
        back = f"{statistics.median(resume):.2f} ({min(resume):.2f})" if resume else "as dcp.save"
        lines.append(
            f"| {way} | {statistics.median(stall) * 1000:.0f} ({min(stall) * 1000:.0f}) | {copies:.1f} "
            f"| {statistics.median(promise):.2f} ({min(promise):.2f}) "
            f"| {ranks[0]['sizes'][way] / 1e6:.1f} | {back} |"
        )
    stalls = {way: statistics.median(slowest[f"{way}, stall"]) for way in WAYS}
    ends = {way: statistics.median(slowest[f"{way}, promise"]) for way in WAYS}
    lines.append(
        f"\nAgainst rk.Run: the stall of dcp.async_save is {stalls['dcp.async_save'] / stalls['rk.Run']:.1f} times, of "
        f"dcp.save {stalls['dcp.save'] / stalls['rk.Run']:.1f} times as long; until all is on the disk "
        f"{ends['dcp.async_save'] / ends['rk.Run']:.1f} and {ends['dcp.save'] / ends['rk.Run']:.1f} times."
    )
    write_result("sharding", lines)


if __name__ == "__main__":
    main()
