"""Opening a run: its folder's lock, the newest snapshot that holds, and what that snapshot says.

Rank 0 opens the folder and tells the others what it found. What belongs to the run itself is taken up here: counters,
place, seed, best value, sizes of the logs. What the script tracks is restored later (`tracking.py`).

Law: a run that cannot start gives the lock back, and leaves every snapshot and every line of the log as it found them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch

from rekindle.devices.tuning import use_deterministic_algorithms
from rekindle.errors import RunError
from rekindle.parallel.company import Company, FollowedLock
from rekindle.run import environment
from rekindle.run.core import Core
from rekindle.run.journal import cut_back, logs_elsewhere, logs_of
from rekindle.run.places import Place, Places
from rekindle.run.policy import Best
from rekindle.run.saving import EXTRA_VERSION, Saver
from rekindle.run.settings import DECIDE_BITS
from rekindle.run.snapshot import Saved
from rekindle.run.start import (
    choose_seed,
    command_of_this_run,
    find_start,
    is_snapshot_of,
    naming_disk_of,
    open_where_rank_0_did,
    place_in,
    refuse_without,
)
from rekindle.store.commit import clean_leftovers
from rekindle.store.layout import check_run_folder, read_run_file, write_run_file
from rekindle.store.lock import RunLock, hold

__all__ = ["open_run", "remember_command"]


def open_run(core: Core, *, seed: int | None, resume: str | os.PathLike[str], tensorboard: bool | None) -> None:
    """Take the folder's lock and what the newest snapshot says, here or where rank 0 did.

    Args:
        core: with its folder and its company; gets what is found.
        seed: as of `rekindle.Run`.
        resume: likewise.
        tensorboard: likewise.

    Raises:
        RunLocked, NothingToResume, SnapshotDamaged, ConfigError, RunError, OSError: as `rekindle.Run` does.
    """
    with naming_disk_of(core.folder):
        if core.company is not None and core.rank:
            _follow(core, core.company)
            return
        try:
            _open_here(core, seed, resume, tensorboard=tensorboard)
        except BaseException as error:
            if core.company is not None:
                core.company.lead_astray(error)
            raise
        if core.company is not None:
            core.company.lead({"snapshot": None if core.saved is None else core.saved.path, "seed": core.seed})


def remember_command(core: Core) -> None:
    """Have ``run.json`` say what started this life, once it goes on: that is the command to type next time.

    A launch that was refused has not come here. That the file cannot be written is said, and no reason to stop.
    """
    command = command_of_this_run()
    if core.rank or core.saved is None or not command:
        return
    try:
        facts = read_run_file(core.lock.path)  # the script may be elsewhere by now
        if facts is not None and facts.get("command") != command:
            write_run_file(core.lock.path, {**facts, "command": command})
    except (OSError, RunError) as error:
        core.note(f"{core.folder}: run.json still names the command of an earlier launch: {error}")


def _follow(core: Core, company: Company) -> None:
    word = company.follow()
    core.lock = FollowedLock(os.path.abspath(core.folder))
    core.saver = Saver(cast("RunLock", core.lock), replace(core.policy, on_saved=None), None)
    core.logs = logs_elsewhere()
    core.saved = open_where_rank_0_did(word["snapshot"], core.rank)
    _take_up(core, word["seed"])


def _open_here(core: Core, seed: int | None, resume: str | os.PathLike[str], *, tensorboard: bool | None) -> None:
    check_run_folder(core.folder)
    refuse_without(core.folder, resume)
    core.lock = lock = hold(core.folder)
    core.saver = Saver(lock, core.policy, None if core.evidence is None else core.evidence.saved)
    try:
        clean_leftovers(lock)
        core.logs = logs_of(core.folder, tensorboard=tensorboard)
        core.saved = find_start(core.folder, resume, core.note)
        _take_up(core, seed)
    except BaseException:
        lock.release()
        raise


def _take_up(core: Core, seed: int | None) -> None:
    """Take over what the snapshot says, or begin."""
    if core.settings.deterministic:
        use_deterministic_algorithms()
    facts = read_run_file(core.folder)
    saved = core.saved
    extra: Mapping[str, Any] = {} if saved is None else saved.extra
    if saved is not None and extra.get("version") != EXTRA_VERSION:
        raise RunError(f"{saved.path}: written by another version of rekindle", do="pip install --upgrade rekindle")
    recorded = extra.get("seed", (facts or {}).get("seed"))
    core.seed = choose_seed(core.folder, seed, recorded, begun=saved is not None)
    core.environment = environment.describe()
    if saved is None:
        # The last life saved nothing: what it logged belongs to steps that are made again.
        if not core.rank and core.logs.metrics.size:
            core.note(f"{core.folder}: has no snapshot, so it begins anew; what was logged is cut away, and made again")
        cut_back(core)
    else:
        _go_on(core, saved, extra)
    core.epoch = core.resume_place.epoch
    core.places = Places(core.resume_place)
    if not core.rank and (facts is None or saved is None):
        about = {
            "seed": core.seed,
            "settings": dict(core.settings.words),
            "command": command_of_this_run(),
            "environment": core.environment,
            "world_size": core.world_size,
            "began_from": None if saved is None else saved.path,
        }
        write_run_file(core.folder, about)
    core.saver.plan_next(core.steps_done)


def _go_on(core: Core, saved: Saved, extra: Mapping[str, Any]) -> None:
    """Take over what a snapshot says; one of another run (a fork) says nothing of this one's snapshots and logs."""
    forked = not is_snapshot_of(core.folder, saved.path)
    core.steps_done = saved.step
    core.state = extra.get("state", {})
    core.updater.skipped = extra.get("skipped_steps", 0)
    core.finished, core.finished_total = extra.get("finished", False), extra.get("epochs", 0)
    core.resume_place = Place.decode(place_in(saved))
    if not forked:
        best = extra.get("best")
        core.saver.best = None if best is None else Best(best["value"], best["step"])
        core.saver.take_up(saved, core.resume_place)
        log, logs = extra.get("log"), core.logs  # without it nothing is cut
        logs.vouched = (logs.metrics.size, logs.events.sizes()) if log is None else (log["metrics"], log["events"])
    _say_where(core, saved)
    _look_at_finiteness(core, saved, forked=forked)
    _look_at_differences(core, extra)


