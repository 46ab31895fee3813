"""Keys of Lightning checkpoints."""

from __future__ import annotations

import torch
from doctoring import found, shown
from torch import nn


def checkpoint(prefix: str) -> dict[str, object]:
    state = {f"{prefix}{key}": value for key, value in nn.Linear(2, 3).state_dict().items()}
    return {"epoch": 1, "global_step": 5, "pytorch-lightning_version": "2.4.0", "state_dict": state}


def test_the_attribute_is_named_and_the_command_removes_it():
    torch.save(checkpoint("model."), "m.ckpt")
    text = shown("m.ckpt", "lightning-prefix")
    assert text == (
        "note  m.ckpt: all 2 keys start with `model.`, the name of an attribute of the LightningModule  [RK-FILE-87]\n"
        "  why     a checkpoint of Lightning names weights from its own module down; the network alone does not "
        "know that "
        "part\n"
        "  do      rekindle convert m.ckpt m.plain.pth --take state_dict --strip model."
    )
    assert not any(nn.Linear(2, 3).load_state_dict(torch.load("m.plain.pth")))


def test_a_module_with_several_parts_has_no_prefix():
    both = checkpoint("model.")
    both["state_dict"]["loss.weight"] = torch.ones(2)
    torch.save(both, "m.ckpt")
    assert found("m.ckpt", "lightning-prefix") == []
