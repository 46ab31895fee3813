"""safetensors: what the reference library writes, and each way a header can lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
import zoo
from listing import codes, listed
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rekindle.errors import LimitExceeded
from rekindle.formats import open_path
from rekindle.limits import Limits

NAMES = (*zoo.FLOATS, *zoo.INTEGERS, "complex64", *zoo.EIGHT_BITS)


def write(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def tensor(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_every_dtype_is_listed_as_the_reference_library_wrote_it(path: Path):
    shapes = ((3, 4), (), (0, 2), (5,))
    tensors = {name: zoo.of_dtype(name, shapes[index % 4]) for index, name in enumerate(NAMES)}
    save_file(tensors, path, {"format": "pt", "who": "me"})
    with open_path(path) as opened:
        assert opened.format == "safetensors"
        assert not opened.findings
        found = {row["key"]: row for row in listed(opened)}
        assert opened.facts["metadata"] == {"format": "pt", "who": "me"}
    assert found == {row["key"]: row for row in zoo.rows(tensors)}


def test_cut_at_every_byte_it_is_truncated_and_lists_what_is_whole(path: Path, tmp_path: Path):
    save_file({"a": torch.ones(3), "b": torch.ones(4)}, path)
    data = path.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in range(9, len(data)):
        cut.write_bytes(data[:length])
        with open_path(cut) as opened:
            assert opened.format == "safetensors", length
            assert codes(opened)[-1] in {"RK-FILE-17", "RK-FILE-04"}, length
            whole = [entry for entry in opened.table if entry.storage.data is not None]
            assert len(whole) < 2


def test_a_cut_file_says_how_many_tensors_are_whole(path: Path):
    save_file({"a": torch.ones(3), "b": torch.ones(4)}, path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    with open_path(path) as opened:
        (finding,) = opened.findings
    assert f"found {size - 10} of {size} bytes; 1 of 2 tensors are whole" in finding.what


def test_bytes_after_the_end_are_an_error_as_for_the_reference(path: Path):
    save_file({"a": torch.ones(3)}, path)
    path.write_bytes(path.read_bytes() + b"x")
    with open_path(path) as opened:
        assert codes(opened) == ["RK-FILE-15"]
        assert listed(opened)[0]["digest"] == zoo.digest(torch.ones(3))


F32 = tensor("F32", [1], 0, 4)
BROKEN = {
    "a hole": ({"a": F32, "b": tensor("F32", [1], 8, 12)}, 12, "leaves a hole of 4 bytes"),
    "an overlap": ({"a": F32, "b": tensor("F32", [1], 2, 6)}, 6, "overlaps a by 2 bytes"),
    "a wrong size": ({"a": tensor("F32", [2], 0, 4)}, 4, "F32 [2] needs 8 bytes, its range has 4"),
    "an unknown dtype": ({"a": tensor("F33", [1], 0, 4)}, 4, "dtype 'F33' is none that the format knows"),
    "a negative size": ({"a": tensor("F32", [-1], 0, 4)}, 4, "its shape is no list of sizes"),
    "a size that is true": ({"a": tensor("U8", [True], 0, 1)}, 1, "its shape is no list of sizes"),
    "a huge shape": ({"a": tensor("U8", [2**62, 2**62], 0, 4)}, 4, "more bytes than any disk has"),
    "offsets the wrong way": ({"a": tensor("F32", [1], 4, 0)}, 4, "its data_offsets are no range"),
    "offsets missing": ({"a": {"dtype": "F32", "shape": [1]}}, 4, "its data_offsets are no range"),
    "a number for a tensor": ({"a": 1}, 0, "int where an object belongs"),
    "metadata that is no text": ({"__metadata__": {"a": 1}}, 0, "not a table of texts"),
    "a key twice": (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        4,
        "names 'a' twice",
    ),
    "no JSON": (b"{nope}", 0, "not the JSON"),
    "a float": (b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', 4, "no JSON number"),
    "bytes that are no text": (b'{"\xff":1}', 0, "not the JSON"),
    "deep nesting": (b'{"a":' * 100_000, 0, "nested too deeply"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_violation_is_a_finding_with_its_numbers(path: Path, name: str):
    header, size, words = BROKEN[name]
    with open_path(write(path, header, bytes(size))) as opened:
        assert words in " | ".join(finding.what for finding in opened.findings)
        assert opened.format == "safetensors"
        listed_or_not = len(opened.table)
    assert listed_or_not <= 2
    if name == "a key twice":  # the reference library takes the last one in silence
        return
    with pytest.raises(SafetensorError):
        safe_open(path, "pt")


def test_a_range_outside_the_file_has_no_bytes(path: Path):
    with open_path(write(path, {"a": F32, "b": tensor("F32", [4], 4, 20)}, bytes(10))) as opened:
        assert opened.table["a"].storage.data is not None
        assert opened.table["b"].storage.data is None


def test_sub_byte_types_are_named(path: Path):
    header = {"four": tensor("F4", [3, 4], 0, 6), "six": tensor("F6_E2M3", [8], 6, 12)}
    with open_path(write(path, header, bytes(range(12)))) as opened:
        assert (opened.table["four"].dtype, opened.table["four"].shape) == ("float4_e2m1fn_x2", (3, 2))
        assert (opened.table["six"].dtype, opened.table["six"].shape) == ("uint8", (6,))
        assert "F6_E2M3 [8] has no type in torch" in opened.findings[0].what


def test_a_header_over_the_limit_is_refused_before_it_is_read(path: Path):
    save_file({"a": torch.ones(3)}, path)
    with pytest.raises(LimitExceeded, match="header_bytes"):
        open_path(path, Limits(header_bytes=10))
    with pytest.raises(LimitExceeded, match="members"):
        open_path(path, Limits(members=0))


def test_an_empty_header_is_an_empty_model(path: Path):
    with open_path(write(path, {})) as opened:
        assert opened.listed
        assert len(opened.table) == 0
        assert not opened.findings
