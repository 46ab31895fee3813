"""Who this process is among many, and the process group that they form.

Three ways to start are understood, in this order: a process group that the script has made itself; the variables of
torchrun (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), also when they were set by hand or by
`torch.multiprocessing.spawn`'s function; and Slurm's, inside a step of `srun`. Without any of them this is one process,
and nothing is started.

`start` meets the other ranks before torch does, so that a missing one is named, and a port in use is said as such.

Law: on one process nothing here imports torch.distributed, opens a port or waits.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rekindle.errors import ConfigError, RunError

if TYPE_CHECKING:
    import torch

__all__ = ["ALONE", "DEFAULT_TIMEOUT_S", "Ranks", "device_of", "find_ranks", "first_host", "name_ranks", "start"]

DEFAULT_TIMEOUT_S = 600.0
_NOTE_AFTER_S = 30.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of how many processes this is.

    Attributes:
        rank: from 0; rank 0 is the one that writes and speaks.
        world_size: processes in all.
        local_rank: from 0, among those of this machine.
        local_world_size: processes of this machine; 0 where nobody said.
        address, port: where rank 0 is met; empty and 0 where the group is there already.
        source: ``alone``, ``group`` (made by the script), ``environment`` or ``slurm``.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    address: str = ""
    port: int = 0
    source: str = "alone"

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0


ALONE = Ranks()


def find_ranks(environ: Mapping[str, str] | None = None) -> Ranks:
    """Return who this process is, as a process group or the environment says it.

    Args:
        environ: instead of this process's own.

    Raises:
        ConfigError: variables that make no sense together.
    """
    env = os.environ if environ is None else environ
    group = _group_there()
    if group is not None and environ is None:
        rank, world_size = group
        local = _number(env, "LOCAL_RANK") if "LOCAL_RANK" in env else rank
        return Ranks(rank, world_size, local, _number(env, "LOCAL_WORLD_SIZE", 0), source="group")
    if "RANK" in env or "WORLD_SIZE" in env:
        return _from_environment(env)
    return _from_slurm(env)


def start(
    ranks: Ranks | None = None,
    *,
    device_type: str | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    say: Callable[[str], object] = lambda _: None,
) -> Ranks:
    """Form the process group that the environment describes; where there is one already, or one process, do nothing.

    Args:
        ranks: from `find_ranks`; None looks now. Give ``Ranks(rank, world_size, local_rank, n, "127.0.0.1", port)``
            where the environment says nothing, as in a function that `torch.multiprocessing.spawn` calls.
        device_type: ``"cpu"`` for gloo alone, ``"cuda"`` for NCCL beside it; None for "by what is there".
        timeout_s: seconds after which a missing rank, or one that hangs in a collective, is an error.
        say: takes a line about a long wait.

    Raises:
        RunError: the port is in use, or ranks are missing.
    """
    ranks = find_ranks() if ranks is None else ranks
    if ranks.world_size == 1 or ranks.source == "group":
        return ranks
    import torch  # noqa: PLC0415 - only where there are many processes
    import torch.distributed as dist  # noqa: PLC0415 - as above

    if not dist.is_available():
        raise RunError(
            f"this torch ({torch.__version__}) was built without torch.distributed, and WORLD_SIZE={ranks.world_size}",
            do="install an ordinary build of torch, or run one process",
        )
    if dist.is_initialized():
        return ranks
    from torch._C._distributed_c10d import PrefixStore  # noqa: PLC0415 - a torch without it was refused above

    store = _meet(ranks, timeout_s, say)
    kind = device_type or ("cuda" if torch.cuda.is_available() else "cpu")
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" and dist.is_nccl_available() else "gloo"
    dist.init_process_group(
        backend,
        store=PrefixStore("group", store),
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=dt.timedelta(seconds=timeout_s),
    )
    return ranks


def device_of(ranks: Ranks, wanted: object) -> torch.device | None:
    """Return the GPU of this process's local rank, made the current one.

    Args:
        ranks: who this process is.
        wanted: as the script gave it; None and ``"auto"`` and ``"cuda"`` leave the choice open.

    Returns:
        None where there is nothing to choose: one process, another wish, no GPU.

    Raises:
        ConfigError: more processes on this machine than GPUs.
    """
    if ranks.world_size == 1 or str(wanted) not in {"None", "auto", "cuda"}:
        return None
    import torch  # noqa: PLC0415 - only where there are many processes

    if not torch.cuda.is_available():
        return None
    count = torch.cuda.device_count()
    if ranks.local_rank >= count:
        raise ConfigError(
            f"local rank {ranks.local_rank} has no GPU of its own: {count} to be seen on this machine",
            why="NCCL needs a GPU for each process",
            do=f'start {count} processes here (torchrun --nproc-per-node {count}), or Run(..., device="cpu")',
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def _group_there() -> tuple[int, int] | None:
    """Return rank and size of the process group that the script has made; None where there is none."""
    import sys  # noqa: PLC0415 - to look without importing

    dist: Any = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return None
    return dist.get_rank(), dist.get_world_size()


def _from_environment(env: Mapping[str, str]) -> Ranks:
    missing = [name for name in ("RANK", "WORLD_SIZE") if name not in env]
    if missing:
        there = "WORLD_SIZE" if missing == ["RANK"] else "RANK"
        raise ConfigError(
            f"{there}={env[there]} is set, and {missing[0]} is not",
            why="a process needs both to know which one it is",
            do=f"set {missing[0]} as well, unset {there} for one process, or start with torchrun",
        )
    rank, world_size = _number(env, "RANK"), _number(env, "WORLD_SIZE")
    if world_size < 1 or not 0 <= rank < world_size:
        raise ConfigError(
            f"RANK={rank} and WORLD_SIZE={world_size} do not go together",
            why="ranks count from 0 to WORLD_SIZE - 1",
            do="start with torchrun, or set both by hand: RANK=0 WORLD_SIZE=2",
        )
    if world_size == 1:
        return ALONE
    if "MASTER_ADDR" not in env or "MASTER_PORT" not in env:
        name = "MASTER_ADDR" if "MASTER_ADDR" not in env else "MASTER_PORT"
        raise ConfigError(
            f"WORLD_SIZE={world_size} is set, and {name} is not",
            why="the processes meet at MASTER_ADDR:MASTER_PORT, on the machine of rank 0",
            do=f"MASTER_ADDR=127.0.0.1 MASTER_PORT={_free_port()} on one machine, or start with torchrun",
        )
    port = _number(env, "MASTER_PORT")
    if not 0 < port < 65536:
        raise ConfigError(f"MASTER_PORT={port} is not a port", do=f"MASTER_PORT={_free_port()}")
    local = _number(env, "LOCAL_RANK", rank)
    return Ranks(
        rank, world_size, local, _number(env, "LOCAL_WORLD_SIZE", 0), env["MASTER_ADDR"], port, source="environment"
    )


def _from_slurm(env: Mapping[str, str]) -> Ranks:
    """Read a task of `srun`: not the batch script itself, which has the job's SLURM_NTASKS and is one process."""
    if "SLURM_PROCID" not in env or "SLURM_STEP_NUM_TASKS" not in env:
        return ALONE
    rank, world_size = _number(env, "SLURM_PROCID"), _number(env, "SLURM_STEP_NUM_TASKS")
    if world_size < 2:
        return ALONE
    hosts = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or ""
    address = env.get("MASTER_ADDR") or first_host(hosts)
    # Two jobs on one machine get two ports.
    port = _number(env, "MASTER_PORT", 20_000 + _number(env, "SLURM_JOB_ID", 0) % 40_000)
    return Ranks(rank, world_size, _number(env, "SLURM_LOCALID", 0), 0, address or "127.0.0.1", port, source="slurm")


