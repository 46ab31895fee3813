"""A worker imports the main script again, and the script starts workers at its top level."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._loaders import is_starting_twice, start_method
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-08", "data-freeze-support", "0.2"
TITLE = "RuntimeError: An attempt has been made to start a new process before the current process has finished its bootstrapping phase"
RAISES = ("RuntimeError",)
NEEDLES = ("finished its bootstrapping phase", "exited unexpectedly")
PATTERNS = (
    r"finished its bootstrapping phase",
    r"before the\s+current process has finished",
    r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) exited unexpectedly",
)
OLD: tuple[str, ...] = ()
WHY = (
    "Where workers are not forked (start method `spawn` on Windows and macOS, `forkserver` on Linux from Python 3.14 on)"
    " each of them imports the main script to find its classes. Whatever stands there at the top level runs again: also"
    " the line that starts workers, which is refused."
)
CHECK = '`multiprocessing.get_start_method()`; is there an `if __name__ == "__main__":` in the script?'


def explain(event: Event) -> Iterator[Cause]:
    """Also of the parent's `exited unexpectedly`, if the worker said it in front or the script shows it."""
    if not is_starting_twice(event):
        return
    how = start_method(event)
    yield Cause(
        CODE,
        NAME,
        what="the script starts workers at its top level, which every new worker runs again",
        why=f"processes that are not forked{f' ({how})' if how and how != 'fork' else ''} import the main script first",
        fix=(
            'if __name__ == "__main__":\n    main()   # with all that runs moved into def main()',
            "DataLoader(..., num_workers=0)   # works without, and slower",
        ),
        likelihood="certain",
    )


EXAMPLE = """
from torch.utils.data import DataLoader, Dataset

class Squares(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return index * index

next(iter(DataLoader(Squares(), batch_size=4, num_workers=1, multiprocessing_context="spawn")))
"""
MENDED = """
from torch.utils.data import DataLoader, Dataset

class Squares(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return index * index

def main():
    next(iter(DataLoader(Squares(), batch_size=4, num_workers=1, multiprocessing_context="spawn")))

if __name__ == "__main__":
    main()
"""
REQUIRES = ("process",)
MESSAGE = ""
