"""The data set is empty."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._folders import data_paths, folder_said
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-01", "data-num-samples-0", "0.2"
TITLE = "ValueError: num_samples should be a positive integer value, but got num_samples=0"
RAISES = ("ValueError",)
NEEDLES = ("num_samples should be a positive inte",)
PATTERNS = (r"num_samples should be a positive inte\w{3,9} value, but got num_samples=(?P<count>0|-\d+)\b",)
OLD = (
    "ValueError: num_samples should be a positive interger value, but got num_samples=0",
    "ValueError: num_samples should be a positive integeral value, but got num_samples=0",
)
WHY = (
    "`shuffle=True` draws from `len(dataset)` samples, and there are none: the path or the pattern finds no file, every"
    " sample was filtered out, or `__len__` returns 0. Without `shuffle=True` the same data set raises nothing: the loop"
    " over the loader simply never runs."
)
CHECK = "`len(dataset)`; the paths that it was made from, and `ls` of them."


def explain(event: Event) -> Iterator[Cause]:
    """The class of the data set, and live what lies at the paths that the user's frames hold."""
    kind = _kind(event)
    seen = [folder_said(path) for path in data_paths(event)]
    yield Cause(
        CODE,
        NAME,
        what=f"the data set{f' ({kind})' if kind else ''} has no samples",
        why="no file was found or every sample was filtered out"
        + (f": {'; '.join(seen)}" if seen else "")
        + "; without shuffle=True there is no error, only no batch",
        fix=(
            "print(len(dataset))   # in front of the loader; then correct the path, the pattern or __len__",
            f"ls {_shown(event)} | head   # is it there, and do the suffixes fit",
        ),
        likelihood="certain",
    )


def _shown(event: Event) -> str:
    paths = data_paths(event)
    return paths[0] if paths else "DATA"


def _kind(event: Event) -> str:
    for frame in event.live.frames if event.live else ():
        for name in ("data_source", "dataset"):
            if name in frame.kinds and not frame.frame.is_users:
                return frame.kinds[name]
    return ""


EXAMPLE = """
import glob

import torch
from torch.utils.data import DataLoader, Dataset

class Volumes(Dataset):
    def __init__(self, folder):
        self.files = glob.glob(f"{folder}/*.npy")

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return torch.zeros(3)

data_dir = "data/volumes"
DataLoader(Volumes(data_dir), batch_size=4, shuffle=True)
"""
MENDED = """
import glob
import os

import torch
from torch.utils.data import DataLoader, Dataset

class Volumes(Dataset):
    def __init__(self, folder):
        self.files = glob.glob(f"{folder}/*.npy")

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return torch.zeros(3)

data_dir = "data/volumes"
os.makedirs(data_dir)
open(f"{data_dir}/first.npy", "wb").close()
DataLoader(Volumes(data_dir), batch_size=4, shuffle=True)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
