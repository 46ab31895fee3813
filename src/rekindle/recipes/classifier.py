"""A fine-tuned classifier of pictures: what must be known beside its weights, the file it is exported to, and its use.

An exported file is an ordinary safetensors file: the state dict, and in its header, under ``rekindle``, a JSON text
with the architecture, the class names and how pictures are prepared. A run's snapshots hold the same in their state, so
a run can be used as it stands.

Law: nothing that a file names is imported or called. A network of rekindle's, timm's or torchvision's is found by its
name in a fixed list; one that a function of the user's makes needs that function to be named by the user again.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from rekindle.devices.move import device_named
from rekindle.errors import ConfigError
from rekindle.formats import open_path
from rekindle.load import build
from rekindle.opened import Opened
from rekindle.recipes.architectures import build_architecture, is_users_code
from rekindle.recipes.metrics import Metrics, metrics_of
from rekindle.recipes.networks import scores_in
from rekindle.recipes.picture_folders import PictureFile
from rekindle.recipes.pictures import Pictures, Preprocessing, open_picture, plain_picture, prepared
from rekindle.save import save
from rekindle.store.layout import is_run_folder, is_snapshot_folder, snapshot_path
from rekindle.strict import refuse_damaged
from rekindle.tree import Map, Value
from rekindle.tune.fit import fit

__all__ = [
    "STATE",
    "About",
    "Classifier",
    "Prediction",
    "about_of",
    "batches_of_files",
    "best_of",
    "count_answers",
    "export",
    "load_classifier",
    "measure",
]

# Where a run keeps it in `run.state`, and under which name it stands in a header.
STATE: Final = "finetune"
_HEADER: Final = "rekindle"
_VERSION: Final = 1
_BATCH: Final = 64

Picture: TypeAlias = "str | os.PathLike[str] | Image.Image"


@dataclass(frozen=True, slots=True)
class About:
    """What must be known of a classifier beside its weights.

    Attributes:
        arch: name of the network.
        arguments: keyword arguments of the user's own function.
        classes: names of the classes, in the order of the scores.
        preprocessing: how pictures become inputs.
        share: part of each class that was kept for validation, where the folder had no `val/`; 0 where it had.
        split: the number that this share followed from.
        pictures: digest of what it was trained with.
    """

    arch: str
    arguments: Mapping[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    share: float = 0.0
    split: int = 0
    pictures: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it for a file."""
        return {
            "version": _VERSION,
            "arch": self.arch,
            "arguments": dict(self.arguments),
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_json(),
            "share": self.share,
            "split": self.split,
            "pictures": self.pictures,
        }

    @classmethod
    def from_json(cls, found: object, source: str) -> About:
        """Return what a file says.

        Raises:
            ConfigError: it cannot be meant.
        """
        if not isinstance(found, Mapping) or found.get("version") != _VERSION:
            raise ConfigError(
                f"{source}: what it says of its classifier is of another version of rekindle",
                do="pip install --upgrade rekindle",
            )
        classes, arch, arguments = found.get("classes"), found.get("arch"), found.get("arguments")
        share, split = found.get("share"), found.get("split")
        names_hold = isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)
        if (
            not names_hold
            or not isinstance(classes, list)
            or len(set(classes)) != len(classes)
            or not isinstance(arch, str)
            or not isinstance(arguments, Mapping)
            or not isinstance(share, (int, float))
            or not 0 <= share < 1
            or not isinstance(split, int)
            or not 0 <= split < 2**63
        ):
            raise ConfigError(
                f"{source}: what it says of its classifier cannot be meant", do=f"rekindle inspect {source}"
            )
        return cls(
            arch,
            dict(arguments),
            tuple(classes),
            Preprocessing.from_json(found.get("preprocessing")),
            float(share),
            split,
            str(found.get("pictures", "")),
        )


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a picture is taken for.

    Attributes:
        name: of the class with the greatest score.
        probability: of it, 0 to 1.
        probabilities: of each class by name, greatest first.
    """

    name: str
    probability: float
    probabilities: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Classifier:
    """A network with what belongs to it. Made by `load_classifier`.

    Attributes:
        model: in eval mode, on `device`.
        about: architecture, class names, preprocessing.
        source: where the weights came from: a file or a snapshot.
        device: where the model is.
    """

    model: nn.Module
    about: About
    source: str
    device: torch.device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the scores."""
        return self.about.classes

    def input_of(self, picture: Picture) -> torch.Tensor:
        """Return a picture (a path, or an image of Pillow) as the network's input, (C, H, W) float32.

        Raises:
            BrokenPicture: it is no whole picture.
            OSError: it is missing or may not be read.
        """
        how = self.about.preprocessing
        if isinstance(picture, Image.Image):
            return prepared(plain_picture(picture, how.channels), how)
        return prepared(open_picture(os.fspath(picture), how.channels, at_least=2 * how.resize), how)

    def predict(self, pictures: Iterable[Picture]) -> list[Prediction]:
        """Return what each picture is taken for, in order.

        Raises:
            BrokenPicture: one is no whole picture.
            OSError: one is missing or may not be read.
        """
        found: list[Prediction] = []
        waiting: list[torch.Tensor] = []
        for picture in pictures:
            waiting.append(self.input_of(picture))
            if len(waiting) == _BATCH:
                found += self.answers(torch.stack(waiting))
                waiting.clear()
        return found + (self.answers(torch.stack(waiting)) if waiting else [])

    def answers(self, inputs_BCHW: torch.Tensor) -> list[Prediction]:
        """Return what each input is taken for."""
        with torch.no_grad():
            scores = scores_in(self.model(inputs_BCHW.to(self.device)))
        if scores is None:
            raise TypeError("the model gives no scores")
        found = []
        for row in scores.double().softmax(1).tolist():
            ranked = sorted(zip(self.classes, row, strict=True), key=lambda pair: -pair[1])
            found.append(Prediction(ranked[0][0], ranked[0][1], dict(ranked)))
        return found