def first_host(hosts: str) -> str:
    """Return the first machine of a list as Slurm writes it: ``gpu[07-09,12],cpu3`` -> ``gpu07``."""
    found = re.match(r"([^,\[]*)(?:\[([^\]]*)\])?([^,]*)", hosts.strip())
    if found is None:
        return ""
    first = re.split(r"[-,]", found[2])[0] if found[2] else ""
    return found[1] + first + (found[3] if found[2] else "")


def _number(env: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = env.get(name)
    if text is None and otherwise is not None:
        return otherwise
    try:
        return int(str(text))
    except ValueError:
        raise ConfigError(f"{name}={text!r} is not a whole number", do=f"set {name} to one, or unset it") from None


def _meet(ranks: Ranks, timeout_s: float, say: Callable[[str], object]) -> Any:
    """Return the store at which all ranks have said that they are there."""
    from torch._C._distributed_c10d import PrefixStore, TCPStore  # noqa: PLC0415 - only where there are many processes

    # torchrun's agent holds the store itself, and serves all of its attempts with it.
    held_by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and ranks.source == "environment"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    where = f"{ranks.address}:{ranks.port}"
    try:
        store: Any = TCPStore(
            ranks.address,
            ranks.port,
            ranks.world_size,
            is_master=ranks.rank == 0 and not held_by_agent,
            timeout=dt.timedelta(seconds=timeout_s),
            wait_for_workers=False,
        )
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise RunError(
                f"{where} is in use, so rank 0 cannot be met there",
                why="another job on this machine took the port, or an earlier one has not ended yet",
                do=f"MASTER_PORT={_free_port()} for all ranks (free a moment ago), or torchrun --standalone",
            ) from None
        raise RunError(
            f"rank {ranks.rank} of {ranks.world_size} could not meet rank 0 at {where} within {timeout_s:.0f} s",
            why=str(error).splitlines()[0][:200],
            do="start rank 0 too, look at MASTER_ADDR and MASTER_PORT, and at firewalls between the machines",
        ) from None
    store = PrefixStore(f"rekindle/{attempt}", store)
    store.set(f"here/{ranks.rank}", socket.gethostname())
    _wait_for_all(store, ranks, timeout_s, say)
    return store


def _wait_for_all(store: Any, ranks: Ranks, timeout_s: float, say: Callable[[str], object]) -> None:
    began, said = time.monotonic(), False
    missing = list(range(ranks.world_size))
    while True:
        missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
        if not missing:
            return
        waited = time.monotonic() - began
        if waited > timeout_s:
            raise RunError(
                f"{name_ranks(missing)} of {ranks.world_size} did not come within {timeout_s:.0f} s",
                why=f"they meet at {ranks.address}:{ranks.port}; WORLD_SIZE={ranks.world_size} says how many",
                do="look at what the missing ones wrote, or set WORLD_SIZE to the number that is started",
            )
        if waited > _NOTE_AFTER_S and not said and ranks.rank == 0:
            said = True
            say(f"waiting for {name_ranks(missing)} of {ranks.world_size} at {ranks.address}:{ranks.port}")
        time.sleep(min(_POLL_S, 0.01 + waited / 10))


def name_ranks(ranks: list[int]) -> str:
    """Return ``rank 3``, ``ranks 1 and 2``, or ``ranks 1, 2, 3 and 40 more``."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > 4:
        return f"ranks {', '.join(map(str, ranks[:3]))} and {len(ranks) - 3} more"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def _free_port() -> int:
    """Return a port that the kernel says is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
