"""Which network a set of keys and shapes looks like: the well-known families, by the keys that only they have.

Used to say what a file holds when it does not fit. A family is named only where its own keys are there; a size only
where the counts of blocks and widths are those of a published network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rekindle.tune.dialects import translate

__all__ = ["looks_like"]

Shape = tuple[int, ...]

# Family -> keys (regular expressions) that must all be there.
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a ResNet", (r"conv1\.weight", r"layer1\.0\.conv1\.weight", r"layer4\.0\.bn1\.weight")),
    ("a DenseNet", (r"features\.denseblock1\.denselayer1\.norm\.?1\.weight", r"features\.transition1\.conv\.weight")),
    ("a MobileNet V2", (r"features\.1\.conv\.0\.0\.weight", r"features\.18\.0\.weight")),
    ("a MobileNet V3", (r"features\.0\.0\.weight", r"features\.4\.block\.2\.fc1\.weight")),
    ("an EfficientNet", (r"features\.1\.0\.block\.0\.0\.weight", r"features\.8\.0\.weight")),
    ("a ConvNeXt", (r"(features\.1\.0\.layer_scale|stages\.0\.blocks\.0\.gamma)",)),
    ("a VGG", (r"features\.0\.weight", r"features\.(24|25|28|34|40)\.weight", r"classifier\.6\.weight")),
    ("an AlexNet", (r"features\.0\.weight", r"features\.10\.weight", r"classifier\.6\.weight")),
    ("a Swin transformer", (r".*relative_position_bias_table",)),
    ("a CLIP", (r"(.*\.)?(visual|vision_model)\..+", r"(.*\.)?(logit_scale|text_model\..+)")),
    ("a vision transformer", (r"cls_token", r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.qkv\.weight")),
    ("a Llama-like language model", (r"(model\.)?layers\.0\.self_attn\.q_proj\.weight", r".*mlp\.gate_proj\.weight")),
    ("a GPT-2", (r"(transformer\.)?wte\.weight", r"(transformer\.)?h\.0\.attn\.c_attn\.weight")),
    ("a T5", (r"(.*\.)?block\.0\.layer\.0\.SelfAttention\.q\.weight",)),
    ("a BERT", (r"(.*\.)?embeddings\.word_embeddings\.weight", r"(.*\.)?attention\.self\.query\.weight")),
    ("a U-Net of diffusers", (r"down_blocks\.0\.resnets\.0\.conv1\.weight", r"time_embedding\.linear_1\.weight")),
    ("a YOLO of ultralytics", (r"model\.0\.conv\.weight", r"model\.\d+\.cv1\.conv\.weight")),
    ("a LeNet", (r"conv1\.weight", r"conv2\.weight", r"fc1\.weight", r"fc2\.weight", r"fc3\.weight")),
)

# Blocks of the four stages -> sizes with plain blocks and with bottlenecks.
_RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "ResNet-18",
    ((3, 4, 6, 3), False): "ResNet-34",
    ((3, 4, 6, 3), True): "ResNet-50",
    ((3, 4, 23, 3), True): "ResNet-101",
    ((3, 8, 36, 3), True): "ResNet-152",
}


def looks_like(shapes: Mapping[str, Shape]) -> str:
    """Return the family of a network in words, such as ``a ResNet-50``; empty where it is none of those known.

    Args:
        shapes: key without wrappers -> shape.
    """
    names = {translate(key).name: shape for key, shape in shapes.items()}
    for family, patterns in _FAMILIES:
        compiled = [re.compile(pattern) for pattern in patterns]
        if all(any(pattern.fullmatch(name) for name in names) for pattern in compiled):
            return _sized(family, names)
    return ""


def _sized(family: str, names: Mapping[str, Shape]) -> str:
    if family == "a ResNet":
        blocks = tuple(
            len({name.split(".")[1] for name in names if name.startswith(f"layer{stage}.")}) for stage in range(1, 5)
        )
        plain_width = names.get("layer1.0.conv1.weight", ())[:1] == (64,)
        size = _RESNETS.get((blocks, "layer1.0.conv3.weight" in names), "")
        return f"a {size}" if size and plain_width else family
    if family == "a vision transformer":
        depth = len({name.split(".")[1] for name in names if name.startswith("blocks.")})
        width = names.get("cls_token", (0,))[-1]
        return f"{family} of {depth} blocks, width {width}"
    return family
