"""Law: on real pickles of every protocol, opcodes, arguments and offsets are those of CPython's pickletools."""

import collections
import pickle
import pickletools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.unpickling.program import read_ops

GOLDEN = Path(__file__).parent.parent / "golden" / "python2"


def theirs(data):
    out = []
    for opcode, argument, offset in pickletools.genops(data):
        out.append((opcode.name, argument, offset))
    return out


def ours(data):
    out = []
    for op in read_ops(data):
        argument = op.argument
        if isinstance(argument, tuple):
            argument = " ".join(argument)  # pickletools joins module and name
        elif isinstance(argument, bytes) and op.name in {"STRING", "BINSTRING", "SHORT_BINSTRING"}:
            argument = argument.decode("latin-1" if op.name != "STRING" else "ascii")
        elif op.name == "BYTEARRAY8":
            argument = bytearray(argument)
        out.append((op.name, argument, op.offset))
    return out


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(value=values, protocol=st.integers(0, 5))
def test_plain_values(value, protocol):
    data = pickle.dumps(value, protocol)
    assert ours(data) == theirs(data)


@pytest.mark.parametrize("protocol", range(6))
def test_classes_sets_buffers_and_long_runs(protocol):
    value = [
        collections.OrderedDict(a=1), collections.Counter("abca"), {1, 2}, frozenset((3,)), bytearray(b"ab"),
        b"x" * 300, "y" * 300, list(range(1500)), 2**3000, Path("a"), collections.deque([1], 3), 1e300, complex(1, 2),
        "\ud800",
    ]  # fmt: skip
    data = pickle.dumps(value, protocol)
    assert len(theirs(data)) > 1500
    assert ours(data) == theirs(data)


def test_pickles_of_python_2():
    files = sorted(GOLDEN.glob("*.pkl"))
    assert len(files) == 45
    for file in files:
        if file.name == "binary-0.pkl":  # pickletools refuses a STRING that is not ASCII
            continue
        data = file.read_bytes()
        assert ours(data) == theirs(data), file.name
