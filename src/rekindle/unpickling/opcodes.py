"""The opcodes of pickle, protocols 0 to 5, as one table.

An opcode is one byte, its argument (read as `reads` says) follows. Facts: PEP 307 and PEP 574, and the descriptions
in CPython 3.13 `Lib/pickletools.py`, which the tests compare this table with.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

__all__ = ["BY_CODE", "OPCODES", "Opcode", "Reads"]

Reads: TypeAlias = Literal[
    "nothing",
    "uint1",
    "uint2",
    "uint4",
    "uint8",
    "int4",
    "float8",  # big-endian, unlike every other number
    "decimal line",  # 00 and 01 are False and True
    "long line",  # Python 2 ends it with L
    "float line",
    "quoted line",  # a string as Python 2 printed it, with escapes
    "unicode line",  # raw-unicode-escape
    "ascii line",
    "index line",
    "two lines",  # module, name
    "bytes1",  # uint1 count, then that many bytes
    "bytes4",
    "bytes8",
    "string4",  # int4 count; a negative one is an error
    "text1",  # uint1 count of UTF-8 bytes, lone surrogates allowed
    "text4",
    "text8",
    "long1",  # uint1 count of bytes of a little-endian two's complement integer
    "long4",  # int4 count; a negative one is an error
]


class Opcode(NamedTuple):
    """One opcode.

    Attributes:
        code: its byte.
        name: as pickle's own documentation spells it.
        reads: how its argument is read.
        protocol: the first protocol that has it.
    """

    code: int
    name: str
    reads: Reads
    protocol: int


OPCODES: tuple[Opcode, ...] = (
    Opcode(0x28, "MARK", "nothing", 0),
    Opcode(0x2E, "STOP", "nothing", 0),
    Opcode(0x30, "POP", "nothing", 0),
    Opcode(0x32, "DUP", "nothing", 0),
    Opcode(0x46, "FLOAT", "float line", 0),
    Opcode(0x49, "INT", "decimal line", 0),
    Opcode(0x4C, "LONG", "long line", 0),
    Opcode(0x4E, "NONE", "nothing", 0),
    Opcode(0x50, "PERSID", "ascii line", 0),
    Opcode(0x52, "REDUCE", "nothing", 0),
    Opcode(0x53, "STRING", "quoted line", 0),
    Opcode(0x56, "UNICODE", "unicode line", 0),
    Opcode(0x61, "APPEND", "nothing", 0),
    Opcode(0x62, "BUILD", "nothing", 0),
    Opcode(0x63, "GLOBAL", "two lines", 0),
    Opcode(0x64, "DICT", "nothing", 0),
    Opcode(0x67, "GET", "index line", 0),
    Opcode(0x69, "INST", "two lines", 0),
    Opcode(0x6C, "LIST", "nothing", 0),
    Opcode(0x70, "PUT", "index line", 0),
    Opcode(0x73, "SETITEM", "nothing", 0),
    Opcode(0x74, "TUPLE", "nothing", 0),
    Opcode(0x29, "EMPTY_TUPLE", "nothing", 1),
    Opcode(0x31, "POP_MARK", "nothing", 1),
    Opcode(0x47, "BINFLOAT", "float8", 1),
    Opcode(0x4A, "BININT", "int4", 1),
    Opcode(0x4B, "BININT1", "uint1", 1),
    Opcode(0x4D, "BININT2", "uint2", 1),
    Opcode(0x51, "BINPERSID", "nothing", 1),
    Opcode(0x54, "BINSTRING", "string4", 1),
    Opcode(0x55, "SHORT_BINSTRING", "bytes1", 1),
    Opcode(0x58, "BINUNICODE", "text4", 1),
    Opcode(0x5D, "EMPTY_LIST", "nothing", 1),
    Opcode(0x65, "APPENDS", "nothing", 1),
    Opcode(0x68, "BINGET", "uint1", 1),
    Opcode(0x6A, "LONG_BINGET", "uint4", 1),
    Opcode(0x6F, "OBJ", "nothing", 1),
    Opcode(0x71, "BINPUT", "uint1", 1),
    Opcode(0x72, "LONG_BINPUT", "uint4", 1),
    Opcode(0x75, "SETITEMS", "nothing", 1),
    Opcode(0x7D, "EMPTY_DICT", "nothing", 1),
    Opcode(0x80, "PROTO", "uint1", 2),
    Opcode(0x81, "NEWOBJ", "nothing", 2),
    Opcode(0x82, "EXT1", "uint1", 2),
    Opcode(0x83, "EXT2", "uint2", 2),
    Opcode(0x84, "EXT4", "int4", 2),
    Opcode(0x85, "TUPLE1", "nothing", 2),
    Opcode(0x86, "TUPLE2", "nothing", 2),
    Opcode(0x87, "TUPLE3", "nothing", 2),
    Opcode(0x88, "NEWTRUE", "nothing", 2),
    Opcode(0x89, "NEWFALSE", "nothing", 2),
    Opcode(0x8A, "LONG1", "long1", 2),
    Opcode(0x8B, "LONG4", "long4", 2),
    Opcode(0x42, "BINBYTES", "bytes4", 3),
    Opcode(0x43, "SHORT_BINBYTES", "bytes1", 3),
    Opcode(0x8C, "SHORT_BINUNICODE", "text1", 4),
    Opcode(0x8D, "BINUNICODE8", "text8", 4),
    Opcode(0x8E, "BINBYTES8", "bytes8", 4),
    Opcode(0x8F, "EMPTY_SET", "nothing", 4),
    Opcode(0x90, "ADDITEMS", "nothing", 4),
    Opcode(0x91, "FROZENSET", "nothing", 4),
    Opcode(0x92, "NEWOBJ_EX", "nothing", 4),
    Opcode(0x93, "STACK_GLOBAL", "nothing", 4),
    Opcode(0x94, "MEMOIZE", "nothing", 4),
    Opcode(0x95, "FRAME", "uint8", 4),
    Opcode(0x96, "BYTEARRAY8", "bytes8", 5),
    Opcode(0x97, "NEXT_BUFFER", "nothing", 5),
    Opcode(0x98, "READONLY_BUFFER", "nothing", 5),
)


def _by_code() -> tuple[Opcode | None, ...]:
    table: list[Opcode | None] = [None] * 256
    for opcode in OPCODES:
        table[opcode.code] = opcode
    return tuple(table)


BY_CODE: tuple[Opcode | None, ...] = _by_code()
