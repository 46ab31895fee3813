"""How many logs of the corpus are explained rightly, and how many that should be left alone are.

    python scripts/explain_corpus.py

Four sets: the logs of tests/logs, each form of log once; what launchers, NCCL, Slurm and drivers print, and failures
that only read like them (tests/helpers/launcher_logs.py); every message of the catalogue in its current and old
wordings (from the recorded texts, without the frames); ordinary errors of Python and a healthy log. Recall is the part
of failures whose first cause is the right one, precision the part of given explanations that are right.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

from rekindle.explain.catalogue import entry, entry_names
from rekindle.explain.report import explain_text

LOGS = Path(__file__).parent.parent / "tests" / "logs"


def count_logs() -> dict[str, int]:
    """Count over tests/logs."""
    expected = json.loads((LOGS / "expected.json").read_text())
    counts = dict.fromkeys(("failures", "right", "given", "left_alone", "ordinary"), 0)
    for name, want in expected.items():
        codes = [cause.code for cause in explain_text((LOGS / f"{name}.log").read_text()).causes]
        counts["given"] += bool(codes)
        if want["code"]:
            counts["failures"] += 1
            counts["right"] += codes[:1] == [want["code"]]
        else:
            counts["ordinary"] += 1
            counts["left_alone"] += not codes
    return counts


def count_launchers() -> dict[str, int]:
    """Count over what launchers and drivers print, and over what only reads like a known error."""
    path = LOGS.parent / "helpers" / "launcher_logs.py"
    spec = importlib.util.spec_from_file_location("launcher_logs", path)
    assert spec is not None
    assert spec.loader is not None
    shapes = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shapes)
    said = [[cause.code for cause in explain_text(shape.text).causes] for shape in shapes.SHAPES.values()]
    right = sum(codes[:1] == [shape.code] for codes, shape in zip(said, shapes.SHAPES.values(), strict=True))
    silent = sum(not explain_text(text).causes for text in shapes.ORDINARY.values())
    return {"failures": len(said), "right": right, "ordinary": len(shapes.ORDINARY), "left_alone": silent}


def count_wordings() -> dict[str, int]:
    """Count over the recorded messages of the catalogue."""
    counts = dict.fromkeys(("failures", "right", "first", "given"), 0)
    for name in entry_names():
        found = entry(name)
        for text in filter(None, (found.MESSAGE, *found.OLD)):
            codes = [cause.code for cause in explain_text(text).causes]
            counts["failures"] += 1
            counts["given"] += bool(codes)
            counts["right"] += found.CODE in codes
            counts["first"] += codes[:1] == [found.CODE]
    return counts


def lines() -> list[str]:
    """Return what is printed."""
    logs, launched, words = count_logs(), count_launchers(), count_wordings()
    return [
        f"logs        {logs['right']} of {logs['failures']} failures explained rightly (recall)",
        f"            {logs['right']} of {logs['given']} explanations right (precision)",
        f"launchers   {launched['right']} of {launched['failures']} ends of a job led to their root cause",
        f"            {launched['left_alone']} of {launched['ordinary']} that only read like one left alone",
        f"ordinary    {logs['left_alone']} of {logs['ordinary']} left alone",
        f"wordings    {words['right']} of {words['failures']} recorded messages explained, {words['first']} as first",
    ]


if __name__ == "__main__":
    print("\n".join(lines()))
