"""The machine: what each opcode does, what it refuses, and what it never does."""

import contextlib
import gc
import json
import pickle
import struct
import time
import tracemalloc
from pathlib import Path

import pytest

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Severity
from rekindle.limits import Limits
from rekindle.tree import Global, Map, Record, SetOf
from rekindle.unpickling import machine
from rekindle.unpickling.machine import run_program
from rekindle.unpickling.opcodes import OPCODES

GOLDEN = Path(__file__).parent.parent / "golden" / "python2"


def run(data, **limits):
    return run_program(data, limits=Limits(**limits))


def value_of(data):
    return run_program(data).value


# ---- plain values


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"N.", None),
        (b"\x88.", True),
        (b"\x89.", False),
        (b"I01\n.", True),
        (b"K\x07.", 7),
        (b"M\x01\x02.", 513),
        (b"J\xfe\xff\xff\xff.", -2),
        (b"L12L\n.", 12),
        (b"\x8a\x01\xff.", -1),
        (b"G\x3f\xf8\0\0\0\0\0\0.", 1.5),
        (b"F1.5\n.", 1.5),
        (b"X\x02\0\0\0\xc3\xa9.", "é"),
        (b"\x8c\x03\xed\xa0\x80.", "\ud800"),
        (b"\x8d\x01\0\0\0\0\0\0\0a.", "a"),
        (b"B\x01\0\0\0a.", b"a"),
        (b"C\x01a.", b"a"),
        (b"\x8e\x01\0\0\0\0\0\0\0a.", b"a"),
        (b"\x96\x01\0\0\0\0\0\0\0a.", b"a"),
        (b"U\x02ab.", "ab"),
        (b"U\x02\xc3\xa9.", "é"),
        (b"U\x01\xff.", b"\xff"),
        (b"T\x01\0\0\0\xff.", b"\xff"),
        (b").", ()),
        (b"].", []),
        (b"K\x01\x85.", (1,)),
        (b"K\x01K\x02\x86.", (1, 2)),
        (b"K\x01K\x02K\x03\x87.", (1, 2, 3)),
        (b"(K\x01K\x02t.", (1, 2)),
        (b"(K\x01K\x02l.", [1, 2]),
        (b"]K\x01a(K\x02K\x03e.", [1, 2, 3]),
        (b"K\x01K\x020.", 1),
        (b"K\x01(K\x02K\x031.", 1),
        (b"K\x01(0.", 1),
        (b"K\x012\x86.", (1, 1)),
        (b"K\x05p3\n0g3\n.", 5),
        (b"K\x05q\x030h\x03.", 5),
        (b"K\x05r\xff\xff\xff\xff0j\xff\xff\xff\xff.", 5),
        (b"K\x05\x94K\x06\x940h\x00\x86.", (5, 5)),
        (b"\x80\x04\x95\x02\0\0\0\0\0\0\0K\x01.", 1),
    ],
)
def test_an_opcode_makes_the_value_that_pickle_makes(data, value):
    found = value_of(data)
    assert found == value
    assert type(found) is type(value)


def test_every_opcode_is_handled():
    source = Path(machine.__file__).read_text(encoding="utf-8")
    in_the_loop = {opcode.name for opcode in OPCODES if f"code == 0x{opcode.code:02X}:  # {opcode.name}\n" in source}
    in_the_table = {opcode.name for opcode in OPCODES if opcode.code in machine._RARE}
    assert in_the_loop | in_the_table == {opcode.name for opcode in OPCODES}
    assert not in_the_loop & in_the_table
    assert source.count("elif code == 0x") + 1 == len(in_the_loop)  # the comments name the right bytes


def test_a_dict_is_a_map_of_pairs():
    for data in (b"}X\x01\0\0\0aK\x01s.", b"(X\x01\0\0\0aK\x01d.", b"}(X\x01\0\0\0aK\x01u."):
        map = value_of(data)
        assert isinstance(map, Map)
        assert (map.pairs, map.type, map.attributes) == ([("a", 1)], "dict", None)


def test_sets_are_lists_of_members():
    for data, frozen in ((b"\x8f(K\x01K\x02K\x01\x90.", False), (b"(K\x01K\x02K\x01\x91.", True)):
        members = value_of(data)
        assert isinstance(members, SetOf)
        assert (members.items, members.frozen) == ([1, 2], frozen)


