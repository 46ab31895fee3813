"""The loop behind `rekindle finetune`: a classifier from a folder of pictures, resumable like every run.

What comes out is a function of the pictures, the settings and the seed: not of the number of workers, nor of how often
the run was stopped. Everything is looked at before the first step (every picture is decoded once, the weights are
fitted, the network is tried), so that bad input is refused before anything is written. The settings, the class names
and a digest of the pictures are part of every snapshot, and a folder is only gone on with by what it was begun with.
"""

from __future__ import annotations

import copy
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, cast

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rekindle.errors import ConfigError, StateMismatch
from rekindle.load import load
from rekindle.recipes.architectures import Built, build_architecture
from rekindle.recipes.classifier import STATE, About, about_of, best_of, count_answers, export, measure
from rekindle.recipes.epoch import backward, count_batch, draw_run, means_of_epoch
from rekindle.recipes.folder import check_folder, elsewhere
from rekindle.recipes.metrics import Metrics, draw_confusion, metrics_of
from rekindle.recipes.networks import scores_in
from rekindle.recipes.picture_folders import PictureFolder, digest_of, find_pictures, names_in_words
from rekindle.recipes.pictures import (
    AUGMENTATIONS,
    LEAST_PIXELS,
    MOST_SIZE,
    Augmentation,
    Pictures,
    Preprocessing,
    check_pictures,
)
from rekindle.run.loader import Loader
from rekindle.run.loop import Run
from rekindle.run.randomness import key_of, preserved, seed_sample
from rekindle.run.schedules import schedule
from rekindle.run.start import choose_folder
from rekindle.store.layout import list_snapshots
from rekindle.tune.families import looks_like
from rekindle.tune.fit import fit
from rekindle.tune.freeze import Thaw, freeze
from rekindle.tune.groups import param_groups
from rekindle.tune.report import FitReport

__all__ = ["CONFUSION", "EXPORTED", "Plan", "Result", "finetune"]

EXPORTED: Final = "model.safetensors"
CONFUSION: Final = "confusion.png"
# A longer training goes on where the shorter one ended; the others change nothing in the result.
_MAY_CHANGE: Final = {"epochs", "workers", "out", "folder", "skip_broken", "save_every"}
_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """All settings of a fine-tuning.

    Attributes:
        folder: the pictures: `train/` and `val/`, or the classes themselves.
        out: the run's folder.
        arch: network; see `build_architecture`.
        arguments: keyword arguments of the user's own function.
        weights: file or run to begin with; None for random weights.
        partial: take weights that fit only in part.
        freeze: a layer's name to freeze up to and with it, or ``backbone`` for all but the head; None for nothing.
        thaw: epoch from which on what was frozen is trained too; None for never.
        epochs: passes over the training pictures.
        batch_size: pictures in a batch.
        lr: learning rate of the head after the warm-up.
        backbone_lr: of everything else; None for `lr`.
        optimizer: ``sgd`` (with momentum 0.9) or ``adamw``.
        weight_decay: of all but norms and biases.
        warmup: epochs of linear warm-up; a cosine follows.
        clip_norm: longest gradient; 0 for any.
        size: rows and columns that the network gets.
        grey: whether pictures become grey, one channel.
        augment: as of `augmented`.
        share: part of each class for validation, where there is no `val/`.
        split: number that this part follows from.
        best: metric whose best snapshot is exported: ``val_accuracy`` or ``val_loss``.
        patience: epochs without a better value after which it ends; 0 for never.
        seed: of everything random.
        workers: processes that open pictures.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        skip_broken: leave out files that are no whole picture, instead of refusing.
        save_every: as of `rk.Run`.
    """

    folder: str
    out: str
    arch: str = "resnet18"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    partial: bool = False
    freeze: str | None = None
    thaw: int | None = None
    epochs: int = 15
    batch_size: int = 32
    lr: float = 0.01
    backbone_lr: float | None = None
    optimizer: str = "sgd"
    weight_decay: float = 5e-4
    warmup: float = 1.0
    clip_norm: float = 1.0
    size: int = 160
    grey: bool = False
    augment: Augmentation = "standard"
    share: float = 0.2
    split: int = 0
    best: str = "val_accuracy"
    patience: int = 0
    seed: int = 0
    workers: int = 0
    precision: str = "fp32"
    skip_broken: bool = False
    save_every: str = "1 epoch"


