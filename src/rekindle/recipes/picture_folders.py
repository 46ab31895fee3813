"""Which pictures are in a folder, of which classes, and which of them are for training. Needs neither torch nor Pillow.

A class is a folder, and its name is the folder's; a picture is a file in it, however deep, whose suffix is one of
`SUFFIXES`. Either the folder has `train/` and `val/`, or it holds the classes itself and a share of each class is kept
for validation. Which pictures those are follows from their own names and the number of the split, so that a picture
added later moves no other one from one side to the other.

Law: what is left out is said; nothing is opened here.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rekindle.errors import ConfigError
from rekindle.keys import near_names

__all__ = [
    "SUFFIXES",
    "PictureFile",
    "PictureFolder",
    "digest_of",
    "find_labelled",
    "find_pictures",
    "listed_pictures",
    "names_in_words",
]

SUFFIXES: Final = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif")
)
_TRAIN: Final = ("train", "training")
_VALIDATION: Final = ("val", "valid", "validation", "test")
_LAYOUT = "one folder for each class with its pictures in it, or train/ and val/ with such folders"


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture, not opened yet.

    Attributes:
        path: where it lies.
        name: its path within the folder that was given, with ``/``.
        label: number of its class; -1 where that is not known.
    """

    path: str
    name: str
    label: int = -1


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """What was found in a folder of pictures.

    Attributes:
        folder: as it was given.
        classes: names of the classes in order; a label is a place in it.
        train, validation: the pictures, by class and then by name.
        notes: what was left out or is worth knowing.
        is_shared: whether `validation` is a share of pictures that lie together.
    """

    folder: str
    classes: tuple[str, ...]
    train: tuple[PictureFile, ...]
    validation: tuple[PictureFile, ...]
    notes: tuple[str, ...]
    is_shared: bool = False


def find_pictures(folder: str, *, share: float = 0.2, split: int = 0) -> PictureFolder:
    """Return the classes and pictures of a folder to train on.

    Args:
        folder: with `train/` and `val/`, or with the classes themselves.
        share: where there is no `val/`: the part of each class that is kept for validation, at least one picture.
        split: number that the choice follows from.

    Raises:
        ConfigError: there are no pictures, fewer than two classes, a class without pictures, or classes in `val/` that
            `train/` does not have.
        OSError: the folder cannot be read.
    """
    notes: list[str] = []
    _check_is_folder(folder)
    train_folder, val_folder = _part_folder(folder, _TRAIN), _part_folder(folder, _VALIDATION)
    if val_folder is not None and train_folder is None:
        raise ConfigError(
            f"{folder}: there is {os.path.basename(val_folder)}/, and no train/ beside it",
            why=f"wanted: {_LAYOUT}",
            do=f"ls {shlex.quote(folder)}",
        )
    root = train_folder or folder
    classes = _classes_in(root)
    _check_classes(folder, root, classes)
    numbers = {name: number for number, name in enumerate(classes)}
    found = [_pictures_in(folder, os.path.join(root, name), numbers[name], notes) for name in classes]
    empty = [name for name, pictures in zip(classes, found, strict=True) if not pictures]
    if empty:
        raise ConfigError(
            f"{root}: no pictures of {names_in_words(empty)}",
            why=f"a class is a folder with pictures in it: {', '.join(sorted(SUFFIXES))}",
            do=f"put pictures there, or remove the folder: rmdir {shlex.quote(os.path.join(root, empty[0]))}",
        )
    _note_loose(root, notes)
    if val_folder is not None:
        validation = _validation_in(folder, val_folder, root, classes, notes)
        train = [picture for pictures in found for picture in pictures]
    else:
        train, validation = [], []
        for name, pictures in zip(classes, found, strict=True):
            if len(pictures) < 2:
                raise ConfigError(
                    f"{root}: one picture of {name!r}",
                    why="one to learn from and one to validate with is the least",
                    do="add pictures of it, or leave the class out",
                )
            kept = _kept_for_validation(pictures, share, split)
            train += [picture for picture in pictures if picture.name not in kept]
            validation += [picture for picture in pictures if picture.name in kept]
        notes.append(f"no val/: {len(validation):,} of {len(train) + len(validation):,} pictures are for validation")
    return PictureFolder(folder, classes, tuple(train), tuple(validation), tuple(notes), val_folder is None)


def find_labelled(
    folder: str, classes: Sequence[str], *, part: str = "auto", share: float = 0.2, split: int = 0
) -> PictureFolder:
    """Return pictures to evaluate with, as `validation`, labelled by the classes of a model.

    Args:
        folder: with the classes, or with `train/` and `val/`.
        classes: names of the model's classes.
        part: ``auto`` for `val/` where it is there and everything otherwise; ``val``, ``train`` or ``all``.
        share: as of `find_pictures`, for ``val`` and ``train`` where the folder holds the classes themselves.
        split: as well.

    Raises:
        ConfigError: there are no pictures, or a folder is no class of the model's; the nearest is given.
        OSError: the folder cannot be read.
    """
    notes: list[str] = []
    _check_is_folder(folder)
    train_folder, val_folder = _part_folder(folder, _TRAIN), _part_folder(folder, _VALIDATION)
    roots = [folder] if train_folder is None and val_folder is None else []
    roots += [root for root in (train_folder,) if root and (part in {"train", "all"} or not val_folder)]
    roots += [root for root in (val_folder,) if root and part != "train"]
    is_shared = val_folder is None and part in {"train", "val"}
    pictures: list[PictureFile] = []
    for root in roots:
        names = _classes_in(root)
        _check_known(root, names, classes)
        for name in names:
            own = _pictures_in(folder, os.path.join(root, name), list(classes).index(name), notes)
            if is_shared and own:
                kept = _kept_for_validation(own, share, split)
                own = [picture for picture in own if (picture.name in kept) == (part == "val")]
            pictures += own
        _note_loose(root, notes)
    if not pictures:
        where = ", ".join(roots) or folder
        raise ConfigError(f"{where}: no pictures of a class", why=f"wanted: {_LAYOUT}", do=f"ls {shlex.quote(folder)}")
    seen = {picture.label for picture in pictures}
    absent = [name for number, name in enumerate(classes) if number not in seen]
    if absent:
        notes.append(f"no pictures of {names_in_words(absent)}: nothing is known about these classes")
    return PictureFolder(folder, tuple(classes), (), tuple(pictures), tuple(notes))


