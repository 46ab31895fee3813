"""Copies to host memory: the same bits, whoever copies them."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rekindle.run import host_tensors
from rekindle.run.host_tensors import HostCopies, all_finite, new_host_buffer


def copied(sources):
    copies = HostCopies()
    targets = [new_host_buffer(source) for source in sources]
    for target, source in zip(targets, sources, strict=True):
        copies.add(target, source)
    copies.finish()
    return targets


@pytest.mark.parametrize("threads", [True, False], ids=["several threads", "no thread to be had"])
def test_large_tensors_arrive_bit_by_bit(monkeypatch, threads):
    if not threads:

        def refused(_):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refused)
    size = host_tensors._PIECE_BYTES // 4
    sources = [torch.randn(3 * size + 17), torch.randn(5 * size), torch.randn(9 * size)[1:], torch.randn(100)]
    assert sum(source.nbytes for source in sources) > host_tensors._PIECE_BYTES * host_tensors._PIECES_WORTH_A_THREAD
    for target, source in zip(copied(sources), sources, strict=True):
        assert torch.equal(target, source)


@given(
    st.sampled_from([torch.float32, torch.bfloat16, torch.complex64, torch.bool, torch.int64]), st.integers(0, 40_000)
)
def test_any_tensor_arrives_contiguous(kind, length):
    whole = torch.arange(2 * length, dtype=torch.float32).to(kind).reshape(2, length)
    sources = [whole, whole.t(), whole[:, ::2], whole[0].reshape(()) if length == 1 else whole[1]]
    sources += [whole.conj()] if kind.is_complex else []
    for target, source in zip(copied(sources), sources, strict=True):
        assert target.is_contiguous()
        assert torch.equal(target, source.resolve_conj())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_value_in_a_million_is_found_and_an_overflowing_sum_is_none(bad):
    tensor = torch.full((1_000_003,), 3e38)
    assert all_finite(tensor)  # although its sum is infinite
    for at in (0, 500_000, -1):
        tensor[at] = bad
        assert not all_finite(tensor)
        tensor[at] = 0
    assert not all_finite(torch.tensor([1j, complex(0, bad)]))
    assert not all_finite(torch.tensor(bad, dtype=torch.bfloat16))
    assert all_finite(torch.empty(0))
    assert all_finite(torch.tensor([2**62]))