def load_classifier(
    source: str | os.PathLike[str],
    *,
    arch: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    device: str | torch.device | None = "cpu",
) -> Classifier:
    """Load what ``rekindle finetune`` made, ready to use.

    Args:
        source: an exported ``model.safetensors``, a run (its best snapshot) or one snapshot.
        arch: the function that makes the network, ``package.module:factory``, where it is one of your own: a file's
            word alone never has code imported.
        arguments: keyword arguments of that function.
        device: ``"cpu"``, ``"cuda"``, ...; None or ``"auto"`` for a GPU where there is one.

    Returns:
        The classifier, in eval mode.

    Raises:
        ConfigError: it is no classifier of rekindle's, or its network is made by code that was not named.
        UserCodeFailed: that code raised.
        UnreadableFile: the file is damaged.
        StateMismatch: the weights are not those of the network.
        OSError: it is missing or may not be read.

    Example:
        classifier = rk.load_classifier("runs/hymenoptera")
        print(classifier.predict(["picture.jpg"])[0].name)
    """
    path = best_of(os.fspath(source))
    with open_path(path) as opened:
        refuse_damaged(opened)
        about = _about(opened, path)
        weights = build(_weights(opened))
    if not any(value.shape[:1] == (len(about.classes),) for value in weights.values()):
        raise ConfigError(
            f"{path}: it names {len(about.classes):,} classes, and no layer in it has as many outputs",
            why="names and weights are not of the same file",
            do=f"rekindle inspect {shlex.quote(path)}",
        )
    name = _arch_to_build(about, arch, arguments, path)
    built = build_architecture(name, len(about.classes), about.preprocessing, arguments)
    fit(built.model, weights, strict=True)
    place = device_named(device)
    return Classifier(built.model.to(place).eval(), about, path, place)


def about_of(source: str | os.PathLike[str]) -> About | None:
    """Return what a file or run says of its classifier, None where it is not one.

    Raises:
        RekindleError, OSError: it cannot be read.
    """
    path = os.fspath(source)
    with open_path(best_of(path)) as opened:
        found = _said(opened, path)
    return None if found is None else About.from_json(found, path)


def best_of(path: str) -> str:
    """Return the best snapshot of a run, the newest where none is the best; any other path as it is.

    Raises:
        RekindleError, OSError: it is a run that cannot be read.
    """
    if not os.path.isdir(path) or is_snapshot_folder(path) or not is_run_folder(path):
        return path
    with open_path(path) as opened:
        refuse_damaged(opened)
        best = _plain(_child(opened.tree, "run", "best"))
        newest = opened.facts.get("snapshot")
    if isinstance(best, dict) and isinstance(best.get("step"), int):
        there = snapshot_path(path, best["step"])
        if os.path.isdir(there):
            return there
    return os.path.join(path, "snapshots", str(newest))


