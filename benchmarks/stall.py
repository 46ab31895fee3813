"""How long a training stands still for a snapshot, and how fast that snapshot reaches the disk.

A loop with the state of a model and Adam saves, in turn: with `rk.Run`, with torch.save, and with the asynchronous save
of torch.distributed.checkpoint; each is timed from the moment it is asked for until the loop may change tensors again.
Beside them a plain copy of the same bytes into memory that is there already, one thread. The budgets: at most 1.5 times
that copy, at least 8 times shorter than torch.save; written, with digests and all that is synced, at 0.9 of the speed
of plain writes with one fsync. That has two lines: from the moment the loop goes on, and from the moment it was asked,
which holds the copy too. The stall of rk.Run is little more than its copy, by several threads, so the table also says
how many plain copies torch.save takes here. Processors that other programs use make all of it slower, the threads most.

    python benchmarks/stall.py [--megabytes 512] [--tensors 50] [--repeat 7] [--device cuda]

On a GPU there are two answers: how long the program waits, and how long the device does before it may change what is
being copied. The plain copy is one into pinned memory then.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import os
import shutil
import statistics
import tempfile
import time

from report import header, write_result


def clock(work, times):
    start = time.perf_counter()
    found = work()
    times.append(time.perf_counter() - start)
    return found


def load_now():
    return f"Load when it ended: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.\n"


def plain_write(tensors, path):
    with open(path, "xb", buffering=0) as out:
        for tensor in tensors:
            view = memoryview(tensor.numpy()).cast("B")
            out.writelines(view[at : at + 8 * 1024**2] for at in range(0, len(view), 8 * 1024**2))
        os.fsync(out.fileno())


def warm_up(folder, size):
    """Fill the file cache and empty it again: of a virtual machine, whoever asks for new memory first pays for it."""
    path = os.path.join(folder, "warm-up")
    with open(path, "xb", buffering=0) as out:
        piece = bytes(8 * 1024**2)
        out.writelines(piece for _ in range(max(1, size // len(piece))))
    os.unlink(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512, help="of parameters and Adam's state together")
    parser.add_argument("--tensors", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", default=None, help="where the files are made; a temporary folder by default")
    args = parser.parse_args()

    import torch
    import torch.distributed.checkpoint as dcp

    import rekindle as rk
    from rekindle.store.layout import snapshot_path

    torch.set_num_threads(1)
    on_gpu = args.device == "cuda"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    rows = max(args.megabytes * 1024**2 // args.tensors // 3 // 4096, 1)
    model = torch.nn.Module()
    for number in range(args.tensors):
        model.register_parameter(f"w{number}", torch.nn.Parameter(torch.randn(rows, 1024, device=args.device)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    held = [p.detach() for p in model.parameters()]
    held += [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    room = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu).zero_() for tensor in held]
    size = sum(tensor.nbytes for tensor in held)

    def train():
        with torch.no_grad():  # every tensor changes, as in a training
            for tensor in held:
                tensor[0, :4] += 1
        wait()

    def memcpy():
        if on_gpu:
            for target, source in zip(room, held, strict=True):
                target.copy_(source, non_blocking=True)
            wait()
        else:
            for target, source in zip(room, held, strict=True):
                ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes)

    def whole():
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    names = ["memcpy", "rk.Run", "torch.distributed.checkpoint async_save", "torch.save", "torch.save and fsync"]
    device_waits = "rk.Run, until the device may change tensors"
    names += [device_waits] * on_gpu
    behind, promised = "rk.Run, from the end of the stall until promised", "rk.Run, from being asked until promised"
    stalls = {name: [] for name in names}
    rates = {"plain writes and fsync": [], behind: [], promised: []}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        warm_up(folder, 8 * size)
        run = rk.Run(os.path.join(folder, "run"), seed=0, save_every="2 steps", keep_last=2, tensorboard=False)
        run.track(model=model, optimizer=optimizer)
        run.step()  # nothing is due; from here on, the run gets the memory for its copies
        for turn in range(args.repeat + 1):  # the first one also gets the memory, and is not counted
            train()
            clock(memcpy, stalls["memcpy"])
            path = os.path.join(folder, f"plain-{turn}")
            clock(lambda path=path: plain_write(room, path), rates["plain writes and fsync"])
            if turn > 1:  # two stay, as of the run: a file just removed would leave warm memory to the next one
                os.unlink(os.path.join(folder, f"plain-{turn - 2}"))
            train()
            start = time.perf_counter()
            clock(run.step, stalls["rk.Run"])
            if on_gpu:
                wait()
                stalls[device_waits].append(time.perf_counter() - start)
            goes_on = time.perf_counter()
            while not os.path.exists(snapshot_path(run.folder, run.steps_done)):
                time.sleep(0.001)
            there = time.perf_counter()
            rates[behind].append(there - goes_on)
            rates[promised].append(there - start)
            run.step()
            train()
            path = os.path.join(folder, "dcp")
            with contextlib.redirect_stdout(io.StringIO()):
                future = clock(
                    lambda path=path: dcp.async_save(whole(), checkpoint_id=path, no_dist=True),
                    stalls["torch.distributed.checkpoint async_save"],
                )
                future.result()
            shutil.rmtree(path)
            train()
            path = os.path.join(folder, "torch.pt")
            start = time.perf_counter()
            clock(lambda path=path: torch.save(whole(), path), stalls["torch.save"])
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
            stalls["torch.save and fsync"].append(time.perf_counter() - start)
            os.unlink(path)
            if turn == 0:
                first = stalls["rk.Run"][0]
                for times in (*stalls.values(), *rates.values()):
                    times.clear()
        run.close()
    copy = statistics.median(stalls["memcpy"])
    lines = [
        header(
            "stall",
            f"--megabytes {args.megabytes} --tensors {args.tensors} --repeat {args.repeat} --device {args.device}",
        ),
        f"On {torch.cuda.get_device_name()}.\n" if on_gpu else load_now(),
        f"{size / 1e6:,.0f} MB in {len(held)} tensors; medians, best of {args.repeat} in brackets.",
        f"The first snapshot of a life, right after its first step, before its memory is there: {first * 1e3:,.0f} ms.",
        "",
        "| the loop stands still for | ms | times a memcpy |",
        "| --- | --- | --- |",
    ]
    for name, times in stalls.items():
        seconds = statistics.median(times)
        lines.append(f"| {name} | {seconds * 1e3:,.0f} ({min(times) * 1e3:,.0f}) | {seconds / copy:.1f} |")
    ours = statistics.median(stalls["rk.Run"])
    theirs = statistics.median(stalls["torch.save"])
    lines += [
        "",
        f"torch.save's stall: {theirs / ours:.1f} times that of rk.Run, {theirs / copy:.1f} times the plain copy.",
        "",
        "| on the disk | s | MB/s | speed against plain writes |",
        "| --- | --- | --- | --- |",
    ]
    base = statistics.median(rates["plain writes and fsync"])
    for name, times in rates.items():
        seconds = statistics.median(times)
        lines.append(
            f"| {name} | {seconds:.2f} ({min(times):.2f}) | {size / 1e6 / seconds:,.0f} | {base / seconds:.2f} |"
        )
    write_result("stall", lines)


if __name__ == "__main__":
    main()
