"""Starting a script in several processes, on torch's own launcher, and seeing them to their end.

    rekindle launch            picks GPUs and a port, passes signals on, says which rank failed first; imports no torch
      python -m rekindle.parallel.agent      torch.distributed.run, in a process group of its own
        python -m rekindle.parallel.rank     one for each rank: notes how it ends, and is the script otherwise

The three share a private folder of notes: a rank writes who it is when it starts and how it ended when it ends, so that
the first cause can be told from its consequences. A rank that saved because it was asked to leave (exit codes 75 and
130 of `rekindle.run.signals`) ends in good order for torch, which would otherwise kill the ranks that are still saving.

Law: whatever ends the ranks, none is left behind, and the exit code is theirs: that of the first cause, 75 or 130 when
they left as asked, 128 and the signal's number where a signal killed one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from importlib.util import find_spec
from types import FrameType
from typing import Any

from rekindle.errors import ConfigError, RekindleError
from rekindle.keys import near_names
from rekindle.parallel import notes

__all__ = [
    "Death",
    "Outcome",
    "Plan",
    "check_script",
    "deaths_of",
    "first_cause",
    "free_port",
    "launch",
    "plan_launch",
    "words_of_death",
    "words_of_plan",
]

_DEFAULT_PORT = 29500
_TRIES = 3
_POLL_S = 0.1
# What a rank says that lost another one: a consequence, where there is any other cause.
_LOST_A_PEER = (
    "connection closed by peer",
    "connection reset",
    "connection refused",
    "broken pipe",
    "socket",
    "timed out",
    "timeout",
    "tcpstore",
    "distbackenderror",
    "distnetworkerror",
    "diststoreerror",
    "ncclremoteerror",
    "remote process exited",
    " is gone: ",  # as `rekindle.parallel.ties` says it
    f" {notes.HANGS}",
    f" {notes.SILENT}",
    f" {notes.LEFT}",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a launch will do.

    Attributes:
        script: path of the script, or name of the module.
        module: whether it is a module.
        args: of the script.
        procs: processes on this machine.
        nodes, node_rank: machines, and which of them this is.
        address, port: where the first machine listens.
        port_given: whether the port was asked for; otherwise another one may be taken.
        restarts: how often all ranks are started again after a death.
        wait_s: how long the machines wait for each other at the start.
        environment: variables that are set for the ranks, beyond those that torch sets.
        devices: which GPUs, in words; "" where none were picked.
        again: the command that started this.
    """

    script: str
    module: bool
    args: tuple[str, ...]
    procs: int
    nodes: int
    node_rank: int
    address: str
    port: int
    port_given: bool
    restarts: int
    wait_s: int
    environment: Mapping[str, str]
    devices: str = ""
    again: tuple[str, ...] = ()

    @property
    def world_size(self) -> int:
        """Ranks on all machines."""
        return self.procs * self.nodes

    def torch_arguments(self) -> list[str]:
        """Return the arguments of ``python -m torch.distributed.run``, up to the script."""
        return [
            f"--nnodes={self.nodes}",
            f"--node-rank={self.node_rank}",
            f"--nproc-per-node={self.procs}",
            f"--master-addr={self.address}",
            f"--master-port={self.port}",
            f"--max-restarts={self.restarts}",
            f"--rdzv-conf=timeout={self.wait_s}",
        ]

    def by_hand(self) -> list[str]:
        """Return the command that does the same without rekindle."""
        module = ["-m"] if self.module else []
        torchrun = [os.path.basename(sys.executable), "-m", "torch.distributed.run"]
        return [*torchrun, *self.torch_arguments(), *module, self.script, *self.args]


