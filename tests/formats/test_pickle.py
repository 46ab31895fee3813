"""Bare pickles: recognised by what they are, listed without running anything."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
import zoo
from listing import codes, listed

from rekindle.formats import open_path
from rekindle.tree import Map, Record, lookup


@pytest.mark.parametrize("protocol", range(6))
def test_tensors_in_a_bare_pickle_are_listed_with_their_bytes(tmp_path: Path, protocol: int):
    path = tmp_path / "model.pkl"
    value = {"w": torch.arange(6.0).reshape(2, 3), "sub": [torch.ones(2, dtype=torch.int16)], "epoch": 4}
    path.write_bytes(pickle.dumps(value, protocol))
    with open_path(path) as opened:
        assert opened.format == "pickle"
        assert not opened.findings
        assert listed(opened) == zoo.rows(value)
        assert lookup(opened.tree, "epoch") == 4


def test_arrays_of_numpy_in_a_pickle_are_listed(tmp_path: Path):
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps({"a": numpy.arange(6, dtype="float32").reshape(2, 3)}))
    with open_path(path) as opened:
        (row,) = listed(opened)
    assert (row["key"], row["dtype"], row["shape"]) == ("a", "float32", [2, 3])
    assert row["digest"] == zoo.digest(torch.arange(6.0).reshape(2, 3))


class Payload:
    def __reduce__(self):
        return os.system, ("touch it-ran",)


def test_a_hostile_pickle_stays_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"x": Payload()}))
    with open_path("evil.pkl") as opened:
        assert isinstance(opened.tree, Map)
        assert isinstance(lookup(opened.tree, "x"), Record)
    assert os.listdir(tmp_path) == ["evil.pkl"]


def test_bytes_after_the_end_are_said(tmp_path: Path):
    path = tmp_path / "two.pkl"
    path.write_bytes(pickle.dumps([1], 4) + pickle.dumps([2], 4))
    with open_path(path) as opened:
        assert codes(opened) == ["RK-FILE-15"]
        assert opened.tree == [1]


def test_cut_at_every_byte_it_is_a_broken_pickle(tmp_path: Path):
    data = pickle.dumps({"a": [1, 2, "three"], "b": 4.0}, 4)
    path = tmp_path / "cut.pkl"
    for length in range(3, len(data)):
        path.write_bytes(data[:length])
        with open_path(path) as opened:
            assert opened.format == "pickle"
            assert codes(opened) == ["RK-FILE-07"]
            assert not opened.listed
