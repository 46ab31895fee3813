"""reshape: other keys, and never two tensors under one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.errors import CannotWrite
from rekindle.listing import table_of
from rekindle.reshape import Rules, flattened, renaming, reshape, without_modules
from rekindle.selection import Choice
from rekindle.tensors import Storage
from rekindle.tree import Global, Map, Module, Tensor


def tensor():
    return Tensor(Storage("0", 4, None), "float32", 0, (), ())


def tree(*keys):
    return Map([(key, tensor()) for key in keys])


def keys_of(value):
    return [entry.key for entry in table_of(value)[0]]


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("a=b", "a.a.aa", "b.b.aa"),
        ("a.b=c", "x.a.b.y", "x.c.y"),
        ("a=", "a.b", "b"),
        ("a=", "a", "a"),
        ("a.=b.", "a.a", "b.a"),
        ("a.=", "a.b", "b"),
        ("a.=b.", "c.a.x", "c.a.x"),
        ("k=v=w", "k", "v=w"),
        (r"/\.(\d+)\./[\1]./", "l.12.w", "l[12].w"),
        (r"/a\/b/c\/d/", "a/b", "c/d"),
    ],
)
def test_a_rename_says_what_becomes_of_a_key(text, key, expected):
    assert renaming(text)(key) == expected


@pytest.mark.parametrize("text", ["", "a", "=b", ".=b", "/a/", "/a/b/c/", "/[/x/", r"/a/\1/"])
def test_a_rename_that_says_nothing_is_refused(text):
    with pytest.raises(CannotWrite):
        renaming(text)


@given(st.lists(st.text("ab.", min_size=1, max_size=6), min_size=1, unique=True), st.text("ab.", max_size=3))
def test_adding_a_prefix_and_stripping_it_gives_the_old_keys(keys, prefix):
    added = reshape(tree(*keys), Choice(), Rules(add=prefix)).tree
    back = reshape(added, Choice(), Rules(strip=(prefix,))).tree
    if prefix.strip("."):
        assert [key for key, _ in back.pairs] == keys


@given(st.lists(st.text("ab.", min_size=1, max_size=5), unique=True, max_size=8), st.sampled_from(["a=b", "/[ab]+/c/"]))
def test_no_tensor_is_ever_lost_to_another_of_the_same_name(keys, text):
    try:
        made = reshape(tree(*keys), Choice(), Rules(renames=(text,))).tree
    except CannotWrite:
        rename = renaming(text)
        assert not keys or len({rename(key) for key in keys}) < len(keys) or not all(map(rename, keys))
    else:
        names = [key for key, _ in made.pairs]
        assert len(set(names)) == len(keys)


def test_the_nesting_and_what_is_no_tensor_stay():
    nested = Map([("m", tree("a.x")), ("l", [tree("a.y"), 3]), (5, "five"), ("a", "text")])
    made = reshape(nested, Choice(), Rules(renames=("a=b",))).tree
    assert keys_of(made) == ["m.b.x", "l.0.b.y"]
    assert [key for key, _ in made.pairs] == ["m", "l", 5, "a"]
    assert made.pairs[1][1][1] == 3


def test_lists_keep_their_length_where_a_part_is_left_out():
    nested = Map([("l", [tree("x"), tree("y")])])
    made = reshape(nested, Choice(drop=("l.0",)), Rules()).tree
    assert made.pairs[0][1][0] is None
    assert keys_of(made) == ["l.1.y"]


def test_versions_of_modules_follow_their_keys():
    state = tree("module.bn.weight")
    state.attributes = Map([("_metadata", Map([("", 1), ("module", 2), ("module.bn", 3)], "OrderedDict"))])
    made = reshape(state, Choice(), Rules(strip=("module",), add="net")).tree
    assert made.pairs[0][0] == "net.bn.weight"
    assert dict(made.attributes.pairs[0][1].pairs) == {"net": 1, "net.bn": 3}


def test_the_old_object_is_not_changed():
    old = tree("a", "b")
    reshape(old, Choice(only=("a",)), Rules(add="x"))
    assert keys_of(old) == ["a", "b"]


def test_flat_is_one_level_with_the_same_keys_and_ends_where_an_object_holds_itself():
    nested = Map([("m", tree("a", "b")), ("l", [tree("c"), 3])])
    nested.pairs.append(("self", nested))
    made = flattened(nested)
    assert [key for key, _ in made.pairs] == ["m.a", "m.b", "l.0.c", "l.1"]


def test_modules_become_state_dicts_wherever_they_lie():
    module = Module(Global("m", "Net"))
    module.parameters["w"] = tensor()
    module.parameters["bias"] = None
    made = without_modules(Map([("x", [module, (module, 1)])]))
    assert keys_of(made) == ["x.0.w", "x.1.0.w"]
    assert isinstance(made.pairs[0][1][0], Map)
