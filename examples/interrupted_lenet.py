"""A LeNet is trained twice, once undisturbed and once killed again and again; both end with the same bits.

    python examples/interrupted_lenet.py [folder]

Nothing is simulated: the second training is a process of its own that gets SIGKILL, the signal that no program can
catch, and is then started again with the same command.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import rekindle as rk

EPOCHS = 4
KILLS = 2


def command(run: Path) -> list[str]:
    return [sys.executable, "-m", "rekindle", "train", "digits", "--epochs", str(EPOCHS), "--out", str(run)]


def snapshots(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("snapshots/step-*"))


def train_and_kill(run: Path, moment: random.Random) -> bool:
    """Start the training and kill it a moment after its next snapshot; False if it was done before that."""
    there = snapshots(run)
    child = subprocess.Popen(command(run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while snapshots(run) == there and child.poll() is None:
        time.sleep(0.002)
    time.sleep(moment.uniform(0, 0.08))
    child.send_signal(signal.SIGKILL)
    return child.wait() == -signal.SIGKILL


def main(folder: Path) -> int:
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    print(f"training {EPOCHS} epochs without a disturbance", flush=True)
    subprocess.run(command(undisturbed), check=True, capture_output=True)

    moment = random.Random(0)
    for number in range(1, KILLS + 1):
        died = train_and_kill(killed, moment)
        print(
            f"{'killed' if died else 'not killed'}: life {number}, newest snapshot {snapshots(killed)[-1]}", flush=True
        )
    done = subprocess.run(command(killed), check=True, capture_output=True, text=True)
    print(f"last life: {done.stdout.splitlines()[0]}")

    straight, resumed = rk.load(undisturbed), rk.load(killed)
    weights = straight["model"]
    equal = [torch.equal(weights[key], resumed["model"][key]) for key in weights]
    print(f"{sum(equal)} of {len(weights)} tensors of the two models are equal, bit for bit")
    return 0 if all(equal) and list(resumed["model"]) == list(weights) else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(Path(temporary)))
