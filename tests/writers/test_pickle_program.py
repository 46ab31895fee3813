"""The program that a tree becomes: only what torch accepts without running code, shared things once."""

import collections
import io
import pickle
import pickletools

import pytest
import torch

from rekindle.errors import CannotWrite
from rekindle.save import tree_of
from rekindle.source import BufferBytes
from rekindle.tensors import Storage
from rekindle.tree import Global, Map, Module, Record, SetOf, SparseTensor, StorageRef, Tensor
from rekindle.writers.pickle_program import path_text, program_of


def loaded(value):
    return pickle.loads(program_of(tree_of(value)).pickle)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 1.5, -0.0, float("inf"), 3 - 4j, "", "é\udc80\n", b"", b"\x00\xff", bytearray(b"ab")),
        *(0, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -1, -(2**31), -(2**31) - 1, 2**63, -(2**2039), 2**3000),
        *((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1, [2]], {}, {1: 2, None: 3, (1, "a"): 4}, set(), {1, 2}),
        *(collections.Counter("hello"), collections.OrderedDict(a=1), list(range(2500)), dict.fromkeys(range(2500))),
    ],
    ids=repr,
)
def test_plain_values_come_back(value):
    found = loaded(value)
    assert type(found) is type(value)
    assert repr(found) == repr(value)


def test_shared_and_recursive_containers_stay_what_they_are():
    inner, cycle = {"x": 1}, [1]
    cycle.append((cycle, inner))
    found = loaded({"a": inner, "b": [inner, inner], "cycle": cycle})
    assert found["a"] is found["b"][0] is found["b"][1]
    assert found["cycle"][1][0] is found["cycle"]
    assert found["cycle"][1][1] is found["a"]


def test_a_tuple_inside_itself_is_one_tuple():
    holder = []
    four = (holder, 1, 2, 3)
    holder.append(four)
    found = loaded(four)
    assert found[0][0] is found


def test_a_value_inside_itself_that_python_cannot_build_is_refused():
    counter = Map([], "Counter")
    counter.pairs.append(("self", counter))
    with pytest.raises(CannotWrite, match=r"at \['self'\]: it contains itself"):
        program_of(counter)


def test_five_thousand_levels_need_no_recursion():
    tree = []
    for _ in range(5000):
        tree = [tree]
    ops = [op.name for op, _, _ in pickletools.genops(program_of(tree).pickle)]
    assert ops.count("EMPTY_LIST") == 5001


def test_attributes_of_an_ordered_dict_come_back():
    state = torch.nn.BatchNorm1d(2).state_dict()
    found = torch.load(_archive(state))
    assert found._metadata == state._metadata


def _archive(value):
    from rekindle.writers import torch_zip

    out = io.BytesIO()
    torch_zip.write_tree(tree_of(value), out)
    out.seek(0)
    return out


def test_storages_get_their_keys_in_order_of_appearance_and_once_each():
    a, b = torch.ones(2), torch.ones(3)
    program = program_of(tree_of([b, a, b[1:], a]))
    assert [(stored.key, stored.numel, stored.itemsize) for stored in program.storages] == [("0", 3, 4), ("1", 2, 4)]


def test_a_storage_with_tensors_of_two_types_is_shared_which_torch_refuses_to_save():
    floats = torch.ones(4)
    obj = {"f": floats, "i": floats.view(torch.int32)}
    with pytest.raises(RuntimeError, match="different types"):
        torch.save(obj, io.BytesIO())
    found = torch.load(_archive(obj))
    assert found["i"].dtype == torch.int32
    found["f"][0] = 0
    assert found["i"][0] == 0


def test_big_endian_storages_are_written_little_endian():
    raw = bytes(range(1, 17))
    storage = Storage("0", 16, BufferBytes(memoryview(raw)), "cpu", "big")
    (stored,) = program_of(Tensor(storage, "complex64", 0, (2,), (1,))).storages
    swapped = b"".join(raw[at : at + 4][::-1] for at in range(0, 16, 4))
    assert b"".join(stored.data.chunks()) == swapped


