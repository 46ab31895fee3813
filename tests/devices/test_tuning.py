"""One word for each setting; what is not named is not touched."""

from __future__ import annotations

import os

import pytest
import torch

from rekindle.devices.tuning import cores_for_this_process, torch_settings
from rekindle.errors import ConfigError


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    cudnn.allow_tf32, cudnn.benchmark = before[:2]
    torch.use_deterministic_algorithms(before[2])


def test_asking_changes_nothing():
    first = torch_settings()
    assert (first.threads, first.tf32) == (torch.get_num_threads(), False)
    assert torch_settings() == first


def test_each_setting_is_what_torch_has():
    now = torch_settings(threads=2, tf32=True, cudnn_benchmark=True)
    assert (now.threads, now.tf32, now.cudnn_benchmark, now.deterministic) == (2, True, True, False)
    assert torch.get_num_threads() == 2
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.benchmark
    now = torch_settings(tf32=False)
    assert (now.tf32, torch.backends.cudnn.allow_tf32, now.cudnn_benchmark) == (False, False, True)


def test_deterministic_ends_the_search_and_sets_what_cublas_wants():
    torch_settings(cudnn_benchmark=True)
    now = torch_settings(deterministic=True)
    assert (now.deterministic, now.cudnn_benchmark) == (True, False)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.raises(ConfigError, match="cannot both hold"):
        torch_settings(cudnn_benchmark=True)
    assert not torch_settings(deterministic=False).deterministic


def test_auto_is_this_ranks_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    assert cores_for_this_process() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert torch_settings(threads="auto").threads == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "100")
    assert cores_for_this_process() == 1


def test_advice_is_for_this_case(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(4)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert "8 threads share 4 cores and wait for each other: threads=4" in torch_settings(threads=8).advice
    assert "gain from all 4 cores" in torch_settings(threads=1).advice[0]
    assert torch_settings(threads=4).advice == ()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    words = str(torch_settings(tf32=False, cudnn_benchmark=False))
    assert "with tf32=True, at 10 bits of mantissa" in words
    assert "gain from cudnn_benchmark=True" in words
    assert "need deterministic=True" in str(torch_settings(cudnn_benchmark=True))


def test_the_table():
    assert str(torch_settings(threads=cores_for_this_process())) == (
        f"threads          {cores_for_this_process()} of {cores_for_this_process()} cores\n"
        "tf32             off\n"
        "cudnn_benchmark  off\n"
        "deterministic    off"
    )


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"threads": True}, {"threads": "all"}, {"tf32": 1}])
def test_values_that_cannot_be_meant_are_refused(wrong):
    before = torch_settings()
    with pytest.raises(ConfigError):
        torch_settings(**wrong)
    assert torch_settings() == before