def test_end_protocol_and_start_are_offsets_in_the_given_bytes():
    outcome = run_program(b"junk\x80\x02K\x01.more", start=4)
    assert (outcome.value, outcome.protocol, outcome.end) == (1, 2, 9)
    assert run_program(b"K\x01.").protocol == 0


# ---- names, calls, states


def test_a_global_is_a_name_with_its_place():
    for data, offset in ((b"Ncos\nsystem\n.", 1), (b"\x8c\x02os\x8c\x06system\x93.", 12)):
        outcome = run_program(data)
        assert isinstance(outcome.value, Global)
        assert (outcome.value.module, outcome.value.name, outcome.value.offset) == ("os", "system", offset)
        assert outcome.globals == [outcome.value]


def test_every_global_is_listed_in_order_even_when_it_is_thrown_away():
    outcome = run_program(b"cos\nsystem\n0(ia\nb\n0cos\nsystem\n0N.")
    assert [name.path for name in outcome.globals] == ["os.system", "a.b", "os.system"]
    assert outcome.value is None


@pytest.mark.parametrize(
    ("data", "args", "kwargs"),
    [
        (b"cos\nsystem\n(X\x02\0\0\0lstR.", ("ls",), None),
        (b"(X\x02\0\0\0lsios\nsystem\n.", ("ls",), None),
        (b"(cos\nsystem\nX\x02\0\0\0lso.", ("ls",), None),
        (b"cos\nsystem\n(X\x02\0\0\0lst\x81.", ("ls",), None),
        (b"cos\nsystem\nX\x02\0\0\0ls\x85}\x92.", ("ls",), []),
        (b"ccopyreg\n__newobj__\ncos\nsystem\nX\x02\0\0\0ls\x86R.", ("ls",), None),
        (b"ccopyreg\n__newobj_ex__\ncos\nsystem\nX\x02\0\0\0ls\x85}\x87R.", ("ls",), []),
        (b"ccopy_reg\n_reconstructor\n(cos\nsystem\nc__builtin__\nobject\nNtR.", (), None),
    ],
)
def test_every_way_to_make_an_object_leaves_a_record_of_it(data, args, kwargs):
    record = value_of(data)
    assert isinstance(record, Record)
    assert record.function.path == "os.system"
    assert record.args == args
    assert kwargs is None or record.kwargs.pairs == kwargs
    assert record.state is None


def test_a_subclass_of_dict_at_protocol_0_keeps_what_the_base_was_made_of():
    record = value_of(b"ccopyreg\n_reconstructor\n(ca\nWords\ncbuiltins\ndict\n}X\x01\0\0\0aK\x01stR.")
    base, content = record.args
    assert (record.function.path, base.path, content.pairs) == ("a.Words", "builtins.dict", [("a", 1)])


def test_states_items_and_elements_are_kept_on_the_record():
    record = value_of(b"ca\nB\n)\x81}X\x01\0\0\0aK\x01sbK\x02K\x03s(K\x04K\x05e(K\x06\x90.")
    assert record.state.pairs == [("a", 1)]
    assert record.items == [(2, 3)]
    assert record.elements == [4, 5, 6]


def test_a_second_state_adds_to_the_first():
    first, second = b"}X\x01\0\0\0aK\x01sX\x01\0\0\0bK\x02s", b"}X\x01\0\0\0aK\x03s"
    record = value_of(b"ca\nB\n)\x81" + first + b"b" + second + b"b.")
    assert record.state.pairs == [("a", 3), ("b", 2)]
    outcome = run_program(b"ca\nB\n)\x81K\x01bK\x02b.")
    assert outcome.value.state == 1
    assert [finding.name for finding in outcome.findings] == ["odd-arguments"]


def test_attributes_of_a_dict_stay_with_it():
    map = value_of(b"ccollections\nOrderedDict\n)RX\x01\0\0\0aK\x01s}X\x09\0\0\0_metadataK\x02sb.")
    assert (map.type, map.pairs, map.attributes.pairs) == ("OrderedDict", [("a", 1)], [("_metadata", 2)])


def test_an_object_changed_after_it_was_memoised_is_the_same_object():
    record, again = value_of(b"ca\nB\n)\x81q\x00}X\x01\0\0\0aK\x01sbh\x00\x86.")
    assert record is again
    assert record.state.pairs == [("a", 1)]
    empty, filled = value_of(b"(]q\x00h\x00K\x01at.")
    assert empty is filled == [1]


