"""ImageFolder finds no class folder, or no image in one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from rekindle.explain.catalogue._folders import folder_said
from rekindle.explain.catalogue._modules import code_of, is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-21", "data-imagefolder-empty", "0.2"
TITLE = "FileNotFoundError: Couldn't find any class folder in data."
RAISES = ("FileNotFoundError", "RuntimeError")
NEEDLES = ("find any class folder in", "Found no valid file for the classes", "files in subfolders of")
PATTERNS = (
    r"Couldn't find any class folder in (?P<root>[^\n]{1,500}?)\.?$",
    r"Found no valid file for the classes (?P<classes>[^\n]{1,2000}?)\. Supported extensions are: (?P<suffixes>[^\n]{1,300})",
    r"Found 0 files in subfolders of: (?P<root>[^\n]{1,500})",
)
OLD = (
    "RuntimeError: Found 0 files in subfolders of: data\nSupported extensions are: .jpg,.jpeg,.png,.ppm,.bmp,.pgm,.tif,.tiff,webp",
)
WHY = (
    "`ImageFolder(root)` reads one folder per class under its root: `root/cat/1.jpg`, `root/dog/2.jpg`. The root is one"
    " level too high (it holds `train` and `val`) or too low (it is a class folder itself), or the files have suffixes that"
    " are not read."
)
CHECK = "`ls ROOT | head` shows folders named as the classes; `ls ROOT/CLASS | head` shows images."


def explain(event: Event) -> Iterator[Cause]:
    """The root as it was given; live, what lies there and which folder below would do."""
    root = event.facts.get("root", "").strip() or _root(event)
    classes = event.facts.get("classes", "").strip()
    seen = folder_said(root) if event.live and root else ""
    better = _better(root) if event.live and root and not classes else ""
    what = (
        f"there is no class folder in {root}"
        if not classes and root
        else f"there is no image of a known suffix in the {'class folders' if ',' in classes else 'class folder'} {classes[:100]}"
        if classes
        else "there is no class folder"
    )
    fix = [f'ImageFolder("{better}")   # that folder holds folders with files'] if better else []
    fix.append(
        f"ls {root or 'ROOT'} | head   # wanted is the folder whose folders are the classes: ROOT/cat/1.jpg, ROOT/dog/1.jpg"
    )
    if classes:
        fix = [
            f"ls {root or 'data'}/{classes.split(',')[0].strip()} | head   # which files are there, with which suffixes",
            "ImageFolder(root, allow_empty=True)   # if a class may be without images",
        ]
    yield Cause(
        CODE,
        NAME,
        what=what,
        why=f"ImageFolder reads ROOT/CLASS/FILE: one folder for each class{f'; {seen}' if seen else ''}",
        fix=tuple(fix),
        likelihood="certain",
    )


def _root(event: Event) -> str:
    found = event.live.find_plain("root", "directory", function="make_dataset") if event.live else None
    if isinstance(found, str):
        return found
    written = (
        re.search(r"ImageFolder\([^\"']{0,40}[\"']([^\"'\n]+)[\"']", code_of(event))
        if is_in(event, "torchvision/") or event.frames
        else None
    )
    return written[1] if written else ""


def _better(root: str) -> str:
    """Return a folder that looks as it should: one below a root that is too high, or above one that is a class itself."""
    for path in [os.path.join(root, name) for name in ("train", "training", "images")]:
        if os.path.isdir(path) and _holds(path, folders=True):
            return path
    inside = os.path.isdir(root) and _holds(root, folders=False) and not _holds(root, folders=True)
    return os.path.dirname(root.rstrip("/\\")) if inside else ""


def _holds(path: str, *, folders: bool) -> bool:
    with os.scandir(path) as entries:
        return any(entry.is_dir() is folders for entry in entries)


EXAMPLE = """
import os

from PIL import Image
from torchvision.datasets import ImageFolder

os.makedirs("data/cat")
Image.new("RGB", (4, 4)).save("data/cat/1.png")
ImageFolder("data/cat")
"""
MENDED = """
import os

from PIL import Image
from torchvision.datasets import ImageFolder

os.makedirs("data/cat")
Image.new("RGB", (4, 4)).save("data/cat/1.png")
ImageFolder("data")
"""
REQUIRES = ("torchvision",)
MESSAGE = "FileNotFoundError: Couldn't find any class folder in data/cat."
