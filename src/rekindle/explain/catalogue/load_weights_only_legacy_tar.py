"""A real tar archive of PyTorch 0.1, which weights_only=True does not read."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, danger_of, really, stem_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-03", "load-weights-only-legacy-tar", "0.2"
TITLE = "Cannot use weights_only=True with files saved in the legacy .tar format"
RAISES = ("RuntimeError",)
NEEDLES = ("legacy .tar format",)
PATTERNS = (r"Cannot use [`']*weights_only=True[`']* with files saved in the legacy \.tar format",)
OLD: tuple[str, ...] = ()
WHY = (
    "PyTorch 0.1 wrote checkpoints as tar archives (`sys_info`, `pickle`, `storages`, `tensors`). torch.load still reads"
    " them, but only by running the pickle inside. A name that ends in `.pth.tar` says nothing: most such files are"
    " ordinary checkpoints."
)
CHECK = "`rekindle inspect FILE` says `torch-tar` for such a file and lists its tensors."


def explain(event: Event) -> Iterator[Cause]:
    """Hands over to convert, which reads this container without running it."""
    file, stem = checkpoint_of(event), stem_of(event)
    yield Cause(
        CODE,
        NAME,
        what=f"{'the file' if file == 'FILE' else file} reads as a tar archive of PyTorch 0.1",
        why="torch.load reads this container only with weights_only=False, which runs code from the file; a"
        " file of zeros, left by a crash, reads as an empty archive too" + really(event),
        fix=(
            f"rekindle doctor {file}   # is it that, or a file of zeros",
            f"rekindle convert {file} {stem}.new.pth   # reads the old container and runs nothing",
            *(
                ()
                if danger_of(event)
                else ("torch.load(..., weights_only=False)   # runs code from the file: only if you know who made it",)
            ),
        ),
        likelihood="certain",
    )


_MAKE = """
import io, pickle, tarfile, torch

with tarfile.open("old.pth.tar", "w") as archive:
    for name in ("sys_info", "pickle", "storages", "tensors"):
        data = pickle.dumps(0)
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
"""
EXAMPLE = f"""{_MAKE}
torch.load("old.pth.tar")
"""
MENDED = """
import torch

torch.save({"weight": torch.zeros(2)}, "new.pth")
torch.load("new.pth")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
