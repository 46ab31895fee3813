"""A run's folder: what it would go on from, the newest snapshot that its manifest vouches for.

Newer snapshots that do not hold are passed over, and each is a finding with the reason. Looking never writes.
"""

from __future__ import annotations

import os
from dataclasses import replace

from rekindle.errors import RunError
from rekindle.finding import Finding, Severity, Where
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Opened
from rekindle.tensors import TensorTable

__all__ = ["NAME", "read_folder", "sniff_folder"]

NAME = "run"


def sniff_folder(path: str) -> bool:
    """Tell whether a folder is a run of rekindle's."""
    from rekindle.store.layout import is_run_folder  # noqa: PLC0415 - only folders need the store

    return is_run_folder(path)


def read_folder(path: str, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read the newest snapshot that holds.

    Raises:
        OSError: the folder cannot be read.
    """
    from rekindle.formats import snapshot  # noqa: PLC0415
    from rekindle.store.find import newest_good  # noqa: PLC0415
    from rekindle.store.layout import read_run_file  # noqa: PLC0415

    found = newest_good(path)
    findings = [
        Finding(
            "RK-FILE-39",
            "snapshot-passed-over",
            Severity.WARNING,
            f"{name} does not hold: {reason}",
            why="it was changed after it was saved, or the disk lost what it had confirmed",
            do="nothing: resuming passes it over too",
            where=Where(member=name),
        )
        for name, reason in found.passed_over
    ]
    if found.snapshot is None:
        findings.append(_nothing(path, damaged=bool(found.passed_over)))
        return Opened(path, NAME, 0, None, TensorTable(()), tuple(findings), listed=False)
    opened = snapshot.read_folder(found.snapshot, limits, verified=True)
    facts = {**opened.facts, "snapshot": os.path.basename(found.snapshot)}
    try:
        about = read_run_file(path)
    except RunError as error:
        about = None
        findings.append(Finding("RK-FILE-38", "damaged-snapshot", Severity.WARNING, error.what, error.why, error.do))
    if about is not None:
        facts["run"] = about
    return replace(opened, path=path, format=NAME, findings=(*findings, *opened.findings), facts=facts)


def _nothing(path: str, *, damaged: bool) -> Finding:
    return Finding(
        "RK-FILE-38",
        "damaged-snapshot",
        Severity.ERROR,
        f"{path}: a run without a snapshot that holds" if damaged else f"{path}: a run that has saved nothing yet",
        why="none of its snapshots is as its manifest says" if damaged else "it stopped before its first save",
        do="look at the snapshots one by one: rekindle inspect " + os.path.join(path, "snapshots", "step-...")
        if damaged
        else "start it again: it begins at step 0",
    )