def _said(opened: Opened, path: str) -> object:
    """Return the JSON value that a file or snapshot holds about its classifier, None where there is none."""
    metadata = opened.facts.get("metadata")
    if isinstance(metadata, Mapping) and isinstance(metadata.get(_HEADER), str):
        try:
            return json.loads(metadata[_HEADER])
        except (ValueError, RecursionError):
            raise ConfigError(
                f"{path}: what it says of its classifier is no JSON", do=f"rekindle inspect {shlex.quote(path)}"
            ) from None
    state = _plain(_child(opened.tree, "run", "state", STATE))
    return state.get("about") if isinstance(state, dict) else None


def _about(opened: Opened, path: str) -> About:
    found = _said(opened, path)
    if found is None:
        raise ConfigError(
            f"{path}: no classifier of pictures",
            why="nothing in it names classes and how pictures are prepared",
            do=f"rekindle finetune FOLDER --weights {shlex.quote(path)}    makes one of it",
        )
    return About.from_json(found, path)


def _weights(opened: Opened) -> Value:
    model = _child(opened.tree, "model")
    return model if isinstance(model, Map) else opened.tree


def _child(tree: Value, *names: str) -> Value:
    for name in names:
        if not isinstance(tree, Map):
            return None
        tree = next((value for key, value in tree.pairs if key == name), None)
    return tree


def _plain(node: Value) -> Any:
    return None if node is None else build(node)


def _arch_to_build(about: About, arch: str | None, arguments: Mapping[str, Any] | None, path: str) -> str:
    if arch is None and is_users_code(about.arch):
        again = f"--arch {shlex.quote(about.arch)}"
        if about.arguments:
            again += f" --arguments {shlex.quote(json.dumps(dict(about.arguments)))}"
        raise ConfigError(
            f"{path}: its network is made by code, `{about.arch}`",
            why="nothing that a file names is run unless you name it yourself",
            do=f"{again}    if that is code of yours",
        )
    if arch is None and arguments:
        raise ConfigError("--arguments is for a function of yours", do="name it: --arch package.module:factory")
    return about.arch if arch is None else arch


# ---- making one


def export(model: nn.Module, about: About, path: str) -> None:
    """Write a classifier as safetensors, with what is known of it in the header.

    Raises:
        CannotWrite: the model holds what safetensors cannot.
        OSError: the disk is full, ...; what was at `path` is untouched.
    """
    plain = {key: value.detach().cpu() for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    text = json.dumps(about.to_json(), ensure_ascii=False)
    save(plain, path, metadata={_HEADER: text})


def measure(
    model: nn.Module, batches: Iterable[Sequence[torch.Tensor]], classes: Sequence[str], device: torch.device
) -> Metrics:
    """Return how well a model in eval mode tells classes apart.

    Args:
        model: on `device`.
        batches: (inputs, labels), at least one picture in all.
        classes: names.
        device: where inputs are brought.
    """
    confusion, loss = count_answers(model, batches, len(classes), device)
    return metrics_of(confusion.tolist(), classes, float(loss) / int(confusion.sum()))


def count_answers(
    model: nn.Module, batches: Iterable[Sequence[torch.Tensor]], classes: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the confusion matrix, (K, K) int64, and the sum of the losses, float64; on the CPU."""
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    loss = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        for inputs, labels in batches:
            scores = scores_in(model(inputs.to(device)))
            if scores is None:
                raise TypeError("the model gives no scores")
            scores = scores.float().cpu()
            loss += cross_entropy(scores, labels.cpu(), reduction="sum").double()
            pairs = labels.cpu() * classes + scores.argmax(1)
            confusion += torch.bincount(pairs, minlength=classes * classes).view(classes, classes)
    return confusion, loss


def batches_of_files(files: Sequence[PictureFile], how: Preprocessing) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (inputs, labels) of pictures in order, without workers.

    Raises:
        BrokenPicture: one is no whole picture.
    """
    pictures = Pictures(files, how)
    for start in range(0, len(files), _BATCH):
        inputs, labels = zip(*(pictures[index] for index in range(start, min(start + _BATCH, len(files)))), strict=True)
        yield torch.stack(inputs), torch.tensor(labels)
