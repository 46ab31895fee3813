"""DistributedDataParallel around the models of a run: same bits in every life, right means, no needless traffic.

*Buckets.* DDP sums gradients in buckets. It lays them out once when it is made, and once more after its first backward
pass, in the order in which gradients came. A ring of three or more processes adds up an element in an order that
depends on where in its bucket it lies, so a resumed process, which makes its first step with the first layout, would
get other bits than the run that was never stopped (torch 2.13, `reducer.cpp`, `rebuild_buckets`). `prime` has DDP make
its second layout before the first real step, by a backward pass of zeros through every parameter: no module is called,
so no buffer and no generator moves, and the layout is a function of the model alone.

*Means.* DDP divides the sum of gradients by the number of processes. That is the mean over samples only if each process
had the same number of them. `SampleWeights` scales the gradients of batches that were not: exactly, and also those of a
process that had none.

*What is averaged.* The gradients of those parameters alone that were trained when DDP was made: one that is thawed, or
put into the model, after that would take another way in each process, without a word. So it is remembered here which
those are, and `require_averaged` refuses the others.

*Windows.* Inside an accumulation window gradients stay where they are; only the window's last batch is reduced.

Law: the weights are the same on every process, and the same in every life of the run.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from rekindle.errors import ConfigError

__all__ = [
    "SampleWeights",
    "average",
    "broadcast",
    "prepare_again",
    "prime",
    "require_averaged",
    "sync_buffers",
    "take_in",
    "unwrapped",
    "what_is_inexact",
    "wrap",
]

_OURS = frozenset({"module", "device_ids", "output_device", "process_group"})
# Wrapper -> the parameters whose gradients it averages.
_averaged: weakref.WeakKeyDictionary[DistributedDataParallel, tuple[nn.Parameter, ...]] = weakref.WeakKeyDictionary()


def wrap(model: nn.Module, device: torch.device, settings: Mapping[str, Any]) -> nn.Module:
    """Return a model wrapped in `DistributedDataParallel` and primed; one without anything to train as it is.

    Every process gives the same model; parameters and buffers become those of rank 0.

    Args:
        model: on its device already.
        device: this process's.
        settings: of `DistributedDataParallel`, such as ``{"bucket_cap_mb": 100, "find_unused_parameters": True}``.

    Raises:
        ConfigError: a setting that is not one of them, or that rekindle sets itself.
    """
    if isinstance(model, DistributedDataParallel) or not any(p.requires_grad for p in model.parameters()):
        return model
    for name in settings:
        if name in _OURS:
            raise ConfigError(f"ddp={{{name!r}: ...}}: rekindle sets {name} itself", do="leave it out")
    try:
        ddp = DistributedDataParallel(model, device_ids=None if device.type == "cpu" else [device.index], **settings)
    except TypeError as error:
        raise ConfigError(
            f"ddp={dict(settings)!r}: {error}",
            why="these are handed to torch's DistributedDataParallel",
            do='run.prepare(model, optimizer, ddp={"bucket_cap_mb": 50})',
        ) from None
    take_in(ddp)
    return ddp


def take_in(ddp: DistributedDataParallel) -> None:
    """Prime a wrapper, and remember what it averages; all processes together."""
    everything = _parameters_of(ddp)
    count = ddp._get_ddp_logging_data().get("num_parameter_tensors")  # type: ignore[no-untyped-call] # noqa: SLF001 - nothing else tells
    # A script may have wrapped its model, and frozen parts of it then. Where neither fits, nobody can tell any more.
    for known in ([p for p in everything if p.requires_grad], list(everything)):
        if len(known) == count:
            _averaged[ddp] = tuple(known)
            break
    prime(ddp)


def require_averaged(parameters: Iterable[nn.Parameter]) -> None:
    """Make sure that the processes train parameters together, as far as a wrapper that was taken in has them.

    Args:
        parameters: those that are trained, or will be.

    Raises:
        ConfigError: the gradients of some of them would not be averaged; named.
    """
    wanted = list(parameters)
    for ddp, averaged in _averaged.items():
        names, known = _parameters_of(ddp), {id(p) for p in averaged}
        apart = [names[p] for p in wanted if p in names and id(p) not in known]
        if apart:
            more = f" and {len(apart) - 1} more" if len(apart) > 1 else ""
            raise ConfigError(
                f"{apart[0]}{more}: each process would train its own",
                why="DistributedDataParallel averages the gradients of those parameters alone that were in the model, "
                "and trained, when it was wrapped",
                do="wrap it before anything is frozen: "
                'model = run.prepare(model, ddp={"find_unused_parameters": True}); then rk.freeze(model, ...)',
            )


def _parameters_of(ddp: DistributedDataParallel) -> dict[nn.Parameter, str]:
    """Return parameter -> name, of those that DDP was not told to leave alone."""
    return {p: name for name, p in ddp.module.named_parameters() if name not in ddp.parameters_to_ignore}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model itself, without the wrapper."""
    inner: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return inner


