"""A given version of torch cannot read the file (asked for with `--for torch==VERSION`).

Facts: PyTorch release notes 0.4 to 2.6; `caffe2/serialize/inline_container.cc` 1.4 (its newest readable archive is
version 2), `torch/serialization.py` 1.1 to 2.13, `torch/_utils.py` for the years of the rebuild functions.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rekindle.checks._case import Case, listed
from rekindle.finding import Finding, Severity
from rekindle.writers.torch_stream import needs_newer_torch

CODE, NAME, SINCE = "RK-FILE-78", "unreadable-by-torch", "0.1"
WHY = "a torch reads what it and older ones wrote; {why}"
DO = "rekindle convert {path} {stem}.torch{version}.pth --to torch-stream"

_ZIP_SINCE = (1, 6)
# First torch with a function of this name, for files of any container.
_NAMES_SINCE = {
    "torch._utils._rebuild_parameter_with_state": (2, 0),
    "torch._tensor._rebuild_from_type_v2": (1, 12),
    "torch._utils._rebuild_tensor_v3": (2, 1),
    "torch.storage.UntypedStorage": (2, 0),
    "torch.nested._internal.nested_tensor._rebuild_njt": (2, 1),
}


def check(case: Case) -> Iterator[Finding]:
    """Say what the version that was asked about would say, and what helps."""
    wanted, opened = case.torch, case.opened
    if wanted is None or not opened.listed:
        return
    version = ".".join(map(str, wanted))
    stream = DO.format(path=case.path, stem=shlex.quote(case.stem), version=version)
    types = {name: since for name, since in needs_newer_torch(opened.tree).items() if _version(since) > wanted}
    names = {path: since for path, since in _NAMES_SINCE.items() if path in _named(case) and since > wanted}
    if opened.format == "torch-zip" and wanted < _ZIP_SINCE:
        yield _finding(
            f"torch {version} cannot read this container: it stops at `{_words_about_zip(wanted, opened.path)}`",
            "this is a zip archive of the kind that torch.save writes since 1.6",
            stream if not types else "",
        )
    elif names and not types:
        path, since = max(names.items(), key=lambda item: item[1])
        yield _finding(
            f"torch {version} has no {path}; it came with {since[0]}.{since[1]}",
            "a newer one wrote this, and its tensors are put together by functions that the older one lacks",
            stream,
        )
    if types:
        yield _finding(
            f"torch {version} does not know "
            + listed([f"{name} (since {since})" for name, since in sorted(types.items())]),
            "these types and layouts came later than that version",
            "convert the tensors to a type that it knows before saving, or use a newer torch",
        )
    if opened.format == "torch-tar" and wanted >= (2, 6):
        yield _finding(
            f"torch {version} refuses a file in the tar format unless it is told weights_only=False",
            "what torch wrote before 0.1.10 cannot be read without running the pickle in it",
            f"rekindle convert {case.path} {shlex.quote(case.stem)}.converted.pth",
            newer=False,
        )


def _finding(what: str, why: str, do: str, *, newer: bool = True) -> Finding:
    return Finding(CODE, NAME, Severity.ERROR, what, WHY.format(why=why) if newer else why, do)


def _words_about_zip(wanted: tuple[int, ...], path: str) -> str:
    if wanted >= (1, 4):
        return "Attempted to read a PyTorch file with version 3, but the maximum supported version for reading is 2"
    if wanted >= (1, 1):
        return f"{path} is a zip archive (did you mean to use torch.jit.load()?)"
    return "invalid load key, 'P'"


def _named(case: Case) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for module, name in case.verdict.named) if case.verdict else frozenset()


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