@dataclass(frozen=True, slots=True)
class Result:
    """What a fine-tuning came to.

    Attributes:
        folder: the run's folder.
        classes: names of the classes.
        epochs: epochs that were done.
        steps: optimizer updates in all.
        best_step: updates done when the exported weights were reached.
        best_epoch: epochs done then.
        metrics: of the exported weights, on the validation pictures.
        train_pictures: pictures to train on.
        parameters: numbers in the model.
        trained_parameters: those that are not frozen at the end.
        left_out: files that are no whole picture.
        exported: the weights, with all that is needed to use them.
        confusion: the confusion matrix as a picture, None without matplotlib.
        curve: the learning curve, None without matplotlib.
        was_complete: whether there was nothing left to train.
    """

    folder: str
    classes: tuple[str, ...]
    epochs: int
    steps: int
    best_step: int
    best_epoch: int
    metrics: Metrics
    train_pictures: int
    parameters: int
    trained_parameters: int
    left_out: tuple[str, ...]
    exported: str
    confusion: str | None
    curve: str | None
    was_complete: bool

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        names = ("folder", "epochs", "steps", "best_step", "best_epoch", "train_pictures", "parameters")
        more = ("trained_parameters", "exported", "confusion", "curve", "was_complete")
        return {
            **{name: getattr(self, name) for name in (*names, *more)},
            "classes": list(self.classes),
            "left_out": list(self.left_out),
            "validation": self.metrics.to_json(),
        }