def listed_pictures(paths: Iterable[str]) -> list[PictureFile]:
    """Return the pictures at these paths: files as they are, and of folders everything in them that is a picture.

    Raises:
        ConfigError: a folder without pictures.
        OSError: a path that is not there.
    """
    found: list[PictureFile] = []
    for path in paths:
        if os.path.isdir(path):
            inside = _pictures_in(path, path, -1, [])
            if not inside:
                raise ConfigError(f"{path}: no pictures in this folder", why=f"by suffix: {' '.join(sorted(SUFFIXES))}")
            found += inside
        else:
            os.stat(path)
            found.append(PictureFile(path, path))
    return found


def digest_of(pictures: Iterable[PictureFile]) -> str:
    """Return a digest of the pictures' names, labels and sizes, in order.

    Raises:
        OSError: one is not there any more.
    """
    digest = hashlib.sha256()
    for picture in pictures:
        size = os.stat(picture.path).st_size
        digest.update(os.fsencode(f"{picture.name}\0{picture.label}\0{size}\0"))
    return digest.hexdigest()


def names_in_words(names: Sequence[str]) -> str:
    """Return names for people: at most five of them."""
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _check_is_folder(folder: str) -> None:
    with os.scandir(folder):  # says in the system's words what is wrong with the path
        pass


def _part_folder(folder: str, names: Sequence[str]) -> str | None:
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            return path
    return None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _classes_in(root: str) -> tuple[str, ...]:
    with os.scandir(root) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not _is_hidden(entry.name)))


def _pictures_in(folder: str, root: str, label: int, notes: list[str]) -> list[PictureFile]:
    found: list[PictureFile] = []
    others: list[str] = []
    for here, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in sorted(files):
            path = os.path.join(here, name)
            inner = os.path.relpath(path, folder).replace(os.sep, "/")
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                found.append(PictureFile(path, inner, label))
            elif not _is_hidden(name) and name not in {"Thumbs.db", "desktop.ini"}:
                others.append(inner)
    if others:
        notes.append(f"left out, as no picture has their suffix: {names_in_words(others)}")
    return found


def _note_loose(root: str, notes: list[str]) -> None:
    with os.scandir(root) as entries:
        loose = sorted(entry.name for entry in entries if os.path.splitext(entry.name)[1].lower() in SUFFIXES)
    if loose:
        notes.append(f"left out, as they are in no class: {names_in_words(loose)} in {root}")


def _check_classes(folder: str, root: str, classes: Sequence[str]) -> None:
    if len(classes) > 1:
        return
    if classes:
        what, why = f"{root}: one class only, {classes[0]!r}", "there is nothing to tell apart"
        do = "add a folder with pictures of something else"
    else:
        what, why, do = f"{root}: no folders of classes", f"wanted: {_LAYOUT}", f"ls {shlex.quote(folder)}"
    raise ConfigError(what, why=why, do=do)


def _check_known(root: str, names: Sequence[str], classes: Sequence[str]) -> None:
    unknown = [name for name in names if name not in classes]
    if not unknown:
        return
    near = near_names(unknown[0], classes)
    raise ConfigError(
        f"{root}: {names_in_words(unknown)} {'is' if len(unknown) == 1 else 'are'} not among the known classes",
        why=f"nearest to {unknown[0]!r}: {', '.join(near)}" if near else f"there are: {names_in_words(classes)}",
        do="rename the folder, or move it away",
    )


def _validation_in(
    folder: str, val_folder: str, train_folder: str, classes: Sequence[str], notes: list[str]
) -> list[PictureFile]:
    names = _classes_in(val_folder)
    _check_known(val_folder, names, classes)
    found: list[PictureFile] = []
    for name in names:
        found += _pictures_in(folder, os.path.join(val_folder, name), list(classes).index(name), notes)
    if not found:
        raise ConfigError(
            f"{val_folder}: no pictures to validate with",
            why="the best weights are chosen by them",
            do=f"put pictures of the classes there, or remove it: a share of {train_folder} is used then",
        )
    _note_loose(val_folder, notes)
    seen = {picture.label for picture in found}
    absent = [name for number, name in enumerate(classes) if number not in seen]
    if absent:
        notes.append(f"{val_folder}: no pictures of {names_in_words(absent)}; how well they are told is not measured")
    return found


def _kept_for_validation(pictures: Sequence[PictureFile], share: float, split: int) -> set[str]:
    """Return the names of the pictures of one class that are kept for validation: those with the smallest hashes."""

    def place(picture: PictureFile) -> bytes:
        # Without train/: the share is the same whether the classes lie there or in the folder itself.
        own = picture.name.partition("/")[2] if picture.name.partition("/")[0] in _TRAIN else picture.name
        return hashlib.blake2b(os.fsencode(own), key=split.to_bytes(8, "little"), digest_size=16).digest()

    count = min(max(1, round(len(pictures) * share)), len(pictures) - 1)
    return {picture.name for picture in sorted(pictures, key=place)[:count]}
