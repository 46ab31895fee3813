"""How long it takes from the start of a process to its first step after a resume.

Processes that do the same thing: build a model with Adam, put back what was saved, make one step, and end. One begins
from nothing; the others have `rk.Run`; torch.save's file and torch.load; torch.distributed.checkpoint; Accelerate's
load_state; Lightning's Trainer with ckpt_path. A library that is not installed is left out, and the table says so.
Whole process, and from the end of the imports on; medians of processes that take turns.

    python benchmarks/first_step.py [--megabytes 256] [--repeat 5]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time

from report import header, write_result

JOB = """
import sys, time
import torch, torch._dynamo
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
import rekindle as rk
rk.Run
way, folder, layers, saves = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "save"
if way == "Accelerate":
    from accelerate import Accelerator
if way == "Lightning":
    import lightning
began = time.perf_counter()
torch.manual_seed(0)
model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(layers)])
optimizer = torch.optim.Adam(model.parameters())
run = None
if way == "rk.Run":
    run = rk.Run(folder + "/run", seed=0, save_every=None, tensorboard=False, progress=False)
    run.track(model=model, optimizer=optimizer)
    assert saves or run.resumed_from
elif not saves and way == "torch.load":
    state = torch.load(folder + "/whole.pt", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
elif not saves and way == "torch.distributed.checkpoint":
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments}
    dcp.load(state, checkpoint_id=folder + "/dcp", no_dist=True)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
elif way == "Accelerate":
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    if not saves:
        accelerator.load_state(folder + "/accelerate")
if way == "Lightning":
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model
        def training_step(self, batch):
            return self.model(batch).sum()
        def configure_optimizers(self):
            return optimizer
    trainer = lightning.Trainer(max_steps=1 if saves else 2, accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    path = folder + "/lightning.ckpt"
    batches = torch.utils.data.DataLoader(torch.ones(4, 1024), batch_size=2)
    trainer.fit(Module(), batches, ckpt_path=None if saves else path)
    assert trainer.global_step == (1 if saves else 2)
else:
    model(torch.ones(2, 1024)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
if run is not None and saves:
    run.step()
    run.close()
print(time.perf_counter() - began, flush=True)
if saves and way == "torch.load":
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder + "/whole.pt")
if saves and way == "torch.distributed.checkpoint":
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=folder + "/dcp", no_dist=True)
if saves and way == "Accelerate":
    accelerator.save_state(folder + "/accelerate")
if saves and way == "Lightning":
    trainer.save_checkpoint(path)
"""
LIBRARIES = {"Accelerate": "accelerate", "Lightning": "lightning"}
THERE = tuple(way for way, module in LIBRARIES.items() if importlib.util.find_spec(module))
WAYS = ("from nothing", "rk.Run", "torch.load", "torch.distributed.checkpoint", *THERE)


def start(way, folder, layers, what):
    """Run one process; return its seconds in all, and those after its imports."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", JOB, way, folder, str(layers), what], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    return seconds, float(done.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256, help="of parameters and Adam's state together")
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    layers = max(1, args.megabytes * 1024**2 // (3 * 4 * 1024 * 1025))
    found = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS[1:]:
            start(way, folder, layers, "save")
        for _ in range(args.repeat):
            for way in WAYS:
                found[way].append(start(way, folder, layers, "resume"))
    base = statistics.median(after for _, after in found["torch.load"])
    lines = [
        header("first_step", f"--megabytes {args.megabytes} --repeat {args.repeat}", tuple(LIBRARIES.values())),
        f"Load when it ended: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
        f"{layers} layers, {layers * 3 * 4 * 1024 * 1025 / 1e6:,.0f} MB of state.\n",
        "| to the first step | whole process, s | after imports, s | times torch.load's |",
        "| --- | --- | --- | --- |",
    ]
    for way, times in found.items():
        whole, after = (statistics.median(column) for column in zip(*times, strict=True))
        lines.append(f"| {way} | {whole:.2f} | {after:.2f} | {after / base:.2f} |")
    for way, module in LIBRARIES.items():
        if way not in THERE:
            lines.append(f"| {way} | not measured, as it is not installed: pip install {module} | | |")
    lines.append("\n`rk.Run` takes every digest twice: to find a snapshot that holds, and of the bytes it uses.")
    write_result("first_step", lines)


if __name__ == "__main__":
    main()
