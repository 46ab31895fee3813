r"""A batch script for Slurm that survives the end of its time: saves, asks to be queued again, and goes on.

How the parts work together. `--signal=USR1@300` has Slurm signal every process of the job's steps 300 seconds before
the time limit; each rank saves at its next boundary and ends with 75 (`rekindle.run.signals`), `rekindle launch` passes
the 75 on, `srun` gives it to the script, and the script asks for the requeue. A preempted job gets SIGTERM, saves the
same way, and is queued again by Slurm itself, since it is marked `--requeue`; so is one whose node died. A job that was
cancelled gets SIGTERM too, and must not come back: the script asks for nothing after a SIGTERM of its own.

Source: manual pages of sbatch, srun and scontrol (Slurm 24.05).

Law: the words that the user gave reach the script as they were, whatever characters are in them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rekindle.errors import ConfigError

__all__ = ["SlurmJob", "slurm_script", "words_of_job"]

_TIME = re.compile(r"(?:\d+-)?\d{1,3}(?::\d{1,2}){0,2}")
_FIRST_PORT, _PORTS = 20_000, 10_000


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """What the batch script is to ask for.

    Attributes:
        script: path of the script, or name of the module with `module`.
        args: of the script.
        module: as ``python -m``.
        name: of the job; from the script by default.
        nodes: machines.
        gpus: GPUs and so processes on each machine; None for no GPUs.
        procs: processes on each machine where there are no GPUs.
        cpus: cores on each machine; None leaves it to the cluster.
        memory: on each machine, such as ``64G``; None leaves it to the cluster.
        time: limit of one start, ``[DAYS-]HOURS:MINUTES:SECONDS``; None leaves it to the partition.
        partition, account: None leaves them to the cluster.
        warn_s: how long before the limit to save.
        requeues: how often the job may ask to be queued again.
        restarts: how often all ranks start again within one start of the job.
        setup: lines that make the environment: ``module load cuda``.
        options: further options of sbatch, without ``#SBATCH``.
        python: the interpreter on the machines.
    """

    script: str
    args: tuple[str, ...] = ()
    module: bool = False
    name: str | None = None
    nodes: int = 1
    gpus: int | None = None
    procs: int = 1
    cpus: int | None = None
    memory: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    warn_s: int = 300
    requeues: int = 100
    restarts: int = 0
    setup: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    python: str = sys.executable


def slurm_script(job: SlurmJob, path: str) -> str:
    """Return the text of the batch script.

    Args:
        job: what to ask for.
        path: where the script will lie, for the command that goes on.

    Raises:
        ConfigError: a number, a time or a name cannot be meant.
    """
    _check(job)
    name = job.name or _job_name(job.script)
    resume = json.dumps(["sbatch", path])
    head = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in _options(job, name)),
        "",
        f"# Start it, and start it again after anything, with: sbatch {shlex.quote(path)}",
        "",
        "set -u",
    ]
    if job.setup:
        head += ["", "# the environment", *job.setup]
    return "\n".join([*head, *_body(job, resume)]) + "\n"


def _options(job: SlurmJob, name: str) -> list[str]:
    per_node = job.gpus if job.gpus is not None else None
    return [
        f"--job-name={name}",
        f"--output={name}-%j.out",
        "--open-mode=append",  # a start that follows writes on in the same file
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",  # rekindle launch, which starts the ranks of its machine
        *([f"--gpus-per-node={per_node}"] if per_node is not None else []),
        *([f"--cpus-per-task={job.cpus}"] if job.cpus is not None else []),
        *([f"--mem={job.memory}"] if job.memory is not None else []),
        *([f"--time={job.time}"] if job.time is not None else []),
        *([f"--partition={job.partition}"] if job.partition is not None else []),
        *([f"--account={job.account}"] if job.account is not None else []),
        f"--signal=USR1@{job.warn_s}",
        "--requeue",
        *job.options,
    ]


def _body(job: SlurmJob, resume: str) -> list[str]:
    launch = [job.python, "-m", "rekindle", "launch", "--procs", str(job.gpus or job.procs)]
    rest = (["--restarts", str(job.restarts)] if job.restarts else []) + (["-m"] if job.module else [])
    command = " ".join(shlex.quote(word) for word in launch)
    words = " ".join(shlex.quote(word) for word in [*rest, job.script, *job.args])
    machines = ' --nodes "$SLURM_JOB_NUM_NODES" --address "$address:$port"' if job.nodes > 1 else ""
    cores = ['export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"'] if job.cpus is not None else []
    address = [
        "",
        "# the machines meet at the first one; the port follows from the job's number, the same on all of them",
        'address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        f"port=$(( {_FIRST_PORT} + SLURM_JOB_ID % {_PORTS} ))",
    ]
    return [
        "",
        f"export REKINDLE_COMMAND={shlex.quote(resume)}",
        'starts="${SLURM_RESTART_COUNT:-0}"',
        'echo "job $SLURM_JOB_ID, start $(( starts + 1 )), on $SLURM_JOB_NODELIST"',
        *cores,
        *(address if job.nodes > 1 else []),
        "",
        "# SIGTERM means preempted or cancelled: Slurm itself knows whether this job comes back",
        "ended_by_slurm=no",
        "trap 'ended_by_slurm=yes' TERM",
        "trap 'true' USR1",
        "",
        "# a machine that has saved waits for those that are still saving",
        f"srun --kill-on-bad-exit=0 --wait={max(job.warn_s, 60)} \\",
        f"  {command}{machines} {words}",
        "code=$?",
        "",
        'if [ "$code" -eq 75 ] && [ "$ended_by_slurm" = no ]; then',
        f'  if [ "$starts" -lt {job.requeues} ]; then',
        '    echo "saved before the time limit; queued again"',
        '    scontrol requeue "$SLURM_JOB_ID" && exit 0',
        '    echo "scontrol requeue failed; go on by hand: sbatch, as at the top" >&2',
        "  else",
        f'    echo "saved before the time limit, and not queued again after {job.requeues} times" >&2',
        "  fi",
        "fi",
        'exit "$code"',
    ]


def _check(job: SlurmJob) -> None:
    for name, value, least in (
        ("--nodes", job.nodes, 1),
        ("--procs", job.procs, 1),
        ("--gpus", job.gpus, 1),
        ("--cpus", job.cpus, 1),
        ("--requeues", job.requeues, 0),
        ("--restarts", job.restarts, 0),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{name} {value} is less than {least}")
    if not 1 <= job.warn_s <= 65535:
        raise ConfigError(
            f"--warn {job.warn_s} seconds cannot be asked of Slurm", why="it takes 1 to 65535 seconds", do="--warn 300"
        )
    if job.time is not None and _TIME.fullmatch(job.time) is None:
        raise ConfigError(
            f"--time {job.time!r} is no time limit", do="--time 24:00:00; for two days: --time 2-00:00:00"
        )
    limit = None if job.time is None else _seconds(job.time)
    if limit is not None and limit <= job.warn_s:
        raise ConfigError(
            f"--time {job.time} is not longer than --warn {job.warn_s}",
            why="the job would be asked to save as soon as it starts",
            do=f"a longer time, or --warn {max(1, limit // 4)}",
        )
    for name, text in (
        ("--name", job.name),
        ("--partition", job.partition),
        ("--account", job.account),
        ("--mem", job.memory),
    ):
        if text is not None and re.fullmatch(r"[\w.,@%+-]+", text, re.ASCII) is None:
            raise ConfigError(f"{name} {text!r} has characters that Slurm does not take")
    for option in job.options:
        if re.fullmatch(r"--?[A-Za-z][^\n\r]*", option) is None:
            raise ConfigError(f"--option {option!r} is no option of sbatch", do="--option=--exclude=node7")
    for line in job.setup:
        if "\n" in line or "\r" in line:
            raise ConfigError("--setup takes one line; give it several times")


def _seconds(time: str) -> int:
    """Return the seconds of Slurm's times: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def _job_name(script: str) -> str:
    name = os.path.basename(script).removesuffix(".py")
    return re.sub(r"[^\w.-]", "-", name, flags=re.ASCII) or "job"


def words_of_job(job: SlurmJob, again: Sequence[str]) -> list[str]:
    """Return what the job will do and what to type next, line by line."""
    each = f"{job.gpus} GPU{'s' * (job.gpus != 1)}" if job.gpus is not None else f"{job.procs} on the CPU"
    world = job.nodes * (job.gpus or job.procs)
    return [
        f"{world} rank{'s' * (world != 1)}: {job.nodes} machine{'s' * (job.nodes != 1)} with {each} each",
        f"  saves     {job.warn_s} seconds before the time limit, then asks to be queued again",
        f"  start     {shlex.join(again)}",
        "  go on     the same command, after anything",
    ]
