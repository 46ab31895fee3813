"""Pictures of any kind to tensors of one kind: opened, brought upright, cut, augmented, normalised.

Shapes: C channels, H rows, W columns. Whatever the file holds becomes 8-bit RGB (or grey): the orientation of the
camera is applied, 16-bit grey is scaled, a palette is looked up, CMYK is converted, and what is transparent lies on
white. Colour profiles are not applied.

Augmentation is drawn from one generator, keyed by Python's global one, which `run.loader` keys by (seed, epoch,
sample): the same picture is cut the same way in every life of a run and by any number of workers.

Law: a file that is no whole picture is a `BrokenPicture` with its path and the reason, whatever Pillow raised.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import random
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

import torch
from PIL import Image, ImageEnhance, ImageOps, UnidentifiedImageError
from torch.utils.data import Dataset

from rekindle.errors import ConfigError, UnreadableFile
from rekindle.recipes.picture_folders import PictureFile

__all__ = [
    "AUGMENTATIONS",
    "LEAST_PIXELS",
    "MOST_SIZE",
    "Augmentation",
    "BrokenPicture",
    "Checked",
    "Pictures",
    "Preprocessing",
    "augmented",
    "check_pictures",
    "open_picture",
    "plain_picture",
    "prepared",
]

Augmentation: TypeAlias = Literal["standard", "light", "none"]
AUGMENTATIONS: Final[tuple[Augmentation, ...]] = ("standard", "light", "none")

LEAST_PIXELS: Final = 8
MOST_SIZE: Final = 1024  # a file must not make a network take gigabytes for one picture
_BILINEAR = Image.Resampling.BILINEAR
# What Pillow's readers raise on bytes that are no whole picture: it has no error of its own for that.
_PILLOW_RAISES = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class BrokenPicture(UnreadableFile):
    """A file that is no whole picture, or none that can be used; `path` says which."""

    def __init__(self, what: str, *, path: str = "", reason: str = "") -> None:
        """Keep path and reason apart as well, for lists of many."""
        super().__init__(what, why="the copy or the download stopped early, or it is another kind of file")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the input of a network.

    Attributes:
        size: rows and columns of the input, in pixels.
        resize: length of the shorter side before the middle is cut out, at least `size`.
        channels: 3 for RGB, 1 for grey.
        mean, std: of each channel, from 0 to 1: (x - mean) / std is what the network gets.
    """

    size: int
    resize: int
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def to_json(self) -> dict[str, Any]:
        """Return it for a file."""
        return {
            "size": self.size,
            "resize": self.resize,
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, found: object) -> Preprocessing:
        """Return what a file says.

        Raises:
            ConfigError: it cannot be meant.
        """
        if isinstance(found, Mapping):
            numbers = [found.get(name) for name in ("size", "resize", "channels")]
            mean: Any = found.get("mean")
            std: Any = found.get("std")
            if all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
                size, resize, channels = cast("list[int]", numbers)
                fits = LEAST_PIXELS <= size <= MOST_SIZE and size <= resize <= 2 * MOST_SIZE and channels in {1, 3}
                if fits and _are_numbers(mean, channels) and _are_numbers(std, channels) and min(std) > 0:
                    return cls(size, resize, channels, tuple(map(float, mean)), tuple(map(float, std)))
        raise ConfigError(f"how pictures are prepared cannot be meant: {str(found)[:120]}")


def _are_numbers(found: Any, count: int) -> bool:
    return (
        isinstance(found, Sequence)
        and len(found) == count
        and all(isinstance(number, (int, float)) and math.isfinite(number) for number in found)
    )


@contextmanager
def _strictly() -> Iterator[None]:
    """Have Pillow refuse pictures so large that they may be meant as an attack, and be silent about odd EXIF data."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        yield


def open_picture(path: str, channels: int = 3, *, at_least: int | None = None) -> Image.Image:
    """Return a picture upright, in mode RGB or L.

    Args:
        path: the file; of an animation the first frame is taken.
        channels: 3 for RGB, 1 for grey.
        at_least: a JPEG may be decoded at a half, a quarter or an eighth of its size, no smaller than this.

    Raises:
        BrokenPicture: it is no whole picture, less than 8 pixels wide or high, or too large to be meant.
        OSError: it is missing or may not be read.
    """
    with open(path, "rb") as file:
        content = file.read()
    with _strictly():
        return _decoded(path, content, channels, at_least)


def _decoded(path: str, content: bytes, channels: int, at_least: int | None) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content)) as image:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            image.load()
            plain = plain_picture(image, channels)
    except UnidentifiedImageError:
        raise _broken(path, _other_kind(content)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _broken(path, "more pixels than any photograph has; make it smaller") from None
    except _PILLOW_RAISES as error:
        words = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise _broken(path, words) from None
    if min(plain.size) < LEAST_PIXELS:
        raise _broken(path, f"{plain.width} by {plain.height} pixels, and {LEAST_PIXELS} each way is the least")
    return plain


def _broken(path: str, reason: str) -> BrokenPicture:
    return BrokenPicture(f"{path}: {reason}", path=path, reason=reason)


def _other_kind(content: bytes) -> str:
    head = content[:512].lstrip().lower()
    if not content:
        return "an empty file"
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "a drawing in SVG" if b"<svg" in head else "a web page"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the picture; git lfs pull fetches it"
    return "no picture that Pillow knows"


def plain_picture(image: Image.Image, channels: int) -> Image.Image:
    """Return an image of Pillow's, of any mode, upright and as 8-bit RGB or grey.

    Raises:
        ValueError: its pixels are floating-point numbers, whose range is not known.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known; save it as 8 or 16 bits")
    if image.mode.startswith("I"):
        # 16-bit grey, whatever the reader called it; `point` would cut it at 255.
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}:
        clear = image.convert("RGBA")
        image = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        image.alpha_composite(clear)
    return image.convert("RGB" if channels == 3 else "L")


