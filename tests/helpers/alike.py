"""When two Python objects are the same object saved and loaded again: types, bits, strides, and who shares what."""

from __future__ import annotations

import collections
import struct

import torch


def assert_alike(saved: object, loaded: object) -> None:
    """Compare everything below two objects, and that the same things are shared in both."""
    _Comparison().compare(saved, loaded, "top")


def bits(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor's elements, row-major."""
    whole = tensor.detach().resolve_conj().resolve_neg()
    if whole.numel() == 0:
        return b""
    flat = torch.empty(whole.shape, dtype=whole.dtype).copy_(whole) if whole.dtype.itemsize > 1 else whole
    return flat.reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy().tobytes()


class _Comparison:
    def __init__(self) -> None:
        self.twins: dict[int, int] = {}  # id in what was saved -> id in what was loaded
        self.storages: dict[int, int] = {}

    def compare(self, saved, loaded, path):
        if isinstance(saved, torch.nn.Parameter):
            assert type(loaded) is torch.nn.Parameter, path
        else:
            assert type(saved) is type(loaded), (path, type(saved), type(loaded))
        if isinstance(saved, (dict, list, torch.Tensor)):
            known = self.twins.setdefault(id(saved), id(loaded))
            assert known == id(loaded), f"{path}: was one object"
            if list(self.twins.values()).count(id(loaded)) > 1:
                raise AssertionError(f"{path}: became one object")
        if isinstance(saved, torch.Tensor):
            self.compare_tensors(saved, loaded, path)
        elif isinstance(saved, dict):
            assert [_key(key) for key in saved] == [_key(key) for key in loaded], path
            if isinstance(saved, collections.OrderedDict):
                assert vars(saved) == vars(loaded), path
            for key, mine, theirs in zip(saved, saved.values(), loaded.values(), strict=True):
                self.compare(mine, theirs, f"{path}[{key!r}]")
        elif isinstance(saved, (list, tuple)):
            assert len(saved) == len(loaded), path
            for index, (mine, theirs) in enumerate(zip(saved, loaded, strict=True)):
                self.compare(mine, theirs, f"{path}[{index}]")
        elif isinstance(saved, float):
            assert struct.pack("d", saved) == struct.pack("d", loaded), path
        elif isinstance(saved, complex):
            assert struct.pack("dd", saved.real, saved.imag) == struct.pack("dd", loaded.real, loaded.imag), path
        else:
            assert saved == loaded, path

    def compare_tensors(self, saved, loaded, path):
        assert saved.dtype == loaded.dtype, path
        assert saved.requires_grad == loaded.requires_grad, path
        assert saved.layout == loaded.layout, path
        if saved.is_nested:
            mine, theirs = saved.unbind(), loaded.unbind()
            assert len(mine) == len(theirs), path
            assert all(bits(one) == bits(other) for one, other in zip(mine, theirs, strict=True)), path
            return
        assert saved.shape == loaded.shape, path
        if saved.layout != torch.strided:
            assert bits(saved.to_dense()) == bits(loaded.to_dense()), path
            if saved.layout == torch.sparse_coo:
                assert saved.is_coalesced() == loaded.is_coalesced(), path
            return
        assert saved.stride() == loaded.stride(), path
        assert saved.storage_offset() == loaded.storage_offset(), path
        assert (saved.is_conj(), saved.is_neg()) == (loaded.is_conj(), loaded.is_neg()), path
        if saved.is_quantized:
            assert torch.equal(saved.int_repr(), loaded.int_repr()), path
            assert saved.qscheme() == loaded.qscheme(), path
            assert torch.equal(saved.dequantize(), loaded.dequantize()), path
        else:
            assert bits(saved) == bits(loaded), path
        storage = saved.untyped_storage()
        assert storage.nbytes() == loaded.untyped_storage().nbytes(), path
        if storage.nbytes():
            known = self.storages.setdefault(storage.data_ptr(), loaded.untyped_storage().data_ptr())
            assert known == loaded.untyped_storage().data_ptr(), f"{path}: shared its storage"


def _key(key):
    return (type(key), key)
