"""A collective got a tensor on a device that its backend does not serve."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-22", "ddp-backend-device", "0.2"
TITLE = "RuntimeError: No backend type associated with device type cpu"
RAISES = ("RuntimeError", "ValueError", "DistBackendError")
NEEDLES = (
    "No backend type associated with device type",
    "Tensors must be CUDA and dense",
    "SyncBatchNorm layers only work with GPU",
    "SyncBatchNorm expected input tensor to be on",
    "device_ids and output_device arguments only work",
    "Tensor list input to scatter/gather must match",
)
PATTERNS = (
    r"No backend type associated with device type (?P<device>\w+)",
    r"Tensors must be CUDA and dense",
    r"(?P<norm>SyncBatchNorm) (?:layers only work with GPU modules|expected input tensor to be on)",
    r"(?P<ids>DistributedDataParallel device_ids and output_device arguments only work with)",
)
OLD: tuple[str, ...] = ()
WHY = "NCCL moves what is on GPUs, gloo what is on the CPU. A tensor made for a sum of metrics (`torch.tensor(loss)`), an object, or a model that was not moved is on the CPU while the group was made with `nccl` alone."
CHECK = "`x.device`, and the backend: `dist.get_backend()`."


def explain(event: Event) -> Iterator[Cause]:
    """Which device, and a group that serves both."""
    facts = event.facts
    if facts.get("norm"):
        what, why = "a SyncBatchNorm runs on the CPU", "it exchanges its statistics by a GPU's collectives only"
        fix: tuple[str, ...] = (
            "model.to(device)   # in front of DistributedDataParallel, a GPU",
            "nn.BatchNorm2d   # where there is no GPU: leave convert_sync_batchnorm out",
        )
    elif facts.get("ids"):
        what, why = (
            "DistributedDataParallel was given device_ids, and the model is on the CPU (or on several devices)",
            "device_ids names the one GPU that the whole model is on",
        )
        fix = (
            "model.to(local_rank)   # in front of DistributedDataParallel(model, device_ids=[local_rank])",
            "DistributedDataParallel(model)   # without device_ids on the CPU",
        )
    else:
        device = facts.get("device") or "cpu"
        backend = "NCCL" if device == "cpu" else "gloo"
        what, why = (
            f"a collective got a tensor on {device}, and the process group has no backend for it",
            f"the group was made for {backend} alone",
        )
        fix = (
            "x = x.to(local_rank)   # metrics and flags too" if device == "cpu" else "x = x.cpu()",
            'dist.init_process_group("cpu:gloo,cuda:nccl")   # a group that serves both',
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
from pathlib import Path

import torch
import torch.distributed as dist

dist.init_process_group("cuda:gloo", init_method=f"file://{Path('store').resolve()}", rank=0, world_size=1)
dist.all_reduce(torch.ones(1))
"""
MENDED = """
from pathlib import Path

import torch
import torch.distributed as dist

dist.init_process_group("cpu:gloo,cuda:gloo", init_method=f"file://{Path('store').resolve()}", rank=0, world_size=1)
dist.all_reduce(torch.ones(1))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