@dataclass(frozen=True, slots=True)
class Death:
    """How a rank ended that did not end well.

    Attributes:
        rank, local_rank: which.
        pid: of its process.
        code: its exit code, minus the number of the signal that killed it; None where it is not known.
        error: last line of its traceback; "" where it left none.
        place: where the error was raised; "" where it is not known.
        time: seconds since the epoch.
        by_us: whether it was ended only because another one had died.
    """

    rank: int
    local_rank: int
    pid: int
    code: int | None
    error: str = ""
    place: str = ""
    time: float = 0.0
    by_us: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a launch ended.

    Attributes:
        code: the exit code to pass on.
        deaths: of the last attempt, by rank.
        cause: the first of them in the chain of causes; None where none died.
        restarts: how often all ranks were started again.
        asked_to_leave: the signal that was passed on last; None for none.
        error: what torch's launcher said where it failed itself; "" otherwise.
    """

    code: int
    deaths: tuple[Death, ...] = ()
    cause: Death | None = None
    restarts: int = 0
    asked_to_leave: str | None = None
    error: str = ""


def plan_launch(
    script: str,
    args: Sequence[str] = (),
    *,
    module: bool = False,
    procs: int = 1,
    nodes: int = 1,
    node_rank: int = 0,
    address: str | None = None,
    restarts: int = 0,
    wait_s: int = 900,
    environment: Mapping[str, str] | None = None,
    devices: str = "",
    again: Sequence[str] = (),
) -> Plan:
    """Return a plan whose script, numbers, address and port were looked at; nothing is started.

    Args:
        script: path, or name of a module with `module`.
        args: of the script.
        module: as ``python -m``.
        procs: processes on this machine.
        nodes: machines.
        node_rank: which of them this is, from 0.
        address: ``HOST`` or ``HOST:PORT`` of the first machine; needed with several.
        restarts: how often to start all ranks again after a death.
        wait_s: how long the machines wait for each other.
        environment: variables for the ranks.
        devices: which GPUs were picked, in words.
        again: the whole command, for messages and ``run.json``.

    Raises:
        ConfigError: the script is not there, a number cannot be meant, or the port is taken.
    """
    for name, value, least in (("--procs", procs, 1), ("--nodes", nodes, 1), ("--restarts", restarts, 0)):
        if value < least:
            raise ConfigError(f"{name} {value} is less than {least}")
    if wait_s < 1:
        raise ConfigError(f"--wait {wait_s} is less than a second")
    if not 0 <= node_rank < nodes:
        raise ConfigError(
            f"--node-rank {node_rank} with --nodes {nodes}",
            why="machines are counted from 0",
            do=f"a number from 0 to {nodes - 1}, another one on each machine",
        )
    if nodes > 1 and address is None:
        raise ConfigError(
            f"--nodes {nodes} needs --address",
            why="the machines find each other at the first one's address",
            do=f"the same on all: --address {socket.gethostname()}:{_DEFAULT_PORT}",
        )
    check_script(script, module=module)
    host, port = _parse_address(address) if address is not None else ("127.0.0.1", None)
    given = port is not None or nodes > 1
    if port is None:
        port = _DEFAULT_PORT if nodes > 1 else free_port(host)
    elif node_rank == 0:
        _check_port(host, port)
    variables = dict(environment or {})
    if procs > 1 and "OMP_NUM_THREADS" not in os.environ:
        # Every process would take all cores otherwise, and sums would depend on the machine.
        variables["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // procs))
    return Plan(
        script,
        module,
        tuple(args),
        procs,
        nodes,
        node_rank,
        host,
        port,
        given,
        restarts,
        wait_s,
        variables,
        devices,
        tuple(again),
    )


def words_of_plan(plan: Plan) -> list[str]:
    """Return what the plan will do, line by line: processes, environment, and the same by hand."""
    many = f"{plan.procs} process{'es' * (plan.procs != 1)}"
    where = "" if plan.nodes == 1 else f" on machine {plan.node_rank} of {plan.nodes}, {plan.world_size} in all"
    lines = [many + where + (f"; {plan.devices}" if plan.devices else "")]
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in plan.environment.items())
    if variables:
        lines.append(f"  sets      {variables}")
    first = plan.node_rank * plan.procs
    ranks = str(first) if plan.procs == 1 else f"{first}..{first + plan.procs - 1}"
    locals_ = "0" if plan.procs == 1 else f"0..{plan.procs - 1}"
    lines.append(
        f"  each has  RANK={ranks} LOCAL_RANK={locals_} WORLD_SIZE={plan.world_size} "
        f"LOCAL_WORLD_SIZE={plan.procs} MASTER_ADDR={plan.address} MASTER_PORT={plan.port}"
    )
    lines.append(f"  by hand   {variables + ' ' if variables else ''}{shlex.join(plan.by_hand())}")
    return lines


def launch(plan: Plan, *, say: Callable[[str], object], stdout_to_stderr: bool = False) -> Outcome:
    """Start the ranks, pass signals on to them, and return when all have ended.

    SIGTERM, SIGUSR1 and SIGINT of this process reach every rank; the handlers that were there before come back.

    Args:
        plan: what to start.
        say: told one line about each thing worth knowing.
        stdout_to_stderr: have the ranks' output on stderr.

    Raises:
        RekindleError: torch is not installed here.
        OSError: nothing can be started.
    """
    if find_spec("torch") is None:
        raise RekindleError(
            "rekindle launch needs torch, which is not installed in this Python",
            do=f"{sys.executable} -m pip install 'rekindle[train]', or torch alone",
        )
    for attempt in range(_TRIES):
        outcome = _launch_once(plan, say, stdout_to_stderr=stdout_to_stderr)
        lost_port = not plan.port_given and not outcome.deaths and "address already in use" in outcome.error.lower()
        if not lost_port or attempt + 1 == _TRIES:
            break
        port = free_port(plan.address)  # somebody took it in the moment between
        say(f"port {plan.port} was taken meanwhile; again with {port}")
        plan = replace(plan, port=port)
    return outcome


def first_cause(deaths: Sequence[Death]) -> Death | None:
    """Return the death that the others follow from; None where there is none.

    A rank that was killed from outside says nothing, and the others then fail with broken connections, often before
    anybody notices: so a signal goes before an error of the rank's own, and that before a lost connection.
    """
    return min(deaths, key=lambda death: (_link_of(death), death.time, death.rank), default=None)


_FOLLOWS = 2


def _link_of(death: Death) -> int:
    """Return how far down the chain of causes a death is; from `_FOLLOWS` on it follows from another one."""
    if death.by_us:
        return 3
    if not death.error:
        return 0
    words = death.error.lower()
    return _FOLLOWS if any(sign in words for sign in _LOST_A_PEER) else 1


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free at this moment, as the kernel chooses it."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


# ---- planning


def check_script(script: str, *, module: bool) -> None:
    """Make sure that a script, or a module, is there.

    Raises:
        ConfigError: it is not; names near ones.
    """
    if module:
        if not _has_module(script):
            raise ConfigError(
                f"there is no module {script}",
                why="it was looked for in this folder and among the installed packages",
                do=f"{os.path.basename(sys.executable)} -c 'import {script}'    says more",
            )
        return
    if os.path.isdir(script):
        raise ConfigError(f"{script}: a folder; a script is wanted", do="for a package: rekindle launch -m NAME")
    if not os.path.exists(script):
        folder = os.path.dirname(script) or "."
        there = [name for name in os.listdir(folder) if name.endswith(".py")] if os.path.isdir(folder) else []
        near = [os.path.join(os.path.dirname(script), name) for name in near_names(os.path.basename(script), there)]
        raise ConfigError(
            f"{script}: there is no such script",
            why=f"nearest: {', '.join(near)}" if near else "the path is taken from this folder",
            do="options of rekindle launch stand before the script, its own after it",
        )


def _has_module(name: str) -> bool:
    """Tell whether a module is there, without importing any package above it."""
    top, *rest = name.split(".")
    try:
        spec = PathFinder.find_spec(top, [os.getcwd()]) or find_spec(top)
        for depth in range(2, len(rest) + 2):
            if spec is None or spec.submodule_search_locations is None:
                return False
            spec = PathFinder.find_spec(".".join([top, *rest][:depth]), list(spec.submodule_search_locations))
    except (ImportError, ValueError):
        return False
    return spec is not None


def _parse_address(text: str) -> tuple[str, int | None]:
    """Return host and port of ``HOST``, ``HOST:PORT`` or ``[IPV6]:PORT``."""
    host, colon, port = text, "", ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
    number = int(port) if port.isascii() and port.isdigit() else None
    if not host or (colon and (number is None or not 0 < number < 65536)):
        raise ConfigError(f"--address {text!r} is no address", do=f"HOST:PORT, such as node1:{_DEFAULT_PORT}")
    return host, number


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _check_port(host: str, port: int) -> None:
    """Refuse a port that somebody listens on, before anything is started."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"port {port} is in use on this machine",
                    why="another training, or one that has not quite ended, listens there",
                    do=f"--address {host}:{free_port('127.0.0.1')} on every machine (free here), "
                    f"or see who it is: ss -ltnp 'sport = :{port}'",
                ) from None
            if error.errno == errno.EACCES:
                raise ConfigError(
                    f"port {port} may not be used by this account", why="ports below 1024 are the system's"
                ) from None
            raise