def _say_where(core: Core, saved: Saved) -> None:
    place = core.resume_place
    batch = place.loops[place.current][0] if place.current is not None else 0
    where = f"epoch {place.epoch}" + (f", batch {batch}" if batch else "")
    if not core.finished:
        core.note(f"{core.folder}: goes on after step {saved.step:,} ({where}) from {os.path.basename(saved.path)}")
        if place.current is not None and place.loops[place.current][1]:
            core.note(
                f"it begins behind the batches of epoch {place.epoch}, in whose body it was told to leave: names that "
                "only their loop sets, such as a loss, are not there; it is enough to set them before the loop"
            )


def _look_at_finiteness(core: Core, saved: Saved, *, forked: bool) -> None:
    """Know, and say, whether the snapshot holds NaN or infinity."""
    finite_step = saved.manifest.facts.get("finite_step", saved.step)
    good = finite_step if isinstance(finite_step, int) else None
    core.saver.finite_step = None if forked else good
    if finite_step != saved.step:
        source = os.path.dirname(os.path.dirname(saved.path))
        core.saver.say_not_finite(f"{saved.path}: a parameter in it", good, source, core.note)


def _look_at_differences(core: Core, extra: Mapping[str, Any]) -> None:
    """Say what makes the bits differ from here on: the machine, settings, the number of processes."""
    before = extra.get("environment", {})
    threads = environment.adopt_threads(before)
    if threads is not None:
        core.note(threads)
        core.environment["threads"] = torch.get_num_threads()
    for line in environment.differences(before, core.environment):
        core.note(line)
    settings, words = extra.get("settings", {}), core.settings.words
    for name in DECIDE_BITS:
        was = settings.get(name, words[name])
        if was != words[name]:
            core.note(f"{name} was {was}, is {words[name]}; the bits differ from here on")
    core.ranks_before = extra.get("world_size", 1)
    if core.ranks_before != core.world_size:
        core.note(_other_world(core.ranks_before, core.world_size, same_bits=core.settings.elastic is not None))


def _other_world(before: int, now: int, *, same_bits: bool) -> str:
    line = f"the run was on {before} process{'es' * (before != 1)}, and is on {now} now: every sample still comes once"
    return line + (", and the bits are the same" if same_bits else "; the bits differ from here on")
