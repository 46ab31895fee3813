"""rekindle's snapshots, and its order of samples, under a Lightning `Trainer`.

The callback keeps what Lightning would put into its own checkpoint in a snapshot of a run: verified, committed whole or
not at all, without a pickle. A training that is started again takes the newest snapshot that holds, by itself.

When. Lightning's counters describe a whole state at the end of a batch and at the start of an epoch; a snapshot is
taken at one of the two, never inside an accumulation window. The step of an epoch's last batch counts at the start of
the next epoch, when validation and the schedulers are done with it.

What is drawn in a batch is a function of (seed, epoch, batch), and the loader of `Snapshots.loader` gives any batch of
any epoch at once: so the resumed training makes the same bits, which Lightning by itself does not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl

from rekindle.errors import RunError
from rekindle.run.loader import Loader
from rekindle.run.loop import Run
from rekindle.run.randomness import key_of, seed_globals

__all__ = ["Snapshots"]


class Snapshots(pl.Callback):
    """A callback that saves a training's snapshots, and begins where the newest good one was taken.

    Make it before the model: what is drawn from here on follows from the seed. Where it has its snapshots,
    ``Trainer(enable_checkpointing=False)`` spares Lightning's own.

    Args:
        folder: of the run.
        **settings: as of `rekindle.Run`, but for precision, accumulation and device, which are the Trainer's.

    Attributes:
        run: the `rekindle.Run` that is written to.

    Example:
        snapshots = Snapshots("runs/mine", seed=0, save_every="200 steps")
        trainer = Trainer(max_epochs=10, callbacks=[snapshots], enable_checkpointing=False)
        trainer.fit(Model(), snapshots.loader(dataset, batch_size=32, num_workers=2))
    """

    def __init__(self, folder: str | os.PathLike[str], **settings: Any) -> None:
        """Take the run's folder."""
        super().__init__()
        for name in ("precision", "accumulate", "device"):
            if name in settings:
                raise TypeError(f"Snapshots() takes no {name}=: it is the Trainer's to decide")
        self.run = Run(folder, device="cpu", **settings)
        self._steps = 0
        self._trainer: pl.Trainer | None = None

    def loader(self, dataset: Any, **settings: Any) -> _OrderedLoader:
        """Return a training loader whose order can be resumed at any batch; arguments as of `rekindle.Run.loader`."""
        return _OrderedLoader(self, self.run.loader(dataset, **settings))

    # ---- what Lightning calls

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore, just before Lightning would restore its own."""
        if trainer.world_size > 1:
            raise RunError(
                f"this Trainer has {trainer.world_size} processes, and Snapshots works with one",
                why="the order of samples is dealt out by Lightning there, not by the run",
                do="let rekindle.Run start the processes itself: see docs/integrations.md",
            )
        self._trainer = trainer
        state = _TrainerState(trainer)
        self.run.track(model=pl_module, trainer=state)
        if state.loaded is not None:
            connector = trainer._checkpoint_connector  # noqa: SLF001 - Lightning restores from a path only
            connector._loaded_checkpoint = {**state.loaded, "state_dict": pl_module.state_dict()}  # noqa: SLF001 - as above
            connector.restore_model()
            connector.restore_callbacks()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from where the Trainer's own counters are now: with several optimizers they count each of them."""
        self._steps = trainer.global_step
        _ = self.run.steps_done  # asked as a loop without `run.batches` does, which gets its place that way

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the last step of the epoch before."""
        seed_globals(key_of(self.run.seed, "epoch", trainer.current_epoch))
        self._count(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed what the step draws."""
        seed_globals(key_of(self.run.seed, "batch", trainer.current_epoch, batch_idx))

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


class _OrderedLoader:
    """Iterates the batches that are left of the Trainer's current epoch."""

    def __init__(self, snapshots: Snapshots, loader: Loader) -> None:
        self._snapshots = snapshots
        self._loader = loader
        self.dataset = loader.dataset
        self.batch_size = loader.batch_size

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        # The position is asked for with the first batch: Lightning makes iterators early.
        epoch, done = self._snapshots.position()
        yield from self._loader.batches(self._loader.pass_key(epoch, (0,)), done * self._loader.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the position is the Trainer's. That there is the method tells Lightning it can be resumed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing, as said above."""
