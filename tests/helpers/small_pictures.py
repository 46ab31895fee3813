"""Small pictures that a network can learn to tell apart within seconds: stripes of a direction for each class."""

from __future__ import annotations

import random
from pathlib import Path

__all__ = ["stripes", "write_pictures"]


def stripes(kind: int, seed: int, size: int = 40):
    """A picture of stripes: upright for kind 0, level for 1, slanting for others; with noise."""
    from PIL import Image

    draw = random.Random(seed)
    width = draw.randint(3, 6)
    start = draw.randrange(width)
    pixels = bytearray()
    for y in range(size):
        for x in range(size):
            along = (x, y, x + y, 2 * x + y)[kind % 4]
            light = 200 if (along + start) // width % 2 else 60
            pixels += bytes(max(0, min(255, light + draw.randint(-30, 30))) for _ in range(3))
    return Image.frombytes("RGB", (size, size), bytes(pixels))


def write_pictures(
    folder: Path, classes: tuple[str, ...] = ("level", "upright"), train: int = 8, val: int = 4, size: int = 40
) -> Path:
    """Write train/ and val/ (or the classes alone, where `val` is 0) and return the folder."""
    for number, name in enumerate(classes):
        for part, count in (("train", train), ("val", val)):
            place = folder / part / name if val else folder / name
            for index in range(count):
                place.mkdir(parents=True, exist_ok=True)
                seed = 1000 * number + index + (500 if part == "val" else 0)
                stripes(number, seed, size).save(place / f"{index:03}.png")
    return folder
