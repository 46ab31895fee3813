"""Counters that torch's Hugging Face writer loses; the damaged file is really written by it."""

from __future__ import annotations

import pytest
import torch
from doctoring import found, shown
from safetensors.torch import save_file


def state(step: float) -> dict[str, torch.Tensor]:
    return {
        "state.fc.weight.step": torch.tensor(step),
        "state.fc.weight.exp_avg": torch.ones(3, 3),
        "state.fc.weight.exp_avg_sq": torch.ones(3, 3),
    }


def test_a_step_of_zero_beside_moments_is_the_trace():
    save_file(state(0.0), "m.safetensors")
    assert shown("m.safetensors", "zeroed-counters") == (
        "warning  m.safetensors: every step is 0, while what belongs to it is not: state.fc.weight.step  [RK-FILE-83]\n"
        "  why     torch's HuggingFaceStorageWriter with enable_consolidation=True writes every tensor without "
        "dimensions "
        "as 0\n"
        "  do      read the files from before the consolidation: in them the numbers are right"
    )


def test_a_step_that_counts_and_an_optimizer_that_never_ran_are_fine():
    save_file(state(7.0), "m.safetensors")
    assert found("m.safetensors", "zeroed-counters") == []
    save_file({key: torch.zeros_like(value) for key, value in state(0.0).items()}, "m.safetensors")
    assert found("m.safetensors", "zeroed-counters") == []


@pytest.mark.filterwarnings("ignore")
def test_the_writer_of_this_torch_does_it(tmp_path):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    folder = tmp_path / "hf"
    writer = HuggingFaceStorageWriter(path=str(folder), save_distributed=True, enable_consolidation=True)
    try:
        dcp.save(state(7.0), storage_writer=writer, no_dist=True)
    except Exception as error:  # noqa: BLE001 - it is experimental, and its errors are of any kind
        pytest.skip(f"this torch's writer does not get that far: {type(error).__name__}")
    made = sorted(folder.glob("*.safetensors"))
    assert made
    from safetensors.torch import load_file

    if load_file(made[0])["state.fc.weight.step"] != 0:
        pytest.skip("this torch's writer keeps scalars")
    assert len(found(made[0], "zeroed-counters")) == 1
