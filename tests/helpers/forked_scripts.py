"""Scripts run one after the other, each in a process of its own that need not import torch again.

The process that they are forked from is started with ``-W error`` and imports torch, and what torch imports with the
first optimizer: that is nearly all the time that a short script takes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


class Scripts:
    """The process that scripts are forked from; ended by `close`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, script: Path, *, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a script in its folder, as ``python -W error script.py`` does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"script": str(script), "timeout": timeout}) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())["code"]
        out, err = (script.with_suffix(suffix).read_text() for suffix in (".out", ".err"))
        return subprocess.CompletedProcess([script.name], code, out, err)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def _serve() -> Path | None:
    """Answer until the input ends; return a script in the child that is to run it."""
    import torch._dynamo
    import torch.utils.tensorboard  # noqa: F401 - as the line above

    import rekindle.run.loop  # noqa: F401 - as the lines above

    for line in sys.stdin:
        question = json.loads(line)
        pid = os.fork()
        if not pid:
            return Path(question["script"])
        print(json.dumps({"code": _wait(pid, question["timeout"])}), flush=True)
    return None


def _wait(pid: int, timeout: float) -> int:
    deadline = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


if __name__ == "__main__":
    chosen = _serve()
    if chosen is not None:
        import runpy

        os.chdir(chosen.parent)
        for number, suffix in ((0, ""), (1, ".out"), (2, ".err")):
            path = chosen.with_suffix(suffix) if suffix else Path(os.devnull)
            os.dup2(os.open(path, os.O_RDONLY if not number else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = [chosen.name]
        sys.path[0] = str(chosen.parent)
        runpy.run_path(chosen.name, run_name="__main__")
