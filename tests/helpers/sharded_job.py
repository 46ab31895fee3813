"""A small training with a sharded model that has everything hard about one, for tests that kill and reshard it.

Uneven shards, a weight that two modules share, frozen ones and buffers of every type, BatchNorm, optimizer state of 0
dimensions, dropout, clipping, a schedule, and a number of samples that no number of processes divides.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from ranks_job import Noisy, _full
from torch import nn

import rekindle as rk
from rekindle.parallel import shares
from rekindle.run import precision

FEATURES = 6
KINDS = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool),
    *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.float8_e4m3fn, torch.float8_e5m2),
)


def some(kind: torch.dtype, *shape: int) -> torch.Tensor:
    """Return values of a type, the same in every process."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(11)) * 3
    return drawn.to(torch.complex64).mul(1 + 2j).to(kind) if kind.is_complex else drawn.abs().to(kind)


class Block(nn.Module):
    """A residual block of uneven width."""

    def __init__(self, width: int, inner: int, norm: bool, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.norm = nn.BatchNorm1d(inner) if norm else nn.LayerNorm(inner)
        self.drop = nn.Dropout(dropout)
        self.down = nn.Linear(inner, width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.down(self.drop(torch.relu(self.norm(self.up(inputs)))))


class Net(nn.Module):
    """Blocks between a projection and its transpose, which share a weight; and frozen things beside them."""

    def __init__(
        self,
        norm: bool = True,
        dropout: float = 0.2,
        kinds: tuple[torch.dtype, ...] = KINDS,
        frozen: bool = True,
        backbone: bool = False,
    ) -> None:
        super().__init__()
        self.into = nn.Linear(FEATURES, 9, bias=False)
        self.blocks = nn.ModuleList(Block(9, 13, norm, dropout) for _ in range(2))
        self.back = nn.Linear(FEATURES, 9, bias=False)
        self.back.weight = self.into.weight
        self.out = nn.Linear(FEATURES, 1)
        self.frozen = nn.ParameterDict()
        if backbone:  # large enough for files of its own, which need not be written again
            self.backbone = nn.Parameter(torch.full((700, 401), 0.5), requires_grad=False)
        for kind in kinds:
            name = str(kind).removeprefix("torch.")
            if frozen:
                self.frozen[f"a_{name}"] = nn.Parameter(some(kind, 5, 3), requires_grad=False)
            self.register_buffer(f"of_{name}", some(kind, 3).to(self.out.weight.device))
        self.register_buffer("number", torch.tensor(7))
        self.register_buffer("left_out", torch.arange(3.0), persistent=False)

    def reset_parameters(self) -> None:
        """Set what the network has of its own, for one that begins on the meta device."""
        for name, buffer in self.named_buffers(recurse=False):
            kind = buffer.dtype
            value = {"number": torch.tensor(7), "left_out": torch.arange(3.0)}.get(name)
            buffer.copy_(some(kind, 3) if value is None else value)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.into(inputs)
        for block in self.blocks:
            hidden = block(hidden)
        return self.out(hidden @ self.back.weight.to(hidden.dtype))


def main(config: dict[str, Any]) -> None:
    """Train as `config` says, and write ``result-RANK.json`` into its `out` folder."""
    out = Path(config["out"])
    if config.get("fp16_here"):  # slow on a processor, and refused to users
        precision._NEED_GPU = ()
    run = rk.Run(
        config["folder"],
        seed=5,
        save_every=config.get("save_every", "3 steps"),
        keep_last=config.get("keep_last", 2),
        accumulate=config.get("accumulate", 1),
        precision=config.get("precision", "fp32"),
        tensorboard=False,
        timeout_s=60,
        resume=config.get("resume", "auto"),
    )
    torch.manual_seed(100 + run.rank)  # as different as they can be: rank 0's weights are those of all
    kinds = KINDS[:4] if config.get("for_ddp") else KINDS  # gloo, and so DDP, knows a few only
    with torch.device("meta" if config.get("meta") else "cpu"):
        wanted = (config.get("norm", True), config.get("dropout", 0.2), kinds, config.get("frozen", True))
        model = Net(*wanted, config.get("backbone", False))
    ema = rk.average(model, decay=0.9) if config.get("ema") else None
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=1e-2, amsgrad=True)
    scheduler = rk.schedule(optimizer, "cosine", warmup=4, total=60)
    things = [model, optimizer, scheduler, *([ema] if ema is not None else [])]
    if config.get("full_disk") == run.rank:
        shares.write_files = _full
    if config.get("own"):
        from torch.distributed.fsdp import fully_shard

        fully_shard(model.blocks[0])
        fully_shard(model)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        scheduler = rk.schedule(optimizer, "cosine", warmup=4, total=60)
        run.track(model=model, optimizer=optimizer, scheduler=scheduler)
    elif config.get("shard", "fsdp"):
        fsdp = {"blocks": config.get("blocks", ["blocks.0", "blocks.1"])}
        if config.get("mesh"):
            from torch.distributed.device_mesh import init_device_mesh

            fsdp["mesh"] = init_device_mesh("cpu", tuple(config["mesh"]), mesh_dim_names=("copies", "parts"))
        if config.get("mp_policy"):
            from torch.distributed.fsdp import MixedPrecisionPolicy

            half = getattr(torch, config["mp_policy"])
            fsdp["mp_policy"] = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
        given = things if not config.get("later") else [model]
        run.prepare(*given, shard="fsdp", fsdp=fsdp)
        if config.get("later") == "never":
            optimizer.step()
        if config.get("later") == "made":
            trained = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=1e-2, amsgrad=True)
            scheduler = rk.schedule(optimizer, "cosine", warmup=4, total=60)
        run.track(optimizer=optimizer, scheduler=scheduler)
    else:
        model, *_ = run.prepare(*things)
    if config.get("statistics"):
        _say_statistics(run, model, out)
        return
    if config.get("resave"):
        run.save()
        run.close()
        (out / f"result-{run.rank}.json").write_text(json.dumps({"weights": "", "optimizer": ""}))
        return
    dataset = Noisy(config.get("samples", 50), None, config.get("slow", 0.0))
    size = {"global_batch_size": config["all_of"]} if "all_of" in config else {"batch_size": config.get("batch", 4)}
    loader = run.loader(dataset, num_workers=0, **size)
    shared = run.loader(dataset, batch_size=config.get("share", 1), shuffle=False)
    if config.get("evaluate_first"):
        _error_of_share(run, model, shared)
    trained_model = torch.compile(model, backend="eager") if config.get("compile") else model
    dealt = os.open(out / f"dealt-{run.rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    losses = []
    for epoch in run.epochs(config.get("epochs", 2)):
        model.train()
        for inputs, targets, indices in run.batches(loader):
            weight = run.batch_weight
            os.write(dealt, "".join(f"{epoch} {i} {run.steps_done}\n" for i in indices.tolist() if weight).encode())
            with run.autocast():
                loss = ((trained_model(inputs).float() - targets) ** 2).mean()
            run.backward(loss, scaler=config.get("scaler"))
            run.update(clip_norm=1.0)
            run.step()
            losses.append(loss.item())
            time.sleep(config.get("sleep", 0.0))
            if config.get("die_at") == [run.rank, run.steps_done]:
                os.kill(os.getpid(), signal.SIGKILL)
            if config.get("signal_at") == [run.rank, run.steps_done]:
                os.kill(os.getpid(), signal.SIGTERM)
        wanted = dataset.inputs.sum(1, keepdim=True)
        with run.evaluating(model), run.autocast():
            error = float(((model(dataset.inputs).float() - wanted) ** 2).mean())
            if ema is not None:
                averaged = ema(dataset.inputs)
                with ema.swapped():
                    swapped = model(dataset.inputs)
                again = float(((model(dataset.inputs).float() - wanted) ** 2).mean())
                if not swapped.equal(averaged) or again != error or not math.isfinite(error):
                    raise AssertionError((swapped.equal(averaged), again, error))
        if "share" in config:
            torch.testing.assert_close(_error_of_share(run, model, shared), error)
        run.log(val_error=error)
    run.close()
    parts = [p._local_tensor.shape if hasattr(p, "_local_tensor") else p.shape for p in model.parameters()]
    result = {
        "steps": run.steps_done,
        "weights": "",
        "optimizer": "",
        "rates": scheduler.get_last_lr(),
        "losses": losses,
        "parts": [list(part) for part in parts],
        "metrics": (Path(config["folder"]) / "metrics.jsonl").read_text() if run.is_main else "",
    }
    (out / f"result-{run.rank}.json").write_text(json.dumps(result))


def _error_of_share(run: rk.Run, model: nn.Module, loader: Any) -> float:
    """Return the error of all samples, of which each process computes its own share."""
    total, batches = 0.0, 0
    with run.evaluating(model), run.autocast():
        for _, _, indices in loader.own_share():
            clean = loader.dataset.inputs[indices]
            total += float(((model(clean).float() - clean.sum(1, keepdim=True)) ** 2).sum())
            batches += 1
    everywhere = [run.reduce(batches, how) for how in ("min", "max")]
    if everywhere[0] == everywhere[1]:
        raise AssertionError("every process had as many batches, so nothing was shown")
    return run.reduce(total, "sum") / len(loader.dataset)


def _say_statistics(run: rk.Run, model: nn.Module, out: Path) -> None:
    """Write the running mean after one pass in training, and one in evaluation, from statistics that all differ."""
    norm = model.blocks[0].norm
    found = {}
    for training in (True, False):
        model.train(training)
        norm.running_mean.fill_(1000.0 * run.rank)
        with torch.enable_grad() if training else torch.no_grad():
            model(torch.full((4, FEATURES), 0.25))
        found[str(training)] = norm.running_mean.tolist()
    (out / f"result-{run.rank}.json").write_text(json.dumps(found))
    run.close()