# ---- running


def _launch_once(plan: Plan, say: Callable[[str], object], *, stdout_to_stderr: bool) -> Outcome:
    folder = tempfile.mkdtemp(prefix="rekindle-launch-")
    environment = {**os.environ, **plan.environment, notes.NOTES_VARIABLE: folder}
    if plan.again:
        environment.setdefault(notes.COMMAND_VARIABLE, json.dumps(plan.again))
    request = {
        "torch": plan.torch_arguments(),
        "module": plan.module,
        "script": plan.script,
        "args": list(plan.args),
        "parent": os.getpid(),
    }
    command = [sys.executable, "-m", "rekindle.parallel.agent", json.dumps(request)]
    asked: list[signal.Signals] = []
    try:
        with _noting_signals(asked, say):
            # A group of its own: Ctrl-C in a terminal then reaches this process only, and each rank once, through it.
            agent = subprocess.Popen(  # noqa: S603 - this very Python, with a module of this package
                command, env=environment, start_new_session=True, stdout=sys.stderr if stdout_to_stderr else None
            )
            try:
                _see_to_the_end(agent, folder, asked)
            finally:
                agent.kill()  # already gone, unless we are leaving early: the ranks end with it
                agent.wait()
        return _outcome(folder, asked, agent.returncode)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _noting_signals(asked: list[signal.Signals], say: Callable[[str], object]) -> Iterator[None]:
    """Append to `asked` the signals that ask to leave, instead of dying of them."""

    def note(number: int, _frame: FrameType | None) -> None:
        asked.append(signal.Signals(number))

    before: dict[int, Any] = {}
    try:
        for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, note)
    except ValueError:
        say("not in the main thread: signals are not passed on")
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _see_to_the_end(agent: subprocess.Popen[bytes], folder: str, asked: list[signal.Signals]) -> None:
    """Wait for the agent, and give every rank each signal once, also one that starts only now."""
    told: dict[int, int] = {}
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            agent.wait(_POLL_S)
            return
        if not asked:
            continue
        notes.write(folder, "stopping", {})
        ranks = [note["pid"] for note in notes.beginnings(folder).values()]
        if not ranks or asked.count(signal.SIGINT) > 2:
            return  # nothing has begun that could be saved, or nobody wants to wait for it
        for pid in ranks:
            for number in asked[told.get(pid, 0) :]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            told[pid] = len(asked)