def test_a_window_into_a_storage_gets_its_own_bytes():
    storage = Storage("0", 16, BufferBytes(memoryview(bytes(range(16)))))
    (stored,) = program_of(StorageRef(storage, "int16", 2, 3)).storages
    assert b"".join(stored.data.chunks()) == bytes(range(4, 10))
    assert stored.numel == 3


TENSOR = Tensor(Storage("0", 4, BufferBytes(memoryview(bytes(4)))), "float32", 0, (1,), (1,))
UNFIT = [
    (Global("posix", "system"), "posix.system is code, not a value"),
    (Global("torch", "save"), "torch.save is code, not a value"),
    (Record(Global("posix", "system"), ("id",)), "an object of posix.system, whose code would have to run"),
    (Record(Record(None, ()), ()), "the result of a call"),
    (Tensor(Storage("9", 4, None), "float32", 0, (1,), (1,)), "its storage 9 has no bytes in the file"),
    (SparseTensor("jagged", (1, -1), {"values": TENSOR, "offsets": TENSOR}), "a tensor of layout jagged is not on"),
    (SetOf([Record(Global("a", "b"), ())]), "an object of a.b"),
    (Map([([1], 1)]), "its key is not a plain value"),
]


@pytest.mark.parametrize(("value", "reason"), UNFIT, ids=[reason for _, reason in UNFIT])
def test_what_needs_code_is_refused_with_its_place(value, reason):
    with pytest.raises(CannotWrite, match=reason) as caught:
        program_of(Map([("model", [1, value])]))
    assert str(caught.value).startswith("at ['model'][1]")


@pytest.mark.parametrize(("value", "reason"), UNFIT, ids=[reason for _, reason in UNFIT])
def test_what_needs_code_can_be_left_out_instead(value, reason):
    for tree in (Map([("bad", value), ("good", 2)]), Map([("bad", [value, 1]), ("good", 2)])):
        lost = []
        program = program_of(tree, unfit=lambda path, why, lost=lost: lost.append((path, why)))
        found = pickle.loads(program.pickle)
        assert found["good"] == 2
        assert isinstance(value, (Map, SetOf)) or found.get("bad", [None, 1]) == [None, 1]
        assert b"system" not in program.pickle
        ((path, why),) = lost
        assert reason in why
        assert path[0] == "bad"


def test_the_whole_object_cannot_be_left_out():
    with pytest.raises(CannotWrite, match=r"at the top: posix\.system is code"):
        program_of(Global("posix", "system"), unfit=lambda *_: None)


def test_a_module_becomes_its_state_dict_and_is_the_same_one_twice():
    module = Module(Global("models", "Net"))
    module.parameters["w"] = TENSOR
    found = torch.load(_zip_of(Map([("a", module), ("b", module)])))
    assert list(found["a"]) == ["w"]
    assert found["a"] is found["b"]


def _zip_of(tree):
    from rekindle.writers import torch_zip

    out = io.BytesIO()
    torch_zip.write_tree(tree, out)
    out.seek(0)
    return out


def test_only_opcodes_of_torchs_own_list_are_written():
    values = [None, True, 1, 2**40, 2**80, 1.5, "x", b"y", 1j, (), (1,), (1, 2, 3, 4), [1], {1: 2}, {3}]
    names = {op.name for op, _, _ in pickletools.genops(program_of(tree_of(values)).pickle)}
    torchs = {
        *("PROTO", "STOP", "MARK", "EMPTY_LIST", "APPENDS", "EMPTY_DICT", "SETITEMS", "NONE", "NEWTRUE", "BININT1"),
        *("BININT", "LONG1", "BINFLOAT", "BINUNICODE", "GLOBAL", "BINPUT", "BINGET", "TUPLE1", "TUPLE2", "REDUCE"),
        *("EMPTY_TUPLE", "TUPLE"),
    }
    assert names <= torchs


def test_paths_read_as_python():
    assert path_text(("model", 0, "w")) == "['model'][0]['w']"


def test_a_text_is_written_once_however_often_it_comes():
    program = program_of(tree_of([{"exp_avg": number} for number in range(50)]))
    assert program.pickle.count(b"exp_avg") == 1
