"""A small training on several processes with everything that makes an exact resume hard, for tests that kill it.

Batch norm, dropout, samples drawn with the global generators, momentum, a schedule, clipping, and a number of samples
that no number of processes divides. `main(config)` trains as one rank and writes what came out of it.
"""

# ruff: noqa: NPY002 - NumPy's legacy global generator is what data sets draw from

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run_job import digest
from torch import nn
from torch.utils.data import Dataset

import rekindle as rk
from rekindle.parallel import shares
from rekindle.run import precision

FEATURES = 6


def free_port() -> int:
    """Return a port that the kernel says is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Return the variables that torchrun would set on one machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


class Noisy(Dataset):
    """Samples that draw from the global generators, and write down that they were asked for."""

    def __init__(self, count: int, seen: Path | None, slow: float) -> None:
        self.inputs = torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(3))
        self.seen = None if seen is None else os.open(seen, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.slow = slow

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        if self.slow:
            time.sleep(self.slow)
        clean = self.inputs[index]
        return clean + torch.rand(FEATURES) * 0.1 + float(np.random.rand()) * 0.1, clean.sum().reshape(1), index


class Net(nn.Module):
    """Batch norm and dropout; registered in another order than it is used in, so that DDP lays its buckets out anew."""

    def __init__(self, norm: bool = True, dropout: float = 0.2) -> None:
        super().__init__()
        self.head = nn.Linear(40, 1)
        self.middle = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Dropout(dropout))
        self.first = nn.Sequential(nn.Linear(FEATURES, 40), nn.BatchNorm1d(40) if norm else nn.Identity(), nn.ReLU())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self.first(inputs)))


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")


def main(config: dict[str, Any]) -> None:
    """Train as `config` says, and write ``result-RANK.json`` into its `out` folder."""
    out = Path(config["out"])
    if config.get("fp16_here"):  # slow on a processor, and refused to users; it starts far too high, and grows often
        precision._NEED_GPU = ()
        precision.GradScaler = partial(torch.amp.grad_scaler.GradScaler, init_scale=2.0**17, growth_interval=4)
    run = rk.Run(
        config["folder"],
        seed=5,
        save_every=config.get("save_every", "3 steps"),
        keep_last=2,
        accumulate=config.get("accumulate", 1),
        elastic=config.get("elastic"),
        shards=4,
        tensorboard=False,
        timeout_s=config.get("timeout_s", 60),
        save_by=config.get("save_by", "one"),
        precision=config.get("precision", "fp32"),
        time_limit=config.get("time_limit"),
    )
    if config.get("full_disk") == run.rank:
        shares.write_files = _full
    torch.manual_seed(run.rank)  # as different as they can be: rank 0's weights are those of all
    model = Net(config.get("norm", True), config.get("dropout", 0.2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
    scheduler = rk.schedule(optimizer, "cosine", warmup=4, total=60)
    if config.get("own_ddp"):
        model = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=0.003)
        run.track(model=model, optimizer=optimizer, scheduler=scheduler)
    else:
        model, optimizer, scheduler = run.prepare(
            model,
            optimizer,
            scheduler,
            ddp={"bucket_cap_mb": config.get("bucket_mb", 25), **config.get("ddp", {})},
            lr_rule=config.get("lr_rule"),
        )
    average = None
    if "average" in config:
        average = rk.average(model, decay=0.9, buffers=config["average"])
        run.track(average=average)
    dataset = Noisy(config.get("samples", 50), None, config.get("slow", 0.0))
    size = {"global_batch_size": config["all_of"]} if "all_of" in config else {"batch_size": config.get("batch", 4)}
    loader = run.loader(dataset, num_workers=config.get("workers", 0), **size)
    dealt = os.open(out / f"dealt-{run.rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for epoch in run.epochs(config.get("epochs", 2)):
        model.train()
        for inputs, targets, indices in run.batches(loader):
            weight = run.batch_weight
            os.write(dealt, "".join(f"{epoch} {i} {run.steps_done}\n" for i in indices.tolist() if weight).encode())
            with run.autocast():
                errors = model(inputs).float() - targets
            loss = (errors**2).mean()
            if config.get("losses") == 2:  # through one forward pass, with a scale each
                run.backward(loss, scaler="square", retain_graph=True)
                run.backward(errors.abs().mean() * config.get("second", 1.0), scaler="size")
                run.update(clip_norm=1.0)
            elif config.get("by_hand"):
                loss.backward()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            else:
                run.backward(loss)
                run.update(clip_norm=1.0)
            run.step()
            time.sleep(config.get("sleep", 0.0))
            if config.get("raise_at") == [run.rank, run.steps_done]:
                raise ValueError("the data of this rank are broken")
            if config.get("leave_at") == [run.rank, run.steps_done]:
                sys.exit(0)
            while config.get("hang_at") == [run.rank, run.steps_done]:
                time.sleep(0.1)
            if config.get("die_at") == [run.rank, run.steps_done]:
                os.kill(os.getpid(), signal.SIGKILL)
            if config.get("signal_at") == [run.rank, run.steps_done]:
                os.kill(os.getpid(), signal.SIGTERM)
            if run.steps_done % 4 == 0:
                run.log(loss=loss, text="a")
        with run.evaluating(model):
            time.sleep(config.get("evaluation_s", 0.0))
            error = float(((model(dataset.inputs) - dataset.inputs.sum(1, keepdim=True)) ** 2).mean())
            averaged = {} if average is None else {"averaged": float(average(dataset.inputs).square().mean())}
        run.log(val_error=error, **averaged)
    run.close()
    inner = model.module if hasattr(model, "module") else model
    result = {
        "steps": run.steps_done,
        "weights": digest(inner.state_dict()),
        "optimizer": digest(optimizer.state_dict(), [p for g in optimizer.param_groups for p in g["params"]]),
        "average": "" if average is None else digest(average.state_dict()),
        "scales": {}
        if run._core.updater.scaler is None
        else {n: s.get_scale() for n, s in run._core.updater.scalers.items()},
        "skipped": run.skipped_steps,
        "rates": scheduler.get_last_lr(),
        "error": error if "error" in locals() else None,
        "metrics": (Path(config["folder"]) / "metrics.jsonl").read_text() if run.is_main else "",
    }
    (out / f"result-{run.rank}.json").write_text(json.dumps(result))


# A script for launchers: the job as its only argument says, and a death in the first attempt only.
SCRIPT = f"""
import json, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import ranks_job
config = json.loads(sys.argv[1])
if os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":
    config.pop("die_at", None)
