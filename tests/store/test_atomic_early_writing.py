"""Early writing to the disk: the same bytes, whatever the system can do."""

import os

from rekindle.store import atomic
from rekindle.store.atomic import FileWriter

DATA = os.urandom(3_000_000)


def test_early_writing_is_a_hint_that_changes_nothing(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(atomic, "_start_writeback", lambda: lambda _, *part: asked.append(part))
    with FileWriter(tmp_path / "target", hashing=False) as out:
        out.write(b"12345")
        out.start_writeback()
        out.write(b"678")
        out.start_writeback()
    assert asked == [(0, 5), (5, 3)]
    assert (tmp_path / "target").read_bytes() == b"12345678"
    monkeypatch.undo()
    with FileWriter(tmp_path / "real", hashing=False) as out:
        out.write(DATA)
        out.start_writeback()
    assert (tmp_path / "real").read_bytes() == DATA