def deaths_of(folder: str, attempt: int) -> tuple[tuple[Death, ...], Death | None]:
    """Return how the ranks of an attempt died, by rank, and which death came first in the chain of causes."""
    ended = notes.endings(folder, attempt)
    codes = (notes.read(folder, f"failed-{attempt}") or {}).get("codes", [])
    found = []
    for position, (rank, local_rank, pid, code) in enumerate(codes):
        note = ended.get(rank, {})
        if note.get("code") in (0, *notes.GOOD_ORDER) and code in (0, 1):
            continue
        # torch asks the others to end with SIGTERM after the first death.
        by_us = (code == -signal.SIGTERM and position > 0) or notes.read(folder, f"killed-{pid}") is not None
        found.append(
            Death(
                rank, local_rank, pid, code, note.get("error", ""), note.get("place", ""), note.get("time", 0.0), by_us
            )
        )
    found, cause = _with_what_ranks_know(found, notes.read(folder, f"cause-{attempt}"), ended)
    return tuple(sorted(found, key=lambda death: death.rank)), cause


def _with_what_ranks_know(
    found: list[Death], told: Mapping[str, Any] | None, ended: Mapping[int, Mapping[str, Any]]
) -> tuple[list[Death], Death | None]:
    """Return the deaths and their cause, also where the cause left nothing that this machine could see by itself.

    That is a rank that hung until it was ended, one that left in the middle with 0, and one of another machine.
    """
    cause = first_cause(found)
    if told is None or cause is None or _link_of(cause) < _FOLLOWS:
        return found, cause
    rank, error = int(told["rank"]), str(told["error"])
    own = next((death for death in found if death.rank == rank), None)
    if own is None:
        note = ended.get(rank, {})
        own = Death(rank, note.get("local_rank", -1), note.get("pid", 0), note.get("code"))
    cause = replace(own, error=error, place="", time=float(told["time"]), by_us=False)
    return [cause, *(death for death in found if death.rank != rank)], cause


