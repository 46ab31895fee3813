"""Law: for plain Python objects, at every protocol, the tree is the object: values, types, order, sharing, cycles."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle.tree import Map, SetOf
from rekindle.unpickling.machine import run_program

keys = (
    st.text()
    | st.binary()
    | st.integers()
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False)
    | st.tuples(st.integers(), st.text())
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary()
    | st.sets(keys) | st.frozensets(keys) | st.text(alphabet="\\'\"\n\r\0\x1a\u1234\ud800", max_size=5),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner),
    max_leaves=30,
)  # fmt: skip
protocols = st.integers(0, 5)


def spelled(value):
    """Spell a tree out with every type in it, sets sorted: equal texts are equal trees."""
    if isinstance(value, Map):
        assert (value.type, value.attributes) == ("dict", None)
        return "{" + ", ".join(f"{spelled(key)}: {spelled(part)}" for key, part in value.pairs) + "}"
    if isinstance(value, SetOf):
        return f"{'frozenset' if value.frozen else 'set'}({sorted(map(spelled, value.items))})"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(spelled, value))})"
    assert type(value) in {type(None), bool, int, float, complex, str, bytes}, type(value)
    return repr(value)


def as_tree(value):
    """Return a real object as a tree."""
    if isinstance(value, dict):
        return Map([(as_tree(key), as_tree(part)) for key, part in value.items()])
    if isinstance(value, (set, frozenset)):
        return SetOf([as_tree(part) for part in value], frozen=isinstance(value, frozenset))
    if isinstance(value, (list, tuple)):
        return type(value)(as_tree(part) for part in value)
    return value


@settings(max_examples=250, deadline=None)
@given(value=values, protocol=protocols)
def test_the_tree_is_the_object(value, protocol):
    data = pickle.dumps(value, protocol)
    outcome = run_program(data)
    assert spelled(outcome.value) == spelled(as_tree(value))
    assert outcome.end == len(data)
    assert outcome.findings == []


@settings(deadline=None)
@given(first=values, second=values, protocol=protocols)
def test_one_program_after_another_is_read_from_where_the_first_ended(first, second, protocol):
    data = pickle.dumps(first, protocol) + pickle.dumps(second, protocol)
    one = run_program(data)
    two = run_program(data, start=one.end)
    assert spelled(two.value) == spelled(as_tree(second))
    assert two.end == len(data)


# Objects whose parts are chosen by number: shared and recursive ones come up all the time.
graphs = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 7), max_size=4)), min_size=1, max_size=8)


def object_of(graph):
    nodes = [{} if is_dict else [] for is_dict, _ in graph]
    for node, (is_dict, parts) in zip(nodes, graph, strict=True):
        for number, part in enumerate(parts):
            child = nodes[part % len(nodes)]
            child = (child, number) if number % 2 else child
            if is_dict:
                node[number] = child
            else:
                node.append(child)
    return nodes[0]


def shape_of(root):
    """Number the containers in the order they are met and spell out who holds whom."""
    numbers = {id(root): 0}
    pending = [root]
    out = []
    for node in pending:
        held = []
        pairs = node.pairs if isinstance(node, Map) else node.items() if isinstance(node, dict) else enumerate(node)
        for key, part in pairs:
            wrapped = isinstance(part, tuple)
            child = part[0] if wrapped else part
            if id(child) not in numbers:
                numbers[id(child)] = len(numbers)
                pending.append(child)
            held.append((key, wrapped, numbers[id(child)]))
        out.append((isinstance(node, (Map, dict)), held))
    return out


@settings(max_examples=200, deadline=None)
@given(graph=graphs, protocol=protocols)
def test_shared_and_recursive_values_are_shared_and_recursive(graph, protocol):
    value = object_of(graph)
    assert shape_of(run_program(pickle.dumps(value, protocol)).value) == shape_of(value)


@pytest.mark.parametrize("protocol", range(6))
def test_runs_longer_than_a_batch_of_pickle(protocol):
    value = [list(range(3000)), {str(n): n for n in range(3000)}, set(range(3000))]
    assert spelled(run_program(pickle.dumps(value, protocol)).value) == spelled(as_tree(value))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_the_pure_python_pickler_writes_the_same_tree(protocol):
    value = {"a": [1, (2, 3), {4}, b"\xff", 2**70], "é": frozenset((None, 1.5))}
    assert spelled(run_program(pickle._dumps(value, protocol)).value) == spelled(as_tree(value))
