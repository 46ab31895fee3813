"""The workers of a loader gave no batch in time."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-30", "data-loader-timeout", "0.2"
TITLE = "RuntimeError: DataLoader timed out after 30 seconds"
RAISES = ("RuntimeError",)
NEEDLES = ("DataLoader timed out after",)
PATTERNS = (r"DataLoader timed out after (?P<seconds>[\d.]+) seconds",)
OLD: tuple[str, ...] = ()
WHY = (
    "With `timeout=` the loader waits that long for one batch. The workers are slow (large files on a network disk, too many processes for the"
    " processors), or stuck: a lock that was held when they were forked (OpenCV, OpenMP, a database, a logger), or shared memory that is full."
)
CHECK = "`num_workers=0` and the time of one batch; `py-spy dump --pid WORKER` shows where a worker stands."


def explain(event: Event) -> Iterator[Cause]:
    """Slow or stuck: what tells them apart."""
    seconds = event.facts["seconds"]
    yield Cause(
        CODE,
        NAME,
        what=f"the workers of a loader gave no batch in {seconds} s",
        why="they are slower than that, or stuck on a lock that was copied when they were forked",
        fix=(
            "next(iter(DataLoader(data, batch_size=n, num_workers=0)))   # time it: is one batch that slow?",
            f"DataLoader(..., timeout={int(float(seconds)) * 10})   # if it is only slow, such as the first batch of a network disk",
            'DataLoader(..., multiprocessing_context="spawn")   # if it is stuck: nothing is copied',
            "cv2.setNumThreads(0)   # in front, where the samples are made with OpenCV",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import time
from torch.utils.data import DataLoader, Dataset

class Slow(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        time.sleep(0.8)
        return index

if __name__ == "__main__":
    for batch in DataLoader(Slow(), num_workers=1, timeout=0.3):
        pass
"""
MENDED = """
from torch.utils.data import DataLoader

for batch in DataLoader([0, 1], num_workers=0):
    pass
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