# ---- to tensors


def prepared(image: Image.Image, how: Preprocessing) -> torch.Tensor:
    """Return the middle of a picture as the input of a network, (C, H, W) float32."""
    side = min(image.size) * how.size / how.resize
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return _tensor(image.resize((how.size, how.size), _BILINEAR, box=(left, top, left + side, top + side)), how)


def augmented(
    image: Image.Image, how: Preprocessing, augmentation: Augmentation, generator: random.Random
) -> torch.Tensor:
    """Return a part of a picture, changed at random, as the input of a network, (C, H, W) float32.

    Args:
        image: upright.
        how: size and normalisation.
        augmentation: ``standard``: a part of 35 to 100 % of the area, mirrored or not, brightness, contrast and
            saturation changed by up to 20 %; ``light``: a part of 80 to 100 %, for what must not be mirrored;
            ``none``: the middle.
        generator: what is drawn comes from it alone.
    """
    if augmentation == "none":
        return prepared(image, how)
    least, stretch = (0.35, 4 / 3) if augmentation == "standard" else (0.8, 1.1)
    cut = image.resize((how.size, how.size), _BILINEAR, box=_part(image.size, least, stretch, generator))
    if augmentation == "standard":
        if generator.random() < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        changes = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
        for change in changes[: 3 if how.channels == 3 else 2]:
            cut = change(cut).enhance(generator.uniform(0.8, 1.2))
    return _tensor(cut, how)


def _part(
    size: tuple[int, int], least: float, stretch: float, generator: random.Random
) -> tuple[float, float, float, float]:
    """Return a box of at least this part of the area, its sides stretched by up to this factor."""
    width, height = size
    area = width * height * generator.uniform(least, 1.0)
    ratio = math.exp(generator.uniform(-math.log(stretch), math.log(stretch)))
    wide, high = math.sqrt(area * ratio), math.sqrt(area / ratio)
    shrink = min(1.0, width / wide, height / high)  # into the picture, as it is
    wide, high = wide * shrink, high * shrink
    left, top = generator.uniform(0, width - wide), generator.uniform(0, height - high)
    return left, top, min(width, left + wide), min(height, top + high)


def _tensor(image: Image.Image, how: Preprocessing) -> torch.Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    x_CHW = pixels.view(how.size, how.size, how.channels).permute(2, 0, 1).to(torch.float32) / 255
    mean, std = torch.tensor(how.mean), torch.tensor(how.std)
    return ((x_CHW - mean[:, None, None]) / std[:, None, None]).contiguous()


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Pictures with their labels, opened when they are asked for.

    Args:
        files: the pictures.
        how: what they become.
        augmentation: as of `augmented`.
    """

    def __init__(self, files: Sequence[PictureFile], how: Preprocessing, augmentation: Augmentation = "none") -> None:
        """Open nothing yet."""
        self._files = tuple(files)
        self._how = how
        self._augmentation: Augmentation = augmentation

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        file = self._files[index]
        try:
            # Twice the size, since a part may be cut out of it.
            image = open_picture(file.path, self._how.channels, at_least=2 * self._how.resize)
        except FileNotFoundError:
            raise _broken(file.path, "it was there when the training began, and is not any more") from None
        if self._augmentation == "none":
            return prepared(image, self._how), file.label
        generator = random.Random(random.getrandbits(64))
        return augmented(image, self._how, self._augmentation, generator), file.label


# ---- before anything is trained


@dataclass(frozen=True, slots=True)
class Checked:
    """What looking at every picture gave.

    Attributes:
        broken: of files that are no whole picture, in order.
        twice: names of pictures with the very same bytes, one tuple for each set.
    """

    broken: tuple[BrokenPicture, ...]
    twice: tuple[tuple[str, ...], ...]


def check_pictures(files: Sequence[PictureFile], progress: Callable[[int, int], object] | None = None) -> Checked:
    """Decode every picture once, several at a time.

    Args:
        files: the pictures.
        progress: told (done, total).

    Raises:
        OSError: one may not be read.
    """
    names: dict[bytes, list[str]] = {}
    broken: list[BrokenPicture] = []

    def look(file: PictureFile) -> bytes | BrokenPicture:
        with open(file.path, "rb") as opened:
            content = opened.read()
        try:
            _decoded(file.path, content, 3, 512)
        except BrokenPicture as error:
            return error
        return hashlib.sha256(content).digest()

    with _strictly(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done, (file, found) in enumerate(zip(files, pool.map(look, files), strict=True), 1):
            if isinstance(found, BrokenPicture):
                broken.append(found)
            else:
                names.setdefault(found, []).append(file.name)
            if progress is not None:
                progress(done, len(files))
    return Checked(tuple(broken), tuple(tuple(same) for same in names.values() if len(same) > 1))
