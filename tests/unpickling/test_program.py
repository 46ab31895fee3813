"""Decoding: every form of argument, every way to be cut or wrong."""

import pytest

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.limits import Limits
from rekindle.unpickling.program import Op, read_ops


def ops(data, **limits):
    return list(read_ops(data, limits=Limits(**limits)))


def first(data, **limits):
    return ops(data, **limits)[0]


@pytest.mark.parametrize(
    ("data", "name", "argument"),
    [
        (b"N", "NONE", None),
        (b"K\xff", "BININT1", 255),
        (b"M\x01\x02", "BININT2", 513),
        (b"J\xff\xff\xff\xff", "BININT", -1),
        (b"r\xff\xff\xff\xff", "LONG_BINPUT", 2**32 - 1),
        (b"G\x3f\xf0\0\0\0\0\0\0", "BINFLOAT", 1.0),
        (b"I01\n", "INT", True),
        (b"I00\n", "INT", False),
        (b"I-12\n", "INT", -12),
        (b"L123L\n", "LONG", 123),
        (b"L123\n", "LONG", 123),
        (b"F-1.5e3\n", "FLOAT", -1500.0),
        (b"Finf\n", "FLOAT", float("inf")),
        (b"S'a\\x41\\n\\101\\'\\q'\n", "STRING", b"aA\nA'\\q"),
        (b'S"it\'s"\n', "STRING", b"it's"),
        (b"V\\u00e9\\U0001f525\n", "UNICODE", "é🔥"),
        (b"cos\nsystem\n", "GLOBAL", ("os", "system")),
        (b"p12\n", "PUT", 12),
        (b"Pid 7\n", "PERSID", "id 7"),
        (b"U\x02ab", "SHORT_BINSTRING", b"ab"),
        (b"T\x02\0\0\0ab", "BINSTRING", b"ab"),
        (b"C\x02ab", "SHORT_BINBYTES", b"ab"),
        (b"X\x02\0\0\0\xc3\xa9", "BINUNICODE", "é"),
        (b"\x8c\x03\xed\xa0\x80", "SHORT_BINUNICODE", "\ud800"),
        (b"\x8a\x00", "LONG1", 0),
        (b"\x8a\x02\x00\x80", "LONG1", -32768),
        (b"\x8b\x01\0\0\0\xff", "LONG4", -1),
        (b"\x95\x01\0\0\0\0\0\0\0", "FRAME", 1),
        (b"\x96\x02\0\0\0\0\0\0\0ab", "BYTEARRAY8", b"ab"),
    ],
)
def test_an_opcode_is_read_with_its_argument_and_its_place(data, name, argument):
    op = first(data + b".")
    assert op == Op(name, argument, 0, len(data))
    assert type(op.argument) is type(argument)


def test_reading_starts_where_it_is_told_and_ends_at_stop():
    assert ops(b"K\x01.K\x02.") == [Op("BININT1", 1, 0, 2), Op("STOP", None, 2, 3)]
    assert [op.offset for op in read_ops(b"K\x01.K\x02.", 3)] == [3, 5]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "ends at byte 0 without STOP"),
        (b"NN", "ends at byte 2 without STOP"),
        (b"K", "BININT1 at byte 0: the program ends inside it"),
        (b"M\x01", "BININT2 at byte 0: the program ends inside it"),
        (b"X\x05\0\0\0abc", "BINUNICODE at byte 0: the program ends inside it: 5 bytes are wanted, 3 are left"),
        (b"NI12", "INT at byte 1: the program ends inside it: a line without an end"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff", "BINBYTES8 at byte 0"),
        (b"\xff.", "0xff at byte 0: there is no such opcode"),
        (b"T\xff\xff\xff\xff.", "BINSTRING at byte 0: a negative count, -1"),
        (b"\x8b\xff\xff\xff\xff.", "LONG4 at byte 0: a negative count, -1"),
        (b"X\x01\0\0\0\xff.", "BINUNICODE at byte 0: a text that is not UTF-8"),
        (b"c\xff\nname\n.", "GLOBAL at byte 0: a name that is not UTF-8"),
        (b"P\xff\n.", "PERSID at byte 0: a persistent id that is not ASCII"),
        (b"I1_0\n.", "INT at byte 0: a number that is not decimal"),
        (b"I010\n.", "INT at byte 0: a number that is not decimal"),
        (b"I0x10\n.", "INT at byte 0: a number that is not decimal"),
        (b"I 1\n.", "INT at byte 0: a number that is not decimal"),
        (b"I\n.", "INT at byte 0: a number that is not decimal"),
        (b"F1_0.0\n.", "FLOAT at byte 0: a number that is not decimal"),
        (b"F0x1p3\n.", "FLOAT at byte 0: a number that is not decimal"),
        (b"p-1\n.", "PUT at byte 0: a memo index that is not a decimal number"),
        (b"Sab\n.", "STRING at byte 0: a string without its quotes"),
        (b"S'\n.", "STRING at byte 0: a string without its quotes"),
        (b"S'ab\"\n.", "STRING at byte 0: a string without its quotes"),
        (b"S'a\\'\n.", "STRING at byte 0: a string that ends inside an escape"),
        (b"S'\\xzz'\n.", "STRING at byte 0: a string with a broken escape"),
        (b"V\\u12\n.", "UNICODE at byte 0: a text with a broken escape"),
    ],
)
def test_a_broken_program_is_named_with_opcode_and_byte(data, text):
    with pytest.raises(UnreadableFile) as caught:
        ops(data)
    assert text in caught.value.what
    assert caught.value.code == "RK-FILE-07"
    assert not isinstance(caught.value, LimitExceeded)


def test_integers_are_read_up_to_the_limit_and_refused_beyond():
    widest = 2**4095 - 1
    text = str(widest).encode()
    raw = widest.to_bytes(512, "little", signed=True)
    for data in (b"L" + text + b"L\n.", b"\x8b\x00\x02\0\0" + raw + b"."):
        assert first(data).argument == widest
        with pytest.raises(LimitExceeded, match="integer_bits"):
            ops(data, integer_bits=4094)
    for data in (b"L" + b"9" * 100_000 + b"\n.", b"\x8b\xa0\x86\x01\0" + b"\x01" * 100_000 + b"."):
        with pytest.raises(LimitExceeded, match="integer_bits"):
            ops(data)


def test_a_wide_integer_is_refused_as_such_even_where_python_would_not_convert_it():
    data = b"L" + b"9" * 5000 + b"\n."
    with pytest.raises(LimitExceeded, match="integer_bits"):
        ops(data, integer_bits=10**6)


def test_opcodes_and_bytes_are_bounded():
    with pytest.raises(LimitExceeded, match="more than 5 opcodes"):
        ops(b"N" * 5 + b".", opcodes=5)
    assert len(ops(b"N" * 5 + b".", opcodes=6)) == 6
    with pytest.raises(LimitExceeded, match="longer than 5 bytes"):
        ops(b"N" * 5 + b".", pickle_bytes=5)
    with pytest.raises(LimitExceeded, match="longer than 7 bytes"):
        ops(b"X\x05\0\0\0abcde.", pickle_bytes=7)
    assert len(ops(b"N.NNN", pickle_bytes=2)) == 2
