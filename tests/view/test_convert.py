"""Tensors, arrays and pictures into each other: nothing rounded, nothing turned round."""

from __future__ import annotations

import io

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
pytest.importorskip("PIL")
from PIL import Image

import rekindle as rk
from rekindle.errors import ConfigError

COUNT = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)  # two rows, four columns, three channels


@pytest.mark.parametrize(
    "array",
    [
        COUNT[::-1],
        COUNT[:, ::-1],
        COUNT[:, :, ::-1],
        COUNT.transpose(2, 0, 1),
        np.asfortranarray(COUNT),
        COUNT[:, ::2],
        np.broadcast_to(COUNT[:1], COUNT.shape),
        COUNT.astype(">f4"),
        COUNT.astype(">u2"),
        COUNT.astype("<i8"),
        COUNT > 5,
        COUNT.astype(np.complex64),
        np.array(3.5, dtype=np.float16),
        np.empty((0, 3)),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}{array.strides}",
)
def test_arrays_of_any_strides_and_byte_order_keep_their_values_and_dtype(array):
    array = array.view()
    array.flags.writeable = False
    tensor = rk.to_tensor(array)
    assert tensor.shape == array.shape
    assert tensor.is_contiguous()
    assert str(tensor.dtype).removeprefix("torch.") == array.dtype.newbyteorder("=").name
    assert np.array_equal(tensor.numpy(), array)
    tensor.fill_(1)  # its own memory: the array does not change, nothing warns
    back = rk.to_numpy(rk.to_tensor(array))
    assert back.dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(back, array)
    assert back.flags.writeable
    assert back.flags.c_contiguous


def test_channels_go_to_the_front_and_back_on_request():
    tensor = rk.to_tensor(COUNT, channels_last=True)
    assert tensor.shape == (3, 2, 4)
    assert torch.equal(tensor[1], torch.from_numpy(COUNT[:, :, 1].copy()))
    assert np.array_equal(rk.to_numpy(tensor, channels_last=True), COUNT)
    batch = rk.to_tensor(np.stack([COUNT, COUNT]), channels_last=True).to(memory_format=torch.channels_last)
    assert np.array_equal(rk.to_numpy(batch, channels_last=True)[1], COUNT)
    assert np.array_equal(rk.to_numpy(batch)[0], COUNT.transpose(2, 0, 1))
    with pytest.raises(ConfigError, match="3 axes or more, and this has 2"):
        rk.to_tensor(COUNT[0], channels_last=True)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, requires_grad=True),
        torch.randn(2, 3, dtype=torch.complex64).conj(),
        torch.randn(2, 3).to_sparse(),
        torch.randn(2, 3).expand(4, 2, 3),
        torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        torch.tensor([0.5, -2.0]).to(torch.float8_e4m3fn),
        torch.tensor([65535], dtype=torch.uint16),
        torch.tensor(True),
    ],
    ids=lambda tensor: f"{tensor.dtype}{tuple(tensor.shape)}",
)
def test_tensors_of_any_kind_become_arrays_of_their_own(tensor):
    array = rk.to_numpy(tensor)
    dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    wide = dense.float() if dense.dtype in {torch.bfloat16, torch.float8_e4m3fn} else dense
    assert np.array_equal(array, wide.resolve_conj().numpy(), equal_nan=array.dtype.kind in "fc")
    array[...] = 0
    assert dense.float().abs().nansum() > 0 if not dense.is_complex() else dense.abs().sum() > 0


def grey16() -> Image.Image:
    return Image.frombytes("I;16", (2, 2), np.array([0, 255, 256, 65535], dtype="<u2").tobytes())


def palette(transparency: bool) -> Image.Image:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([1, 0])
    if transparency:
        picture.info["transparency"] = 0
    return picture


