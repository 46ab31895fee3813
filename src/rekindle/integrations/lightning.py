"""rekindle's snapshots, and its order of samples, under a Lightning `Trainer`.

The callback keeps what Lightning would put into its own checkpoint in a snapshot of a run: verified, committed whole or
not at all, without a pickle. A training that is started again takes the newest snapshot that holds, by itself.

When. Lightning's counters describe a whole state at the end of a batch and at the start of an epoch; a snapshot is
taken at one of the two, never inside an accumulation window. The step of an epoch's last batch counts at the start of
the next epoch, when validation and the schedulers are done with it.

What is drawn in a batch is a function of (seed, epoch, batch), and the loader of `Snapshots.loader` gives any batch of
any epoch at once: so the resumed training makes the same bits, which Lightning by itself does not.

On several processes (strategy ``"ddp"``) the order is one for all of them, cut as `rekindle.Run` cuts it, and gradients
of a last batch that is shared out unevenly are weighted. The process group is Lightning's, so the run is opened when
`fit` has made it: Lightning's own launcher starts the script again for each further process in the middle of `fit`.

Law: rank 0 writes; the others count the same steps and restore the same snapshot.
"""

from __future__ import annotations

import inspect
import os
import secrets
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from rekindle.errors import ConfigError, RunError
from rekindle.parallel.ranks import find_ranks
from rekindle.run.loader import Loader, Share
from rekindle.run.loop import Run
from rekindle.run.randomness import key_of, seed_all, seed_globals
from rekindle.run.start import FOLDER_VARIABLE
from rekindle.store.layout import read_run_file

__all__ = ["Snapshots"]


class Snapshots(pl.Callback):
    """A callback that saves a training's snapshots, and begins where the newest good one was taken.

    Make it before the model: what is drawn from here on follows from the seed; among several processes give one, since
    none can be drawn before they meet. Where it has its snapshots, ``Trainer(enable_checkpointing=False)`` spares
    Lightning's own.

    Args:
        folder: of the run.
        **settings: as of `rekindle.Run`, but for precision, accumulation and device, which are the Trainer's.

    Example:
        snapshots = Snapshots("runs/mine", seed=0, save_every="200 steps")
        trainer = Trainer(max_epochs=10, callbacks=[snapshots], enable_checkpointing=False)
        trainer.fit(Model(), snapshots.loader(dataset, batch_size=32, num_workers=2))
    """

    def __init__(self, folder: str | os.PathLike[str], **settings: Any) -> None:
        """Seed what is drawn from here on; the folder is taken later, when it is known how many processes there are."""
        super().__init__()
        for name in ("precision", "accumulate", "device"):
            if name in settings:
                raise TypeError(f"Snapshots() takes no {name}=: it is the Trainer's to decide")
        inspect.signature(Run).bind(folder, **settings)
        self._folder, self._settings = folder, settings
        self._run: Run | None = None
        self._loaders: list[_OrderedLoader] = []
        self._steps = 0
        self._trainer: pl.Trainer | None = None
        self._several = _was_started_by_lightning() or find_ranks().world_size > 1
        self._seed = settings.get("seed")
        recorded = (read_run_file(os.fspath(os.environ.get(FOLDER_VARIABLE) or folder)) or {}).get("seed")
        begins = recorded is None and settings.get("resume", "auto") in {"auto", "never", "must"}
        if self._seed is None and begins and not self._several:
            self._seed = secrets.randbits(32)
        seed = recorded if self._seed is None else self._seed
        if isinstance(seed, int):
            seed_all(key_of(seed, "start"))

    @property
    def run(self) -> Run:
        """The `rekindle.Run` that is written to, opened when it is first asked for or when `fit` begins.

        Raises:
            RunError: it is one of several processes, and `fit` has not begun.
            RekindleError, OSError: as `rekindle.Run`.
        """
        if self._run is None:
            if self._several:
                raise RunError(
                    f"{os.fspath(self._folder)}: this process has not met the others yet",
                    why="the processes of a Trainer meet when `fit` begins, and open the run together then",
                    do="ask for snapshots.run in a hook of the model or of a callback",
                )
            self._run = Run(self._folder, device="cpu", **{**self._settings, "seed": self._seed})
        return self._run

    def loader(self, dataset: Any, **settings: Any) -> _OrderedLoader:
        """Return a training loader whose order can be resumed at any batch; arguments as of `rekindle.Run.loader`."""
        made = _OrderedLoader(self, dataset, settings)
        self._loaders.append(made)
        return made

    # ---- what Lightning calls

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Open the run together with the other processes, where it is not."""
        if stage != "fit":
            return
        self._refuse_others_own(trainer)
        if self._run is not None and self._run.world_size != trainer.world_size:
            self._run._close(save=False)  # noqa: SLF001 - nothing was done in it
            self._run = None
            for loader in self._loaders:
                loader.forget()
        self._several = False  # all are here now
        if trainer.world_size > 1 and self._settings.get("seed") is None:
            self._seed = None  # rank 0 says which
        _ = self.run

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore, just before Lightning would restore its own."""
        self._trainer = trainer
        state = _TrainerState(trainer)
        wrapped = trainer.strategy.model
        self.run.track(model=wrapped if isinstance(wrapped, DistributedDataParallel) else pl_module, trainer=state)
        if state.loaded is not None:
            connector = trainer._checkpoint_connector  # noqa: SLF001 - Lightning restores from a path only
            connector._loaded_checkpoint = {**state.loaded, "state_dict": pl_module.state_dict()}  # noqa: SLF001 - as above
            connector.restore_model()
            connector.restore_callbacks()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from where the Trainer's own counters are now: with several optimizers they count each of them."""
        self._steps = trainer.global_step
        if trainer.fit_loop.restarted_on_epoch_start:
            _begin_epoch(trainer)
        _ = self.run.steps_done  # asked as a loop without `run.batches` does, which gets its place that way

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the last step of the epoch before."""
        seed_globals(self._key("epoch", trainer.current_epoch))
        self._count(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed what the step draws."""
        ours = self._ordered(trainer)
        if self.run.world_size > 1:
            self.run.begin_batch(None if ours is None else ours.share(batch_idx))
        seed_globals(self._key("batch", trainer.current_epoch, batch_idx))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a step, and save where that is due."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._count(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end."""
        self._count(trainer)
        self.run.save()
        self.run.close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the run's folder free; after an error nothing is saved, since the state may be half of a step."""
        if stage == "fit":
            self.run._close(save=False)  # noqa: SLF001 - the run's own way out after an error

    # ---- inside

    def _key(self, purpose: str, *place: int) -> int:
        own = (self.run.rank,) if self.run.rank else ()
        return key_of(self.run.seed, purpose, *place, *own)

    def _ordered(self, trainer: pl.Trainer) -> _OrderedLoader | None:
        """Return the loader of ours that is trained on; None where it is another's."""
        loader = trainer.train_dataloader
        return loader if isinstance(loader, _OrderedLoader) else None

    def _refuse_others_own(self, trainer: pl.Trainer) -> None:
        if trainer.world_size == 1:
            return
        strategy = trainer.strategy
        if type(strategy) is not DDPStrategy:
            raise ConfigError(
                f"Snapshots does not know the strategy {type(strategy).__name__}",
                why="it keeps the state of one process or of DDP, which is the same in all of them",
                do='Trainer(strategy="ddp"), or a loop of your own with run.prepare(model, optimizer, shard="fsdp")',
            )
        if "MultiProcessing" in type(strategy.launcher).__name__:
            raise ConfigError(
                f"this Trainer starts its processes by {getattr(strategy.launcher, '_start_method', 'copying itself')}",
                why="they would share the open files of the one that has the run's folder",
                do='Trainer(strategy="ddp"), or torchrun --nproc-per-node N',
            )

    def _count(self, trainer: pl.Trainer) -> None:
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self.run.step()

    def position(self) -> tuple[int, int]:
        """Return the epoch in progress and the batches of it that were trained on."""
        if self._trainer is None:
            return 0, 0
        return self._trainer.current_epoch, self._trainer.fit_loop.epoch_loop.batch_progress.current.ready


