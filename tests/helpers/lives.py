"""Lives of a job, each a process of its own that can be killed, without paying for `import torch` each time.

A nursery process imports torch and rekindle once and forks a child for each life: a real process, with its own process
group, memory and open files. `Nursery.start` gives its pid; whoever has it may kill it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import crash

HERE = Path(__file__).parent


class Nursery:
    """The nursery process; closed by `close`.

    Args:
        modules: imported once, for all lives.
    """

    def __init__(self, *modules: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "lives.py"), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, config: dict[str, Any], **environment: str) -> int:
        """Begin a life and return its pid; its output goes to ``output`` in ``config["out"]``."""
        Path(config["out"]).mkdir(parents=True, exist_ok=True)
        return int(self._ask({"config": config, "environment": environment})["pid"])

    def wait(self, pid: int) -> int:
        """Wait for a life's end; return its exit code, or minus the signal that killed it."""
        return int(self._ask({"wait": pid})["code"])

    def live(self, config: dict[str, Any], *, kill_after: float | None = None, **environment: str) -> int:
        """Live a whole life, or `kill_after` seconds of one; return as `wait`."""
        pid = self.start(config, **environment)
        if kill_after is not None:
            time.sleep(kill_after)
            kill_group(pid, signal.SIGKILL)
        return self.wait(pid)

    def close(self) -> None:
        """End the nursery."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def kill_group(pid: int, number: int) -> None:
    """Send a signal to a life and all its workers, as Slurm and Ctrl-C do; a life that is over feels nothing."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _serve() -> None:
    import run_job  # noqa: F401 - with all that it imports
    import torch._dynamo  # noqa: F401 - torch imports it with the first optimizer, for two seconds

    import rekindle.run.loop  # noqa: F401 - what every life needs

    for name in sys.argv[1:]:
        importlib.import_module(name)

    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            answer = {"code": _wait(question["wait"])}
        else:
            pid = os.fork()
            if pid == 0:
                job = importlib.import_module(question["config"].get("job", "run_job"))
                _live(job, question["config"], question["environment"])
            # Wait until it leads its own group: whoever gets the pid may signal the group at once.
            while os.getpgid(pid) != pid:
                time.sleep(0.0005)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


def _wait(pid: int, timeout_s: float = 60) -> int:
    """Return a life's exit code; one that hangs is ended, and its code is 124."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 124


def _live(job: Any, config: dict[str, Any], environment: dict[str, str]) -> None:
    os.setsid()
    code = 1
    try:
        out = os.open(os.path.join(config["out"], "output"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ.update(environment)
        plan = crash.arm()
        try:
            job.main(config)
            code = 0
            if plan is not None:
                print("file calls", *(call.name for call in plan.calls))
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        except BaseException:  # noqa: BLE001 - whatever it is, it goes into the output
            import traceback

            traceback.print_exc()
            sys.last_value = sys.exc_info()[1]  # as the interpreter does where nobody catches it
    finally:
        import atexit

        atexit._run_exitfuncs()
        os._exit(code)


if __name__ == "__main__":
    _serve()