def test_a_value_may_be_inside_itself():
    inside = value_of(b"]q\x00h\x00a.")
    assert inside[0] is inside
    record = value_of(b"ca\nB\n)\x81q\x00}X\x01\0\0\0ah\x00sb.")
    assert record.state.pairs[0][1] is record


def test_setting_attributes_on_a_class_itself_is_found():
    outcome = run_program(b"ca\nB\n}X\x01\0\0\0aK\x01sb.")
    assert isinstance(outcome.value, Global)
    finding = outcome.findings[0]
    assert (finding.code, finding.severity) == ("RK-FILE-08", Severity.WARNING)
    assert (
        finding.what == "a.B would be called with arguments it does not take: a state for the class or function itself"
    )
    assert finding.where.offset == 15


def test_extension_codes_and_buffers_are_records():
    for data in (b"\x82\x05.", b"\x83\x05\0.", b"\x84\x05\0\0\0."):
        record = value_of(data)
        assert (record.function.path, record.args) == ("copyreg.extension", (5,))
    first, second = value_of(b"\x97\x97\x98\x86.")
    assert (first.function.path, first.args, second.args) == ("pickle.buffer", (0,), (1,))


def test_persistent_ids_are_given_to_the_caller():
    seen = []

    def persistent(pid):
        seen.append(pid)
        return "found"

    assert run_program(b"K\x01K\x02\x86QPtwo\n\x86.", persistent=persistent).value == ("found", "found")
    assert seen == [(1, 2), "two"]
    record = value_of(b"K\x01Q.")
    assert (record.function.path, record.args) == ("rekindle.persistent_id", (1,))


@pytest.mark.parametrize("error", [KeyError("mine"), IndexError("mine"), UnreadableFile("mine"), struct.error("mine")])
def test_an_error_of_the_caller_s_own_function_comes_through_as_it_is(error):
    def persistent(pid):
        raise error

    for data in (b"K\x01Q.", b"Pa\n."):
        with pytest.raises(type(error)) as caught:
            run_program(data, persistent=persistent)
        assert caught.value is error


# ---- what is refused


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "the pickle program ends at byte 0 without STOP"),
        (b"K\x01", "the pickle program ends at byte 2 without STOP"),
        (b".", "STOP at byte 0: the stack has too few values"),
        (b"(.", "STOP at byte 1: the stack has too few values"),
        (b"K\x01\x86.", "TUPLE2 at byte 2: the stack has too few values"),
        (b"K\x01(\x85.", "TUPLE1 at byte 3: the stack has too few values"),
        (b"K\x01t.", "TUPLE at byte 2: the stack has too few values"),
        (b"l.", "LIST at byte 0: there is no MARK"),
        (b"0.", "POP at byte 0: there is no MARK"),
        (b"2.", "DUP at byte 0: the stack has too few values"),
        (b"q\x00.", "BINPUT at byte 0: the stack has too few values"),
        (b"\x94.", "MEMOIZE at byte 0: the stack has too few values"),
        (b"h\x07.", "BINGET at byte 0: nothing was memoised as 7"),
        (b"g7\n.", "GET at byte 0: nothing was memoised as 7"),
        (b"j\xff\xff\xff\xff.", "LONG_BINGET at byte 0: nothing was memoised as 4294967295"),
        (b"NNX\x05\0\0\0abc", "BINUNICODE at byte 2: the program ends inside it: 5 bytes are wanted, 3 are left"),
        (b"J\x01", "BININT at byte 0: the program ends inside it"),
        (b"K", "BININT1 at byte 0: the program ends inside it"),
        (b"r\x01", "LONG_BINPUT at byte 0: the program ends inside it"),
        (b"X\x02\0\0\0\xff\xff.", "BINUNICODE at byte 0: a text that is not UTF-8"),
        (b"\xfe.", "0xfe at byte 0: there is no such opcode"),
        (b"\x80\x06.", "PROTO at byte 0: protocol 6, the newest is 5"),
        (b"\x95\x09\0\0\0\0\0\0\0N.", "FRAME at byte 0: the program ends inside it: the frame has 9 bytes"),
        (b"}K\x01\x85(K\x01u.", "SETITEMS at byte 7: a key without a value"),
        (b"]K\x01K\x02s.", "SETITEM at byte 5: items are set on a list"),
        (b"K\x01K\x01K\x02s.", "SETITEM at byte 6: items are set on an int"),
        (b"}K\x01a.", "APPEND at byte 3: values are appended to a map"),
        (b"(\x91(K\x01\x90.", "ADDITEMS at byte 5: members are added to a setof"),
        (b"]}b.", "BUILD at byte 2: a state is set on a list"),
        (b"K\x01K\x02\x93.", "STACK_GLOBAL at byte 4: the name of the global is not a text"),
        (b"(o.", "OBJ at byte 1: there is no class"),
        (b"\x82\x00.", "EXT1 at byte 0: extension code 0"),
        (b"\x84\xff\xff\xff\xff.", "EXT4 at byte 0: extension code -1"),
        (b"\x98.", "READONLY_BUFFER at byte 0: the stack has too few values"),
    ],
)
def test_a_broken_program_is_named_with_opcode_and_byte(data, text):
    with pytest.raises(UnreadableFile) as caught:
        run_program(data)
    assert text in caught.value.what
    assert caught.value.code == "RK-FILE-07"
    assert caught.value.why


