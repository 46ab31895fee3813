"""Names that were changed since, and the commands that change them."""

from __future__ import annotations

import torch
from doctoring import found, shown


def test_gamma_and_beta_of_tensorflow():
    state = {"LayerNorm.gamma": torch.ones(2), "LayerNorm.beta": torch.zeros(2)}
    torch.save(state, "m.pth")
    text = shown("m.pth", "old-key-names")
    assert text == (
        "warning  m.pth: 2 keys have old names: LayerNorm.gamma is called LayerNorm.weight now  [RK-FILE-82]\n"
        "  why     TensorFlow's names, as checkpoints converted from it have them; load_state_dict calls the old names "
        "unexpected and the new ones missing\n"
        "  do      rekindle convert m.pth m.renamed.pth --rename gamma=weight --rename beta=bias"
    )
    assert list(torch.load("m.renamed.pth")) == ["LayerNorm.weight", "LayerNorm.bias"]


def test_dots_of_the_first_densenet():
    key = "features.denseblock1.denselayer2.norm.1.weight"
    state = {key: torch.ones(2), "features.norm0.weight": torch.ones(2)}
    torch.save(state, "m.pth")
    (finding,) = found("m.pth", "old-key-names")
    assert finding.what == (f"1 key has an old name: {key} is called features.denseblock1.denselayer2.norm1.weight now")
    assert list(torch.load("m.renamed.pth")) == [
        "features.denseblock1.denselayer2.norm1.weight",
        "features.norm0.weight",
    ]


def test_a_scale_that_its_author_calls_gamma_is_left_alone():
    torch.save({"block.gamma": torch.ones(2), "block.weight": torch.ones(2), "n.gamma": torch.ones(2)}, "m.pth")
    assert found("m.pth", "old-key-names") == []
