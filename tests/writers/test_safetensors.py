"""The safetensors writer: what the reference writes, byte for byte."""

import io

import pytest
import torch
from alike import bits
from safetensors.torch import load, save
from zoo import of_dtype

from rekindle.errors import CannotWrite
from rekindle.source import BufferBytes
from rekindle.tensors import DTYPES
from rekindle.writers.safetensors import NamedTensor, why_not, write_tensors

NAMES = [name for name, kind in DTYPES.items() if kind.safetensors]


def named(key, tensor):
    return NamedTensor(key, str(tensor.dtype)[6:], tuple(tensor.shape), BufferBytes(memoryview(bits(tensor))))


def written(tensors, metadata=None):
    out = io.BytesIO()
    write_tensors(tensors, out, metadata)
    return out.getvalue()


def test_the_file_is_byte_for_byte_what_the_reference_writes():
    state = {
        f"{name}.{key}": of_dtype(name, shape)
        for name in NAMES
        for key, shape in (("é\u2028", (3, 2)), ('scalar"\\\x07\x7f', ()), ("empty/", (0, 3)), ("", (1,)))
    }
    assert len(NAMES) == 19
    ours = written([named(key, tensor) for key, tensor in reversed(state.items())])
    assert ours == save(state, {"format": "pt"})


def test_the_reference_reads_what_we_write():
    # Its Python side has no torch type for F8_E8M0, which its own writer takes.
    state = {name: of_dtype(name) for name in NAMES if name != "float8_e8m0fnu"}
    found = load(written([named(key, tensor) for key, tensor in state.items()]))
    assert {key: bits(tensor) for key, tensor in found.items()} == {key: bits(tensor) for key, tensor in state.items()}


def test_no_tensors_and_no_metadata_make_the_smallest_file():
    assert written([], {}) == (8).to_bytes(8, "little") + b"{}      "


def test_metadata_is_the_callers_where_it_is_given():
    data = written([], {"step": "3"})
    assert b'{"__metadata__":{"step":"3"}}' in data


@pytest.mark.parametrize("name", ["complex128", "qint8", "bits8", "complex32"])
def test_a_type_that_the_format_lacks_is_refused_with_key_and_type(name):
    assert why_not(name)
    out = io.BytesIO()
    tensor = NamedTensor("layer.w", name, (1,), BufferBytes(memoryview(bytes(DTYPES[name].itemsize))))
    with pytest.raises(CannotWrite, match=f"layer.w: safetensors has no type for {name}"):
        write_tensors([tensor], out)
    assert out.getvalue() == b""


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([named("a", torch.ones(1)), named("a", torch.ones(2))], "a: this key is there twice"),
        ([named("__metadata__", torch.ones(1))], "__metadata__: this key is there twice"),
        ([named("a\udc80", torch.ones(1))], "UTF-8 cannot carry this name"),
        ([NamedTensor("a", "float32", (3,), BufferBytes(memoryview(bytes(8))))], "8 bytes are given, .* has 12"),
    ],
)
def test_what_would_make_an_invalid_file_is_refused_before_the_first_byte(tensors, message):
    out = io.BytesIO()
    with pytest.raises(CannotWrite, match=message):
        write_tensors(tensors, out)
    assert out.getvalue() == b""