def test_a_program_cut_at_any_byte_is_refused_and_bytes_after_it_are_left_alone():
    for protocol in range(6):
        data = pickle.dumps({"a": [1, 2.5, (None, b"x", "é")], "b": {"c": 2**40}, 3: {4}}, protocol)
        for end in range(len(data)):
            with pytest.raises(UnreadableFile):
                run_program(data[:end])
        assert run_program(data + b"\xff" * 10).end == len(data)


@pytest.mark.parametrize(
    ("data", "limits", "field"),
    [
        (b"N0" * 50 + b"N.", {"opcodes": 100}, "opcodes"),
        (b"N" * 500 + b".", {"stack": 100}, "stack"),
        (b"(" * 500 + b"N.", {"stack": 100}, "stack"),
        (b"N" + b"".join(b"p%d\n" % n for n in range(500)) + b".", {"stack": 100}, "stack"),
        (b"]" * 60 + b"a" * 59 + b".", {"depth": 50}, "depth"),
        (b")" + b"\x85" * 60 + b".", {"depth": 50}, "depth"),
        (b"\x8b\x00\x04\0\0" + b"\x01" * 1024 + b".", {}, "integer_bits"),
        (b"K\x01" * 50 + b".", {"pickle_bytes": 20}, "pickle_bytes"),
    ],
)
def test_a_limit_is_named_when_it_is_reached(data, limits, field):
    with pytest.raises(LimitExceeded) as caught:
        run(data, **limits)
    assert f"Limits.{field}" in caught.value.why
    assert field in caught.value.do


def test_nesting_up_to_the_limit_is_read():
    assert run(b"]" * 50 + b"a" * 49 + b".", depth=50).value
    shared = b"]q\x00" + b"0]h\x00aq\x00" * 49 + b"h\x00\x86."
    with pytest.raises(LimitExceeded, match="depth"):
        run(shared, depth=50)
    assert run(shared, depth=51).value
    # Met first near the root, then again at the end of a long way down.
    twice = b"]" * 30 + b"a" * 29 + b"q\x00" + b"]" * 30 + b"h\x00" + b"a" * 30 + b"\x86."
    with pytest.raises(LimitExceeded, match="depth"):
        run(twice, depth=60)
    assert run(twice, depth=61).value


# ---- what an attacker would try


def seconds_of(work):
    started = time.perf_counter()
    with contextlib.suppress(UnreadableFile):
        work()
    return time.perf_counter() - started


def peak_mib_of(work):
    tracemalloc.start()
    try:
        seconds_of(work)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


