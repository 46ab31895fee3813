"""Plain values as strict JSON, exact both ways."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.errors import RekindleError, StateMismatch, UnreadableFile
from rekindle.store.plain import decode, dumps, encode, loads, to_tree
from rekindle.tree import Global, Map, Record, SetOf


def no_tags(tag, value):
    raise UnreadableFile(f"{tag} is not known")


def there_and_back(value):
    return decode(loads(dumps(encode(value))), no_tags)


def same(one, other):
    """Equal to the bit and the type, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, dict):
        if isinstance(one, defaultdict) and one.default_factory is not other.default_factory:
            return False
        return same(list(one.items()), list(other.items()))
    if isinstance(one, deque) and one.maxlen != other.maxlen:
        return False
    if isinstance(one, (list, tuple, deque)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


surrogates = st.text(st.characters(codec=None), max_size=5)
keys = st.one_of(
    st.none(), st.booleans(), st.integers(), surrogates, st.binary(max_size=4), st.floats(allow_nan=False).map(float)
)
leaves = st.one_of(
    keys,
    st.floats(),
    st.complex_numbers(),
    st.binary().map(bytearray),
    st.ranges() if hasattr(st, "ranges") else st.builds(range, st.integers(0, 9), st.integers(0, 9), st.integers(1, 3)),
    st.frozensets(st.tuples(keys)),
    st.sets(keys),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(st.sampled_from(["a", "$a", "$int", "b"]), inner),
        st.dictionaries(keys, inner, max_size=4).map(OrderedDict),
        st.dictionaries(keys, inner, max_size=4).map(lambda pairs: defaultdict(list, pairs)),
        st.dictionaries(keys, inner, max_size=4).map(Counter),
        st.lists(inner, max_size=4).map(lambda items: deque(items, maxlen=5)),
    ),
    max_leaves=12,
)


@given(values)
def test_write_then_read_is_identity(value):
    assert same(there_and_back(value), value)


@given(values)
def test_what_is_written_is_strict_json_that_others_read(value):
    text = dumps(encode(value)).decode("ascii")
    json.loads(text, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "value",
    [
        -0.0,
        math.nan,
        -math.nan,
        struct.unpack("d", struct.pack("Q", 0x7FF8000000000123))[0],
        5e-324,
        1e308,
        2**53,
        -(2**53) - 1,
        2**5000,
        "\ud83d\ude00",  # two halves, not the whole
        "\U0001f600",
        {"$tensor": "x#y"},
        {"$dict": []},
        {1: "a", "1": "b", True and 2: "c"},
        (),
        [[]],
        defaultdict(None, a=1),
        deque([1]),
    ],
)
def test_awkward_values_come_back(value):
    assert same(there_and_back(value), value)


class Point(NamedTuple):
    x: int
    y: int


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda: 0, "state['a'][0]: a function ("),
        (object(), "state['a'][0]: a object cannot be saved"),
        (Colour.RED, "Colour cannot be saved"),
        (Point(1, 2), "Point cannot be saved"),
        (defaultdict(lambda: 3), "a defaultdict whose default is made by a function"),
        (type("Words", (str,), {})("x"), "Words cannot be saved"),
    ],
)
def test_what_is_not_plain_is_named_by_its_path(value, words):
    with pytest.raises(StateMismatch) as caught:
        encode({"a": [value]}, ("state",))
    assert words in caught.value.what


def test_integers_that_other_json_readers_would_round_are_tagged():
    assert encode([2**53 - 1, -(2**53) + 1]) == [2**53 - 1, -(2**53) + 1]
    assert encode([2**53, -(2**53)]) == [{"$int": "0x20000000000000"}, {"$int": "-0x20000000000000"}]


def test_a_cycle_and_a_well_are_refused():
    inside = []
    inside.append(inside)
    with pytest.raises(StateMismatch, match=r"state\[0\]: contains itself"):
        encode(inside, ("state",))
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(StateMismatch, match="is nested more than 200 deep"):
        encode(deep, ("state",))
    twice = [1]
    assert encode([twice, twice]) == [[1], [1]]


def test_sets_give_the_same_bytes_whatever_their_order():
    assert dumps(encode({"b", "a", "c"})) == dumps(encode({"c", "b", "a"}))


@pytest.mark.parametrize("text", ["NaN", "Infinity", '{"a": 1, "a": 2}', "[" * 100_000, "", "\xff", "1 2"])
def test_what_is_not_strict_json_is_one_error(text):
    with pytest.raises(UnreadableFile, match="not strict JSON"):
        loads(text.encode("latin-1"))


BAD = [
    {"$int": "x"},
    {"$int": None},
    {"$float": "x"},
    {"$float": "00"},
    {"$str": "zz"},
    {"$bytes": "?"},
    {"$complex": [1]},
    {"$range": [0, 1, 0]},
    {"$tuple": 3},
    {"$set": [[]]},
    {"$dict": [[1]]},
    {"$dict": [[[], 1]]},
    {"$defaultdict": ["eval", []]},
    {"$deque": [[], "x"]},
    {"$deque": [[], -1]},
    {"$unknown": 1},
]


@pytest.mark.parametrize("value", BAD)
def test_tags_that_mean_nothing_are_one_error(value):
    with pytest.raises(UnreadableFile):
        decode([value], no_tags)


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
        lambda inner: st.one_of(
            st.lists(inner),
            st.dictionaries(
                st.sampled_from(
                    [
                        *(next(iter(bad)) for bad in BAD),
                        "$frozenset",
                        "$OrderedDict",
                        "$Counter",
                        "$Size",
                        "$device",
                        "x",
                    ]
                ),
                inner,
            ),
        ),
    )
)
def test_any_json_is_a_value_or_our_error(value):
    for read in (lambda: decode(value, no_tags), lambda: to_tree(value, no_tags)):
        with suppress(RekindleError):
            read()


def test_a_tree_is_made_of_inert_nodes():
    value = {
        "order": OrderedDict(b=(1, 2)),
        3: {4},
        "count": Counter("a"),
        "more": [deque([1], 2), range(3), bytearray(b"x"), 2**70, 1j],
    }
    tree = to_tree(loads(dumps(encode(value))), no_tags)
    assert isinstance(tree, Map)
    found = dict(tree.pairs)
    assert found["order"].type == "OrderedDict"
    assert found["order"].pairs == [("b", (1, 2))]
    assert isinstance(found[3], SetOf)
    assert found["count"].type == "Counter"
    assert isinstance(found["more"][0], Record)
    assert found["more"][0].function.path == "collections.deque"
    assert found["more"][2:] == [b"x", 2**70, 1j]
    assert isinstance(to_tree({"$dtype": "float32"}, no_tags), Global)


def test_a_tensor_goes_to_the_caller():
    reference = {"$tensor": "model.safetensors#a", "stride": [1, 2]}
    seen = []
    assert decode([reference], lambda tag, value: seen.append((tag, value)) or "tensor") == ["tensor"]
    assert seen == [("$tensor", reference)]
