"""What all tests share: one thread, helpers on the path, and the command line as a user runs it.

Where torch is not installed, the files that need it are left out, so that the tests of the file side run there too.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

# Before torch starts: bits depend on the number of threads, and threads that wait for each other make small jobs slow.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")
# A job in the background of a shell is started deaf to Ctrl-C, and so are its children, to which tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "helpers"))

import pytest

_NEEDS_TORCH = re.compile(
    r"^(?:import|from) (?:torch|numpy|safetensors|rekindle\.(?:load|save|devices|run)\b(?!\.progress))", re.MULTILINE
)


def _files_that_need_torch() -> list[str]:
    """Test files that import torch, or a helper that does, before any test of theirs begins."""
    helpers = [path.stem for path in (HERE / "helpers").glob("*.py") if _NEEDS_TORCH.search(path.read_text())]
    through_helper = re.compile(rf"^(?:import|from) (?:{'|'.join(helpers)})\b", re.MULTILINE) if helpers else None
    found = []
    for path in HERE.rglob("test_*.py"):
        text = path.read_text()
        if _NEEDS_TORCH.search(text) or (through_helper and through_helper.search(text)):
            found.append(str(path))
    return found


collect_ignore = [] if find_spec("torch") else _files_that_need_torch()


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `rekindle WORDS...` in a process of its own, in `tmp_path` unless `cwd` says otherwise.

    `env` adds variables. Nothing is printed to a terminal, so what comes back is what a log file would hold.
    """

    def run(
        *words: str, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rekindle", *map(str, words)],
            cwd=cwd or tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    return run
