"""`rekindle prove`: the user's own command, straight through and again under kill -9, compared bit by bit.

The command runs unchanged; three variables in its environment redirect its run into a fresh folder, have it record
evidence, and make it save often enough to be interesting. Where the script leaves the seed open, the killed run gets
the one that the undisturbed run drew: its `run.json` lies there from the start.

Kills are SIGKILL to the whole process group, at places drawn from a seed: one before the first snapshot, one after it,
some in the middle of writing a snapshot, some while a life is starting, the rest at steps spread over the run. After
each the same command is started again, until one life ends by itself.

Law: the answer "proven" needs all of it: at least one life that went on from a snapshot, a last life that ended well,
every promised save found on disk after the kill that followed it, and every tensor, plain value and log line equal.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rekindle.errors import RekindleError
from rekindle.run.ends import End, Other, compare_ends, read_end
from rekindle.run.evidence import Life, read_life
from rekindle.run.first_difference import Difference, first_difference, left_behind, suspects_at_step
from rekindle.run.lives import Process, let_live, plan_kills, wait
from rekindle.run.verdict import KilledLife, Proof
from rekindle.store.find import newest_good
from rekindle.store.layout import RUN_FILE_NAME

__all__ = ["SAVE_VARIABLE", "prove"]

SAVE_VARIABLE = "REKINDLE_SAVE_EVERY"


def prove(
    command: Sequence[str],
    *,
    kills: int = 5,
    seed: int = 0,
    timeout_s: float | None = None,
    keep: str | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Proof:
    """Run a command straight through and under kills, and compare.

    Args:
        command: program and arguments; it must train with `rekindle.Run`.
        kills: how many; at least 1.
        seed: where they hit.
        timeout_s: longest a life may take; by default the undisturbed run may take for ever, and a life of the killed
            run ten times as long as that, and five minutes at least.
        keep: a new or empty folder that keeps both runs, their output and the evidence; a temporary one otherwise.
        say: gets a line of progress now and then.

    Raises:
        RekindleError: it could not be done: the command cannot be started, fails by itself, makes no step of a
            `Run`, or is over before anything could be shown.
        OSError: the folder cannot be written.
    """
    if kills < 1:
        raise RekindleError(f"{kills} kills prove nothing", do="rekindle prove --kills 5 -- COMMAND")
    if not hasattr(os, "killpg"):
        raise RekindleError("rekindle prove needs kill -9 and process groups", why="this system has neither")
    with _work_folder(keep) as work:
        straight = _straight(list(command), work, timeout_s, say)
        killed = _under_kills(list(command), work, straight, kills, seed, timeout_s, say)
        return _judge(tuple(command), straight, killed)


# ---- the two runs


@dataclass(frozen=True, slots=True)
class _Straight:
    run_path: str
    life: Life
    end: End
    steps: int
    seconds: float
    start_s: float
    first_save: int
    save_every: str | None


@dataclass(frozen=True, slots=True)
class _Killed:
    run_path: str
    lives: tuple[KilledLife, ...]
    evidence: tuple[Life, ...]
    lost: tuple[int, ...]


def _straight(command: list[str], work: str, timeout_s: float | None, say: Callable[[str], None]) -> _Straight:
    say(f"straight through: {shlex.join(command)}")
    first = _one_straight(command, os.path.join(work, "straight"), timeout_s, _environment(None))
    chosen = None
    if SAVE_VARIABLE not in os.environ:
        chosen = _save_every(first)
    say(f"  {first.steps} steps in {first.seconds:.1f} s, {len(first.life.promised)} snapshots")
    if chosen is not None and first.end.step != first.steps:
        # The script does not save at its end: only with the same rhythm do both runs have a last snapshot in common.
        say(f"straight through again, saving every {chosen}, since the script's last steps are in no snapshot")
        first = _one_straight(command, os.path.join(work, "straight-2"), timeout_s, _environment(chosen))
    first_save = int(chosen.split()[0]) if chosen else min(first.life.promised, default=first.steps)
    return replace(first, first_save=first_save, save_every=chosen)


def _save_every(straight: _Straight) -> str | None:
    """Return how often the killed run is to save; None where the script does so often enough."""
    if len(set(straight.life.promised)) >= 12:
        return None
    return f"{max(1, straight.steps // 16)} steps"


def _one_straight(command: list[str], folder: str, timeout_s: float | None, environment: dict[str, str]) -> _Straight:
    os.mkdir(folder)
    run_path, evidence = os.path.join(folder, "run"), os.path.join(folder, "evidence.jsonl")
    process = Process(command, run_path, evidence, os.path.join(folder, "output.txt"), environment)
    with process:
        start_s = wait(process, timeout_s)
    life = read_life(evidence)
    shown = shlex.join(command)
    if process.exit_code is None:
        raise RekindleError(
            f"{shown}: still running after {timeout_s:.0f} s, and nothing has been killed yet",
            why=_last_words(process),
            do="give it more time with --timeout, or less to do",
        )
    if process.exit_code != 0:
        raise RekindleError(
            f"{shown}: ended with exit code {process.exit_code} although nothing was killed",
            why=_last_words(process),
            do=f"make it run by itself first: {shown}",
        )
    if not life.began:
        raise RekindleError(
            f"{shown}: ended well, and never made a rekindle.Run",
            why=_last_words(process),
            do="train with `run = rekindle.Run(...)`, or give the command that does",
        )
    end = read_end(run_path) if os.path.isdir(run_path) else None
    if not life.steps or end is None:
        missing = "made no step: `run.step()` was never called" if not life.steps else "left no snapshot"
        raise RekindleError(
            f"{shown}: its run {missing}",
            why=_last_words(process),
            do="call run.step() after each optimizer update, inside `for epoch in run.epochs(...)`",
        )
    steps = life.steps[-1].step
    return _Straight(run_path, life, end, steps, process.seconds, start_s, 1, None)


def _under_kills(
    command: list[str],
    work: str,
    straight: _Straight,
    kills: int,
    seed: int,
    timeout_s: float | None,
    say: Callable[[str], None],
) -> _Killed:
    folder = os.path.join(work, "killed")
    os.mkdir(folder)
    run_path = os.path.join(folder, "run")
    os.mkdir(run_path)
    shutil.copy(os.path.join(straight.run_path, RUN_FILE_NAME), run_path)
    longest = timeout_s if timeout_s is not None else max(300.0, 10 * straight.seconds)
    step_s = max(straight.seconds - straight.start_s, 0.0) / straight.steps
    first_save = straight.first_save
    points = plan_kills(
        kills, seed, steps=straight.steps, first_save=first_save, start_s=straight.start_s, step_s=step_s
    )
    environment = _environment(straight.save_every)
    lives: list[KilledLife] = []
    evidence: list[Life] = []
    promised, lost = 0, []
    for number, point in enumerate([*points, None], start=1):
        trail = os.path.join(folder, f"evidence-{number}.jsonl")
        process = Process(command, run_path, trail, os.path.join(folder, f"output-{number}.txt"), environment)
        with process:
            ended, when = let_live(process, point, longest, step_s * first_save)
        life = read_life(trail)
        last = life.steps[-1].step if life.steps else None
        output = () if ended in ("killed", "finished") else tuple(process.tail())
        lives.append(KilledLife(ended, when, life.resumed_from, last, process.exit_code, process.seconds, output))
        evidence.append(life)
        say(f"  life {number}: {ended}{' ' + when if when else ''}" + (f", step {last}" if last is not None else ""))
        for trouble in life.troubles[:1]:
            say(f"  the evidence of life {number} is incomplete: {trouble}")
        promised = max([promised, *life.promised])
        if ended == "killed" and promised > (newest_good(run_path).step or 0):
            lost.append(promised)
            promised = 0
        if ended != "killed":
            break
    return _Killed(run_path, tuple(lives), tuple(evidence), tuple(lost))


def _environment(save_every: str | None) -> dict[str, str]:
    """Return the environment of a life; what the user set stays."""
    variables = dict(os.environ)
    if save_every is not None:
        variables[SAVE_VARIABLE] = save_every
    return variables


def _last_words(process: Process) -> str:
    lines = list(process.tail())
    if not lines:
        return "it printed nothing"
    return "the last it printed was:" + "".join(f"\n            {line}" for line in lines)


@contextmanager
def _work_folder(keep: str | None) -> Iterator[str]:
    if keep is None:
        folder = tempfile.mkdtemp(prefix="rekindle-prove-")
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    os.makedirs(keep, exist_ok=True)
    if os.listdir(keep):
        raise RekindleError(
            f"{keep}: the folder is not empty",
            why="both runs start from nothing in it, and what is there is not touched",
            do="give a folder that does not exist yet",
        )
    yield os.path.abspath(keep)


# ---- the judgement


def _judge(command: tuple[str, ...], straight: _Straight, killed: _Killed) -> Proof:
    kills = sum(life.ended == "killed" for life in killed.lives)
    finished = killed.lives[-1].ended == "finished"
    if finished and not kills:
        raise RekindleError(
            f"{shlex.join(command)}: was over before a kill could land",
            why=f"the undisturbed run made {straight.steps} steps in {straight.seconds:.1f} s",
            do="give it more to do: more epochs, or smaller batches",
        )
    proof = Proof(
        command=command,
        steps=straight.steps,
        straight_s=straight.seconds,
        lives=killed.lives,
        promised=sum(len(life.promised) for life in killed.evidence),
        lost=killed.lost,
        tensors=len(straight.end.tensors),
        values=len(straight.end.values),
        log_lines=len(straight.end.log),
    )
    if not finished:
        return proof
    end = read_end(killed.run_path)
    others = compare_ends(straight.end, end or End(0, {}, {}, ()))
    if others:
        return replace(proof, others=others, first=_find_first(straight, killed, others))
    if not proof.resumed and not killed.lost:
        raise RekindleError(
            f"{shlex.join(command)}: no life went on from a snapshot, so nothing about resuming was shown",
            why=f"{kills} kills all came before the first snapshot",
            do="give it more steps, more kills (--kills), or another --seed",
        )
    return replace(proof, left_behind=left_behind(straight.life, killed.evidence))


def _find_first(straight: _Straight, killed: _Killed, others: Sequence[Other]) -> Difference:
    found = first_difference(straight.life, killed.evidence)
    if found is not None:
        return found
    # Everything that a step does was equal: what differs was made beside the steps.
    for other in others:
        if other.kind == "log":
            step = _step_of_line(other.straight) or _step_of_line(other.killed) or straight.steps
            suspects = suspects_at_step(straight.life, killed.evidence, step)
            details = ((f"{other.name}", other.straight[:80], other.killed[:80]),)
            equal = ("all batches", "all tracked state at every step")
            return Difference("log", (other.name,), details, step=step, equal=equal, suspects=suspects)
    first = others[0]
    suspects = suspects_at_step(straight.life, killed.evidence, straight.steps)
    details = ((first.name, first.straight[:80], first.killed[:80]),)
    equal = ("all batches", "all tracked state at every step")
    return Difference("end", (first.name,), details, equal=equal, suspects=suspects)


def _step_of_line(line: str) -> int | None:
    found = re.search(r'"step": ?(\d+)', line)
    return int(found[1]) if found else None