def finetune(
    plan: Plan,
    *,
    resume: Literal["auto", "never", "must"] = "auto",
    progress: bool | None = None,
    on_check: Callable[[int, int], object] | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Result:
    """Train to the end, from the beginning or from the newest good snapshot, and export the best weights.

    Args:
        plan: the settings.
        resume: as `rk.Run` takes it.
        progress: whether to show progress on stderr; None for: where it is a terminal.
        on_check: told (done, total) while the pictures are looked at.
        say: told what was found and left out, one text at a time.

    Raises:
        ConfigError: the pictures, the network, the weights and the settings do not fit each other, or the run there.
        StateMismatch: no tensor of the weights fits the network.
        UserCodeFailed: the user's own function raised.
        UnreadableFile: the weights cannot be read.
        RunError: the loss is no number any more, another process writes the run, ...
    """
    _check(plan)
    check_folder(plan.out)
    found = find_pictures(plan.folder, share=plan.share, split=plan.split)
    for note in found.notes:
        say(f"{plan.folder}: {note}")
    run_folder = choose_folder(plan.out, lambda _: None)
    is_begun = bool(list_snapshots(run_folder))
    left_out: tuple[str, ...] = ()
    if not is_begun:
        left_out = _look_at(found, plan, on_check, say)
    with preserved():
        seed_sample(key_of(plan.seed, "finetune"))  # the first weights, before there is a run
        built = build_architecture(plan.arch, len(found.classes), _preprocessing(plan), plan.arguments)
    for note in built.notes:
        say(note)
    if plan.weights is not None and not is_begun:
        say(_take_over(built, plan, found.classes))
    about = About(
        plan.arch,
        plan.arguments,
        found.classes,
        built.preprocessing,
        plan.share if found.is_shared else 0.0,
        plan.split,
        digest_of((*found.train, *found.validation)),
    )
    _frozen(built, plan)  # a wrong name is said before the run's folder is made
    run = Run(
        plan.out,
        seed=plan.seed,
        precision=plan.precision,
        save_every=plan.save_every,
        keep_last=2,
        keep_best="min:val_loss" if plan.best == "val_loss" else plan.best,
        resume=resume,
        progress=progress,
    )
    with run:
        if run.resumed_from is None:
            run.state[STATE] = {"about": about.to_json(), "settings": _settings(plan), "left_out": list(left_out)}
        else:
            left_out = _check_same(run, plan, about)
        return _train(run, plan, built, found, about, left_out, say)


def _train(
    run: Run,
    plan: Plan,
    built: Built,
    found: PictureFolder,
    about: About,
    left_out: tuple[str, ...],
    say: Callable[[str], object],
) -> Result:
    model = built.model
    without = set(left_out)
    train = [file for file in found.train if file.name not in without]
    validation = [file for file in found.validation if file.name not in without]
    batches = run.loader(
        Pictures(train, about.preprocessing, plan.augment),
        batch_size=plan.batch_size,
        num_workers=plan.workers,
        # One picture alone has no mean and deviation over the batch, which BatchNorm needs.
        drop_last=len(train) % plan.batch_size == 1 and len(train) > plan.batch_size,
    )
    held_out = run.loader(
        Pictures(validation, about.preprocessing), batch_size=plan.batch_size, shuffle=False, num_workers=plan.workers
    )
    frozen_keys = [key for key, parameter in model.named_parameters() if not parameter.requires_grad]
    thaw = Thaw(model, {plan.thaw: frozen_keys}) if plan.thaw is not None and frozen_keys else None
    if thaw is not None and run.world_size > 1:
        raise ConfigError("--thaw on several processes is not possible", do="leave --thaw out, or use one process")
    optimizer = _optimizer(plan, built)
    updates = len(batches)
    total = updates * plan.epochs
    rates = schedule(optimizer, "cosine", total=total, warmup=min(round(plan.warmup * updates), total // 2))
    prepared, optimizer, rates = run.prepare(model, optimizer, rates)
    if plan.patience:
        run.stop_when("min:val_loss" if plan.best == "val_loss" else plan.best, plan.patience)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    say(
        f"{plan.arch}, {parameters:,} parameters ({trained:,} trained), on {len(found.classes):,} classes: "
        f"{len(train):,} pictures to train on, {len(validation):,} to validate"
    )
    folder = os.fspath(run.folder)
    steps_before = run.steps_done
    # A complete run has nothing to walk; the command says so, and how to go on.
    is_complete = run.finished and run.epoch >= plan.epochs
    for epoch in () if is_complete else run.epochs(plan.epochs):
        if thaw is not None:
            thaw(epoch)
        prepared.train()
        for inputs, labels in run.batches(batches):
            with run.autocast():
                scores = cast("torch.Tensor", scores_in(prepared(inputs)))
                loss = cross_entropy(scores, labels)
            backward(run, loss, plan.lr)
            run.update(clip_norm=plan.clip_norm or None)
            count_batch(run, epoch, scores.detach(), labels, loss.detach())
            run.step()
        _log_epoch(run, model, held_out, len(found.classes))
    was_complete = run.steps_done == steps_before
    return _finish(run, folder, model, held_out, about, len(train), left_out, was_complete=was_complete)


def _log_epoch(run: Run, model: nn.Module, held_out: Loader, classes: int) -> None:
    """Evaluate, each process its share of the pictures, and log."""
    with run.evaluating(model):
        confusion, loss = count_answers(model, held_out.own_share(), classes, run.device)
    confusion, loss = run.reduce(confusion, "sum"), run.reduce(loss, "sum")
    count = int(confusion.sum())
    metrics = metrics_of(confusion.tolist(), [str(number) for number in range(classes)], float(loss) / count)
    run.log(**means_of_epoch(run), val_loss=metrics.loss, val_accuracy=metrics.accuracy, val_macro_f1=metrics.macro_f1)


def _finish(
    run: Run,
    folder: str,
    model: nn.Module,
    held_out: Loader,
    about: About,
    train_pictures: int,
    left_out: tuple[str, ...],
    *,
    was_complete: bool,
) -> Result:
    """Export the best weights, and measure them."""
    best = run.best
    best_step, best_epoch, chosen = run.steps_done, run.epoch, model
    if best is not None and best.path is not None:
        best_step = best.step
        if best.step != run.steps_done:
            saved = load(best.path)
            chosen = copy.deepcopy(model)
            chosen.load_state_dict(saved["model"])
            best_epoch = int(saved["run"]["place"]["epoch"])
    was_training = chosen.training
    chosen.eval()
    metrics = measure(chosen, held_out, about.classes, run.device)
    exported, confusion = os.path.join(folder, EXPORTED), os.path.join(folder, CONFUSION)
    drawn, curve = False, None
    if run.is_main:
        export(chosen, about, exported)
        drawn = draw_confusion(metrics, confusion, title=f"validation, {100 * metrics.accuracy:.1f} % right")
        curve = draw_run(folder)
    chosen.train(was_training)
    return Result(
        folder=folder,
        classes=about.classes,
        epochs=run.epoch,
        steps=run.steps_done,
        best_step=best_step,
        best_epoch=best_epoch,
        metrics=metrics,
        train_pictures=train_pictures,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained_parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        left_out=left_out,
        exported=exported,
        confusion=confusion if drawn else None,
        curve=curve,
        was_complete=was_complete,
    )


# ---- before the first step


def _check(plan: Plan) -> None:
    """Refuse numbers that cannot be meant, by the names of the command's options."""

    def refuse(option: str, value: object, wanted: str) -> None:
        raise ConfigError(f"{option} is {value!r}", why=f"wanted: {wanted}", do="rekindle finetune --help")

    for option, number, least in (
        ("--epochs", plan.epochs, 1),
        ("--batch-size", plan.batch_size, 1),
        ("--workers", plan.workers, 0),
        ("--seed", plan.seed, 0),
        ("--split", plan.split, 0),
        ("--patience", plan.patience, 0),
        ("--thaw", 1 if plan.thaw is None else plan.thaw, 1),
    ):
        if not least <= number < 2**63:
            refuse(option, number, f"a whole number of at least {least}")
    if not 0 < plan.lr < float("inf"):
        refuse("--lr", plan.lr, "a number above 0")
    for option, rate in (("--backbone-lr", plan.backbone_lr or 0.0), ("--weight-decay", plan.weight_decay)):
        if not 0 <= rate < float("inf"):
            refuse(option, rate, "a number of at least 0")
    if not 0 < plan.share < 1:
        refuse("--validation", plan.share, "a part, such as 0.2")
    if not LEAST_PIXELS <= plan.size <= MOST_SIZE:
        refuse("--size", plan.size, f"a number of pixels from {LEAST_PIXELS} to {MOST_SIZE}")
    if plan.augment not in AUGMENTATIONS:
        refuse("--augment", plan.augment, ", ".join(AUGMENTATIONS))
    if plan.optimizer not in {"sgd", "adamw"}:
        refuse("--optimizer", plan.optimizer, "sgd or adamw")
    if plan.best not in {"val_accuracy", "val_loss"}:
        refuse("--best", plan.best, "val_accuracy or val_loss")
    if plan.thaw is not None and plan.freeze is None:
        raise ConfigError("--thaw without --freeze", why="nothing is frozen", do="--freeze backbone --thaw 3")
    if plan.batch_size == 1:
        refuse("--batch-size", 1, "2 or more: BatchNorm learns from differences within a batch")


def _preprocessing(plan: Plan) -> Preprocessing:
    # The usual 256 to 224; of small pictures every pixel counts.
    resize = round(plan.size * 8 / 7) if plan.size >= 128 else plan.size
    if plan.grey:
        return Preprocessing(plan.size, resize, 1, (0.449,), (0.226,))  # the means of the three channels'
    return Preprocessing(plan.size, resize)


def _look_at(
    found: PictureFolder, plan: Plan, on_check: Callable[[int, int], object] | None, say: Callable[[str], object]
) -> tuple[str, ...]:
    """Decode every picture once; return the names of those to leave out.

    Raises:
        ConfigError: files are no whole pictures, and were not said to be left out; or too little is left.
    """
    files = (*found.train, *found.validation)
    checked = check_pictures(files, on_check)
    places = {file.path: file for file in files}
    rows = [f"{places[each.path].name}: {each.reason}" for each in checked.broken]
    shown = rows[:_SHOWN] + ([f"and {len(rows) - _SHOWN:,} more"] if len(rows) > _SHOWN else [])
    if rows and not plan.skip_broken:
        raise ConfigError(
            f"{plan.folder}: {len(rows):,} of {len(files):,} files are no whole pictures",
            why="\n          ".join(shown),
            do="mend or remove them; --skip-broken leaves them out",
        )
    if rows:
        say("\n  ".join([f"{plan.folder}: {len(rows):,} of {len(files):,} files left out", *shown]))
    left_out = {places[each.path].name for each in checked.broken}
    for number, name in enumerate(found.classes):
        if not any(file.label == number and file.name not in left_out for file in found.train):
            raise ConfigError(
                f"{plan.folder}: no whole picture of {name!r} is left to train on",
                why="\n          ".join(shown),
                do="add pictures of it, or remove the folder",
            )
    if not any(file.name not in left_out for file in found.validation):
        raise ConfigError(f"{plan.folder}: no whole picture is left to validate with", do="add pictures to val/")
    on_both = _on_both_sides(found, checked.twice)
    if on_both:
        say(
            f"{plan.folder}: {len(on_both):,} {'picture is' if len(on_both) == 1 else 'pictures are'} both trained on "
            f"and validated with, so that the accuracy will flatter: {names_in_words(on_both)}"
        )
    return tuple(sorted(left_out))


def _on_both_sides(found: PictureFolder, twice: tuple[tuple[str, ...], ...]) -> list[str]:
    trained = {file.name for file in found.train}
    held_out = {file.name for file in found.validation}
    return [name for same in twice if trained.intersection(same) for name in same if name in held_out]


def _take_over(built: Built, plan: Plan, classes: tuple[str, ...]) -> str:
    """Load the weights but for the head; where both name their classes, with the head's rows of those that both have.

    Raises:
        ConfigError: they fit only in part, and that was not asked for.
        StateMismatch: nothing fits.
    """
    source = best_of(cast("str", plan.weights))
    theirs = _classes_of(source)
    settings: dict[str, Any] = {"adapt_channels": True}
    if theirs is not None and len(theirs) != len(classes) and set(theirs) & set(classes):
        settings["classes"] = (classes, theirs)
    elif built.head and theirs != classes:
        settings["leave"] = built.head
    try:
        report = fit(built.model, source, dry_run=True, **settings)
    except StateMismatch as error:
        raise StateMismatch(error.what, why=error.why, do=_other_arch(error.why)) from None
    head = f"{built.head}."
    lacking = [row for row in report.of("missing", "other-shape") if not row.key.startswith(head)]
    lacking = [row for row in lacking if not row.key.endswith("num_batches_tracked")]  # files of before torch 0.4.1
    # A head under another name is what is expected to be left over; a part of a network is not.
    surplus = [row for row in report.unexpected if len(row.shape) > 2]
    if (lacking or surplus) and not plan.partial:
        raise _fits_in_part(report, plan, len(lacking), len(surplus))
    return str(fit(built.model, source, **settings))


def _classes_of(source: str) -> tuple[str, ...] | None:
    try:
        about = about_of(source)
    except ConfigError:  # what it says cannot be meant; the weights may do all the same
        return None
    return None if about is None else about.classes


def _fits_in_part(report: FitReport, plan: Plan, lacking: int, surplus: int) -> ConfigError:
    shapes = {row.key: row.shape for row in report.unexpected}
    for row in report.rows:
        if row.sources and row.source_shape is not None:
            shapes[row.sources[0]] = row.source_shape
    family = looks_like(shapes)
    words = (
        f"{plan.arch} has {lacking:,} tensors that it lacks, and it has {surplus:,} that {plan.arch} has no place for"
    )
    if family:
        words = f"the weights look like {family}; {words}"
    return ConfigError(
        f"{plan.weights}: weights of another network than {plan.arch}",
        why=words,
        do=f"{_other_arch(family)}; --partial takes what fits",
    )


def _other_arch(words: str) -> str:
    """Return what to type for the network that weights look like."""
    found = {"ResNet-18": "resnet18", "ResNet-34": "resnet34", "ResNet-50": "resnet50", "LeNet": "lenet"}
    there = words.partition("the model like")[0]
    for family, arch in found.items():
        if family in there:
            return f"--arch {arch}"
    return "--arch with the network that the weights are of"


def _frozen(built: Built, plan: Plan) -> None:
    if plan.freeze is None:
        return
    if plan.freeze == "backbone":
        if not built.head:
            raise ConfigError(f"{plan.arch}: no head was found in the model", do="--freeze LAYER")
        freeze(built.model, but=built.head)
    else:
        freeze(built.model, until=plan.freeze)
    if not any(parameter.requires_grad for parameter in built.model.parameters()):
        raise ConfigError(
            f"--freeze {plan.freeze} leaves nothing to train",
            why=f"{plan.freeze} is the last layer of {plan.arch}",
            do="--freeze backbone trains the head alone",
        )


def _optimizer(plan: Plan, built: Built) -> torch.optim.Optimizer:
    groups = param_groups(built.model, plan.lr, backbone_lr=plan.backbone_lr, weight_decay=plan.weight_decay)
    if plan.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=plan.lr)
    return torch.optim.SGD(groups, lr=plan.lr, momentum=0.9)


# ---- a run that is gone on with


def _settings(plan: Plan) -> dict[str, Any]:
    return {name: value for name, value in asdict(plan).items() if name not in _MAY_CHANGE} | {"epochs": plan.epochs}


def _check_same(run: Run, plan: Plan, about: About) -> tuple[str, ...]:
    """Refuse to go on with other settings or pictures; return what was left out when it began."""
    folder = os.fspath(run.folder)
    known = run.state.get(STATE)
    if not isinstance(known, dict) or not {"about", "settings", "left_out"} <= set(known):
        raise ConfigError(
            f"{folder}: the run there is none of rekindle finetune",
            why="its snapshots say nothing of pictures and classes",
            do=f"choose another folder: {elsewhere(folder)}",
        )
    old, new = known["settings"], _settings(plan)
    rows = [
        f"`{name}` was {old.get(name)!r} and is {value!r}"
        for name, value in new.items()
        if name != "epochs" and old.get(name) != value
    ]
    if new["epochs"] < old["epochs"]:
        rows.append(f"`epochs` was {old['epochs']} and is {new['epochs']}; it can only grow")
    was = known["about"]
    if was["classes"] != list(about.classes):
        rows.append(f"the classes were {names_in_words(was['classes'])} and are {names_in_words(about.classes)}")
    elif was["pictures"] != about.pictures:
        rows.append("pictures were added, removed or changed since")
    if rows:
        raise ConfigError(
            f"{folder}: the run there was begun with other settings"
            if rows[0].startswith("`")
            else f"{folder}: the run there was begun with other pictures",
            why="\n          ".join(rows),
            do=f"a folder of its own: {elsewhere(folder)}; --weights {shlex.quote(folder)} begins with what was learnt",
        )
    known["settings"] = new
    return tuple(known["left_out"])
