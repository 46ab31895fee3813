"""A run without torch: every life goes on from the newest good snapshot, saves, prunes, and promises.

python crash_store_job.py FOLDER LAST_STEP [SAVER]: SAVER is a function of `crash_savers`, the right one by default.
"""

from __future__ import annotations

import hashlib
import os
import sys

import crash
from rekindle.store import commit as commits
from rekindle.store.find import newest_good
from rekindle.store.layout import check_run_folder, read_run_file, write_run_file
from rekindle.store.lock import hold
from rekindle.store.manifest import read_manifest
from rekindle.store.retention import prune

KEEP_LAST = 2


def contents(step):
    """The files of a step: a pure function, so that anybody can check them."""
    seed = hashlib.sha256(b"%d" % step).digest()
    return {"model.bin": seed * (20 + step), "state.json": b'{"step": %d}\n' % step}


FROZEN = "frozen.bin"


def writers(step):
    return {name: (lambda out, data=data: out.write(data)) for name, data in contents(step).items()}


def right(run, step):
    """The saver under test."""
    return commits.commit(run, step, writers(step), {"made": "by a test"}, need_bytes=10_000).step


def linking(run, step):
    """The saver under test, with a file that never changes: from the second snapshot on it is a link."""
    earlier = None
    found = newest_good(run.path)
    if found.snapshot is not None:
        files = read_manifest(found.snapshot).files
        stamps = {name: commits.stamp_of(os.path.join(found.snapshot, name)) for name in files}
        earlier = commits.Earlier(found.snapshot, files, stamps, {FROZEN, "model.bin"})
    files = {FROZEN: lambda out: out.write(b"frozen" * 50), **writers(step)}
    return commits.commit(run, step, files, {"made": "by a test"}, earlier=earlier).step


def problem_with(snapshot):
    """What is wrong with the bytes of a snapshot that was taken for good; None when they are what was saved."""
    step = read_manifest(snapshot).step
    for name, data in contents(step).items():
        with open(os.path.join(snapshot, name), "rb") as file:
            if file.read() != data:
                return f"{os.path.basename(snapshot)}/{name} has wrong bytes"
    return None


def live(folder, last, save=right, promise=crash.promise):
    """One life: take the lock, clean, resume, save every step up to `last`."""
    check_run_folder(folder)
    with hold(folder) as run:
        commits.clean_leftovers(run)
        if read_run_file(folder) is None:
            write_run_file(folder, {"seed": 0})
        found = newest_good(folder)
        if found.nothing_holds:
            raise SystemExit(f"nothing holds: {found.passed_over}")
        if found.snapshot is not None:
            problem = problem_with(found.snapshot)
            if problem:
                raise SystemExit(problem)
        prune(run, keep_last=KEEP_LAST)  # the life before may have died between its save and this
        for step in range((found.step or 0) + 1, last + 1):
            promise(save(run, step))
            pruned = prune(run, keep_last=KEEP_LAST)
            if pruned.warning:
                print("warning", pruned.warning, flush=True)


if __name__ == "__main__":
    crash.arm()
    saver = right
    if len(sys.argv) > 3:
        import crash_savers

        saver = getattr(crash_savers, sys.argv[3])
    live(sys.argv[1], int(sys.argv[2]), saver)
