"""A learning-rate schedule that the run knows nothing of."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding
from rekindle.pitfalls._seen import Seen, found

CODE, NAME, SINCE = "RK-PIT-32", "schedule-not-tracked", "0.2"
WHY = "run.update() steps the schedules that are tracked, and snapshots hold those: this one begins anew after a resume"
DO = "run.track(scheduler=scheduler), or run.prepare(model, optimizer, scheduler)"


def check(seen: Seen) -> Iterator[Finding]:
    """Look for optimizers that a schedule was made for, and none of the tracked ones is theirs."""
    for name in seen.unscheduled:
        yield found((CODE, NAME), f"a schedule was made for {name}, and it is not tracked", why=WHY, do=DO)
