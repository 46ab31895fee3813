"""plain_data: what objects hold, without their classes."""

import pytest

from rekindle.plain_data import as_data, json_of
from rekindle.tensors import Storage
from rekindle.tree import Global, Map, Record, SetOf, Tensor


def record(path, args=(), state=None, items=(), elements=()):
    module, _, name = path.rpartition(".")
    found = Record(Global(module, name), args)
    found.state, found.items, found.elements = state, list(items), list(elements)
    return found


def plain(value):
    """A tree as Python's own values, to compare."""
    if isinstance(value, Map):
        return {key: plain(child) for key, child in value.pairs}
    if isinstance(value, SetOf):
        return set(value.items)
    return type(value)(map(plain, value)) if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (record("argparse.Namespace", state=Map([("lr", 1)])), {"lr": 1}),
        (record("my.Slots", state=(None, Map([("a", 1)]))), {"a": 1}),
        (record("my.Both", state=(Map([("d", 0)]), Map([("a", 1)]))), {"d": 0, "a": 1}),
        (record("my.Dict", items=[("k", 2)]), {"k": 2}),
        (record("my.List", elements=[1, 2]), [1, 2]),
        (record("my.Colour", args=(3,)), 3),
        (record("my.Point", args=(1, 2)), [1, 2]),
        (record("my.Empty"), "my.Empty"),
        (record("pathlib.PosixPath", args=("/", "a", "b")), "/a/b"),
        (record("pathlib.PosixPath", args=("a",)), "a"),
        (Global("my", "function"), "my.function"),
        (SetOf([1, 2], frozen=True), {1, 2}),
        (SetOf([record("my.Point", args=(1, 2))]), [[1, 2]]),
        (Map([("k", 1)], "my.OrderedThing"), {"k": 1}),
        ((record("my.Colour", args=(3,)), [record("my.Colour", args=(4,))]), (3, [4])),
    ],
)
def test_an_object_becomes_what_it_holds_and_that_is_said(value, expected):
    result = as_data(Map([("x", value)]))
    assert plain(result.tree) == {"x": expected}
    assert result.changed
    assert all(path.startswith("x") for path, _ in result.changed)


def test_what_is_plain_stays_and_nothing_is_said():
    size = record("torch.Size", args=((1, 2),))
    tree = Map([("a", [1, (2.0, "x")]), ("s", size), ("d", Global("torch", "float32"))], "OrderedDict")
    result = as_data(tree)
    assert plain(result.tree) == plain(tree)
    assert result.tree.type == "OrderedDict"
    assert result.changed == []


def test_calls_of_functions_are_left_for_the_writer_to_refuse():
    call = record("posix.system", args=("rm",))
    result = as_data([call])
    assert result.tree == [call]
    assert result.changed == []


def test_shared_parts_stay_shared_and_objects_inside_themselves_end():
    shared = Map([("k", 1)])
    loop = record("my.Loop", state=Map())
    loop.state.pairs.append(("me", loop))
    tree = as_data(Map([("a", shared), ("b", [shared]), ("loop", loop)])).tree
    assert tree.pairs[0][1] is tree.pairs[1][1][0]
    assert plain(tree.pairs[2][1]) == {"me": None}


def test_values_as_json_leave_tensors_out_and_keep_the_nesting():
    tensor = Tensor(Storage("0", 4, None), "float32", 0, (), ())
    tree = Map(
        [
            ("w", Map([("a", tensor)])),
            ("list", [tensor, 1, (None, True)]),
            (3, float("-inf")),
            ("nan", float("nan")),
            ("empty", Map()),
            ("bytes", b"x"),
        ]
    )
    tree.pairs.append(("self", tree))
    found = json_of(tree)
    assert found.value == {
        "list": [None, 1, [None, True]],
        "3": "-Infinity",
        "nan": "NaN",
        "empty": {},
    }
    assert found.count == 5
    assert [path for path, _ in found.dropped] == ["bytes", "self"]
