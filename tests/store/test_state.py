"""state.json as typed entries; what writes and reads real ones is tested in tests/run/test_snapshot.py."""

from __future__ import annotations

import copy
import json

import pytest

from rekindle.errors import UnreadableFile
from rekindle.store.state import (
    ModuleEntry,
    ObjectEntry,
    OptimizerEntry,
    OptimizerGroup,
    Reference,
    State,
    decode_state,
    encode_state,
    parse_index,
    parse_reference,
)

STATE = State(
    {
        "model": ModuleEntry(
            "torch.nn.Linear",
            "model.safetensors",
            keys=("weight", "b", "_extra_state"),
            elsewhere={"_extra_state": {"$int": "0x1"}},
            non_persistent={"cache": {"$tensor": "state.safetensors#cache"}},
            frozen=("b",),
            tied=(("weight", "b"),),
        ),
        "optimizer": OptimizerEntry(
            "torch.optim.Adam",
            {"lr": 0.1},
            (OptimizerGroup(("model.weight", None), ((2, 3), ()), {"lr": 0.1}, ({"step": 1}, None)),),
            {},
        ),
        "scheduler": ObjectEntry("object", "torch.optim.lr_scheduler.StepLR", {"last_epoch": 3}),
    },
    {"step": 5},
)


def test_it_comes_back_in_order():
    back = decode_state(encode_state(STATE))
    assert back == STATE
    assert list(back.tracked) == ["model", "optimizer", "scheduler"]


@pytest.mark.parametrize(
    "reference",
    [
        Reference("a.safetensors", "key # with a mark"),
        Reference(
            "a.safetensors", "", "complex128", (2, 3), (1, 2), "cuda:0", ["per_tensor_affine", 0.1, 0], True, True
        ),
    ],
)
def test_a_reference_comes_back(reference):
    assert parse_reference(json.loads(json.dumps(reference.to_json()))) == reference


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"$tensor": 3},
        {"$tensor": "no mark"},
        {"$tensor": "../x#y"},
        {"$tensor": "a#b", "dtype": "eval"},
        {"$tensor": "a#b", "shape": [-1]},
        {"$tensor": "a#b", "shape": [2**32, 2**32]},
        {"$tensor": "a#b", "shape": [1] * 65},
        {"$tensor": "a#b", "shape": [1], "stride": [1, 1]},
        {"$tensor": "a#b", "device": 3},
    ],
)
def test_a_reference_that_is_none_is_refused(value):
    with pytest.raises(UnreadableFile):
        parse_reference(value)


def leaves(value, path=()):
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield path
    for key, child in children:
        yield from leaves(child, (*path, key))


def test_any_json_in_any_place_is_a_state_or_one_error():
    good = json.loads(encode_state(STATE))
    refused = 0
    for path in leaves(good):
        for odd in (None, 3, "x", [], {}, [3], {"kind": "module"}, -1):
            if not path:
                continue
            changed = copy.deepcopy(good)
            node = changed
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = odd
            try:
                decode_state(json.dumps(changed).encode())
            except UnreadableFile:
                refused += 1
    assert refused > 150


def test_another_version_is_said():
    text = encode_state(STATE).replace(b'"format_version": 1', b'"format_version": 2')
    with pytest.raises(UnreadableFile, match="written in format 2; this rekindle reads 1"):
        decode_state(text)


def test_an_index_says_which_key_lies_in_which_file():
    data = b'{"metadata": {"total_size": 3}, "weight_map": {"a.weight": "model-00002-of-00002.safetensors"}}'
    assert parse_index("model.safetensors.index.json", data) == {"a.weight": "model-00002-of-00002.safetensors"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"weight_map": []}',
        b'{"weight_map": {"a": 3}}',
        b'{"weight_map": {"a": "../a.safetensors"}}',
        b'{"weight_map": {"a": "/etc/passwd"}}',
        b'{"weight_map": {"a": "model.safetensors.index.json"}}',
        b'{"weight_map": {"a": "x", "a": "y"}}',
    ],
)
def test_an_index_of_anything_else_is_unreadable(data):
    with pytest.raises(UnreadableFile):
        parse_index("model.safetensors.index.json", data)
