"""Runs on disk without torch: real snapshots by the real commit, with bytes that are no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rekindle.store.commit import commit
from rekindle.store.layout import write_run_file
from rekindle.store.lock import hold
from rekindle.store.state import State, encode_state


def make_run(
    path: Path, steps: list[int], *, best: tuple[float, int] | None = None, finished: bool = False, keep_best: str = ""
) -> Path:
    """Make a run with snapshots of these steps, the last one finished or not, and return its folder."""
    with hold(path):
        write_run_file(
            path, {"seed": 0, "settings": {"keep_best": keep_best or None}, "command": ["python", "train.py"]}
        )
    for step in steps:
        add_snapshot(path, step, best=best, finished=finished and step == steps[-1])
    return path


def add_snapshot(
    path: Path,
    step: int,
    *,
    best: tuple[float, int] | None = None,
    finished: bool = False,
    facts: dict[str, Any] | None = None,
) -> Path:
    """Commit a snapshot and return its folder."""
    extra = {"best": None if best is None else {"value": best[0], "step": best[1]}}
    files = {
        "model.safetensors": lambda out: out.write(json.dumps({"step": step}).encode() + bytes(500)),
        "state.json": lambda out: out.write(encode_state(State({}, extra))),
    }
    with hold(path) as lock:
        done = commit(lock, step, files, {"epoch": step, "finished": finished, "finite_step": step, **(facts or {})})
    return Path(done.path)
