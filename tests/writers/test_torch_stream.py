"""The stream of torch before 1.6, read by torch of today."""

import io
import pickle

import pytest
import torch
from alike import assert_alike
from zoo import TYPED, complete, of_dtype, quiet

from rekindle.errors import CannotWrite
from rekindle.save import tree_of
from rekindle.writers import torch_stream


def written(obj):
    out = io.BytesIO()
    with quiet():
        torch_stream.write_tree(tree_of(obj), out)
    out.seek(0)
    return out


@pytest.mark.parametrize("weights_only", [False, True])
def test_torch_loads_every_kind_of_tensor(weights_only):
    obj = dict(complete())
    obj["nested"] = obj["nested"][:2]
    with quiet():
        assert_alike(obj, torch.load(written(obj), weights_only=weights_only))


def test_torch_itself_cannot_read_back_a_new_type_that_it_wrote_but_reads_ours():
    out = io.BytesIO()
    torch.save({"w": of_dtype("float8_e4m3fn")}, out, _use_new_zipfile_serialization=False)
    out.seek(0)
    with pytest.raises(AttributeError, match="dtype"):
        torch.load(out, weights_only=False)
    obj = {"w": of_dtype("float8_e4m3fn"), "u": of_dtype("uint32")}
    assert_alike(obj, torch.load(written(obj), weights_only=False))


def test_the_parts_come_in_torchs_order():
    stream = written({str(number): torch.full((2,), float(number)) for number in range(11)})
    assert pickle.load(stream) == 0x1950A86A20F9469CFC6C
    assert pickle.load(stream) == 1001
    machine = pickle.load(stream)
    assert machine["little_endian"] is True

    class Skipping(pickle.Unpickler):
        def persistent_load(self, pid):
            assert len(pid) == 6
            return pid[2]

        def find_class(self, *_):
            return lambda *args: args

    Skipping(stream).load()
    keys = pickle.load(stream)
    assert keys == sorted(keys, key=str)
    assert keys[:3] == ["0", "1", "10"]
    for _ in keys:
        assert int.from_bytes(stream.read(8), "little") == 2
        stream.read(8)
    assert stream.read() == b""


def test_what_an_old_torch_would_have_complained_about_is_named():
    old = {name: torch.zeros(1, dtype=getattr(torch, name)) for name in ("float32", "int64", "float16", "uint8")}
    assert torch_stream.needs_newer_torch(tree_of(old)) == {}
    new = {"bf": torch.zeros(1, dtype=torch.bfloat16), "f8": of_dtype("float8_e5m2"), "b": torch.ones(1).bool()}
    assert torch_stream.needs_newer_torch(tree_of(new)) == {"bfloat16": "1.2", "float8_e5m2": "2.1", "bool": "1.2"}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_nested_tensor_is_refused_since_torch_cannot_read_it_from_a_stream():
    with quiet():
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(CannotWrite, match=r"at \['n'\]: a nested tensor needs its sizes"):
        written({"n": nested})


def test_every_type_with_a_storage_class_needs_no_new_rebuild_function():
    stream = written({name: of_dtype(name) for name in TYPED}).getvalue()
    assert b"_rebuild_tensor_v2" in stream
    assert b"_rebuild_tensor_v3" not in stream
