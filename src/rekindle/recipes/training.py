"""The loop behind `rekindle train`: a classifier on one of the data sets, with everything that a run offers.

The final weights are a function of the settings and the seed alone: not of the number of workers, nor of how often
the run was stopped. The settings stand in the run's folder as `settings.toml`, and a folder is only ever gone on with
by the settings it was begun with, but for those in `_MAY_CHANGE`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset

from rekindle.devices.move import device_named
from rekindle.errors import ConfigError
from rekindle.recipes.config import Settings, as_toml, read_settings
from rekindle.recipes.data import Data, batches_of, load_data
from rekindle.recipes.epoch import backward, count_batch, draw_run, means_of_epoch
from rekindle.recipes.folder import check_folder, elsewhere
from rekindle.recipes.networks import build_model
from rekindle.run.averages import average
from rekindle.run.loop import Run
from rekindle.run.precision import parse_precision
from rekindle.run.schedules import schedule
from rekindle.store.atomic import write_beside

__all__ = ["SETTINGS_FILE", "Result", "train"]

SETTINGS_FILE = "settings.toml"
_EVALUATION_BATCH = 512
_SECONDS_BETWEEN_PICTURES = 15.0  # a picture takes as long as some epochs
# A longer training goes on where the shorter one ended; the others change nothing in the result.
_MAY_CHANGE = {"epochs", "workers", "out"}


@dataclass(frozen=True, slots=True)
class Result:
    """What a training came to.

    Attributes:
        folder: the run's folder.
        epochs: epochs in all.
        steps: optimizer updates in all.
        test_accuracy: part of the test samples that the final weights get right, 0 to 1.
        test_samples: their number.
        parameters: numbers in the model.
        was_complete: whether there was nothing left to train.
        curve: the picture of the learning curve, None where matplotlib is not installed.
    """

    folder: str
    epochs: int
    steps: int
    test_accuracy: float
    test_samples: int
    parameters: int
    was_complete: bool
    curve: str | None


def train(
    settings: Settings,
    *,
    resume: Literal["auto", "never", "must"] = "auto",
    progress: bool | None = None,
    on_start: Callable[[str], object] = lambda _: None,
) -> Result:
    """Train to the end, from the beginning or from the newest good snapshot, and test the final weights.

    Args:
        settings: from `rekindle.recipes.config`.
        resume: as `rk.Run` takes it.
        progress: whether to show progress on stderr; None for: where it is a terminal.
        on_start: told one line about the data and the model before the first step.

    Raises:
        ConfigError: the settings do not fit the data, the model, or the run that is in the folder.
        RunError: the loss is not a number any more, another process writes the run, nothing can be resumed, ...
    """
    check_folder(settings["out"])
    _check_precision(settings)
    data = load_data(settings)
    run = Run(
        settings["out"],
        seed=settings["seed"],
        precision=settings["precision"],
        accumulate=settings["accumulate"],
        save_every=settings["snapshots.save_every"],
        keep_last=settings["snapshots.keep_last"],
        keep_every=settings["snapshots.keep_every"] or None,
        keep_best=None if settings["snapshots.keep_best"] == "none" else settings["snapshots.keep_best"],
        resume=resume,
        progress=progress,
    )
    with run:
        folder = os.fspath(run.folder)
        _keep_settings(folder, settings, begun=run.resumed_from is not None)
        return _train(run, folder, settings, data, on_start)


def _train(run: Run, folder: str, settings: Settings, data: Data, on_start: Callable[[str], object]) -> Result:
    model = build_model(settings, data.shape, data.classes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    on_start(_what_is_trained(settings, data, parameters))
    batches = run.loader(
        data.train,
        batch_size=settings["batch_size"],
        num_workers=settings["workers"],
        drop_last=settings["data.drop_last"],
    )
    optimizer = _optimizer(settings, model)
    scheduler = _scheduler(settings, optimizer, len(batches))
    model, optimizer, scheduler = run.prepare(model, optimizer, scheduler)
    decay = settings["ema"]
    averaged = _averaged(run, settings, model, optimizer) if decay else None
    evaluated: torch.nn.Module = model if averaged is None else averaged
    if run.finished and run.epoch < settings["epochs"]:
        run.note(f"{folder}: {run.epoch} epochs were done; goes on after step {run.steps_done:,}")
    steps_before, drawn_s = run.steps_done, time.monotonic()
    # A complete run has nothing to walk; the command says so, and how to go on.
    is_complete = run.finished and run.epoch >= settings["epochs"]
    for epoch in () if is_complete else run.epochs(settings["epochs"]):
        for inputs, labels in run.batches(batches):
            with run.autocast():
                scores = model(inputs)
                loss = cross_entropy(scores, labels)
            backward(run, loss, settings["optimizer.lr"])
            run.update(clip_norm=settings["clip_norm"] or None)
            count_batch(run, epoch, scores.detach(), labels, loss.detach())
            run.step()
        _log_epoch(run, evaluated, data.validation)
        if time.monotonic() - drawn_s > _SECONDS_BETWEEN_PICTURES:
            draw_run(folder)
            drawn_s = time.monotonic()
    was_complete = run.steps_done == steps_before
    _, accuracy = _evaluate(run, evaluated, data.test)
    return Result(
        folder=folder,
        epochs=settings["epochs"],
        steps=run.steps_done,
        test_accuracy=accuracy,
        test_samples=len(data.test),
        parameters=parameters,
        was_complete=was_complete,
        curve=draw_run(folder),
    )


def _check_precision(settings: Settings) -> None:
    """Refuse a precision that the device lacks, in the terms of the command."""
    try:
        parse_precision(settings["precision"], device_named())
    except ConfigError as error:
        raise ConfigError(
            error.what, why=error.why, do="--precision bf16 works here, and so does --precision fp32"
        ) from None


def _averaged(run: Run, settings: Settings, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """Return an average of the weights that follows them."""
    if settings["precision"] in {"O2", "O3", "bf16-true", "fp16-true"}:
        ema = average(model, settings["ema"])  # in float32, where small changes of half weights are not lost
        run.track(ema=ema)
        return ema
    averaged = AveragedModel(model, multi_avg_fn=_ema(settings["ema"]))
    run.track(ema=averaged)
    # After each real update: not inside an accumulation window, nor where fp16 skipped one.
    optimizer.register_step_post_hook(lambda *_: averaged.update_parameters(model))
    return averaged


def _ema(decay: float) -> Any:
    return get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call] # torch leaves it untyped


def _what_is_trained(settings: Settings, data: Data, parameters: int) -> str:
    train_samples = len(data.train)  # type: ignore[arg-type] # both of our data sets have a length
    return (
        f"{settings['model.name']}, {parameters:,} parameters, on {settings['data.name']}: "
        f"{train_samples:,} samples to train on, {len(data.validation):,} to validate, {len(data.test):,} to test"
    )


def _optimizer(settings: Settings, model: torch.nn.Module) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": settings["optimizer.lr"], "weight_decay": settings["optimizer.weight_decay"]}
    match settings["optimizer.name"]:
        case "sgd":
            return torch.optim.SGD(model.parameters(), momentum=settings["optimizer.momentum"], **common)
        case "adam":
            return torch.optim.Adam(model.parameters(), betas=tuple(settings["optimizer.betas"]), **common)
        case "adamw":
            return torch.optim.AdamW(model.parameters(), betas=tuple(settings["optimizer.betas"]), **common)
        case other:
            raise AssertionError(other)


def _scheduler(settings: Settings, optimizer: torch.optim.Optimizer, batches: int) -> Any:
    updates = -(-batches // settings["accumulate"])  # the last window of an epoch may be shorter
    total = updates * settings["epochs"]
    return schedule(
        optimizer,
        settings["schedule.name"],
        total=total,
        warmup=min(round(settings["schedule.warmup"] * updates), total // 2),
        floor=settings["schedule.floor"],
        every=settings["schedule.every"] * updates,
        gamma=settings["schedule.gamma"],
    )


def _log_epoch(run: Run, model: torch.nn.Module, validation: TensorDataset) -> None:
    val_loss, val_accuracy = _evaluate(run, model, validation)
    run.log(**means_of_epoch(run), val_loss=val_loss, val_accuracy=val_accuracy)


def _evaluate(run: Run, model: torch.nn.Module, part: TensorDataset) -> tuple[float, float]:
    """Return mean loss and accuracy."""
    device = next(model.parameters()).device
    loss_sum = right = 0.0
    with run.evaluating(model):
        for inputs, labels in batches_of(part, _EVALUATION_BATCH):
            scores = model(inputs.to(device))
            there = labels.to(device)
            loss_sum += float(cross_entropy(scores, there, reduction="sum"))
            right += float((scores.argmax(1) == there).sum())
    return loss_sum / len(part), right / len(part)


def _keep_settings(folder: str, settings: Settings, *, begun: bool) -> None:
    """Write the settings into the run's folder, or refuse those that the run there was not begun with."""
    path = os.path.join(folder, SETTINGS_FILE)
    if begun and os.path.exists(path):
        _check_same(folder, read_settings(path), settings)
    text = as_toml(settings).encode()
    with write_beside(path) as out:
        out.write(text)


def _check_same(folder: str, old: Settings, new: Settings) -> None:
    changed = {name: (old[name], new[name]) for name in new.values if old[name] != new[name]}
    rows = [f"`{name}` was {was!r} and is {now!r}" for name, (was, now) in changed.items() if name not in _MAY_CHANGE]
    if new["epochs"] < old["epochs"]:
        rows.append(f"`epochs` was {old['epochs']} and is {new['epochs']}; it can only grow")
    if dict(old.arguments) != dict(new.arguments):
        rows.append("`model.arguments` are others")
    if rows:
        raise ConfigError(
            f"{folder}: the run there was begun with other settings",
            why="\n          ".join(rows),
            do=f"give these settings a folder of their own: {elsewhere(folder)}",
        )
