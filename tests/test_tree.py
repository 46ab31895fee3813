"""Walking a saved object: its own order, cycles once, shared values once per path."""

from __future__ import annotations

from rekindle.tree import Global, Map, Module, Record, SetOf, children, distinct_nodes, lookup, walk


def test_the_children_of_each_kind_of_node_have_the_names_of_their_path():
    assert children(Map([("a", 1), (2, 3), ((1, None), 4), (b"k", 5)])) == [
        ("a", 1),
        ("2", 3),
        ("(1, None)", 4),
        ("k", 5),
    ]
    assert children([5, 6]) == [("0", 5), ("1", 6)]
    assert children(SetOf([7])) == [("0", 7)]
    assert children(8) == []


def test_a_record_shows_its_items_as_a_dict_does_and_its_elements_as_a_list_does():
    record = Record(Global("a", "B"), ("x",))
    record.state = Map([("s", 1)])
    record.items.append(("k", 2))
    record.elements.append(3)
    assert [name for name, _ in children(record)] == ["args", "state", "k", "0"]
    assert children(Record(Global("a", "B"), ())) == []


def test_a_module_is_walked_as_its_state_dict_is():
    module = Module(Global("m", "Net"))
    module.parameters["w"] = 1
    module.buffers["b"] = 2
    module.modules["sub"] = None
    assert children(module) == [("w", 1), ("b", 2), ("sub", None)]


def test_a_walk_gives_parents_first_and_ends_in_a_cycle():
    loop: list[object] = [1]
    loop.append(loop)
    tree = Map([("loop", loop), ("x", 2)])
    assert [path for path, _ in walk(tree)] == [(), ("loop",), ("loop", "0"), ("x",)]


def test_distinct_nodes_come_once_however_many_paths_lead_to_them():
    node: object = []
    for _ in range(100):
        node = [node, node]
    assert sum(1 for _ in distinct_nodes(node)) == 101


def test_distinct_nodes_look_into_attributes_and_records():
    record = Record(Global("a", "B"), (Map(),))
    record.items.append(("k", SetOf([])))
    tree = Map([], attributes=Map([("r", record)]))
    kinds = [type(node).__name__ for node in distinct_nodes(tree)]
    assert sorted(kinds) == ["Global", "Map", "Map", "Map", "Record", "SetOf", "tuple"]


def test_looking_up_in_something_else_finds_nothing():
    assert lookup(Map([("a", 1)]), "a") == 1
    assert lookup(Map([("a", 1)]), "b") is None
    assert lookup([1], "a") is None