ranks_job.main(config)
"""


class Outcome:
    """What came of one launch: exit codes by rank, everything that was written, and the results by rank."""

    def __init__(self, base: Path, codes: list[int]) -> None:
        self.codes = codes
        self.output = (base / "output").read_text()
        found = [base / f"result-{rank}.json" for rank in range(len(codes))]
        self.results = [json.loads(path.read_text()) for path in found if path.exists()]

    @property
    def bits(self) -> set[tuple[str, ...]]:
        """Weights, optimizer, averages and scales of every rank; one element where all are the same."""
        names = ("weights", "optimizer", "average", "scales", "skipped")
        return {tuple(json.dumps(result[name]) for name in names) for result in self.results}


def begin(nursery: Any, world_size: int, base: Path, **config: Any) -> list[int]:
    """Start a life of each rank, and return their process numbers."""
    port = free_port()
    whole = {"job": "ranks_job", "folder": str(base / "run"), "out": str(base), **config}
    return [nursery.start(whole, **environment(rank, world_size, port)) for rank in range(world_size)]


def end(nursery: Any, base: Path, pids: list[int]) -> Outcome:
    """Wait for them all."""
    return Outcome(base, [nursery.wait(pid) for pid in pids])


def live(nursery: Any, world_size: int, base: Path, **config: Any) -> Outcome:
    """Live a whole life on so many ranks."""
    for old in base.glob("result-*.json"):
        old.unlink()
    return end(nursery, base, begin(nursery, world_size, base, **config))


def dealt(base: Path, world_size: int) -> list[tuple[int, int, int]]:
    """Return (epoch, index, steps done before) of every sample that counted, over all lives."""
    found = []
    for rank in range(world_size):
        path = base / f"dealt-{rank}"
        if path.exists():
            found += [tuple(map(int, line.split())) for line in path.read_text().splitlines()]
    return found
