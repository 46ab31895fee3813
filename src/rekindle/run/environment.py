"""What surrounds a run and decides its bits: versions, threads, kernels.

The same code, data and seed give other bits on another version of torch, another number of threads or another kind of
processor. So these are recorded in every snapshot and compared on resume; each difference is said in plain words. Of
the code the git commit is recorded, and a digest of the script itself, which may have changed without a commit.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

import torch

import rekindle

__all__ = ["adopt_threads", "describe", "differences"]

_WORDS = {
    "torch": "torch",
    "python": "Python",
    "numpy": "NumPy",
    "cpu_capability": "the processor's vector instructions",
    "machine": "the processor's family",
    "threads": "the number of threads",
    "devices": "the devices",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "matmul_precision": "the precision of float32 products",
    "deterministic": "deterministic algorithms",
    "cudnn_benchmark": "cudnn.benchmark",
    "default_dtype": "the default dtype",
    "git": "the git commit of the code",
}
# These change what is computed on the way, not the meaning of a resume: worth no word.
_SILENT = {"rekindle", "platform", "hostname"}
_SCRIPT_LIMIT_BYTES = 16 * 1024**2


def describe() -> dict[str, Any]:
    """Return what surrounds this process, as plain values."""
    numpy = sys.modules.get("numpy")
    gpu = torch.cuda.is_available()
    return {
        "rekindle": rekindle.__version__,
        "torch": str(torch.__version__),  # a class of its own otherwise
        "python": platform.python_version(),
        "numpy": getattr(numpy, "__version__", None),
        "platform": platform.system(),
        "machine": platform.machine(),
        "hostname": platform.node(),
        "cpu_capability": str(torch.backends.cpu.get_cpu_capability()),
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if gpu else [],
        "cuda": torch.version.cuda if gpu else None,
        "cudnn": torch.backends.cudnn.version() if gpu else None,  # type: ignore[no-untyped-call] # torch leaves it untyped
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "default_dtype": str(torch.get_default_dtype()),
        "git": git_commit(_script_folder()),
        "script": _script_digest(),
    }


def adopt_threads(recorded: Mapping[str, Any]) -> str | None:
    """Take over the recorded number of threads, since sums depend on it; return what was done, None for nothing."""
    wanted, now = recorded.get("threads"), torch.get_num_threads()
    if not isinstance(wanted, int) or wanted < 1 or wanted == now:
        return None
    torch.set_num_threads(wanted)
    return f"torch uses {wanted} thread{'s' * (wanted != 1)} now, as before, instead of {now}: sums depend on it"


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line for each difference that may change the bits."""
    found = []
    for name, value in now.items():
        if name in _SILENT or name not in recorded or recorded[name] == value:
            continue
        words = _WORDS.get(name, name)
        if name == "git":
            found.append(f"{words} was {_short(recorded[name])} and is {_short(value)}")
        elif name == "script":
            if value and recorded[name]:  # nobody knows in a notebook
                found.append("the script was changed since then: what it computes may be something else from here on")
        else:
            found.append(f"{words}: was {recorded[name]}, is {value}; the bits may differ from here on")
    return found


def git_commit(folder: str) -> str | None:
    """Return the commit that is checked out around a folder, None where there is none; reads files, starts nothing."""
    folder = os.path.abspath(folder)
    while True:
        git = os.path.join(folder, ".git")
        try:
            if os.path.isfile(git):  # a work tree or a submodule
                git = os.path.join(folder, _read(git).removeprefix("gitdir:").strip())
            if os.path.isdir(git):
                return _commit_of(git)
        except (OSError, UnicodeDecodeError):
            return None
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def _commit_of(git: str) -> str | None:
    head = _read(os.path.join(git, "HEAD")).strip()
    if not head.startswith("ref:"):
        return head or None
    name = head.removeprefix("ref:").strip()
    common = os.path.join(git, "commondir")
    shared = os.path.join(git, _read(common).strip()) if os.path.isfile(common) else git
    for place in (git, shared):
        loose = os.path.join(place, *name.split("/"))
        if os.path.isfile(loose):
            return _read(loose).strip() or None
    packed = os.path.join(shared, "packed-refs")
    if os.path.isfile(packed):
        for line in _read(packed).splitlines():
            commit, _, ref = line.partition(" ")
            if ref == name:
                return commit
    return None


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read(1_000_000)


def _script_folder() -> str:
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.dirname(os.path.abspath(main)) if main else os.getcwd()


def _script_digest() -> str | None:
    """Return the SHA-256 of the script's text; None where there is no file, as in a notebook."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        with open(main or "", "rb") as file:
            return hashlib.sha256(file.read(_SCRIPT_LIMIT_BYTES)).hexdigest()
    except OSError:
        return None


def _short(commit: object) -> str:
    return str(commit)[:10] if commit else "unknown"
