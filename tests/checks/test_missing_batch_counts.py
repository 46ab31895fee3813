"""BatchNorm without its count of batches."""

from __future__ import annotations

import pytest
import torch
from doctoring import found, shown
from torch import nn


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def without_count(version: int | None) -> dict[str, torch.Tensor]:
    state = net().state_dict()
    del state["1.num_batches_tracked"]
    if version is None:
        return dict(state)
    state._metadata["1"]["version"] = version
    return state


def test_a_newer_file_without_it_is_refused_by_torch():
    state = without_count(2)
    with pytest.raises(RuntimeError, match="num_batches_tracked"):
        net().load_state_dict(state)
    torch.save(state, "m.pth")
    assert shown("m.pth", "missing-batch-counts") == (
        "warning  m.pth: 1 of 1 norms have running statistics and no num_batches_tracked: 1  [RK-FILE-81]\n"
        "  why     a program left it out; the file says that it follows the newer form, so load_state_dict calls "
        "`1.num_batches_tracked` missing and stops\n"
        "  do      model.load_state_dict(state, strict=False); the count only matters for BatchNorm with momentum=None"
    )


@pytest.mark.parametrize("version", [None, 1])
def test_an_older_file_is_a_note_because_torch_fills_it_in(version: int | None):
    state = without_count(version)
    assert not any(net().load_state_dict(state))
    torch.save(state, "m.pth")
    (finding,) = found("m.pth", "missing-batch-counts")
    assert (finding.severity.value, finding.do) == ("note", "")


def test_complete_norms_are_fine():
    torch.save(net().state_dict(), "m.pth")
    assert found("m.pth", "missing-batch-counts") == []
