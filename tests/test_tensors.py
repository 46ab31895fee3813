"""The table of dtypes against torch's and safetensors' own, and arithmetic on shapes against torch's."""

from __future__ import annotations

import pytest
import torch

from rekindle.tensors import (
    DTYPE_OF_SAFETENSORS,
    DTYPE_OF_STORAGE,
    DTYPES,
    Storage,
    TensorEntry,
    TensorTable,
    contiguous_stride,
    element_count,
    span_of,
)


@pytest.mark.parametrize("name", [name for name in DTYPES if hasattr(torch, name)])
def test_each_dtype_has_the_size_that_torch_gives_it(name: str):
    dtype = getattr(torch, name)
    assert DTYPES[name].itemsize == dtype.itemsize
    assert DTYPES[name].component == (dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize)


def test_every_dtype_of_torch_is_in_the_table_but_those_without_storage():
    names = {str(value).removeprefix("torch.") for value in vars(torch).values() if isinstance(value, torch.dtype)}
    sub_byte = {f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)}
    assert names - set(DTYPES) <= sub_byte
    assert len(names & set(DTYPES)) > 30


def test_each_storage_class_is_the_one_that_torch_has():
    import warnings

    for storage, dtype in DTYPE_OF_STORAGE.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert str(getattr(torch, storage).dtype) == f"torch.{dtype.name}"


def test_each_safetensors_name_is_the_one_that_the_library_has():
    from safetensors.torch import _TYPES

    for name, dtype in _TYPES.items():
        if name in DTYPE_OF_SAFETENSORS:
            assert f"torch.{DTYPE_OF_SAFETENSORS[name].name}" == str(dtype)
    # The format has this one; the library's table for torch does not name it.
    assert set(DTYPE_OF_SAFETENSORS) - set(_TYPES) <= {"F8_E8M0"}


SHAPES = [(), (1,), (3,), (2, 3), (0, 3), (2, 0, 3), (1, 5, 1), (4, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_strides_are_torch_s(shape: tuple[int, ...]):
    tensor = torch.empty(shape)
    assert contiguous_stride(shape) == tensor.stride()
    assert element_count(shape) == tensor.numel()
    assert span_of(shape, tensor.stride()) == tensor.numel()


def test_the_reach_of_a_strided_tensor():
    assert span_of((3, 4), (2, 1)) == 8
    assert span_of((3, 4), (0, 1)) == 4
    assert span_of((3, 0), (5, 5)) == 0


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(2, 3), torch.ones(2, 3).t(), torch.ones(1, 3).t(), torch.ones(0, 3).t(), torch.ones(4)[::2]],
)
def test_contiguity_is_what_torch_says(tensor: torch.Tensor):
    entry = TensorEntry("x", "float32", tuple(tensor.shape), tensor.stride(), 0, Storage("0", 64, None))
    assert entry.is_contiguous == tensor.is_contiguous()
    assert entry.size_bytes == tensor.numel() * 4


def test_a_table_finds_entries_by_key_and_by_storage():
    shared, alone = Storage("0", 8, None), Storage("1", 4, None)
    entries = [TensorEntry(key, "float32", (1,), (1,), 0, s) for key, s in (("a", shared), ("b", shared), ("c", alone))]
    table = TensorTable(entries)
    assert (len(table), table["b"], "c" in table, "d" in table) == (3, entries[1], True, False)
    assert {id: [entry.key for entry in group] for id, group in table.by_storage.items()} == {
        "0": ["a", "b"],
        "1": ["c"],
    }
