"""Every entry of the catalogue: its example fails as it says and is explained first, its mended form runs."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from explaining import can_run, run_example

from rekindle.cli import command_names
from rekindle.explain.catalogue import entry, entry_names, headings
from rekindle.explain.cause import Cause
from rekindle.explain.report import explain_events, explain_text

NAMES = entry_names()
ENTRIES = [pytest.param(entry(name), id=name) for name in NAMES]
RAISING = [pytest.param(entry(name), id=name) for name in NAMES if entry(name).RAISES]
OLD = [pytest.param(entry(name), text, id=f"{name}-{n}") for name in NAMES for n, text in enumerate(entry(name).OLD)]
FAMILIES = ("LOAD", "SHAPE", "DTYPE", "DEV", "GRAD", "LOSS", "DATA", "DIST", "AMP", "COMPILE", "MISC")


def test_entries_were_found():
    assert len(NAMES) >= 3


def test_codes_and_names_are_unique_and_of_their_form():
    for field in ("CODE", "NAME"):
        counts = Counter(getattr(entry(name), field) for name in NAMES)
        assert [value for value, count in counts.items() if count > 1] == []
    for name in NAMES:
        assert re.fullmatch(rf"RK-({'|'.join(FAMILIES)})-\d\d", entry(name).CODE), name
        assert entry(name).NAME.replace("-", "_") == name


@pytest.mark.parametrize("found", ENTRIES)
def test_words_of_the_page_are_there(found):
    assert found.TITLE
    assert found.WHY.endswith((".", "```"))
    assert found.__doc__.splitlines()[0].endswith(".")
    assert found.CHECK or not found.RAISES
    assert bool(found.EXAMPLE) or bool(found.MESSAGE)


@pytest.mark.parametrize("found", ENTRIES)
def test_patterns_are_linear_and_carry_a_needle(found):
    for pattern in found.PATTERNS:
        compiled = re.compile(pattern, re.MULTILINE)
        assert not compiled.search(""), pattern
        assert not re.search(r"[+*]\)[+*]", pattern), "nested repetition"
        for unit in ("a ", "0", "\n", "x\n\t", '"a", ', "(0x0 ", *(needle for needle in found.NEEDLES)):
            text = unit * (20_000 // len(unit))
            begin = time.process_time()
            compiled.search(text)
            assert time.process_time() - begin < 0.5, (pattern, unit)
    assert bool(found.NEEDLES) == bool(found.PATTERNS)


@pytest.mark.parametrize("found", RAISING)
def test_the_example_fails_and_is_explained_as_this_entry_first(found, tmp_path: Path):
    if can_run(found.REQUIRES) and found.EXAMPLE:
        ran = run_example(found.EXAMPLE, tmp_path, found.REQUIRES)
        assert ran.traceback, f"it ended well and printed: {ran.printed}"
        text = ran.traceback
        if ran.events:
            assert {event.kind for event in ran.events} & set(found.RAISES)
            assert_explained_first(found, explain_events(ran.events, strict=True).causes, text)
    else:
        text = found.MESSAGE
        assert text, "an example that cannot run here needs the text that it prints"
    assert_explained_first(found, explain_text(text, strict=True).causes, text)


def assert_explained_first(found, causes: Sequence[Cause], text: str):
    assert causes, f"not explained: {text}"
    assert causes[0].code == found.CODE, f"{causes[0]} explains {text}"
    for cause in causes:
        assert cause.what
        assert "\n" not in cause.what
        assert not cause.what.endswith(".")
        assert not re.match(r"[A-Z][a-z]+ [a-z]", cause.what), "lower case"
        assert cause.fix
        for line in cause.fix:
            assert_commands_exist(line)
            if "weights_only=False" in line:
                said = f"{cause.why} {line}"
                assert "code" in said, "say that it runs code from the file"


def assert_commands_exist(line: str):
    for command in re.findall(r"(?:^|`)rekindle ([a-z]+)", line):
        assert command in {*command_names(), "exec", "explain", "launch", "slurm", "gpus", "runs", "clean"}, command


@pytest.mark.parametrize("found", ENTRIES)
def test_the_mended_example_runs(found, tmp_path: Path):
    if not found.MENDED:
        assert not found.EXAMPLE or not can_run(found.REQUIRES)
        return
    if not can_run(found.REQUIRES):
        compile(found.MENDED, "mended", "exec")
        pytest.skip(f"needs {', '.join(found.REQUIRES)}")
    ran = run_example(found.MENDED, tmp_path, found.REQUIRES)
    assert not ran.traceback, ran.traceback


@pytest.mark.parametrize(("found", "text"), OLD)
def test_old_wordings_are_explained_too(found, text):
    assert found.CODE in [cause.code for cause in explain_text(text, strict=True).causes]


@pytest.mark.parametrize("found", [param for param in ENTRIES if not param.values[0].RAISES])
def test_an_example_that_raises_nothing_runs_and_its_symptom_is_explained(found, tmp_path: Path):
    if not found.EXAMPLE or not can_run(found.REQUIRES):
        printed = found.MESSAGE
    else:
        ran = run_example(found.EXAMPLE, tmp_path, found.REQUIRES)
        printed = ran.printed or ran.traceback
    if found.PATTERNS:
        assert found.CODE in [cause.code for cause in explain_text(printed, strict=True).causes], printed


def test_importing_the_whole_catalogue_loads_neither_torch_nor_numpy():
    code = (
        "import sys\n"
        "from rekindle.explain.catalogue import entry, entry_names\n"
        "for name in entry_names(): entry(name)\n"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_default_dtype_is_as_it_was():
    assert torch.get_default_dtype() is torch.float32


def test_headings_are_in_the_order_of_their_codes():
    codes = [heading.code for heading in headings()]
    assert codes == sorted(codes)
    assert len(codes) == len(NAMES)