class _TrainerState:
    """What Lightning keeps in a checkpoint, but for the weights, as something that can be tracked."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer
        self.loaded: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        whole: dict[str, Any] = self._trainer._checkpoint_connector.dump_checkpoint(weights_only=False)  # noqa: SLF001 - save_checkpoint writes a file
        del whole["state_dict"]
        return whole

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state


def _begin_epoch(trainer: pl.Trainer) -> None:
    """Have the batches of an epoch that was only begun be counted from 0.

    The state at an epoch's start still has the counts of the epoch before; going on, Lightning would take it for one
    whose batches are all done, and leave a whole epoch out (2.6.6).
    """
    batches = trainer.fit_loop.epoch_loop
    batches.batch_progress.reset_on_run()
    batches.scheduler_progress.reset_on_run()
    batches.automatic_optimization.optim_progress.reset_on_run()
    batches.val_loop.batch_progress.total.reset()


def _was_started_by_lightning() -> bool:
    """Tell whether Lightning's launcher started this process: it says a local rank and no rank."""
    return "LOCAL_RANK" in os.environ and "RANK" not in os.environ and "SLURM_PROCID" not in os.environ


class _OrderedLoader:
    """Iterates the batches that are left of the Trainer's current epoch."""

    def __init__(self, snapshots: Snapshots, dataset: Any, settings: dict[str, Any]) -> None:
        self._snapshots = snapshots
        self._settings = settings
        self._loader: Loader | None = None
        self.dataset = dataset

    @property
    def loader(self) -> Loader:
        """The run's loader, made when it is first needed: the number of processes may be known late."""
        if self._loader is None:
            self._loader = self._snapshots.run.loader(self.dataset, **self._settings)
        return self._loader

    @property
    def batch_size(self) -> int:
        """Samples of a batch of this process."""
        return self.loader.batch_size

    def forget(self) -> None:
        """Make the loader anew: the run is another one."""
        self._loader = None

    def share(self, batch: int) -> Share:
        """Return what this process has of a batch of all."""
        deal = self.loader.deal
        return deal.share(batch * deal.size, len(self.dataset))

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        # The position is asked for with the first batch: Lightning makes iterators early.
        epoch, done = self._snapshots.position()
        loader = self.loader
        yield from loader.batches(loader.pass_key(epoch, (0,)), done * loader.deal.size)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the position is the Trainer's. That there is the method tells Lightning it can be resumed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing, as said above."""
