"""Run the tests and measurements that need a GPU, or say clearly that there is none: `make gpu-check`.

    python scripts/gpu_check.py                  all of it, on the first GPU
    python scripts/gpu_check.py --device cpu     the same trainings on the processor: a check of this script

1. the tests that are marked `gpu`;
2. trainings with convolutions, BatchNorm and dropout in every precision, ``deterministic=True``: killed with -9
   and started again, they must end with the bits of the undisturbed one (weights, optimizer, scales, log);
3. the same under DDP, with NCCL: one process with a group of its own, and two where there are two GPUs;
4. how long a training stands still for a snapshot: `benchmarks/stall.py --device cuda`, which keeps its figures with
   the name of the device in benchmarks/results/stall.md.

Exit code 1 where anything failed; 0 without a GPU, since then nothing was checked.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRECISIONS = ("fp32", "bf16", "fp16", "O1", "O2", "O3", "bf16-true")
NEED_GPU = ("fp16",)
DIE_AT = (4, 9)  # a life each: before and after the first of the snapshots that both have


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--life", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.life:
        live(json.loads(args.life))
        return 0
    import torch  # noqa: PLC0415 - a life imports it itself

    if args.device == "cuda" and not torch.cuda.is_available():
        print(f"no GPU: torch {torch.__version__} finds no CUDA device, so nothing was checked")
        return 0
    gpus = torch.cuda.device_count() if args.device == "cuda" else 0
    for index in range(gpus):
        print(f"GPU {index}: {torch.cuda.get_device_name(index)}, torch {torch.__version__}", flush=True)
    good = True
    if gpus:
        good &= told("tests marked gpu", run([sys.executable, "-m", "pytest", "-m", "gpu", "-q"]))
    for precision in PRECISIONS:
        if gpus or precision not in NEED_GPU:
            good &= told(f"{precision}: killed and resumed", resumes(args.device, precision))
    good &= told("DDP, a group of one: killed and resumed", resumes(args.device, "fp32", group=True))
    if gpus != 1:
        good &= told("DDP, two processes: killed and resumed", resumes(args.device, "bf16", processes=2))
    else:
        print("DDP, two processes: left out, since NCCL wants a GPU for each")
    stall = [sys.executable, str(ROOT / "benchmarks" / "stall.py"), "--device", args.device]
    if gpus:
        good &= told("stall", run(stall))
    return 0 if good else 1


def told(what: str, trouble: str) -> bool:
    """Print a line about a check; return whether all was well."""
    print(f"{what}: {trouble or 'good'}", flush=True)
    return not trouble


def run(command: list[str]) -> str:
    """Run a command with its output shown; return what is wrong, empty where nothing is."""
    code = subprocess.run(command, cwd=ROOT, check=False, timeout=1800).returncode
    return f"exit code {code}" if code else ""


# ---- trainings that are killed


def resumes(device: str, precision: str, *, group: bool = False, processes: int = 1) -> str:
    """Train undisturbed and under kills; return what differs at the end, empty where nothing does."""
    with tempfile.TemporaryDirectory(prefix="rekindle-gpu-") as folder:
        config = {"device": device, "precision": precision, "group": group}
        whole, cut = os.path.join(folder, "whole"), os.path.join(folder, "cut")
        try:
            expected = lives(config, whole, processes, None)
            for step in DIE_AT:
                lives(config, cut, processes, step)
            found = lives(config, cut, processes, None)
        except RuntimeError as error:
            return str(error)
    if found is None or expected is None:
        return "no end"
    if not found.pop("resumed"):
        return "the last life went on from nothing"
    expected.pop("resumed")
    return ", ".join(f"other {name}" for name in expected if expected[name] != found[name])


def lives(config: dict[str, object], folder: str, processes: int, die_at: int | None) -> dict[str, object] | None:
    """Live one life, of all processes; return the end of rank 0, None for one that was killed."""
    end = Path(folder, "end.json")
    end.unlink(missing_ok=True)
    told = json.dumps({**config, "folder": folder, "die_at": die_at, "end": str(end)})
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--life", told],
            env={**os.environ, **environment(rank, processes, port)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    words = [process.communicate(timeout=600)[1] for process in started]
    codes = [process.returncode for process in started]
    if die_at is not None:
        if -signal.SIGKILL not in codes:
            raise RuntimeError(f"was not killed: exit codes {codes}: {words[0][-1000:]}")
        return None
    if any(codes):
        raise RuntimeError(f"failed with exit codes {codes}: {words[0][-1500:]}")
    return dict(json.loads(end.read_text()))


def environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """Return the variables that torchrun would set; none for a single process."""
    if processes == 1:
        return {}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    return {name: str(n) for name, n in numbers.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port() -> int:
    """Return a port that the kernel says is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def live(config: dict[str, object]) -> None:
    """Train as one process, and write down the end."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import torch  # noqa: PLC0415 - only a life needs it
    from run_job import digest  # noqa: PLC0415 - of the tests
    from torch import nn  # noqa: PLC0415 - as torch

    import rekindle as rk  # noqa: PLC0415 - as torch

    device = str(config["device"])
    if config["group"]:
        store = torch.distributed.HashStore()
        backend = "nccl" if device == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    run = rk.Run(
        str(config["folder"]),
        seed=3,
        device=device,
        precision=str(config["precision"]),
        deterministic=True,
        save_every="3 steps",
        tensorboard=False,
        progress=False,
    )
    model: nn.Module = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3),
        nn.Flatten(),
        nn.Linear(16 * 4, 10),
    )
    images, labels = torch.randn(192, 1, 8, 8), torch.randint(0, 10, (192,))
    if config["group"]:
        model = nn.parallel.DistributedDataParallel(model.to(run.device))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        run.track(model=model, optimizer=optimizer)
    else:
        model, optimizer = run.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    batches = run.loader(torch.utils.data.TensorDataset(images, labels), batch_size=16, num_workers=1)
    for _ in run.epochs(2):
        for x, y in run.batches(batches):
            with run.autocast():
                loss = nn.functional.cross_entropy(model(x.to(run.device)), y.to(run.device))
            run.backward(loss)
            run.update(clip_norm=1.0)
            run.step()
            run.log(loss=loss)
            if run.steps_done == config["die_at"] and run.rank == run.world_size - 1:
                os.kill(os.getpid(), signal.SIGKILL)
    run.close()
    if run.rank == 0:
        end = {
            "weights": digest({name: value.cpu() for name, value in model.state_dict().items()}),
            "moments": digest([{n: v.cpu() for n, v in s.items()} for s in optimizer.state.values()]),
            "scale": None if (scaler := run._core.updater.scaler) is None else scaler.get_scale(),  # noqa: SLF001 - nothing says it
            "skipped": run.skipped_steps,
            "log": Path(run.folder, "metrics.jsonl").read_text(),
            "resumed": run.resumed_from is not None,
        }
        Path(str(config["end"])).write_text(json.dumps(end))


if __name__ == "__main__":
    sys.exit(main())