@pytest.mark.parametrize(
    ("picture", "dtype", "values"),
    [
        (Image.new("L", (1, 1), 7), torch.uint8, [[[7]]]),
        (Image.new("1", (1, 1), 1), torch.bool, [[[True]]]),
        (Image.new("RGB", (1, 1), (1, 2, 3)), torch.uint8, [[[1]], [[2]], [[3]]]),
        (Image.new("RGBA", (1, 1), (1, 2, 3, 4)), torch.uint8, [[[1]], [[2]], [[3]], [[4]]]),
        (Image.new("LA", (1, 1), (9, 128)), torch.uint8, [[[9]], [[128]]]),
        (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), torch.uint8, [[[255]], [[0]], [[0]]]),
        (Image.new("I", (1, 1), -70000), torch.int32, [[[-70000]]]),
        (Image.new("F", (1, 1), 0.25), torch.float32, [[[0.25]]]),
        (grey16(), torch.uint16, [[[0, 255], [256, 65535]]]),
        (palette(transparency=False), torch.uint8, [[[0, 255]], [[0, 0]], [[255, 0]]]),
        (palette(transparency=True), torch.uint8, [[[0, 255]], [[0, 0]], [[255, 0]], [[255, 0]]]),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_pictures_of_every_mode_become_what_they_show(picture, dtype, values):
    tensor = rk.to_tensor(picture)
    assert tensor.dtype == dtype
    assert tensor.tolist() == values
    tensor.fill_(0)  # writable


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16", "I"])
def test_a_picture_comes_back_as_it_was(mode):
    base = Image.effect_mandelbrot((9, 7), (-2, -1.5, 1, 1.5), 20)
    picture = grey16() if mode == "I;16" else base.convert(mode)
    back = rk.to_pil(rk.to_tensor(picture))
    assert (back.mode, back.size) == (picture.mode, picture.size)
    assert back.tobytes() == picture.tobytes()
    again = rk.to_pil(rk.to_numpy(picture))
    assert again.tobytes() == picture.tobytes()


def test_a_png_with_sixteen_bits_keeps_them():
    file = io.BytesIO()
    grey16().save(file, format="PNG")
    with Image.open(file) as picture:
        assert rk.to_tensor(picture).flatten().tolist() == [0, 255, 256, 65535]


def test_floats_from_0_to_1_become_eight_bits_and_others_are_refused_or_cut():
    picture = torch.tensor([[[0.0, 0.5, 1.0]]])
    assert list(rk.to_pil(picture).tobytes()) == [0, 128, 255]
    every = torch.arange(256).reshape(1, 16, 16).float() / 255
    assert list(rk.to_pil(every).tobytes()) == list(range(256))
    wrong = torch.tensor([[[-1.0, float("nan"), 2.0]]])
    with pytest.raises(ConfigError, match="are no picture"):
        rk.to_pil(wrong)
    assert list(rk.to_pil(wrong, clip=True).tobytes()) == [0, 0, 255]


def test_the_colours_of_a_tensor_and_an_array_are_the_same():
    red = torch.zeros(3, 4, 5, dtype=torch.uint8)
    red[0] = 255
    for given in (red, red.to(memory_format=torch.contiguous_format).flip(2), rk.to_numpy(red, channels_last=True)):
        picture = rk.to_pil(given)
        assert picture.size == (5, 4)
        assert picture.getpixel((2, 3)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rk.to_pil(torch.zeros(5, 2, 2, dtype=torch.uint8)), "no mode for uint8 with shape"),
        (lambda: rk.to_pil(torch.zeros(3, 2, 2, dtype=torch.int64)), "no mode for int64"),
        (lambda: rk.to_pil(torch.zeros(1, 3, 2, 2)), "no mode for float32"),
        (lambda: rk.to_tensor(np.array(["a"])), "no dtype for an array of <U1"),
        (lambda: rk.to_tensor([1, 2]), "list is no picture, array or tensor"),
        (lambda: rk.to_tensor(Image.new("LAB", (1, 1))), "mode LAB are not known"),
    ],
)
def test_what_cannot_be_held_is_refused(call, words):
    with pytest.raises(ConfigError, match=words):
        call()
