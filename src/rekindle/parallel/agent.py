"""torch's own launcher in a process of its own: `python -m rekindle.parallel.agent REQUEST`.

It does what ``torchrun`` does, by the same functions, and adds three things: it notes why ranks failed, it ends those
that do not end after another one's death, and it starts nothing again once the launch was asked to stop. Signals are
the business of `rekindle.parallel.launch`, which gives them to each rank.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from typing import Any

from rekindle.parallel import notes

__all__ = ["main"]

# After the first death torch asks the others to end and waits for half a minute; a rank that waits in a collective
# cannot hear it. This is long enough to write a small snapshot, and short enough to be awaited.
GRACE_S = 10.0
_WATCH_S = 0.2


def main() -> None:
    """Start the ranks that the request names, and end with 0 when all have ended well, 1 otherwise."""
    request = json.loads(sys.argv[1])
    folder = os.environ[notes.NOTES_VARIABLE]
    notes.end_with_parent(request["parent"])
    os.environ[notes.AGENT_VARIABLE] = str(os.getpid())
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):  # a scheduler signals all processes: not a reason to end the ranks
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: None)
    threading.Thread(target=_watch, args=(folder,), daemon=True).start()
    error = _run(request, folder)
    if error is not None:
        notes.write(folder, "agent", {"error": error})
    sys.exit(error is not None)


def _run(request: dict[str, Any], folder: str) -> str | None:
    """Run torch's launcher; return what it said if it failed, None if all went well."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say it, once and in words
    from torch.distributed import run as torchrun  # noqa: PLC0415 - after the process is set up to die with its parent
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415
    from torch.distributed.launcher import api  # noqa: PLC0415

    arguments = list(request["torch"])
    parser = torchrun.get_args_parser()
    if any("--signals-to-handle" in action.option_strings for action in parser._actions):  # noqa: SLF001 - newer torch only
        arguments.append("--signals-to-handle=SIGHUP,SIGQUIT")
    arguments += ["--module", "rekindle.parallel.rank", "module" if request["module"] else "script"]
    api.LocalElasticAgent = _telling(api.LocalElasticAgent, folder)  # type: ignore[attr-defined] # not re-exported
    try:
        args = parser.parse_args([*arguments, request["script"], *request["args"]])
        torchrun.run(args)  # type: ignore[no-untyped-call] # torch leaves it untyped
    except ChildFailedError:
        return ""
    except Exception as error:  # noqa: BLE001 - whatever torch raises is put into words by the launch
        return f"{type(error).__name__}: {error}"
    return None


def _telling(base: type[Any], folder: str) -> type[Any]:
    """Return torch's agent with a word on each failure."""

    class TellingAgent(base):  # type: ignore[misc] # a class that is only known at run time
        _remaining_restarts: int

        def _monitor_workers(self, worker_group: Any) -> Any:
            result = super()._monitor_workers(worker_group)
            if result.is_failed():
                attempt = worker_group.spec.max_restarts - self._remaining_restarts
                codes = [[rank, f.local_rank, f.pid, f.exitcode] for rank, f in result.failures.items()]
                notes.write(folder, f"failed-{attempt}", {"codes": codes})
                if notes.read(folder, "stopping") is not None:
                    self._remaining_restarts = 0
                elif self._remaining_restarts > 0:
                    _say_again(folder, attempt, worker_group.spec.max_restarts)
            return result

    return TellingAgent


def _say_again(folder: str, attempt: int, restarts: int) -> None:
    from rekindle.parallel.launch import deaths_of, words_of_death  # noqa: PLC0415 - only after a death

    _, cause = deaths_of(folder, attempt)
    what = "a rank died" if cause is None else words_of_death(cause)
    print(f"rekindle: {what}; all ranks start again ({attempt + 1} of {restarts})", file=sys.stderr, flush=True)  # noqa: T201


def _watch(folder: str) -> None:
    """Kill the ranks that are still there a while after another one died."""
    since: dict[int, float] = {}
    while True:
        time.sleep(_WATCH_S)
        begun = notes.beginnings(folder)
        if not begun:
            continue
        attempt = max(int(name.split("-")[1]) for name in os.listdir(folder) if name.startswith("begin-"))
        ended = notes.endings(folder, attempt)
        alive = {rank: note["pid"] for rank, note in begun.items() if _is_our_child(note["pid"])}
        died = any(
            (rank not in ended and rank not in alive)
            or (rank in ended and ended[rank]["code"] not in (0, *notes.GOOD_ORDER))
            for rank in begun
        )
        if not died:
            continue
        if time.monotonic() - since.setdefault(attempt, time.monotonic()) > GRACE_S:
            for pid in alive.values():
                notes.write(folder, f"killed-{pid}", {})
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)


def _is_our_child(pid: int) -> bool:
    """Whether a process is there, running, and was started by this one: numbers are given out again."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            state, parent = file.read(4096).rpartition(")")[2].split()[:2]
        return int(parent) == os.getpid() and state != "Z"
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    main()
