"""The same bits on one, two, four or more processes: ``Run(..., elastic="bits")``.

What makes the bits of ordinary data parallel training depend on the number of processes is the order in which numbers
are added, the generators that dropout draws from, and the buffers of BatchNorm. Here none of them knows the number of
processes. Each batch of all processes is cut into a fixed number of *shards*, a power of two. A shard is computed
alone, forward and backward, wherever it is; what it draws is a function of its own number, and it starts from the
buffers that the batch began with. Gradients are added along a fixed binary tree over the shards:

        ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))

A process has 2^k neighbours in the tree, so it adds up its own subtree by itself; then processes exchange whole sums
with a partner one, two, four places away, which gives every one of them the root: a + b = b + a, bit for bit.

The price: a pass per shard instead of one per process, and log2(processes) exchanges of all gradients that do not
overlap with the backward pass, where a ring would take two. ``benchmarks/elastic.py`` measures it.

Law: after `finish` gradients and buffers are functions of the samples, the seed and the number of shards only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from rekindle.errors import ConfigError, RunError
from rekindle.parallel import ddp

__all__ = ["Elastic", "check_shards"]


def check_shards(shards: int, world_size: int) -> None:
    """Refuse numbers for which there is no fixed tree.

    Raises:
        ConfigError: the shards are no power of two, or cannot be shared out evenly.
    """
    if not isinstance(shards, int) or isinstance(shards, bool) or shards < 1 or shards & (shards - 1):
        raise ConfigError(
            f"shards={shards!r} is not a power of two",
            why="the gradients of the shards are added in pairs, and the sums in pairs again",
            do="shards=8 runs on 1, 2, 4 or 8 processes",
        )
    if world_size > shards or shards % world_size:
        good = ", ".join(str(2**n) for n in range(shards.bit_length()))
        raise ConfigError(
            f'elastic="bits" with shards={shards} cannot run on {world_size} processes',
            why=f"each process has the same number of shards: {good} processes are possible",
            do="start another number of them, or give a new run more shards",
        )


class Elastic:
    """Sums the gradients of shards along the fixed tree.

    Args:
        shards: in all, a power of two.
        rank, world_size: which process of how many.

    Attributes:
        parts: shards of this process.
    """

    def __init__(self, shards: int, rank: int, world_size: int) -> None:
        """Hold nothing yet."""
        check_shards(shards, world_size)
        self.shards = shards
        self.parts = shards // world_size
        self._rank, self._world_size = rank, world_size
        self._models: list[nn.Module] = []
        self._parameters: list[nn.Parameter] = []
        self._sums: list[tuple[int, list[torch.Tensor]]] = []
        self._at_start: list[torch.Tensor] = []
        self._next: list[torch.Tensor] | None = None
        self._open: tuple[int, float] | None = None

    def add(self, model: nn.Module) -> None:
        """Take a model in, and give every process rank 0's parameters and buffers.

        Raises:
            ConfigError: it has `SyncBatchNorm`, whose statistics are those of all processes together.
        """
        for name, module in model.named_modules():
            if isinstance(module, nn.SyncBatchNorm):
                raise ConfigError(
                    f'elastic="bits" and SyncBatchNorm ({name or "the model"}) do not go together',
                    why="it takes statistics over all processes, so they would depend on their number",
                    do="BatchNorm, which sees one shard at a time here, or GroupNorm",
                )
        self._models.append(model)
        self._broadcast([*(p.data for p in model.parameters()), *model.buffers()])

    def begin(self, part: int, weight: float) -> None:
        """Note that this process's shard number `part` of a batch comes now.

        Args:
            part: from 0.
            weight: its samples, times the shards, over the samples of all; 0 for samples that another shard has.
        """
        self._collect()
        if part == 0:
            if self._sums:
                raise RunError(
                    "a batch began before the gradients of the last one were used",
                    why='elastic="bits" adds the shards up in run.update()',
                    do="call run.backward(loss) and run.update() for every batch",
                )
            # Asked anew: what was frozen may train by now.
            self._parameters = [p for model in self._models for p in model.parameters() if p.requires_grad]
            self._at_start = [buffer.detach().clone() for buffer in self._buffers()]
        else:
            for buffer, value in zip(self._buffers(), self._at_start, strict=True):
                buffer.copy_(value)
        self._open = (part, weight)

    def finish(self) -> None:
        """Add all up: parameters have the batch's gradients afterwards, and modules its buffers.

        Raises:
            RunError: it is called twice in a batch.
        """
        self._collect()
        if len(self._sums) != 1 or self._next is None:
            raise RunError(
                'elastic="bits" takes one run.update() per batch',
                why=f"{len(self._sums)} sums are there, of one",
                do="give all optimizers to one run.update(...) after all losses were propagated",
            )
        _, flat = self._sums.pop()
        self._exchange(flat)
        *sums, counts = flat
        for parameter, gradient, count in zip(self._parameters, self._split(sums), counts.tolist(), strict=True):
            # Without a gradient anywhere it is not to be decayed or moved by momentum either.
            parameter.grad = gradient if count else None
        self._broadcast(self._next)
        for buffer, value in zip(self._buffers(), self._next, strict=True):
            buffer.copy_(value)
        self._next = None

    def _buffers(self) -> list[torch.Tensor]:
        return [buffer for model in self._models for buffer in model.buffers()]

    def _collect(self) -> None:
        """Put the gradients of the shard that was just computed into the tree."""
        if self._open is None:
            return
        part, weight = self._open
        self._open = None
        if part == 0:
            # The buffers of the first shard of all are the next ones; of the other processes they are replaced.
            self._next = [buffer.detach().clone() for buffer in self._buffers()]
        entry = self._flatten(weight)
        level = 0
        while self._sums and self._sums[-1][0] == level:
            _, left = self._sums.pop()
            entry = [a.add_(b) for a, b in zip(left, entry, strict=True)]
            level += 1
        self._sums.append((level, entry))

    def _flatten(self, weight: float) -> list[torch.Tensor]:
        """Return the gradients as one tensor for each dtype, and how many shards had each of them; drop them."""
        has = torch.tensor([float(p.grad is not None and weight > 0) for p in self._parameters])
        found: dict[torch.dtype, list[torch.Tensor]] = {}
        for parameter in self._parameters:
            gradient = parameter.grad
            if gradient is None or weight == 0:
                gradient = torch.zeros_like(parameter)
            found.setdefault(parameter.dtype, []).append(gradient.detach().reshape(-1))
            parameter.grad = None
        scale = weight / self.shards
        flat = [torch.cat(found[kind]).mul_(scale) for kind in sorted(found, key=str)]
        return [*flat, has]

    def _split(self, sums: list[torch.Tensor]) -> list[torch.Tensor]:
        kinds = sorted({p.dtype for p in self._parameters}, key=str)
        rest = dict(zip(kinds, sums, strict=True))
        taken = dict.fromkeys(kinds, 0)
        found = []
        for parameter in self._parameters:
            begin = taken[parameter.dtype]
            taken[parameter.dtype] = begin + parameter.numel()
            found.append(rest[parameter.dtype][begin : begin + parameter.numel()].view(parameter.shape))
        return found

    def _exchange(self, flat: list[torch.Tensor]) -> None:
        distance = 1
        while distance < self._world_size:
            partner = self._rank ^ distance
            for tensor in flat:
                here = tensor if tensor.device == self._device() else tensor.to(self._device())
                there = torch.empty_like(here)
                both: list[Any] = [dist.P2POp(dist.isend, here, partner), dist.P2POp(dist.irecv, there, partner)]
                for work in dist.batch_isend_irecv(both):
                    work.wait()
                tensor.add_(there.to(tensor.device))
            distance *= 2

    def _broadcast(self, tensors: list[torch.Tensor]) -> None:
        if self._world_size > 1:
            ddp.broadcast(tensors)

    def _device(self) -> torch.device:
        return self._parameters[0].device
