"""What a file holds, by the keys and shapes that only one family of networks has."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from rekindle.recipes.resnet import resnet
from rekindle.tune.families import looks_like


def shapes(*keys: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(keys, (2, 2))


@pytest.mark.parametrize(
    ("name", "words"), [("resnet18", "a ResNet-18"), ("resnet34", "a ResNet-34"), ("resnet50", "a ResNet-50")]
)
def test_the_size_of_a_residual_network_is_read_from_its_blocks(name, words):
    state = resnet(name, classes=3).state_dict()
    assert looks_like({key: tuple(value.shape) for key, value in state.items()}) == words


def test_an_unusual_residual_network_is_only_called_one():
    state = resnet("resnet18", classes=3).state_dict()
    kept = {key: tuple(value.shape) for key, value in state.items() if not key.startswith("layer3.1")}
    assert looks_like(kept) == "a ResNet"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight"), "a BERT"),
        (("transformer.wte.weight", "transformer.h.0.attn.c_attn.weight"), "a GPT-2"),
        (
            ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight"),
            "a Llama-like language model",
        ),
        (("features.0.weight", "features.28.weight", "classifier.6.weight"), "a VGG"),
        (("features.0.weight", "features.10.weight", "classifier.6.weight"), "an AlexNet"),
        (("0.weight", "2.weight"), ""),
    ],
)
def test_a_family_is_named_where_its_own_keys_are_there(keys, words):
    assert looks_like(shapes(*keys)) == words
