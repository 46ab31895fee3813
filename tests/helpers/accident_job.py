"""A small training to which something happens: to its folder, its disk, its clock, its data or its memory.

`main(config)` trains 12 steps. ``config["at"]`` names an accident per step, ``config["first"]`` one before the run is
opened, ``config["opened"]`` one between opening and restoring. What came out is ``result.json`` in ``config["out"]``.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from run_job import digest
from torch import nn
from torch.utils.data import Dataset

import rekindle as rk
from rekindle.store import atomic

SAMPLES = 32


class Numbers(Dataset):
    """Numbers with noise; the one numbered `broken` cannot be read."""

    def __init__(self, samples: int = SAMPLES, broken: int | None = None) -> None:
        self.samples, self.broken = samples, broken

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == self.broken:
            raise ValueError(f"sample {index} cannot be read")
        return torch.full((4,), index / SAMPLES) + torch.randn(4) * 0.1


def main(config: dict[str, Any]) -> None:
    out = Path(config["out"])
    os.chdir(config.get("cwd", out))
    happen(config.get("first"), config)
    # In good order or not: the run is closed as `with` closes it.
    with rk.Run(
        config["folder"],
        seed=3,
        save_every=config.get("save_every", "2 steps"),
        keep_last=config.get("keep_last", 3),
        tensorboard=config.get("tensorboard", False),
        on_saved=lambda saved: print("promised", saved.step, flush=True),
        progress=False,
    ) as run:
        home = os.path.abspath(run.folder)
        happen(config.get("opened"), config, run)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        run.track(model=model, optimizer=optimizer)
        if "large" in config:
            run.track(large=torch.ones(config["large"]))
        loader = run.loader(
            Numbers(config.get("samples", SAMPLES), config.get("broken")),
            batch_size=8,
            num_workers=config.get("workers", 0),
        )
        for _ in run.epochs(3):
            for inputs in run.batches(loader):
                loss = (model(inputs) - inputs.mean(1, keepdim=True)).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                happen(config.get("at", {}).get(str(run.steps_done)), config, run)
                time.sleep(config.get("sleep", 0.0))
                run.step()
                run.log(loss=loss)
    result = {
        "steps": run.steps_done,
        "weights": digest(model.state_dict()),
        "metrics": Path(home, "metrics.jsonl").read_text(),
    }
    (out / "result.json").write_text(json.dumps(result))


def happen(name: str | None, config: dict[str, Any], run: rk.Run | None = None) -> None:
    if name is not None:
        ACCIDENTS[name](config, run)


def _go_elsewhere(config: dict[str, Any], _run: object) -> None:
    elsewhere = Path(config["out"], "elsewhere")
    elsewhere.mkdir(exist_ok=True)
    os.chdir(elsewhere)


def _kill(_config: object, _run: object) -> None:
    os.kill(os.getpid(), 9)


def _wait_until_saved(config: dict[str, Any]) -> None:
    """Nothing is being written, so that the accident meets the next save and not the end of one."""
    while not Path(config["folder"], "snapshots", "step-00000002").exists():
        time.sleep(0.002)
    time.sleep(0.05)


def _move(config: dict[str, Any], _run: object) -> None:
    _wait_until_saved(config)
    os.rename(config["folder"], config["folder"] + "-moved")


def _delete(config: dict[str, Any], _run: object) -> None:
    _wait_until_saved(config)
    shutil.rmtree(config["folder"])


def _delete_snapshots(config: dict[str, Any], _run: object) -> None:
    _wait_until_saved(config)
    shutil.rmtree(os.path.join(config["folder"], "snapshots"))


def _lose_what_it_goes_on_from(_config: object, run: rk.Run) -> None:
    assert run.resumed_from is not None
    shutil.rmtree(run.resumed_from)


def _little_memory(_config: object, _run: object) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + 24 * 1024**2
    resource.setrlimit(resource.RLIMIT_AS, (room, room))


def _short_files(_config: object, run: rk.Run) -> None:
    run.tracked_now()["large"].add_(1)  # so that it has to be written again
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))


def _later(_config: object, _run: object) -> None:
    _jump(400_000_000)


def _earlier(_config: object, _run: object) -> None:
    _jump(-400_000_000)


def _jump(seconds: float) -> None:
    time.time, time.time_ns = _by(time.time, seconds), _by(time.time_ns, int(seconds) * 10**9)


def _by(clock: Callable[[], Any], much: Any) -> Callable[[], Any]:
    return lambda: clock() + much


def _slow_disk(_config: object, _run: object) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        time.sleep(0.15)
        real(fd)

    os.fsync = fsync


def _network_disk(_config: object, _run: object) -> None:
    """As over NFS: no flags of rename, replies that are lost, no links, no sync of folders, names that will not go."""
    real_rename, real_fsync, real_unlink = os.rename, os.fsync, os.unlink
    atomic._renameat2 = lambda: None

    def rename(old: str, new: str) -> None:
        real_rename(old, new)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), old, None, new)

    def link(old: str, new: str) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), old, None, new)

    def fsync(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real_fsync(fd)

    def unlink(path: str, **options: Any) -> None:
        folder, name = os.path.split(os.fspath(path))
        if "snapshots" not in folder:
            real_unlink(path, **options)
        elif name.startswith(".nfs"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        else:  # somebody has it open
            real_rename(path, os.path.join(folder, f".nfs{os.urandom(8).hex()}"))

    os.rename = os.replace = rename
    os.link, os.fsync, os.unlink = link, fsync, unlink


ACCIDENTS: dict[str, Callable[[Any, Any], None]] = {
    "go elsewhere": _go_elsewhere,
    "kill": _kill,
    "move": _move,
    "delete": _delete,
    "delete snapshots": _delete_snapshots,
    "lose what it goes on from": _lose_what_it_goes_on_from,
    "little memory": _little_memory,
    "short files": _short_files,
    "later": _later,
    "earlier": _earlier,
    "slow disk": _slow_disk,
    "network disk": _network_disk,
}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
