"""Small trainings under the loops of others, with shuffling, augmentation, dropout and a schedule, that can be killed.

python integration_jobs.py KIND FOLDER DIE_AT      prints the digest of what was trained

On several processes DIE_RANK says which of them dies (all of them where it is not set), and each one prints its line.
"""

# ruff: noqa: ARG002 - hooks take what the libraries give them
# ruff: noqa: NPY002 - NumPy's legacy global generator is what data sets draw from

from __future__ import annotations

import os
import random
import signal
import sys
from typing import Any

import numpy as np
import torch
from run_job import digest
from torch import nn
from torch.utils.data import DataLoader, Dataset

SAMPLES, FEATURES = 44, 4
SAVE_EVERY = os.environ.get("SAVE_EVERY", "3 steps")


class Noisy(Dataset):
    """Samples that draw from all three global generators."""

    def __init__(self, *, named: bool = False) -> None:
        self.inputs = torch.randn(SAMPLES, FEATURES, generator=torch.Generator().manual_seed(0))
        self.named = named

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        noise = torch.rand(FEATURES) * 0.1 + random.random() * 0.1 + float(np.random.rand()) * 0.1
        inputs, target = self.inputs[index] + noise, self.inputs[index].sum().reshape(1)
        return {"x": inputs, "labels": target} if self.named else (inputs, target)


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))


def lightning(folder: str, die_at: int, workers: int) -> None:
    import lightning.pytorch as pl

    from rekindle.integrations.lightning import Snapshots

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            die(self.trainer.global_step, die_at)
            return nn.functional.mse_loss(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
            by_step = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=20)
            by_epoch = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
            return [optimizer], [{"scheduler": by_step, "interval": "step"}, by_epoch]

    snapshots = Snapshots(folder, seed=7, save_every=SAVE_EVERY, tensorboard=False)
    module = Module()
    trainer = pl.Trainer(
        max_epochs=3,
        accumulate_grad_batches=2,
        callbacks=[snapshots],
        enable_checkpointing=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        log_every_n_steps=1,
        **several(),
    )
    train = snapshots.loader(Noisy(), batch_size=5, num_workers=workers)
    trainer.fit(module, train, DataLoader(Noisy(), batch_size=22))
    rates = [config.scheduler.state_dict()["_last_lr"] for config in trainer.lr_scheduler_configs]
    print(trainer.global_step, digest(module.state_dict(), trainer.optimizers[0].state_dict()["state"], rates))


def huggingface(folder: str, die_at: int, workers: int) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from rekindle.integrations.huggingface import protect

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": nn.functional.mse_loss(self.net(x), labels)}

    class Dies(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            die(state.global_step, die_at)

    model = Model()
    args = TrainingArguments(
        folder,
        num_train_epochs=3,
        per_device_train_batch_size=5,
        gradient_accumulation_steps=2,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        learning_rate=0.01,
        warmup_steps=4,
        save_steps=3,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=7,
    )
    trainer = Trainer(model, args, train_dataset=Noisy(named=True), callbacks=[Dies()])
    trainer.train(resume_from_checkpoint=protect(trainer).newest)
    states = trainer.optimizer.state_dict()["state"]
    print(trainer.state.global_step, digest(model.state_dict(), states, trainer.lr_scheduler.state_dict()["_last_lr"]))


def accelerate(folder: str, die_at: int, workers: int) -> None:
    from accelerate import Accelerator

    from rekindle.integrations.accelerate import start

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision="bf16")
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=20)
    loader = DataLoader(Noisy(), batch_size=5, shuffle=True, num_workers=workers)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    run = start(accelerator, folder, seed=7, save_every=SAVE_EVERY, tensorboard=False)
    if os.environ.get("REKINDLE_LOADER"):
        loader = run.loader(Noisy(), batch_size=5, num_workers=workers)
    for _ in run.epochs(3):
        for inputs, targets in run.batches(loader):
            with accelerator.accumulate(model):
                die(run.steps_done, die_at)
                accelerator.backward(nn.functional.mse_loss(model(inputs).float(), targets))
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            run.step()
        run.log(rate=scheduler.get_last_lr()[0])
    run.close()
    print(run.steps_done, digest(accelerator.unwrap_model(model).state_dict(), optimizer.state_dict()["state"]))


def several() -> dict[str, Any]:
    """Return a Trainer's settings for as many processes as there are to be."""
    count = int(os.environ.get("PROCESSES", "1"))
    return {"strategy": os.environ.get("STRATEGY", "ddp"), "devices": count} if count > 1 else {"devices": 1}


def rank() -> str:
    return os.environ.get("RANK") or os.environ.get("LOCAL_RANK", "0")


def die(step: int, at: int) -> None:
    if step == at and os.environ.get("DIE_RANK", rank()) == rank():
        os.kill(os.getpid(), signal.Signals[os.environ.get("DIE_OF", "SIGKILL")])


if __name__ == "__main__":
    {"lightning": lightning, "huggingface": huggingface, "accelerate": accelerate}[sys.argv[1]](
        sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 0
    )
