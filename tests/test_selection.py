"""selection: which part of an object is meant."""

import pytest

from rekindle.errors import CannotWrite
from rekindle.selection import Choice, take
from rekindle.tree import Global, Map, Module, Record


@pytest.mark.parametrize(
    ("only", "drop", "kept"),
    [
        ((), (), ["a.b", "a.bc", "ab.c", "d"]),
        (("a",), (), ["a.b", "a.bc"]),
        (("a.b",), (), ["a.b"]),
        (("*b*",), (), ["a.b", "a.bc", "ab.c"]),
        (("a?.*",), (), ["ab.c"]),
        (("[ad]",), (), ["a.b", "a.bc", "d"]),
        (("a", "d"), ("a.b",), ["a.bc", "d"]),
        ((), ("*",), []),
    ],
)
def test_a_pattern_fits_whole_keys_or_the_container_around_them(only, drop, kept):
    choice = Choice(only, drop)
    assert [key for key in ("a.b", "a.bc", "ab.c", "d") if choice.keeps(key)] == kept


def test_patterns_that_fitted_nothing_are_known():
    choice = Choice(("a*", "x"), ("y",))
    choice.keeps("abc")
    assert choice.unused == {"x", "y"}


def module():
    found = Module(Global("m", "Net"))
    found.modules["inner"] = Module(Global("m", "Inner"))
    return found


INNER = Map([("w", Map())])
OBJECT = Record(Global("m", "Holder"), ())
OBJECT.state = Map([("net", INNER)])
TREE = Map(
    [
        ("a.b", Map([("c", INNER)])),
        ("a", Map([("b", Map([("d", INNER)]))])),
        ("list", [1, INNER]),
        ("net", module()),
        ("holder", OBJECT),
        ("flat.x", INNER),
        ("flat.y.z", INNER),
        ("n", 3),
    ]
)


@pytest.mark.parametrize("path", ["a.b.c", "list.1", "holder.net", "flat.x"])
def test_a_path_goes_by_the_longest_name_through_dicts_lists_and_objects(path):
    assert take(TREE, path, "f") is INNER


def test_a_path_goes_through_modules():
    assert take(TREE, "net.inner", "f").type.name == "Inner"


def test_keys_that_begin_with_the_path_are_taken_without_it():
    assert take(TREE, "flat", "f").pairs == [("x", INNER), ("y.z", INNER)]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("lsit", "closest: list"),
        ("holder.nett", "closest: holder.net"),
        ("n", "only tensors and what holds them can be taken"),
        ("n.x", "what lies under 'n' holds nothing by name"),
        ("flat.x.q", "the keys under 'flat.x' are w"),
    ],
)
def test_a_path_to_nothing_is_answered_with_what_is_there(path, why):
    with pytest.raises(CannotWrite) as caught:
        take(TREE, path, "f.pth")
    assert caught.value.why == why
    assert caught.value.do == "rekindle inspect f.pth --tree"
