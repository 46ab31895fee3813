"""Counts what two ranks send each other in a step: with plain DDP, and in a run around the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ranks_job import Net, Noisy
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import rekindle as rk
from rekindle.parallel import ties


class Looks(TorchDispatchMode):
    """Counts how often a tensor's value is asked for, which on a GPU is a wait for all that it was given to do."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.overloadpacket.__name__ in {"_local_scalar_dense", "nonzero", "equal"}
        return function(*args, **(kwargs or {}))


def main(config: dict[str, Any]) -> None:
    """Write collectives and messages of each step into ``result-RANK.json``."""
    run = rk.Run(config["folder"], seed=1, save_every="5 minutes", accumulate=config["accumulate"], tensorboard=False)
    group = dist.distributed_c10d._get_default_group()
    messages = 0
    send = ties.Ties._send

    def counted(self: ties.Ties, message: list[Any]) -> None:
        nonlocal messages
        messages += 1
        send(self, message)

    ties.Ties._send = counted
    data = Noisy(48, None, 0.0)

    plain = DistributedDataParallel(Net())
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)
    bare = []
    for inputs, targets, _ in DataLoader(data, batch_size=8):
        before = group._get_sequence_number_for_group()
        ((plain(inputs) - targets) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        bare.append(group._get_sequence_number_for_group() - before)

    model = Net()
    model, optimizer = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01))
    ours = []
    messages, looks = 0, []
    for _ in run.epochs(1):
        before = group._get_sequence_number_for_group()
        loader = run.loader(data, batch_size=4)
        with Looks() as looking:
            for inputs, targets, _ in run.batches(loader):
                looking.count = 0
                run.backward(((model(inputs) - targets) ** 2).mean())
                run.update()
                run.step()
                now = group._get_sequence_number_for_group()
                ours.append(now - before)
                looks.append(looking.count)
                before = now
    sent = messages
    run.close()
    result = {"bare": bare, "ours": ours, "messages": sent, "looks": looks, "weights": "", "optimizer": ""}
    (Path(config["out"]) / f"result-{run.rank}.json").write_text(json.dumps(result))
