"""A good file that `torch.load` is the wrong function for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rekindle.checks._case import Case
from rekindle.finding import Finding, Severity

CODE, NAME, SINCE = "RK-FILE-86", "other-loader", "0.1"
WHY = "torch.load is for files of torch.save: it {answer}"
DO = "{do}"

# format -> severity, what it is, what torch.load does, what opens it (empty: a conversion).
_LOADERS = {
    "torchscript": (
        Severity.NOTE,
        "a TorchScript archive",
        "stops at `Cannot use weights_only=True with TorchScript archives`",
        'torch.jit.load({path!r}, map_location="cpu")',
    ),
    "torch-export": (
        Severity.NOTE,
        "a torch.export archive",
        "cannot read this one",
        "torch.export.load({path!r})",
    ),
    "torch-package": (
        Severity.NOTE,
        "a torch.package archive",
        "cannot read this one",
        "torch.package.PackageImporter({path!r})",
    ),
    "torch-tar": (
        Severity.WARNING,
        "a checkpoint of PyTorch 0.1",
        "stops at `Cannot use weights_only=True with files saved in the legacy .tar format`",
        "",
    ),
    "pickle": (
        Severity.WARNING,
        "a bare pickle, not written by torch.save",
        "stops at `Invalid magic number; corrupt file?`",
        "",
    ),
}


def check(case: Case) -> Iterator[Finding]:
    """Name the function that opens the container."""
    known = _LOADERS.get(case.opened.format)
    if known is None or not case.opened.listed:
        return
    severity, what, answer, do = known
    if not do:
        do = f"rekindle convert {case.path} {shlex.quote(case.stem)}.converted.pth"
    yield Finding(
        CODE,
        NAME,
        severity,
        what,
        why=WHY.format(answer=answer),
        do=DO.format(do=do.format(path=case.opened.path)) if known[3] else do,
    )