def prime(ddp: DistributedDataParallel) -> None:
    """Have DDP lay out its buckets for good, now; all processes together. Gradients are dropped.

    Nothing to do with ``find_unused_parameters``, where it never lays them out again. With ``static_graph`` a pass of
    zeros would be taken for the model's own, so that is left as torch has it.
    """
    if ddp.find_unused_parameters or ddp.static_graph:
        return
    parameters = [p for p in ddp.module.parameters() if p.requires_grad]
    module = ddp.module
    ddp.require_forward_param_sync = False  # buffers are not to be sent around: the stand-in has none
    ddp._modules["module"] = _Zeros(parameters)  # noqa: SLF001 - for one pass, and without registering anything
    try:
        with torch.enable_grad():
            ddp().backward()
    finally:
        ddp._modules["module"] = module  # noqa: SLF001 - as above
    for parameter in parameters:
        parameter.grad = None
    ddp.reducer._rebuild_buckets()  # noqa: SLF001 - what the next forward pass would do


def sync_buffers(models: Iterable[nn.Module]) -> None:
    """Give every process rank 0's buffers: where a loop ends, so that what is evaluated is what is saved."""
    for model in models:
        if isinstance(model, DistributedDataParallel) and model.broadcast_buffers and model.modules_buffers:
            model._sync_buffers()  # type: ignore[no-untyped-call] # noqa: SLF001 - what each forward pass in training does


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Give every process rank 0's values, in place; of any type: as bytes, since backends know a few types only."""
    for tensor in tensors:
        whole = tensor.detach().contiguous()
        if not whole.numel():
            continue
        flat = torch.view_as_real(whole) if whole.is_complex() else whole
        dist.broadcast(flat.reshape(-1).view(torch.uint8), 0)
        if whole.data_ptr() != tensor.data_ptr():
            tensor.copy_(whole)


def average(tensors: Iterable[torch.Tensor]) -> None:
    """Give every process the mean over the processes of each tensor, in place."""
    ready = list(tensors)
    for work in [dist.all_reduce(tensor, async_op=True) for tensor in ready]:
        work.wait()
    for tensor in ready:
        tensor.div_(dist.get_world_size())


def prepare_again(models: Iterable[nn.Module]) -> None:
    """Have DDP reduce the gradients of one more backward pass through the same forward pass.

    Otherwise it does so for the first one only, and leaves those of later ones different on each process, in silence
    (torch 2.13). What lies in the parameters already was reduced, and is the same after another mean.
    """
    for model in models:
        if isinstance(model, DistributedDataParallel) and model.require_backward_grad_sync:
            if model.find_unused_parameters or model.static_graph:
                continue  # what is used is looked for in the forward pass
            model.reducer.prepare_for_backward([])


def what_is_inexact(model: nn.Module, world_size: int) -> list[str]:
    """Return, in words, what of a model's settings makes a resumed run's bits differ."""
    if not isinstance(model, DistributedDataParallel):
        return []
    words = []
    if model.static_graph and world_size > 2:
        words.append(
            "static_graph=True: torch lays out its gradient buckets anew after the first step of each life, so with "
            f"{world_size} processes a resumed run ends with other bits; leave it out for the same bits"
        )
    norms = [name for name, module in model.module.named_modules() if isinstance(module, _BatchNorm)]
    if norms and not model.broadcast_buffers:
        words.append(
            f"broadcast_buffers=False: each process has its own statistics of {norms[0] or 'the model'}, and snapshots "
            "hold rank 0's, so a resumed run ends with other bits; leave it out for the same bits"
        )
    return words


class SampleWeights:
    """Scales gradients by this process's share of the samples, for batches that are not shared out evenly.

    Args:
        models: whose parameters' gradients are meant; more may be added.

    Attributes:
        models: the models.
    """

    def __init__(self) -> None:
        """Hold no hook: with even batches there is none."""
        self.models: list[nn.Module] = []
        self._value = 1.0
        self._hooks: list[Any] = []

    def set(self, value: float) -> None:
        """Use a factor from the next backward pass on; 1 for an even batch, 0 for a process without samples.

        Args:
            value: samples here, times processes, over samples in all.
        """
        if value == self._value:
            return
        self._value = value
        if value == 1.0:
            for hook in self._hooks:
                hook.remove()
            self._hooks = []
        elif not self._hooks:
            self._hooks = [
                parameter.register_hook(self._scaled)  # type: ignore[no-untyped-call] # torch leaves it untyped
                for model in self.models
                for parameter in model.parameters()
                if parameter.requires_grad
            ]

    def _scaled(self, gradient: torch.Tensor) -> torch.Tensor:
        # Not times zero: a gradient that is infinite stays out, too.
        return gradient * self._value if self._value else torch.zeros_like(gradient)


class _Zeros(nn.Module):
    """Stands in for a model: a loss that every parameter has a part in, and whose gradients are zeros."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self._all = tuple(parameters)  # a tuple registers nothing

    def forward(self) -> torch.Tensor:
        real = [torch.view_as_real(p) if p.is_complex() else p for p in self._all]
        return torch.stack([(p.reshape(-1)[:1].sum() * 0).to(torch.float32) for p in real]).sum()
