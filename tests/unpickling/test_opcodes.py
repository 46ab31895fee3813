"""The table of opcodes against CPython's own."""

import pickletools

from rekindle.unpickling.opcodes import BY_CODE, OPCODES


def test_the_table_has_every_opcode_of_pickle_and_no_other():
    ours = {(opcode.code, opcode.name, opcode.protocol) for opcode in OPCODES}
    theirs = {(ord(opcode.code), opcode.name, opcode.proto) for opcode in pickletools.opcodes}
    assert ours == theirs
    assert len(OPCODES) == 68


def test_arguments_are_read_with_the_size_that_cpython_gives():
    sizes = {"nothing": None, "uint1": 1, "uint2": 2, "uint4": 4, "uint8": 8, "int4": 4, "float8": 8}
    for theirs in pickletools.opcodes:
        ours = BY_CODE[ord(theirs.code)]
        if ours.reads == "nothing":
            assert theirs.arg is None, ours.name
        elif ours.reads in sizes:
            assert theirs.arg.n == sizes[ours.reads], ours.name
        else:
            assert theirs.arg.n < 0, ours.name  # a line or a counted run


def test_bytes_that_are_no_opcode_have_no_entry():
    assert BY_CODE[0x00] is None
    assert BY_CODE[0x99] is None
    assert len(BY_CODE) == 256
