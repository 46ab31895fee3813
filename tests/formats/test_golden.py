"""Stored files of each container, listed as torch listed them when they were made (tests/golden/make_readers.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from listing import listed

from rekindle.formats import open_path
from rekindle.listing import kind_of

FOLDER = Path(__file__).parent.parent / "golden" / "readers"
FILES = sorted(FOLDER.glob("*.pt"))


def test_the_stored_files_are_there():
    assert len(FILES) == 11
    assert all(path.stat().st_size < 100_000 for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_stored_file_is_listed_as_torch_listed_it(path: Path):
    facts = json.loads(path.with_suffix(".json").read_text())
    with open_path(path) as opened:
        found = listed(opened)
        assert opened.format == facts["format"]
        assert kind_of(opened.tree, opened.table) == facts["kind"]
        assert not opened.findings
    if facts["format"] == "safetensors":
        found.sort(key=lambda row: str(row["key"]))
    assert len(found) > 0
    assert found == facts["tensors"]
