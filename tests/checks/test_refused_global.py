"""Classes and functions that `weights_only=True` refuses."""

from __future__ import annotations

import argparse
import collections
import os

import torch
from doctoring import examine, found, shown


def test_every_refused_name_is_listed_with_the_line_and_the_conversion():
    torch.save({"w": torch.ones(2), "args": argparse.Namespace(lr=0.1), "seen": frozenset((1,))}, "m.pth")
    assert shown("m.pth", "refused-global") == (
        "warning  m.pth: torch.load stops at `Unsupported global: GLOBAL argparse.Namespace`; it refuses 2 names: "
        "argparse.Namespace, builtins.frozenset  [RK-FILE-68]\n"
        "  why     weights_only=True, the default since torch 2.6, allows tensors and plain values only; making any "
        "other object of Python can run code\n"
        "  do      rekindle doctor m.pth --fix m.fixed.pth     (or, if you trust the file: "
        "torch.serialization.add_safe_globals([argparse.Namespace, frozenset]))"
    )
    assert torch.equal(torch.load("m.fixed.pth")["w"], torch.ones(2))


def test_plain_values_are_not_refused():
    torch.save({"w": torch.ones(2), "args": {"lr": 0.1}, "seen": {1}, "n": collections.Counter("aab")}, "m.pth")
    assert found("m.pth", "refused-global") == []


def test_no_line_is_given_for_what_it_would_not_help():
    torch.save({"w": torch.ones(2), "d": collections.defaultdict(int, a=1)}, "m.pth")
    (finding,) = found("m.pth", "refused-global")
    assert finding.do == "rekindle doctor m.pth --fix m.fixed.pth"


class Command:
    def __reduce__(self):
        return os.system, ("true",)


class Reader:
    def __reduce__(self):
        return eval, ("1",)


def test_no_line_is_ever_given_for_what_runs_code():
    for evil in (Command(), Reader()):
        torch.save({"w": torch.ones(2), "x": evil}, "m.pth")
        diagnosis = examine("m.pth")
        assert diagnosis.findings[0].severity.value == "danger"
        assert not any("add_safe_globals" in finding.do for finding in diagnosis.findings)
        for path in ("m.fixed.pth",):
            assert torch.equal(torch.load(path)["w"], torch.ones(2))
            os.unlink(path)
