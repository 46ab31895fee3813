r"""The same network under other names: how torchvision, timm and Hugging Face call the tensors of ResNet and ViT.

Each rule turns a name of one library into the name that all of them are compared under: torchvision's for ResNet,
timm's for ViT. Hugging Face keeps query, key and value apart where the others have one tensor of three parts, rows
over each other, so a translated name may be a part of a tensor.

Names: torchvision 0.20 `models/{resnet,vision_transformer,densenet}.py`, timm 1.0 `models/vision_transformer.py`,
transformers 4.50 and 5.23 `models/{resnet,vit}/modeling_*.py`; old names: TensorFlow's batch and layer norms,
torchvision before 0.3 (dots in DenseNet), torch before 2.0 (`weight_g`, `weight_v` of weight norm).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Translated", "current_name", "translate"]


@dataclass(frozen=True, slots=True)
class Translated:
    """A name in the common dialect.

    Attributes:
        name: of the whole tensor.
        part: which of `parts` equal parts along the first dimension; None for the whole.
        parts: how many there are.
    """

    name: str
    part: int | None = None
    parts: int = 1


_Build = Callable[["re.Match[str]"], Translated]

# What the last layer of a classifier is called; the same part of all of them.
_HEADS = re.compile(r"(?:fc|head|heads\.head|classifier|classifier\.1)\.(weight|bias)")

_OLD_NAMES = (
    (re.compile(r"(^|\.)gamma$"), r"\1weight"),
    (re.compile(r"(^|\.)beta$"), r"\1bias"),
    (re.compile(r"(^|\.)moving_mean$"), r"\1running_mean"),
    (re.compile(r"(^|\.)moving_var(?:iance)?$"), r"\1running_var"),
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d\.)"), r"\1\2"),
    (re.compile(r"(^|\.)(weight|bias)_g$"), r"\1parametrizations.\2.original0"),
    (re.compile(r"(^|\.)(weight|bias)_v$"), r"\1parametrizations.\2.original1"),
)

_HF_ATTENTION = {"query": 0, "key": 1, "value": 2, "q_proj": 0, "k_proj": 1, "v_proj": 2}
_TORCHVISION_VIT = {
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "self_attention.in_proj_": "attn.qkv.",
    "self_attention.out_proj.": "attn.proj.",
    "mlp.0.": "mlp.fc1.",
    "mlp.linear_1.": "mlp.fc1.",
    "mlp.3.": "mlp.fc2.",
    "mlp.linear_2.": "mlp.fc2.",
}
_HF_VIT = {
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "attention.output.dense.": "attn.proj.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
    # transformers 5
    "attention.o_proj.": "attn.proj.",
    "mlp.fc1.": "mlp.fc1.",
    "mlp.fc2.": "mlp.fc2.",
}
_WHOLE_NAMES = {
    # torchvision's ViT
    "class_token": "cls_token",
    "encoder.pos_embedding": "pos_embed",
    # Hugging Face's ViT
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
}
_BEGINNINGS = {
    "conv_proj.": "patch_embed.proj.",
    "encoder.ln.": "norm.",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
    "embedder.embedder.convolution.": "conv1.",
    "embedder.embedder.normalization.": "bn1.",
}


def current_name(name: str) -> str:
    """Return what a tensor with an old name is called now; the name itself where it is not an old one.

    Example:
        >>> current_name("bn1.gamma")
        'bn1.weight'
    """
    for pattern, new in _OLD_NAMES:
        name = pattern.sub(new, name)
    return name


def translate(name: str) -> Translated:
    """Return a name in the common dialect; the name itself where no rule knows it.

    Example:
        >>> translate("resnet.encoder.stages.0.layers.1.layer.0.convolution.weight").name
        'layer1.1.conv1.weight'
    """
    for prefix in ("resnet.", "vit.", "deit."):
        name = name.removeprefix(prefix)
    head = _HEADS.fullmatch(name)
    if head is not None:
        return Translated(f"head.{head[1]}")
    if name in _WHOLE_NAMES:
        return Translated(_WHOLE_NAMES[name])
    for begin, new in _BEGINNINGS.items():
        if name.startswith(begin):
            return Translated(new + name[len(begin) :])
    for pattern, build in _PATTERNS:
        found = pattern.fullmatch(name)
        if found is not None:
            return build(found)
    return Translated(name)


def _torchvision_block(found: re.Match[str]) -> Translated:
    inner = found["inner"]
    for begin, new in _TORCHVISION_VIT.items():
        if inner.startswith(begin):
            return Translated(f"blocks.{found['block']}.{new}{inner[len(begin) :]}")
    return Translated(found[0])


def _hugging_face_block(found: re.Match[str]) -> Translated:
    inner = found["inner"]
    for begin, new in _HF_VIT.items():
        if inner.startswith(begin):
            return Translated(f"blocks.{found['block']}.{new}{inner[len(begin) :]}")
    attention = re.fullmatch(r"attention\.(?:attention\.)?(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)", inner)
    if attention is not None:
        whole = f"blocks.{found['block']}.attn.qkv.{attention[2]}"
        return Translated(whole, _HF_ATTENTION[attention[1]], 3)
    return Translated(found[0])


def _hugging_face_stage(found: re.Match[str]) -> Translated:
    block = f"layer{int(found['stage']) + 1}.{found['layer']}"
    kind = found["kind"]
    if found["place"] == "shortcut":
        return Translated(f"{block}.downsample.{0 if kind == 'convolution' else 1}.{found['last']}")
    number = int(found["number"]) + 1
    return Translated(f"{block}.{'conv' if kind == 'convolution' else 'bn'}{number}.{found['last']}")


_PATTERNS: tuple[tuple[re.Pattern[str], _Build], ...] = (
    (re.compile(r"encoder\.layers\.encoder_layer_(?P<block>\d+)\.(?P<inner>.+)"), _torchvision_block),
    (re.compile(r"(?:encoder\.layer|layers)\.(?P<block>\d+)\.(?P<inner>.+)"), _hugging_face_block),
    (
        re.compile(
            r"encoder\.stages\.(?P<stage>\d+)\.layers\.(?P<layer>\d+)\.(?P<place>layer|shortcut)"
            r"(?:\.(?P<number>\d+))?\.(?P<kind>convolution|normalization)\.(?P<last>\w+)"
        ),
        _hugging_face_stage,
    ),
)
