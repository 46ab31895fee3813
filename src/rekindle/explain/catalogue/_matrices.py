"""What the four numbers of ``(416x26 and 5408x10)`` tell when no frame is alive: which of three mistakes it can be."""

from __future__ import annotations

import math

__all__ = ["is_other_backbone", "is_unflattened", "maps_of"]

# Features in front of the last layer in common families of networks: ResNet, DenseNet, EfficientNet, MobileNet, ViT.
_BACKBONES = frozenset((384, 512, 576, 768, 960, 1024, 1280, 1408, 1536, 1664, 1792, 1920, 2048, 2208, 2304, 2560))


def is_unflattened(rows: int, have: int, want: int) -> bool:
    """Whether a feature map (N, C, H, W) with H = W may have met a layer made for C*H*W.

    The product then sees rows = N*C*H and have = W, while want = C*H*W: want is a multiple of W*W, and rows of want/W.
    """
    if not 1 < have < want or want % (have * have):
        return False
    return rows % (want // have) == 0


def is_other_backbone(have: int, want: int) -> bool:
    """Whether both numbers are usual sizes of features in front of a last layer."""
    return have != want and have in _BACKBONES and want in _BACKBONES


def maps_of(have: int, want: int) -> tuple[int, int, int] | None:
    """Return (C, H, H') where have = C*H*H and want = C*H'*H', or None.

    Two such numbers are flattened maps of the same channels and another size: the image is another one. Where several C
    fit, the largest power of two does, as most networks have it, else the largest.
    """
    common = math.gcd(have, want)
    powers = [2**power for power in range(11, 0, -1)]
    for channels in (*powers, *range(min(common, 2048), 3, -1)):
        if common % channels:
            continue
        sides = math.isqrt(have // channels), math.isqrt(want // channels)
        if min(sides) > 1 and sides[0] ** 2 * channels == have and sides[1] ** 2 * channels == want:
            return channels, *sides
    return None
