"""Law: whatever the bytes, the machine soon ends in a value, `UnreadableFile` or `LimitExceeded`; nothing else."""

import collections
import io
import pickle
import random
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle.errors import UnreadableFile
from rekindle.limits import Limits
from rekindle.tree import Map, Module, Record, SetOf, SparseTensor, Tensor, distinct_nodes
from rekindle.unpickling.machine import Outcome, run_program
from rekindle.unpickling.opcodes import OPCODES
from rekindle.unpickling.program import read_ops

LIMITS = Limits(opcodes=50_000, stack=10_000, pickle_bytes=2**20)
NODES = (list, tuple, Map, SetOf, Record, Module, Tensor, SparseTensor)


def survives(data):
    """Run the bytes and decode them; both must say the same about whether they are a program."""
    started = time.perf_counter()
    try:
        outcome = run_program(data, limits=LIMITS)
    except UnreadableFile as error:
        outcome = error
    assert time.perf_counter() - started < 5
    if isinstance(outcome, UnreadableFile):
        assert "byte" in outcome.what
        assert outcome.code == "RK-FILE-07" or "Limits." in outcome.why
        return False
    assert isinstance(outcome, Outcome)
    assert 0 < outcome.end <= len(data)
    ops = list(read_ops(data, limits=LIMITS))
    assert ops[-1].end == outcome.end
    wanted = [op for op in ops if op.name in {"GLOBAL", "INST", "STACK_GLOBAL"}]
    assert [name.offset for name in outcome.globals] == [op.offset for op in wanted]
    for count, _ in enumerate(distinct_nodes(outcome.value)):
        assert count < 200_000
    return True


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes(data):
    survives(data)


# Programs of real opcodes with small arguments run much further than random bytes do.
ARGUMENTS = {
    "nothing": st.just(b""),
    "uint1": st.binary(min_size=1, max_size=1),
    "uint2": st.binary(min_size=2, max_size=2),
    "uint4": st.integers(0, 5).map(lambda n: n.to_bytes(4, "little")),
    "uint8": st.integers(0, 5).map(lambda n: n.to_bytes(8, "little")),
    "int4": st.binary(min_size=4, max_size=4),
    "float8": st.binary(min_size=8, max_size=8),
    "two lines": st.sampled_from(
        [b"collections\nOrderedDict\n", b"torch._utils\n_rebuild_tensor_v2\n", b"torch._utils\n_rebuild_parameter\n",
         b"builtins\nset\n", b"builtins\nlist\n", b"numpy._core.multiarray\n_reconstruct\n", b"numpy\ndtype\n",
         b"torch\nFloatTensor\n", b"copyreg\n_reconstructor\n", b"os\nsystem\n",
         b"torch._tensor\n_rebuild_from_type_v2\n"],
    ),
    "index line": st.integers(0, 5).map(lambda n: b"%d\n" % n),
    "decimal line": st.integers().map(lambda n: b"%d\n" % n),
    "text1": st.sampled_from([b"\x01a", b"\x0b_parameters", b"\x08_buffers", b"\x08_modules", b"\x00"]),
    "text4": st.sampled_from([b"\x01\0\0\0a", b"\x02\0\0\0f4"]),
    "bytes1": st.binary(max_size=9).map(lambda raw: bytes((len(raw),)) + raw),
}  # fmt: skip
OP = st.one_of(
    [
        ARGUMENTS[opcode.reads].map(lambda argument, code=opcode.code: bytes((code,)) + argument)
        for opcode in OPCODES
        if opcode.reads in ARGUMENTS and opcode.name not in {"STOP", "PROTO", "FRAME"}
    ]
)
# Fills the stack and the memo first, so that most programs come to their end.
PROLOGUE = b"]q\x00}q\x01)q\x02ca\nB\n)\x81q\x03K\x01q\x04\x8fq\x05(h\x00h\x01h\x02h\x03h\x04h\x05" * 2


@settings(max_examples=700, deadline=None)
@given(st.lists(OP, max_size=40))
def test_arbitrary_opcodes(ops):
    survives(PROLOGUE + b"".join(ops) + b".")


def real_pickles():
    value = {
        "a": [1, 2.5, None, True, (1, 2, 3), {4, 5}, frozenset((6,)), b"bytes", "text é", 2**100, 1 + 2j],
        "b": collections.OrderedDict(x=collections.Counter("aab")),
        "c": collections.defaultdict(list, z=[bytearray(b"abc")]),
        "d": Path("a/b"),
    }
    programs = [pickle.dumps(value, protocol) for protocol in range(6)]
    try:
        import torch
    except ImportError:
        return programs
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9)
    for protocol in (2, 5):
        file = io.BytesIO()
        torch.save(
            {"net": net, "state": net.state_dict(), "optimizer": optimizer.state_dict()}, file, pickle_protocol=protocol
        )
        with zipfile.ZipFile(file) as archive:
            programs.append(archive.read("archive/data.pkl"))
    return programs


@pytest.fixture(scope="module")
def programs():
    found = real_pickles()
    assert len(found) >= 6
    return found


def test_real_pickles_with_changed_bytes(programs):
    luck = random.Random(7)
    whole = 0
    for data in programs:
        assert survives(data)
        for _ in range(300):
            changed = bytearray(data)
            for _ in range(luck.choice((1, 1, 1, 2, 8))):
                changed[luck.randrange(len(changed))] = luck.choice((luck.randrange(256), 0, 255, 0x2E, 0x71, 0x28))
            whole += survives(bytes(changed))
    assert whole > 100  # the law was tried on programs that still run, too


def test_real_pickles_with_parts_cut_out_doubled_and_moved(programs):
    luck = random.Random(8)
    for data in programs:
        for _ in range(200):
            first, second = sorted(luck.randrange(len(data)) for _ in range(2))
            survives(data[:first] + data[second:])
            survives(data[:second] + data[first:])
            survives(data[second:] + data[:second])