def words_of_death(death: Death) -> str:
    """Return what happened to a rank, in a few words."""
    who = f"rank {death.rank}"
    if death.error.startswith((notes.HANGS, notes.SILENT, notes.LEFT)):
        return f"{who} {death.error}"
    if death.error:
        return f"{who} died: {death.error}"
    if death.code is not None and death.code < 0:
        try:
            name = signal.Signals(-death.code).name
        except ValueError:
            name = f"signal {-death.code}"
        return f"{who} was killed by {name}"
    return f"{who} ended with exit code {death.code}"


def _outcome(folder: str, asked: list[signal.Signals], code: int) -> Outcome:
    """Make sense of the notes."""
    attempts = [int(name.split("-")[1]) for name in os.listdir(folder) if name.startswith("begin-")]
    attempt = max(attempts, default=0)
    deaths, cause = deaths_of(folder, attempt)
    left = [note["code"] for note in notes.endings(folder, attempt).values() if note["code"] in notes.GOOD_ORDER]
    error = (notes.read(folder, "agent") or {}).get("error", "")
    last = asked[-1] if asked else None
    if last is not None and (cause is None or left or any(_died_of(death, asked) for death in deaths)):
        # Scripts that do not know the signal just die of it, and ranks that lose them then die of that.
        code = left[0] if left else 128 + last if code else 0
        return Outcome(code, restarts=attempt, asked_to_leave=last.name)
    if cause is not None and code:
        return Outcome(_exit_code(cause), deaths, cause, attempt, None if last is None else last.name, error)
    return Outcome(left[0] if left else abs(code), restarts=attempt, error=error)


def _died_of(death: Death, asked: Sequence[signal.Signals]) -> bool:
    """Whether a rank died of a signal that was passed on to it."""
    return any(death.code == -number for number in asked) or (
        signal.SIGINT in asked and death.error.startswith("KeyboardInterrupt")
    )


def _exit_code(death: Death) -> int:
    if not death.code:
        return 1
    return 128 - death.code if death.code < 0 else death.code
