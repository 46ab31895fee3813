"""The environment does not say which rank this process is: no launcher started it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-11", "ddp-env-missing", "0.2"
TITLE = "ValueError: Error initializing torch.distributed using env:// rendezvous: environment variable RANK expected, but not set"
RAISES = ("ValueError", "KeyError")
NEEDLES = (
    "using env:// rendezvous",
    "KeyError: 'LOCAL_RANK'",
    "KeyError: 'RANK'",
    "KeyError: 'WORLD_SIZE'",
    "KeyError: 'MASTER_ADDR'",
    "KeyError: 'MASTER_PORT'",
)
PATTERNS = (
    r"environment variable (?P<name>\w+) expected, but not set",
    r"^KeyError: '(?P<key>LOCAL_RANK|RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT)'",
)
OLD = ("KeyError: 'LOCAL_RANK'",)
WHY = (
    "`init_process_group` reads `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` from the environment, which a launcher"
    " sets: `torchrun`, `rekindle launch`, `accelerate launch`. With `python train.py` nobody does. Slurm sets names of its own"
    " (`SLURM_PROCID`, `SLURM_NTASKS`)."
)
CHECK = '`env | grep -E "RANK|WORLD_SIZE|MASTER"`.'
_ALL = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def explain(event: Event) -> Iterator[Cause]:
    """Which of the variables are missing; live, whether this is a Slurm job."""
    name = event.facts.get("name") or event.facts["key"]
    missing = [one for one in _ALL if one not in os.environ] if event.live else []
    slurm = event.live is not None and "SLURM_PROCID" in os.environ
    others = [one for one in missing if one != name]
    fix = [
        "torchrun --nproc_per_node=4 train.py   # in place of python train.py",
        "rekindle launch --gpus 4 train.py   # the same; on Slurm it takes nodes and ranks from the job",
    ]
    if slurm:
        fix.insert(
            0,
            'os.environ["RANK"] = os.environ["SLURM_PROCID"]; os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]   # under srun',
        )
    fix.append(
        'dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29500", rank=0, world_size=1)   # one process, without a launcher'
    )
    yield Cause(
        CODE,
        NAME,
        what=f"{name} is not set{f'; neither {_or(others)}' if others else ''}",
        why="no launcher started this process, which would set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
        + ("; Slurm sets names of its own" if slurm else ""),
        fix=tuple(fix),
        likelihood="certain",
    )


def _or(names: list[str]) -> str:
    return f"is {names[0]}" if len(names) == 1 else f"are {', '.join(names)}"


EXAMPLE = """
import torch.distributed as dist

dist.init_process_group("gloo")
"""
MENDED = """
import os

import torch.distributed as dist

store = f"file://{os.path.abspath('store')}"
dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
