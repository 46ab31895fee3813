"""A snapshot that all processes write, each its share of the files: ``Run(..., save_by="all")``.

The weights are the same everywhere, so any process can write any file. Rank 0 makes the folder, every process writes
and syncs its files into it, and rank 0 puts the manifest over all of them and moves the folder into its place: the
protocol of `rekindle.store.commit`, its middle step shared. The words in between go over the ties, from the thread that
writes, while the training goes on.

Law: nothing is promised before every share is on the disk; one share that fails ends the attempt everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from rekindle.errors import RunError
from rekindle.parallel.company import FollowedLock
from rekindle.parallel.ties import Ties
from rekindle.store.commit import Committed, Earlier, Pending, Writer, abandon, begin, finish, write_files
from rekindle.store.lock import RunLock
from rekindle.store.manifest import FileFacts

__all__ = ["Share", "SharedCommit", "share_of"]

Share = Callable[[Mapping[str, Writer], int, int], dict[str, Writer]]

_OPENED, _WRITTEN, _DONE = "saving: the folder", "saving: the files", "saving: the end"


class SharedCommit:
    """Does what `rekindle.store.commit.commit` does, together with the same call in every other process.

    Args:
        ties: to the others.
        share: given all files, a rank and the number of processes, returns those that it writes.
    """

    def __init__(self, ties: Ties, share: Share | None = None) -> None:
        """Say nothing yet."""
        self._ties = ties
        self._share = share_of if share is None else share
        self._next = _OPENED

    def __call__(
        self,
        run: RunLock | FollowedLock,
        step: int,
        files: Mapping[str, Writer],
        facts: Mapping[str, object],
        *,
        need_bytes: int = 0,
        replace: bool = False,
        earlier: Earlier | None = None,
    ) -> Committed:
        """Write this process's share, and return once the snapshot is promised; arguments as those of `commit`.

        Raises:
            RunError: a share could not be written; which one, and why.
            OSError: this one could not. The attempt left nothing.
        """
        lock = run if isinstance(run, RunLock) else None
        pending = None
        self._next = _OPENED
        try:
            if lock is not None:
                pending = begin(lock, step, need_bytes=need_bytes, replace=replace)
            folder = self._tell(_OPENED, None if pending is None else _words(pending))[0]
            records = {} if folder["already"] else self._write(folder["path"], files, earlier)
            done = None
            if lock is not None and pending is not None:
                done = finish(lock, pending, records, facts)
            return _committed(step, self._tell(_DONE, None if done is None else [done.path, done.size_bytes])[0])
        except _OthersError as error:
            if pending is not None:
                abandon(pending)
            raise RunError(
                f"the snapshot of step {step:,} could not be written: {error}",
                why="every process writes a part of it, and all parts are needed; earlier snapshots are untouched",
                do='look at the disk there, or rk.Run(..., save_by="one")',
            ) from None
        except BaseException as error:
            self._tell_failure(error)
            if pending is not None:
                abandon(pending)
            raise

    def _write(self, folder: str, files: Mapping[str, Writer], earlier: Earlier | None) -> dict[str, FileFacts]:
        """Write this process's share; return what is known of all files of all processes."""
        ranks = self._ties.ranks
        own = self._share(files, ranks.rank, ranks.world_size)
        written = write_files(folder, own, earlier=earlier) if own else {}
        everywhere = self._tell(_WRITTEN, {name: [facts.size, list(facts.blocks)] for name, facts in written.items()})
        return {name: FileFacts(size, tuple(blocks)) for each in everywhere for name, (size, blocks) in each.items()}

    def _tell(self, what: str, value: Any) -> list[Any]:
        # Where the others wait if this process fails before it gets to the next one.
        self._next = {_OPENED: _WRITTEN, _WRITTEN: _DONE, _DONE: ""}[what]
        answers = self._ties.gather(what, {"value": value}, timeout_s=None)
        failed = [f"rank {rank}: {words['error']}" for rank, words in enumerate(answers) if "error" in words]
        if failed:
            raise _OthersError("; ".join(failed))
        return [words["value"] for words in answers]

    def _tell_failure(self, error: BaseException) -> None:
        """Have the others hear of it where they wait next, unless it is them that failed or are gone."""
        if self._ties.lost is None and self._next:
            text = str(error).splitlines()
            with contextlib.suppress(RunError):
                told = {"error": f"{type(error).__name__}: {text[0] if text else ''}"}
                self._ties.gather(self._next, told, timeout_s=None)


class _OthersError(Exception):
    """Another process failed, and said why."""


def share_of(files: Mapping[str, Writer], rank: int, world_size: int) -> dict[str, Writer]:
    """Return the files that a process writes: tensors in turn, and all that is not tensors of a model with rank 0."""
    large = [name for name in files if name.endswith(".safetensors") and not name.startswith("state.")]
    turns = {name: number % world_size for number, name in enumerate(large)}
    return {name: write for name, write in files.items() if turns.get(name, 0) == rank}


def _words(pending: Pending) -> dict[str, Any]:
    return {"path": pending.folder, "already": pending.already is not None}


def _committed(step: int, words: list[Any]) -> Committed:
    return Committed(step, words[0], words[1])
