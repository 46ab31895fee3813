"""A Hugging Face `Trainer` whose checkpoints are whole or not there, and whose samples do not depend on the past.

The Trainer writes its checkpoint folders itself, in place, and torch checks nothing when it reads them again: a process
killed while it writes leaves a folder that looks like the others. `protect` adds two things.

*A seal.* After a checkpoint is written, every file in it is brought to the disk, and a manifest with its size and
SHA-256 is written last, the same that rekindle's snapshots have. `newest` returns the newest checkpoint whose manifest
holds; one without a manifest, or with other bytes, is passed over and said so. The folders stay what they are:
everything that reads Hugging Face checkpoints reads them.

*Randomness by position.* Each sample is drawn under generators seeded by (seed, epoch, index), each step by (seed,
step, rank). The Trainer's order of samples is a function of the seed already. So a resumed training makes the same
bits, also with augmentation and any number of workers.

*On several processes* each of them puts a file of its own into a checkpoint, and the Trainer waits for none of them:
the seal comes when all are done. Which checkpoint is the newest is looked at by one process of each machine, and all go
on from the same one. A process that dies ends the others.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rekindle.errors import ConfigError, RunError
from rekindle.parallel.ddp import prime
from rekindle.parallel.ranks import find_ranks
from rekindle.parallel.ties import Ties, tie
from rekindle.run.randomness import key_of, sample_key, seed_globals, seed_sample
from rekindle.store.atomic import fsync_folder, write_beside
from rekindle.store.digests import digests_of_file
from rekindle.store.layout import MANIFEST_NAME
from rekindle.store.manifest import FileFacts, encode_manifest, is_safe_name, read_manifest, verify

__all__ = ["Protection", "newest", "protect", "seal"]

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_TIMEOUT_S = 600.0
_ASIDE = "passed-over-"  # not "checkpoint-": the Trainer counts and removes by that name


class Protection(TrainerCallback):
    """What `protect` adds to a Trainer.

    Attributes:
        newest: path of the newest checkpoint that holds; None where there is none.
        trainer: whose it is; None until `protect` has given it one.
    """

    trainer: Trainer | None = None

    def __init__(self, output_dir: str, seed: int, dataset: _Keyed | None, *, looks: bool = True) -> None:
        """Look at what is there; among several processes, those that are to, and all agree."""
        self._seed = seed
        self._dataset = dataset
        self._part = 0
        ranks = find_ranks()
        self._rank, self._processes = ranks.rank, ranks.world_size
        self._ties = None if ranks.world_size == 1 else tie(ranks, timeout_s=_TIMEOUT_S, say=_say)
        found = newest(output_dir) if looks else None
        self.newest = found if self._ties is None else _same_everywhere(self._ties, output_dir, found, looks=looks)
        self._say_other_number()

    def _say_other_number(self) -> None:
        if self.newest is None or self._rank:
            return
        before = read_manifest(self.newest).facts.get("processes", 1)
        if before != self._processes:
            _say(
                f"{self.newest} was written by {before} processes, and {self._processes} go on: the Trainer counts "
                "batches, so in this epoch some samples come twice or not at all"
            )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Have DDP lay out its gradient buckets once and for good, since their layout decides bits."""
        model = getattr(self.trainer, "model_wrapped", None)
        model = getattr(model, "_orig_mod", model)
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            prime(model)
        if self._ties is not None:
            self._ties.unfinished = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note that a process may end now."""
        if self._ties is not None:
            self._ties.unfinished = False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Have samples drawn for this epoch."""
        if self._dataset is not None:
            self._dataset.epoch.fill_(int((state.epoch or 0) + 1e-6))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seed what the step draws."""
        self._part = 0
        self._seed_step(state.global_step)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seed what the next batch of the same step draws."""
        self._part += 1
        self._seed_step(state.global_step)

    def _seed_step(self, step: int) -> None:
        own = (self._rank,) if self._rank else ()
        seed_globals(key_of(self._seed, "step", step, self._part, *own))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Seal the checkpoint that was just written."""
        path = os.path.join(str(args.output_dir), f"checkpoint-{state.global_step}")
        if self._ties is not None:  # each process writes a file of its own into it
            self._ties.gather("saving: the files", None, timeout_s=None)
        if args.should_save:
            seal(path, state.global_step, {"processes": self._processes})
        self.newest = path


def protect(trainer: Trainer) -> Protection:
    """Seal every checkpoint of a Trainer, and have its samples and steps drawn by their position.

    Args:
        trainer: before `train`. Its training data set, where it has numbered samples, is wrapped.

    Returns:
        The callback; its `newest` is what `train` goes on from.

    Raises:
        ConfigError: the Trainer keeps one checkpoint only: it would remove the last good one before the next is sealed.
        RunError: the Trainer trains with DeepSpeed or FSDP, whose checkpoints are folders of folders.
        OSError: the folder cannot be read.

    Example:
        trainer = Trainer(model, TrainingArguments("runs/mine", save_steps=200, save_total_limit=3), train_dataset=data)
        trainer.train(resume_from_checkpoint=protect(trainer).newest)
    """
    args = trainer.args
    if args.save_total_limit is not None and args.save_total_limit < 2:
        raise ConfigError(
            f"save_total_limit={args.save_total_limit} keeps no second checkpoint",
            why="the Trainer removes the old one before the new one is known to be whole",
            do="TrainingArguments(..., save_total_limit=2)",
        )
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise RunError(
            f"this Trainer trains with {'DeepSpeed' if trainer.is_deepspeed_enabled else 'FSDP'}, and protect() cannot "
            "seal what that writes",
            why="each process has a part of the state, in folders of the library's own",
            do='train with DDP, or in a loop of your own with run.prepare(model, optimizer, shard="fsdp")',
        )
    dataset = None
    if hasattr(trainer.train_dataset, "__getitem__") and hasattr(trainer.train_dataset, "__len__"):
        plain = trainer.train_dataset
        if type(plain).__module__.startswith(
            "datasets."
        ):  # the Trainer would know it no more, and hand out all columns
            plain = trainer._remove_unused_columns(plain, description="training")  # noqa: SLF001 - as said above
        dataset = _Keyed(plain, args.seed)
        trainer.train_dataset = dataset  # type: ignore[assignment] # a data set like the one it wraps
    protection = Protection(str(args.output_dir), args.seed, dataset, looks=args.should_save)
    protection.trainer = trainer
    trainer.add_callback(protection)
    return protection


def newest(output_dir: str | os.PathLike[str]) -> str | None:
    """Return the newest checkpoint in a Trainer's folder whose manifest holds; None where there is none.

    Newer ones that do not hold are moved aside, to ``passed-over-checkpoint-N``, so that the Trainer does not count
    them as checkpoints, and are said on stderr. Nothing is removed.

    Raises:
        OSError: the folder cannot be read.
    """
    folder = os.fspath(output_dir)
    try:
        names = [name for name in os.listdir(folder) if _CHECKPOINT.fullmatch(name)]
    except FileNotFoundError:
        return None
    for name in sorted(names, key=lambda name: int(name.partition("-")[2]), reverse=True):
        path = os.path.join(folder, name)
        damage = verify(path)
        if damage is None:
            return path
        sealed = os.path.exists(os.path.join(path, MANIFEST_NAME))
        reason = damage.reason if sealed else "was never sealed: the process ended while it was written"
        _move_aside(folder, name, reason)
    return None


def seal(path: str | os.PathLike[str], step: int, facts: Mapping[str, object] | None = None) -> None:
    """Bring every file of a checkpoint folder to the disk, and write the manifest that vouches for them, last.

    Args:
        path: the folder, with plain files only.
        step: optimizer updates done.
        facts: plain values to keep in the manifest.

    Raises:
        RunError: it holds a folder, or a name that no manifest can hold.
        OSError: a file may not be on the disk; there is no manifest then.
    """
    folder = os.fspath(path)
    files = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name == MANIFEST_NAME:
            continue
        if not entry.is_file(follow_symlinks=False) or not is_safe_name(entry.name):
            raise RunError(
                f"{entry.path}: cannot be sealed", why="a checkpoint is sealed where it holds plain files only"
            )
        files[entry.name] = _synced(entry.path)
    fsync_folder(folder)
    with write_beside(os.path.join(folder, MANIFEST_NAME)) as out:
        out.write(encode_manifest(step, files, {"kind": "huggingface", **(facts or {})}))
    fsync_folder(os.path.dirname(os.path.abspath(folder)))


def _synced(path: str) -> FileFacts:
    """Bring a file to the disk; return its size and digest."""
    fd = os.open(path, os.O_RDONLY)
    with open(fd, "rb"):
        os.fsync(fd)
        size = os.fstat(fd).st_size
        return FileFacts(size, tuple(digests_of_file(fd, size)))


def _same_everywhere(ties: Ties, output_dir: str, found: str | None, *, looks: bool) -> str | None:
    """Return the checkpoint that all processes go on from: the one that those who looked have found.

    Raises:
        RunError: they found different ones: a folder on a disk of one machine only.
    """
    everywhere = ties.gather("protect(trainer)", [looks, found and os.path.basename(found)])
    names = {rank: name for rank, (looked, name) in enumerate(everywhere) if looked}
    first = next(iter(names.values()), None)
    for rank, name in names.items():
        if name != first:
            raise RunError(
                f"{output_dir}: the newest checkpoint is {first or 'none'} for rank 0, {name or 'none'} on rank {rank}",
                why="each machine has a folder of its own (save_on_each_node), and they are not alike",
                do="move what only one of them has out of its folder, and start again",
            )
    path = None if first is None else os.path.join(output_dir, first)
    if path is not None and not os.path.isdir(path):
        raise RunError(
            f"rank {ties.ranks.rank} does not see {path}",
            why="rank 0 does: the folder is on a disk of one machine only",
            do="give output_dir on a file system that all machines share, or save_on_each_node=True",
        )
    return path


def _say(text: str) -> None:
    print(f"rekindle: {text}", file=sys.stderr, flush=True)  # noqa: T201 - the Trainer's log is not set up yet


def _move_aside(folder: str, name: str, reason: str) -> None:
    number, target = 1, os.path.join(folder, _ASIDE + name)
    while os.path.exists(target):
        number += 1
        target = os.path.join(folder, f"{_ASIDE}{number}-{name}")
    with contextlib.suppress(OSError):
        os.rename(os.path.join(folder, name), target)
    _say(f"{folder}: passed over {name}: {reason}; it lies in {os.path.basename(target)}")


class _Keyed(torch.utils.data.Dataset[Any]):
    """A data set whose samples are drawn under generators seeded by (seed, epoch, index).

    Attributes:
        epoch: in memory that worker processes share, so that those that stay alive learn of the next one.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call] # torch leaves it untyped

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        seed_sample(sample_key(key_of(self._seed, "pass", int(self.epoch)), index))
        return self._dataset[index]

    def __getattr__(self, name: str) -> Any:
        # The Trainer asks a data set for its columns, among others.
        if name.startswith("__") or name == "_dataset":
            raise AttributeError(name)
        return getattr(self._dataset, name)
