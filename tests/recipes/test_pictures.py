"""Pictures of every kind become the same thing; what is none is named; augmentation follows from its generator."""

from __future__ import annotations

import io
import random
import struct
import zlib

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

from PIL import Image, ImageOps

from rekindle.errors import ConfigError
from rekindle.recipes.picture_folders import PictureFile
from rekindle.recipes.pictures import (
    BrokenPicture,
    Pictures,
    Preprocessing,
    _part,
    augmented,
    check_pictures,
    open_picture,
    plain_picture,
    prepared,
)

RGB = Preprocessing(32, 32, 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def ramp(width: int = 40, height: int = 32) -> Image.Image:
    """Grey from black on the left to white on the right."""
    row = bytes(255 * x // (width - 1) for x in range(width))
    return Image.frombytes("L", (width, height), row * height)


def saved(tmp_path, image: Image.Image, name: str, **settings) -> str:
    path = tmp_path / name
    image.save(path, **settings)
    return str(path)


def levels(image: Image.Image) -> list[float]:
    """Mean of the first, middle and last column."""
    tensor = torch.frombuffer(bytearray(image.convert("L").tobytes()), dtype=torch.uint8).view(image.height, -1)
    return [float(tensor[:, at].float().mean()) for at in (0, image.width // 2, -1)]


def sixteen_bits(tmp_path) -> str:
    grey = ramp()
    values = struct.pack("<1280H", *(value * 257 for value in grey.tobytes()))
    return saved(tmp_path, Image.frombytes("I;16", grey.size, values), "sixteen.png")


def sixteen_bits_of_another_order(tmp_path) -> str:
    grey = ramp()
    values = struct.pack(">1280H", *(value * 257 for value in grey.tobytes()))
    return saved(tmp_path, Image.frombytes("I;16B", grey.size, values), "sixteen.tif")


KINDS = {
    "grey": lambda tmp: saved(tmp, ramp(), "a.png"),
    "rgb": lambda tmp: saved(tmp, ramp().convert("RGB"), "a.bmp"),
    "jpeg": lambda tmp: saved(tmp, ramp(), "a.jpg", quality=95),
    "cmyk": lambda tmp: saved(tmp, ramp().convert("RGB").convert("CMYK"), "a.jpg", quality=95),
    "rgba": lambda tmp: saved(tmp, ramp().convert("RGBA"), "a.png"),
    "grey and alpha": lambda tmp: saved(tmp, ramp().convert("LA"), "a.png"),
    "palette": lambda tmp: saved(tmp, ramp().convert("RGB").quantize(64), "a.gif"),
    "16 bits": sixteen_bits,
    "16 bits, big-endian": sixteen_bits_of_another_order,
    "webp": lambda tmp: saved(tmp, ramp().convert("RGB"), "a.webp", lossless=True),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_becomes_the_same(tmp_path, kind, channels):
    image = open_picture(KINDS[kind](tmp_path), channels)
    assert image.mode == ("RGB" if channels == 3 else "L")
    assert image.size == (40, 32)
    assert levels(image) == pytest.approx([0, 131, 255], abs=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_whatever_the_camera_noted(tmp_path, orientation):
    upright = Image.new("L", (24, 16))
    upright.paste(255, (0, 0, 6, 4))  # a white corner at the top left
    # Of each orientation, the turn that a viewer undoes.
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, stored, "turned.png", exif=exif)
    assert ImageOps.exif_transpose(Image.open(path)).size == (24, 16)
    assert open_picture(path, 1).tobytes() == upright.tobytes()


def test_what_is_transparent_lies_on_white(tmp_path):
    hidden = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    assert open_picture(saved(tmp_path, hidden, "a.png")).getpixel((3, 3)) == (255, 255, 255)
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert open_picture(saved(tmp_path, palette, "b.png", transparency=1)).getpixel((3, 3)) == (255, 255, 255)


def test_a_large_jpeg_is_decoded_smaller_and_shows_the_same(tmp_path):
    path = saved(tmp_path, ramp(1600, 1200), "large.jpg")
    small = open_picture(path, at_least=300)
    assert small.size == (400, 300)
    assert levels(small) == pytest.approx([0, 127, 255], abs=4)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises that many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def whole(kind: str, **settings) -> bytes:
    out = io.BytesIO()
    ramp(64, 64).save(out, kind, **settings)
    return out.getvalue()


BROKEN = {
    "an empty file": (b"", "an empty file"),
    "a web page": (b"<!DOCTYPE html><html>", "a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, not the picture"),
    "text": (b"these are my ants", "no picture that Pillow knows"),
    "a drawing": (b"<svg xmlns='...'></svg>", "a drawing in SVG"),
    "half a JPEG": (whole("JPEG")[:400], "image file is truncated"),
    "half a PNG": (whole("PNG")[:80], "image file is truncated"),
    "a bomb": (png_of_size(30_000, 30_000), "more pixels than any photograph has"),
    "a large one": (png_of_size(10_000, 10_000), "more pixels than any photograph has"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_whole_picture_is_named_with_the_reason(tmp_path, kind):
    content, words = BROKEN[kind]
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(BrokenPicture) as caught:
        open_picture(str(path))
    assert caught.value.path == str(path)
    assert caught.value.reason.startswith(words)
    assert str(caught.value).startswith(f"{path}: {caught.value.reason}\n")


def test_any_cut_or_changed_picture_is_a_picture_or_broken(tmp_path):
    """Never another exception: 300 pictures, cut or with bytes changed at random."""
    draw = random.Random(0)
    path = tmp_path / "fuzzed"
    outcomes = set()
    sources = [whole("JPEG"), whole("PNG"), whole("GIF"), whole("TIFF"), whole("BMP"), whole("WEBP"), whole("PPM")]
    for number in range(300):
        content = bytearray(sources[number % len(sources)])
        if number % 3 == 0:
            del content[draw.randrange(len(content)) :]
        for _ in range(draw.randrange(8)):
            if content:
                content[draw.randrange(min(len(content), 400))] = draw.randrange(256)
        path.write_bytes(content)
        try:
            open_picture(str(path))
            outcomes.add("picture")
        except BrokenPicture:
            outcomes.add("broken")
    assert outcomes == {"picture", "broken"}


def test_tiny_and_floating_point_pictures_are_refused(tmp_path):
    with pytest.raises(BrokenPicture, match="7 by 30 pixels, and 8 each way is the least"):
        open_picture(saved(tmp_path, Image.new("L", (7, 30)), "tiny.png"))
    with pytest.raises(BrokenPicture, match="floating-point pixels"):
        open_picture(saved(tmp_path, Image.new("F", (16, 16)), "float.tif"))


def test_the_middle_of_a_picture_is_what_a_network_gets():
    wide = Image.new("RGB", (100, 50), (0, 255, 0))
    wide.paste((255, 0, 0), (25, 0, 75, 50))
    x = prepared(wide, RGB)
    assert x.shape == (3, 32, 32)
    assert x.dtype == torch.float32
    assert torch.equal(x[0, :, 1:-1], torch.ones(32, 30))  # red; green begins beyond the edges
    half = prepared(wide, Preprocessing(32, 64, 3, RGB.mean, RGB.std))
    assert torch.equal(half[0], torch.ones(32, 32))


def test_a_very_long_picture_costs_no_more_than_a_square_one():
    assert prepared(Image.new("RGB", (8, 60_000)), RGB).shape == (3, 32, 32)


def test_inputs_are_normalised_by_channel():
    grey = prepared(Image.new("L", (32, 32), 255), Preprocessing(32, 32, 1, (0.5,), (0.25,)))
    assert torch.equal(grey, torch.full((1, 32, 32), 2.0))
    colours = prepared(Image.new("RGB", (32, 32), (255, 0, 51)), Preprocessing(32, 32, 3, (0.5, 0.5, 0.2), (0.5, 1, 1)))
    assert colours[:, 0, 0].tolist() == pytest.approx([1.0, -0.5, 0.0], abs=1e-6)


@pytest.mark.parametrize("augmentation", ["standard", "light"])
def test_augmentation_follows_from_the_generator_alone(augmentation):
    image = ramp(50, 40).convert("RGB")
    one, same, other = (augmented(image, RGB, augmentation, random.Random(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_only_the_standard_augmentation_mirrors():
    image = ramp(50, 40).convert("RGB")

    def directions(augmentation):
        drawn = (augmented(image, RGB, augmentation, random.Random(seed)) for seed in range(30))
        return {bool(x[0, 0, 0] < x[0, 0, -1]) for x in drawn}

    assert directions("standard") == {True, False}
    assert directions("light") == {True}


@pytest.mark.parametrize("size", [(60, 60), (90, 17), (17, 90)])
def test_every_part_that_is_cut_lies_within_the_picture_and_has_the_size_it_should(size):
    width, height = size
    for seed in range(200):
        left, top, right, bottom = _part(size, 0.8, 1.1, random.Random(seed))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        # Of a long picture the largest square part is cut, since the sides are stretched by a tenth at most.
        assert (right - left) * (bottom - top) >= 0.8 / 1.1 * min(width, height) ** 2


def test_a_data_set_draws_from_pythons_generator_which_a_run_keys(tmp_path):
    path = saved(tmp_path, ramp(60, 60), "a.png")
    pictures = Pictures([PictureFile(path, "a.png", 4)], RGB, "standard")
    random.seed(5)
    one, label = pictures[0]
    random.seed(5)
    assert torch.equal(pictures[0][0], one)
    assert not torch.equal(pictures[0][0], one)
    assert label == 4
    assert len(pictures) == 1


def test_a_picture_that_vanished_says_so(tmp_path):
    with pytest.raises(BrokenPicture, match="it was there when the training began"):
        Pictures([PictureFile(str(tmp_path / "gone.png"), "gone.png", 0)], RGB)[0]


def test_looking_at_all_pictures_finds_broken_ones_and_copies(tmp_path):
    paths = [saved(tmp_path, ramp(width), f"{width}.png") for width in (20, 30, 40)]
    (tmp_path / "copy.png").write_bytes((tmp_path / "30.png").read_bytes())
    (tmp_path / "bad.png").write_bytes(b"")
    files = [PictureFile(str(path), path.name) for path in sorted(tmp_path.iterdir())]
    told = []
    checked = check_pictures(files, lambda done, total: told.append((done, total)))
    assert [each.path for each in checked.broken] == [str(tmp_path / "bad.png")]
    assert checked.twice == (("30.png", "copy.png"),)
    assert told == [(number, 5) for number in range(1, 6)]
    assert len(paths) == 3


def test_preprocessing_goes_through_a_file_and_odd_ones_are_refused():
    how = Preprocessing(160, 183)
    assert Preprocessing.from_json(how.to_json()) == how
    for change in (
        {"size": 10**9},
        {"size": 4},
        {"size": True},
        {"resize": 100},
        {"channels": 2},
        {"mean": [0.1]},
        {"std": [0, 1, 1]},
        {"std": [float("nan"), 1, 1]},
        {"mean": "abc"},
    ):
        with pytest.raises(ConfigError, match="cannot be meant"):
            Preprocessing.from_json({**how.to_json(), **change})
    with pytest.raises(ConfigError, match="cannot be meant"):
        Preprocessing.from_json([])


def test_an_image_in_memory_becomes_the_same_as_from_a_file(tmp_path):
    image = ramp().convert("CMYK")
    assert plain_picture(ramp().convert("LA"), 3).tobytes() == ramp().convert("RGB").tobytes()
    assert plain_picture(image, 1).mode == "L"