BOMBS = {
    "a list that is doubled in itself": b"]" + b"2q\x000h\x00h\x00a" * 100 + b".",
    "two hundred doublings": b"]q\x00" + b"".join(b"(h%ch%clq%c" % (n, n, n + 1) for n in range(200)) + b".",
    "memo index of four thousand million": b"N" + b"r\xff\xff\xff\xff" + b"r\x00\x00\x00\x80" + b".",
    "deep tuples": b")" + b"\x85" * 50_000 + b".",
    "deep lists": b"]" * 50_000 + b"a" * 49_999 + b".",
    "deep records": b"ca\nb\n" * 20_000 + b"\x85R" * 19_999 + b".",
    "deep from_type": b"N" + b"ctorch._tensor\n_rebuild_from_type_v2\n" * 8_000 + b"NN\x87R" * 8_000 + b".",
    "marks in marks": b"(" * 50_000 + b"N" + b"t" * 50_000 + b".",
    "bytes count of 2^63": b"\x8e" + b"\xff" * 8 + b"abc.",
    "encoding the same text again and again": b"c_codecs\nencode\nq\x00X\x00\x00\x10\x00" + b"a" * 2**20
    + b"q\x01X\x06\0\0\0latin1q\x02\x86q\x03" + b"h\x00h\x03R" * 20_000 + b".",
    "copying the same list again and again": b"cbuiltins\nlist\nq\x00(" + b"N" * 100_000 + b"l\x85q\x01"
    + b"h\x00h\x01R" * 20_000 + b".",
    "building the same state again and again": b"ca\nb\n)\x81}("
    + b"".join(b"J" + struct.pack("<i", n) + b"N" for n in range(20_000)) + b"uq\x01b" + b"h\x01b" * 20_000 + b".",
    "setting one key again and again": b"}" + b"K\x01Ns" * 30_000 + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_little(name):
    def work():
        run(BOMBS[name], pickle_bytes=64 * 2**20, opcodes=2_000_000)

    assert seconds_of(work) < 3
    assert peak_mib_of(work) < 200


def test_keys_with_one_hash_are_told_apart_without_comparing_each_with_each():
    prime = 2**61 - 1  # hash(n) == n % prime
    keys = [7 + prime * n for n in range(1, 40_001)]
    assert len({hash(key) for key in keys}) == 1
    body = b"".join(b"\x8a\x0a" + key.to_bytes(10, "little") + b"N" for key in keys)
    started = time.perf_counter()
    assert len(value_of(b"}(" + body + b"u.").pairs) == len(keys)
    assert time.perf_counter() - started < 5  # as a dict: 800 million comparisons


def test_findings_are_bounded_too():
    outcome = run_program(b"ccollections\nOrderedDict\nq\x00" + b"h\x00K\x01R0" * 10_000 + b".")
    assert len(outcome.findings) == 100


def test_the_garbage_collector_is_left_as_it_was():
    assert gc.isenabled()
    run_program(b"N.")
    assert gc.isenabled()
    with pytest.raises(UnreadableFile):
        run_program(b"0.")
    assert gc.isenabled()
    gc.disable()
    try:
        run_program(b"N.")
        assert not gc.isenabled()
    finally:
        gc.enable()


# ---- Python 2


def fits(value, expected):
    """Tell whether a tree is what the facts beside a golden file say."""
    if not isinstance(expected, dict) or "type" not in expected:
        if isinstance(expected, dict):
            return (
                isinstance(value, Map)
                and dict(value.pairs).keys() == expected.keys()
                and all(fits(part, expected[key]) for key, part in value.pairs)
            )
        if isinstance(expected, list):
            return isinstance(value, (list, tuple)) and len(value) == len(expected) and all(map(fits, value, expected))
        return type(value) is type(expected) and value == expected
    kind = expected["type"]
    if kind == "bytes":
        return value == bytes.fromhex(expected["hex"])
    if kind == "object":
        return (
            isinstance(value, Record)
            and value.function.path == expected["class"]
            and fits(value.state, expected["state"])
        )
    if kind == "words":
        content = dict(value.items) or dict(value.args[1].pairs)
        return value.function.path == expected["class"] and content == expected["items"]
    if kind == "OrderedDict":
        return value.type == "OrderedDict" and [list(pair) for pair in value.pairs] == expected["pairs"]
    if kind == "set":
        return isinstance(value, SetOf) and sorted(value.items) == expected["items"]
    if kind == "complex":
        return value == complex(*expected["parts"])
    if kind == "shared":
        return len(value) == 2 and value[0] is value[1] and value[0] == expected["of"]
    if kind == "recursive":
        return len(value) == 1 and value[0] is value
    raise AssertionError(kind)


FILES = sorted(GOLDEN.glob("*.pkl"))


def test_the_golden_files_are_there():
    assert len(FILES) == 45


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_pickle_of_python_2_is_read(file):
    expected = json.loads((GOLDEN / f"{file.stem.rsplit('-', 1)[0]}.json").read_text(encoding="utf-8"))
    outcome = run_program(file.read_bytes())
    assert fits(outcome.value, expected)
    assert outcome.findings == []
    assert outcome.end == file.stat().st_size
