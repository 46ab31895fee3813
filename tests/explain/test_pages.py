"""What is made from the catalogue is as the catalogue has it: the index, the pages, the outputs that are shown."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rekindle.explain.catalogue import entry, entry_names, heading_of
from rekindle.explain.page import file_page, find_heading, page_of

ROOT = Path(__file__).parent.parent.parent


def test_index_and_pages_are_current():
    """If this fails, run: python scripts/error_pages.py."""
    done = subprocess.run(
        [sys.executable, "scripts/error_pages.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_index_has_what_the_entries_have():
    """The index is read in a process of its own: other tests of this directory empty it."""
    spec = importlib.util.spec_from_file_location("index", ROOT / "src/rekindle/explain/catalogue/_index.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in entry_names():
        heading = heading_of(name, entry(name))
        assert module.INDEX[name] == (heading.code, heading.name, heading.title, heading.raises, heading.needles)


@pytest.mark.parametrize("name", entry_names())
def test_a_page_has_the_message_the_reason_and_both_examples(name):
    found = entry(name)
    page = page_of(heading_of(name, found))
    assert page.startswith(f"# {found.TITLE}\n\n`{found.CODE}` `{found.NAME}`: ")
    assert found.WHY in page
    for code in (found.EXAMPLE, found.MENDED):
        assert not code.strip() or f"```python\n{code.strip()}\n```" in page
    assert str(Path.home()) not in page  # nothing of the machine that ran the example


def test_a_code_is_found_in_any_case():
    found = find_heading("RK-SHAPE-01")
    assert found is not None
    assert find_heading("rk-shape-01") == find_heading("Shape-Linear") == found
    assert find_heading("RK-SHAPE-99") is None


def test_the_page_of_a_check_has_no_places_left_in_its_words():
    from rekindle.checks import check_modules

    for check in check_modules():
        page = file_page(check.CODE)
        assert f"`{check.CODE}` `{check.NAME}`" in page
        assert not re.search(r"\{\w+\}", page)


def test_a_code_that_readers_give_has_a_page_too():
    page = file_page("rk-file-04")
    assert page.startswith("# Truncated ")
    assert "`RK-FILE-04`" in page
    assert file_page("RK-FILE-99") == ""
