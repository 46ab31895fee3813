"""Which part of which tensor lies where, as a file says it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.errors import UnreadableFile
from rekindle.store.shards import (
    Part,
    ShardedTensor,
    encode_shards,
    is_shards,
    name_of_part_file,
    name_of_shards,
    parse_shards,
)

PARTS = (Part("model.rank-00000-of-00002.safetensors", "w", (0, 0), (3, 2)), Part("b.safetensors", "x", (3, 0), (2, 2)))
TENSORS = {"w": ShardedTensor("float32", (5, 2), PARTS), "n": ShardedTensor("int64", (), ())}


def whole() -> dict[str, ShardedTensor]:
    return dict(TENSORS)


def with_part(part: dict[str, object]) -> dict[str, object]:
    return {"tensors": {"w": {"dtype": "int8", "shape": [1], "parts": [part]}}}


def test_what_is_written_is_read_again():
    assert parse_shards("model.shards.json", encode_shards(whole())) == whole()


def test_the_order_of_tensors_does_not_matter():
    assert encode_shards(whole()) == encode_shards(dict(reversed(whole().items())))


def test_names_follow_from_the_file_that_would_hold_it_all():
    assert name_of_shards("model.safetensors") == "model.shards.json"
    assert is_shards("model.shards.json")
    assert not is_shards("model.safetensors.index.json")
    assert name_of_part_file("model.safetensors", 1, 3) == "model.rank-00001-of-00003.safetensors"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "other"}, "does not say where parts of tensors lie"),
        ({"format_version": 2}, "written in format 2; this rekindle reads 1"),
        ({"tensors": []}, "lists no tensors"),
        ({"tensors": {"w": 1}}, "is not described"),
        ({"tensors": {"w": {"dtype": "float31", "shape": [1], "parts": []}}}, "is not a type of elements"),
        ({"tensors": {"w": {"dtype": "int8", "shape": [-1], "parts": []}}}, "has a shape that is none"),
        ({"tensors": {"w": {"dtype": "int8", "shape": [2**62, 2**62], "parts": []}}}, "has a shape that is none"),
        ({"tensors": {"w": {"dtype": "int8", "shape": [1], "parts": 3}}}, "has no parts"),
        (with_part({"file": "../x", "offset": [0], "shape": [1]}), "cannot be a file of a snapshot"),
        (with_part({"file": "a.safetensors", "offset": [], "shape": []}), "of another number of dimensions"),
        (with_part({"file": "a.safetensors", "key": 1, "offset": [0], "shape": [1]}), "has a part without a key"),
    ],
)
def test_anything_else_is_one_error_that_names_it(change, reason):
    body = {**json.loads(encode_shards(whole())), **change}
    with pytest.raises(UnreadableFile, match=reason):
        parse_shards("model.shards.json", json.dumps(body).encode())


@given(st.binary(max_size=40), st.integers(0, 10_000))
def test_whatever_the_bytes_the_answer_is_tensors_or_our_error(noise, place):
    data = encode_shards(whole())
    at = place % len(data)
    for changed in (data[:at], data[:at] + noise + data[at + len(noise) :], noise):
        try:
            found = parse_shards("model.shards.json", changed)
        except UnreadableFile:
            continue
        assert all(isinstance(tensor, ShardedTensor) for tensor in found.values())
