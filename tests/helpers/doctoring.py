"""Examining a file as `rekindle doctor` does, for tests of checks: a finding by its name, as text, what it offers."""

from __future__ import annotations

import shlex
from pathlib import Path

from rekindle.cli import main
from rekindle.finding import Finding
from rekindle.render import finding_lines
from rekindle.verbs.doctor import Diagnosis, doctor

# A machine with a graphics card, so that a test says itself when there is none.
DEVICES = {"cpu": 1, "cuda": 8}


def examine(path: str | Path, **options) -> Diagnosis:
    """Return the diagnosis; every command that it offers was really run in the current folder, and worked."""
    diagnosis = doctor(path, devices=options.pop("devices", DEVICES), **options)
    for command in diagnosis.commands:
        code = main(shlex.split(command)[1:])
        assert code == 0 or (code == 1 and ("--values" in command or "salvage" in command)), command
    return diagnosis


def found(path: str | Path, name: str, **options) -> list[Finding]:
    """Return the findings of one check."""
    return [finding for finding in examine(path, **options).findings if finding.name == name]


def shown(path: str | Path, name: str, **options) -> str:
    """Return the text of the findings of one check."""
    return "\n".join(line for finding in found(path, name, **options) for line in finding_lines(finding, str(path)))
