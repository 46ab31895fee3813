"""The last pass: keys once, modules and arrays in place everywhere, nothing changed that need not be."""

import pickle

import pytest

from rekindle.limits import DEFAULT_LIMITS
from rekindle.tree import Global, Map, Module, Record, SetOf, Tensor
from rekindle.unpickling.finish import finish
from rekindle.unpickling.known_globals import Context
from rekindle.unpickling.machine import run_program


def finished(value, *built):
    context = Context(DEFAULT_LIMITS, None)
    for node in (value, *built):
        if isinstance(node, (Map, SetOf)):
            context.touched[id(node)] = node
    return finish(value, [node for node in built if isinstance(node, Record)], context)


def module_record(name="Net", **rest):
    record = Record(Global("models", name), ())
    parts = {"_parameters": Map(), "_buffers": Map(), "_modules": Map(), **rest}
    record.state = Map(list(parts.items()))
    return record


NAN = float("nan")


@pytest.mark.parametrize(
    "keys",
    [
        [1, 1.0, True],
        [0, -0.0, False],
        [1, "1", b"1"],
        [2**70, float(2**70), complex(2**70, 0)],
        [0.5, complex(0.5, 0), complex(0.5, 1)],
        [NAN, NAN, float("nan")],
        [None, "None", ()],
        [(1, "a"), (True, "a"), (1, ("a",))],
        [float("inf"), float("-inf"), 1e300],
        [frozenset((1, 2)), frozenset((2, 1)), frozenset((1,))],
        ["a", "b", "a", "c", "b"],
    ],
)
def test_keys_are_the_same_just_where_a_dict_says_so(keys):
    real = {key: number for number, key in enumerate(keys)}
    nodes = [SetOf(list(key), frozen=True) if isinstance(key, frozenset) else key for key in keys]
    map = Map(list(zip(nodes, range(len(keys)), strict=True)))
    finished(map)
    plain = [(frozenset(key.items) if isinstance(key, SetOf) else key, value) for key, value in map.pairs]
    assert repr(plain) == repr(list(real.items()))  # repr tells 1, 1.0 and True apart
    members = SetOf(list(nodes))
    finished(members)
    assert len(members.items) == len(set(keys))


def test_globals_are_one_key_by_name_and_records_by_identity():
    record = Record(Global("a", "B"), ())
    map = Map(
        [(Global("a", "B"), 1), (Global("a", "B"), 2), (record, 3), (record, 4), (Record(Global("a", "B"), ()), 5)]
    )
    finished(map)
    assert [value for _, value in map.pairs] == [2, 4, 5]


def test_a_key_of_many_parts_costs_little_and_is_kept():
    deep = ()
    for _ in range(200):
        deep = (deep, deep)  # 2^200 parts, spelled out
    map = Map([(deep, 1), ("a", 2)])
    finished(map)
    assert len(map.pairs) == 2


def test_a_record_with_a_module_s_state_is_a_module_whatever_its_class():
    weight = Record(Global("x", "LazyWeight"), ())
    record = module_record(
        _parameters=Map([("weight", weight), ("bias", None)]),
        _buffers=Map([("mean", 1), ("cache", 2)]),
        _non_persistent_buffers_set=SetOf(["cache"]),
        training=True,
    )
    module = finished(record, record)
    assert isinstance(module, Module)
    assert module.type.path == "models.Net"
    assert module.parameters == {"weight": weight, "bias": None}
    assert module.buffers == {"mean": 1, "cache": 2}
    assert module.modules == {}
    assert module.non_persistent == ("cache",)
    assert module.attributes.pairs == [("training", True)]


def test_an_old_module_has_no_set_of_non_persistent_buffers():
    record = module_record()
    assert finished(record, record).non_persistent == ()


def test_slots_and_arguments_of_a_module_are_kept_with_its_attributes():
    record = module_record()
    record.args = (3,)
    record.state = (record.state, Map([("slot", 1)]))
    names = [name for name, _ in finished(record, record).attributes.pairs]
    assert names == ["__args__", "__slots__"]


@pytest.mark.parametrize("missing", ["_parameters", "_buffers", "_modules"])
def test_a_record_that_lacks_a_part_stays_a_record(missing):
    record = module_record(**{missing: None})
    assert finished(record, record) is record


def test_a_record_with_parts_that_are_not_named_by_text_stays_a_record():
    record = module_record(_parameters=Map([(1, None)]))
    assert finished(record, record) is record


def test_the_module_is_in_place_everywhere_and_one_object():
    child = module_record("Child")
    parent = module_record("Parent", _modules=Map([("a", child), ("b", child)]))
    inside = (child, "x")
    untouched = (1, 2)
    holder = Record(Global("a", "b"), (inside, [inside]))
    holder.items.append((child, child))
    holder.elements.append(child)
    holder.kwargs = Map([("key", child)])
    root = [parent, inside, SetOf([inside]), holder, untouched, Map([(inside, ((child,),))])]
    finished(root, child, parent)
    new_parent = root[0]
    new_child = new_parent.modules["a"]
    assert isinstance(new_child, Module)
    assert new_child is new_parent.modules["b"]
    new_inside = root[1]
    assert new_inside[0] is new_child
    assert root[2].items[0] is new_inside
    assert holder.args[0] is new_inside
    assert holder.args[1][0] is new_inside
    assert holder.items == [(new_child, new_child)]
    assert holder.elements == [new_child]
    assert holder.kwargs.pairs == [("key", new_child)]
    assert root[4] is untouched
    assert root[5].pairs[0][0] is new_inside
    assert root[5].pairs[0][1][0][0] is new_child


def test_modules_that_know_each_other_are_replaced_inside_each_other():
    child, parent = module_record("Child"), module_record("Parent")
    child.state.pairs.append(("parent", (parent,)))
    parent.state.pairs[2] = ("_modules", Map([("child", child)]))
    module = finished(parent, child, parent)
    assert module.modules["child"].attributes.pairs[0][1][0] is module


def test_tuples_that_hold_each_other_through_a_list_are_renewed_in_order():
    child = module_record("Child")
    through = []
    outer = (through, child)
    inner = (outer,)
    through.append(inner)
    root = finished(outer, child)
    assert isinstance(root[1], Module)
    assert root[0][0][0] is root


def test_a_real_module_pickle_keeps_what_is_shared(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    net.add_module("again", net[0])
    data = pickle.dumps([net, (net[0], {"first": net[0]})], 2)
    outcome = run_program(data, nested=lambda _: None)
    module, (first, named) = outcome.value
    assert module.type.path == "torch.nn.modules.container.Sequential"
    assert list(module.modules) == ["0", "1", "again"]
    assert module.modules["0"] is module.modules["again"] is first is named.pairs[0][1]
    assert list(module.modules["1"].buffers) == ["running_mean", "running_var", "num_batches_tracked"]
    assert ("in_features", 2) in first.attributes.pairs
    assert outcome.findings == []


def test_arrays_are_in_place_of_their_records():
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(3, dtype="<f4")
    for protocol in range(6):
        pair, again = run_program(pickle.dumps([(array,), array], protocol)).value
        assert isinstance(again, Tensor)
        assert pair[0] is again
