"""Kill trainings at random, hundreds of times, and compare what they end with: `make soak`.

Every setting (one or two processes; 0, 2 or 4 workers each) trains once undisturbed. Then trainings with the same
settings are killed with -9 at random moments, in starting, training, saving or ending; with two processes either of
them, or both; after each kill the same training is started again. After some kills it is left to come to its end, and
what it ends with is compared bit by bit: weights, optimizer, schedule, log; for one process also the averaged weights
and a generator of the script's own. Then the next training begins, until the setting has had its kills.

    python scripts/soak.py [--kills 300] [--processes 1 2] [--workers 0 2 4] [--seed 0]

A line for each setting; exit code 1 where a training ended otherwise. Each life is a process of its own, forked from
one that has imported torch, since most of a life would be that import otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from lives import Nursery, kill_group  # noqa: E402 - of the tests
from ranks_job import environment, free_port  # noqa: E402 - as above

KILLS_OF_A_RUN = 10
COLUMNS = (9, 7, 5, 5, 5, 9, 7)


@dataclass
class Setting:
    """What is trained, and what came of it.

    Attributes:
        kills: that landed on a life which was still alive.
        lives: all that were started, but for the undisturbed one.
        runs: trainings that came to their end.
        different: what was not the same at such an end, one text each.
    """

    processes: int
    workers: int
    kills: int = 0
    lives: int = 0
    runs: int = 0
    different: tuple[str, ...] = ()
    seconds: float = 0.0

    def config(self, out: Path) -> dict[str, object]:
        """Return what a life is told."""
        shared = {"folder": str(out / "run"), "out": str(out), "workers": self.workers}
        if self.processes == 1:
            return {**shared, "sleep": 0.006}
        return {**shared, "job": "ranks_job", "save_every": "2 steps", "sleep": 0.02, "epochs": 3}


def start(nursery: Nursery, setting: Setting, out: Path) -> list[int]:
    """Start all processes of a life."""
    if setting.processes == 1:
        return [nursery.start(setting.config(out))]
    port = free_port()
    count = setting.processes
    return [nursery.start(setting.config(out), **environment(rank, count, port)) for rank in range(count)]


def ends(setting: Setting, out: Path) -> dict[str, object]:
    """Return what a training ended with, by name; of two processes, that of both."""
    if setting.processes == 1:
        return dict(json.loads((out / "result.json").read_text()))
    results = [json.loads((out / f"result-{rank}.json").read_text()) for rank in range(setting.processes)]
    # What the last evaluation gave stands in the log; a life that found the training complete made none itself.
    return {f"{name} of rank {rank}": r[name] for rank, r in enumerate(results) for name in r if name != "error"}


def differing(one: dict[str, object], other: dict[str, object]) -> str:
    """Return the names under which two ends are not the same; empty where all is."""
    return ", ".join(name for name in one | other if one.get(name) != other.get(name))


def soak(nursery: Nursery, setting: Setting, kills: int, base: Path, chance: random.Random) -> None:
    """Give a setting its kills."""
    began = time.monotonic()
    for whole in (base / "warm", base / "whole"):  # the first one pays for what is imported once
        started = time.monotonic()
        codes = [nursery.wait(pid) for pid in start(nursery, setting, whole)]
        if any(codes):
            raise SystemExit(f"the undisturbed training failed:\n{(whole / 'output').read_text()}")
        length = time.monotonic() - started
    expected = ends(setting, whole)
    found = differing(ends(setting, base / "warm"), expected)
    if found:
        setting.different += (f"two undisturbed trainings ended with other bits: {found}",)
    while setting.kills < kills:
        out = base / str(setting.runs)
        if not killed_often(nursery, setting, min(KILLS_OF_A_RUN, kills - setting.kills), out, length, chance):
            return
        found = differing(ends(setting, out), expected)
        if found:
            setting.different += (f"training {setting.runs} ended with other bits: {found}",)
        setting.runs += 1
    setting.seconds = time.monotonic() - began


def killed_often(
    nursery: Nursery, setting: Setting, kills: int, out: Path, length: float, chance: random.Random
) -> bool:
    """Kill one training so many times, then let it end; False where a life failed by itself."""
    landed = 0
    while True:
        pids = start(nursery, setting, out)
        setting.lives += 1
        last = landed >= kills
        if not last:
            time.sleep(chance.uniform(0.0, length))
            for pid in pids if chance.random() < 0.5 else [chance.choice(pids)]:
                kill_group(pid, signal.SIGKILL)
        codes = [nursery.wait(pid) for pid in pids]
        if -signal.SIGKILL in codes:
            landed += 1
            setting.kills += 1
        # The other processes of a life that lost one end with 1; whoever was done already, with 0.
        elif any(codes):
            setting.different += (f"{out}: a life failed: {(out / 'output').read_text()[-2000:]}",)
            return False
        else:
            return True


def line(*cells: object) -> str:
    """Return the cells, right-aligned."""
    return "  ".join(f"{cell!s:>{width}}" for cell, width in zip(cells, COLUMNS, strict=True))


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300, help="in all; shared out over the settings")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], choices=(1, 2))
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2, 4])
    parser.add_argument("--seed", type=int, default=0, help="of the moments; the machine's pace takes part as well")
    args = parser.parse_args()
    settings = [Setting(processes, workers) for processes in args.processes for workers in args.workers]
    each = -(-args.kills // len(settings))
    chance = random.Random(args.seed)
    print(line("processes", "workers", "kills", "lives", "ends", "identical", "seconds"), flush=True)
    nursery = Nursery()
    try:
        with tempfile.TemporaryDirectory(prefix="rekindle-soak-") as folder:
            for setting in settings:
                base = Path(folder, f"{setting.processes}-{setting.workers}")
                soak(nursery, setting, each, base, chance)
                same = "no" if setting.different else "yes"
                facts = (setting.kills, setting.lives, setting.runs, same, f"{setting.seconds:.0f}")
                print(line(setting.processes, setting.workers, *facts), flush=True)
                for text in setting.different:
                    print(text, flush=True)
    finally:
        nursery.close()
    total = sum(setting.kills for setting in settings)
    wrong = [setting for setting in settings if setting.different]
    print(f"{total} kills, {sum(s.lives for s in settings)} lives: {'NOT ' if wrong else ''}all ends are identical")
    return 1 if wrong else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
