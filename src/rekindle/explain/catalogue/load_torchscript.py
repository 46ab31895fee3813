"""The file is a TorchScript program, which `torch.load` refuses with weights_only=True."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, named, stem_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-36", "load-torchscript", "0.2"
TITLE = "Cannot use weights_only=True with TorchScript archives passed to torch.load"
RAISES = ("RuntimeError",)
NEEDLES = ("with TorchScript archives passed to", "received a zip file that looks like a TorchScript archive")
PATTERNS = (
    r"Cannot use [`']*weights_only=True[`']* with TorchScript archives",
    r"received a zip file that looks like a TorchScript archive",
)
OLD = (
    (
        "RuntimeError: Cannot use ``weights_only=True`` with TorchScript archives passed to ``torch.load``. Re-running"
        " `torch.load` with `weights_only` set to `False` will likely succeed."
    ),
)
WHY = (
    "`torch.jit.save` writes a program and its weights; it is a zip archive as a checkpoint is, with other things inside."
    " It has a reader of its own. `weights_only=False` makes `torch.load` pass the file on to that reader."
)
CHECK = "`rekindle inspect FILE` says `torchscript` and lists the weights."


def explain(event: Event) -> Iterator[Cause]:
    """The reader that fits, and the weights without the program."""
    file, stem = checkpoint_of(event), stem_of(event)
    shown = "path" if file == "FILE" else repr(named(event))
    yield Cause(
        CODE,
        NAME,
        what=f"{named(event)} is a TorchScript program, not a checkpoint",
        why="it was written by torch.jit.save; torch.load takes checkpoints of torch.save only",
        fix=(
            f'model = torch.jit.load({shown}, map_location="cpu")   # runs the program in the file: only if you trust it',
            f"rekindle convert {file} {stem}.weights.pth   # the weights alone; runs nothing of the file",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "net.pt")
torch.load("net.pt")
"""
MENDED = """
import torch
from torch import nn

torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "net.pt")
torch.jit.load("net.pt")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
