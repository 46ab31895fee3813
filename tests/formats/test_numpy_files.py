"""NumPy's own files as tables."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from archives import write_archive
from checkpoint_laws import listed_facts, names_of, obeys, variants
from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle.formats import open_path


def facts_of(array: np.ndarray) -> tuple[str, list[int], str]:
    import hashlib

    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    return array.dtype.newbyteorder("=").name, list(array.shape), hashlib.sha256(little.tobytes()).hexdigest()


KINDS = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_in_both_byte_orders_is_listed_as_numpy_reads_it(tmp_path: Path, kind: str, order: str):
    array = (np.arange(12).reshape(3, 4) % 7).astype(order + kind)
    path = tmp_path / "array.npy"
    for saved in (array, np.asfortranarray(array), array[0, 0], array[:0], np.zeros((2, 0, 3), order + kind)):
        np.save(path, saved)
        with open_path(path) as opened:
            assert opened.format == "numpy"
            assert opened.findings == ()
            assert listed_facts(opened.table["tensor"]) == facts_of(np.load(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_lists_its_arrays_by_name(tmp_path: Path, save):
    arrays = {"x": np.arange(6.0).reshape(2, 3), "t": np.arange(6).reshape(2, 3).T, "deep/name": np.float32(3)}
    save(tmp_path / "arrays.npz", **arrays)
    with open_path(tmp_path / "arrays.npz") as opened:
        assert opened.format == "numpy"
        assert opened.findings == ()
        assert {entry.key: listed_facts(entry) for entry in opened.table} == {
            key: facts_of(np.asarray(value)) for key, value in arrays.items()
        }


def test_arrays_that_torch_has_no_type_for_are_named_with_the_reason(tmp_path: Path):
    arrays = {
        "objects": np.array([1, "a"], dtype=object),
        "texts": np.array(["a", "b"]),
        "fields": np.zeros(2, dtype=[("a", "i4"), ("b", "f4")]),
        "dates": np.array(["2020-01-01"], dtype="M8[D]"),
        "good": np.ones(2),
    }
    np.savez(tmp_path / "odd.npz", **arrays)
    with open_path(tmp_path / "odd.npz") as opened:
        assert [entry.key for entry in opened.table] == ["good"]
        assert names_of(opened) == ["no-torch-dtype"] * 4
        assert "pickle" in opened.findings[0].why


def test_an_array_of_objects_calls_nothing(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    np.save(tmp_path / "evil.npy", np.array([Evil()], dtype=object))
    opened = obeys(tmp_path / "evil.npy")
    assert opened is not None
    assert not (tmp_path / "made").exists()


def test_all_versions_of_the_format_are_read(tmp_path: Path):
    path = tmp_path / "array.npy"
    for version in ((1, 0), (2, 0), (3, 0)):
        with path.open("wb") as file:
            np.lib.format.write_array(file, np.ones(3), version=version)
        with open_path(path) as opened:
            assert listed_facts(opened.table["tensor"]) == facts_of(np.ones(3))


def array_bytes(header: bytes, rest: bytes = bytes(48)) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + rest


GOOD = b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }\n"


def test_the_header_used_for_lies_is_right_as_it_stands(tmp_path: Path):
    (tmp_path / "a.npy").write_bytes(array_bytes(GOOD))
    with open_path(tmp_path / "a.npy") as opened:
        assert names_of(opened) == []
        assert opened.table["tensor"].shape == (2, 3)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"{}",
        GOOD.replace(b"(2, 3)", b"(-2, 3)"),
        GOOD.replace(b"(2, 3)", b"(2, 4)"),
        GOOD.replace(b"(2, 3)", b"(9223372036854775807, 9223372036854775807)"),
        GOOD.replace(b"(2, 3)", b"(" + b"9" * 30 + b",)"),
        GOOD.replace(b"(2, 3)", b"(" + b"1," * 100 + b")"),
        GOOD.replace(b"(2, 3)", b"[2, 3]"),
        GOOD.replace(b"(2, 3)", b"(True, 3)"),
        GOOD.replace(b"(2, 3)", b"(" * 3000),
        GOOD.replace(b"False", b"0"),
        GOOD.replace(b"'<f8'", b"8"),
        GOOD.replace(b"'<f8'", b"__import__('os').mkdir('made')"),
        GOOD.replace(b"'shape'", b"'descr'"),
        GOOD.replace(b", }", b", 'more': 1}"),
        GOOD.replace(b", }", b", 'shape': (3, 2)}"),
        GOOD + b"x",
    ],
)
def test_a_header_that_lies_is_a_finding(tmp_path: Path, header: bytes):
    (tmp_path / "a.npy").write_bytes(array_bytes(header))
    opened = obeys(tmp_path / "a.npy")
    assert opened is not None
    assert not opened.listed
    assert {"broken-array"} == set(names_of(opened))


def test_a_header_longer_than_numpy_reads_is_refused(tmp_path: Path):
    (tmp_path / "a.npy").write_bytes(array_bytes(GOOD.rstrip() + b" " * 20_000))
    opened = obeys(tmp_path / "a.npy")
    assert opened is not None
    assert names_of(opened) == ["broken-array"]


def test_cut_anywhere_and_with_bytes_behind_it(tmp_path: Path):
    out = io.BytesIO()
    np.save(out, np.arange(6.0))
    data = out.getvalue()
    path = tmp_path / "a.npy"
    for length in range(8, len(data)):
        path.write_bytes(data[:length])
        opened = obeys(path)
        assert opened is not None
        assert names_of(opened) == ["broken-array"], length
        assert not opened.listed
    path.write_bytes(data + b"more")
    with open_path(path) as opened:
        assert names_of(opened) == ["trailing-bytes"]
        assert listed_facts(opened.table["tensor"]) == facts_of(np.arange(6.0))


def test_a_member_that_is_no_array_is_named(tmp_path: Path):
    path = write_archive(tmp_path / "a.npz", [("good.npy", array_bytes(GOOD)), ("bad.npy", b"nothing")])
    with open_path(path) as opened:
        assert names_of(opened) == ["broken-array"]
        assert [entry.key for entry in opened.table] == ["good"]


@settings(max_examples=200, deadline=None)
@given(header=st.binary(max_size=200))
def test_any_header_ends_in_a_value_and_findings(tmp_path_factory: pytest.TempPathFactory, header: bytes):
    path = tmp_path_factory.getbasetemp() / "any.npy"
    path.write_bytes(array_bytes(header))
    obeys(path)


def test_any_damage_ends_in_a_value_and_findings(tmp_path: Path):
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(100.0), y=np.ones((3, 3)))
    data = (tmp_path / "a.npz").read_bytes()
    for damaged in variants(data, 150):
        (tmp_path / "b.npz").write_bytes(damaged)
        obeys(tmp_path / "b.npz")
