"""Counts what two ranks send each other in a step: with plain DDP, and in a run around the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ranks_job import Net, Noisy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import rekindle as rk
from rekindle.parallel import ties


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
    messages = 0
    for _ in run.epochs(1):
        before = group._get_sequence_number_for_group()
        for inputs, targets, _ in run.batches(run.loader(data, batch_size=4)):
            run.backward(((model(inputs) - targets) ** 2).mean())
            run.update()
            run.step()
            now = group._get_sequence_number_for_group()
            ours.append(now - before)
            before = now
    sent = messages
    run.close()
    result = {"bare": bare, "ours": ours, "messages": sent, "weights": "", "optimizer": ""}
    (Path(config["out"]) / f"result-{run.rank}.json").write_text(json.dumps(result))
