"""Worker processes of data loaders: deaf to signals that are meant for the run, and never left behind.

Slurm (and Ctrl-C in a terminal) signals every process of the job. A worker that dies of it takes the main process down
in the middle of a step, before it can save. So workers ignore SIGTERM, SIGUSR1 and SIGINT, and the main process, which
decides when the run ends, ends them itself: with SIGKILL, since they are deaf to all else.

Law: from its first instruction a worker of a shielded loader cannot be ended by these signals: they are blocked while
it is being started (a child inherits that), and ignored from its initialisation on.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from rekindle.errors import RunError

__all__ = ["SHIELDED_SIGNALS", "Shield", "dead_worker", "kill_workers", "shield", "starting_workers", "watch"]

SHIELDED_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))

# iterator -> the process that started its workers: a forked child must not end those of its parent
_iterators: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


class Shield:
    """A `worker_init_fn` that makes the worker deaf, then calls the user's own.

    Args:
        inner: the user's `worker_init_fn`, or None.
    """

    def __init__(self, inner: Callable[[int], object] | None = None) -> None:
        """Keep the user's function."""
        self.inner = inner

    def __call__(self, worker_id: int) -> None:
        """Run in the worker, after torch installed its own handlers."""
        for number in SHIELDED_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SHIELDED_SIGNALS)
        _die_with_parent()
        if self.inner is not None:
            self.inner(worker_id)


def shield(loader: DataLoader[Any]) -> None:
    """Make the workers that a loader will start deaf; a loader that is shielded already is left alone."""
    if loader.num_workers and not isinstance(loader.worker_init_fn, Shield):
        loader.worker_init_fn = Shield(loader.worker_init_fn)


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Hold the signals back while workers are started, so that none is lost and none reaches a worker too early.

    Raises:
        RunError: the data set cannot be sent to a worker that is a new process.
    """
    try:
        with _signals_held_back():
            yield
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if "pickle" not in str(error):
            raise
        raise RunError(
            f"the data set cannot be sent to a data loader's workers: {str(error).splitlines()[0]}",
            why="workers that are spawned get it as a pickle, and a function or class inside another one has none",
            do='define it at the top level of a file, or num_workers=0, or multiprocessing_context="fork"',
        ) from error


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    global _started_by_main_thread  # noqa: PLW0603 - what a forked worker inherits
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED_SIGNALS)
    _started_by_main_thread = True
    try:
        yield
    finally:
        _started_by_main_thread = False
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def watch(iterator: object) -> None:
    """Remember a loader's iterator, so that `kill_workers` finds its processes.

    And have whoever wants to end one of them really end it: torch, when an iterator is freed, and multiprocessing, when
    the process exits, send SIGTERM, wait, and would wait for ever.
    """
    workers = getattr(iterator, "_workers", None)
    if not workers:
        return
    _iterators[iterator] = os.getpid()
    for process in workers:
        process.terminate = process.kill
        inner = getattr(process, "_popen", None)
        if inner is not None and hasattr(inner, "kill"):
            inner.terminate = inner.kill


def dead_worker(error: BaseException | None, way_back: str) -> RunError | None:
    """Return what torch's error about a worker that something killed means for the run; None for any other error.

    Args:
        error: torch raises a RuntimeError and has no class of its own for it (2.13, `utils/data/dataloader.py` and
            `csrc/DataLoader.cpp`).
        way_back: where the run goes on, in words.
    """
    words = str(error)
    if not isinstance(error, RuntimeError) or isinstance(error, RunError) or not words.startswith("DataLoader worker"):
        return None
    if not any(sign in words for sign in ("killed by signal", "exited unexpectedly")):
        return None
    return RunError(
        words.partition(". ")[0].replace("DataLoader worker", "a data loader's worker"),
        why="most likely the machine ran out of memory and the system killed it, or shared memory (/dev/shm) is full",
        do=f"use fewer workers (num_workers=, or --workers); {way_back}",
    )


def kill_workers() -> None:
    """End every worker that was started and still lives, at once."""
    own = [iterator for iterator, owner in list(_iterators.items()) if owner == os.getpid()]
    alive = [process for iterator in own for process in iterator._workers if process.is_alive()]  # noqa: SLF001 - as below
    if not alive:
        return
    with _expected_deaths():
        for process in alive:
            process.kill()
        for process in alive:
            process.join(5)
        for iterator in own:
            # They are dead: this only tells torch so, closes its queues and ends its pinning thread.
            with contextlib.suppress(Exception):
                iterator._shutdown_workers()  # noqa: SLF001 - torch has no public way to end an iterator's workers
    for iterator in own:
        _iterators.pop(iterator, None)


@contextlib.contextmanager
def _expected_deaths() -> Iterator[None]:
    """Keep torch from raising "worker killed" in the main process for workers that are ended on purpose."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)


def _die_with_parent() -> None:
    """Have the kernel end this worker when the process that started it is gone (Linux; elsewhere torch notices)."""
    # The kernel means the thread that forked: one that ends earlier than its process must not take its workers along.
    if sys.platform != "linux" or not _started_by_main_thread:
        return
    # Not os.getppid(): the run may have been killed before this worker came to ask. torch's own watchdog asks later
    # still, and would then wait for the wrong process for ever.
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    with contextlib.suppress(Exception):
        import ctypes  # noqa: PLC0415 - only in workers, only on Linux

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent.pid:  # it died before
        os.kill(os.getpid(), signal.SIGKILL)


_started_by_main_thread = False
# Registered after multiprocessing's own exit function (torch imports it), hence run before it: that one sends SIGTERM
# and waits, and a deaf worker that hangs would keep it waiting for ever.
atexit.register(kill_workers)
