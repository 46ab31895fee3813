"""Tensors, NumPy arrays and PIL pictures, each into each, with dtype and channel order kept.

Shapes: C channels, H rows, W columns; ``...`` any axes before. A tensor of a picture is (C, H, W), an array of one
(H, W, C), as the two worlds have it; arrays that are no pictures keep their axes.

Law: what comes back owns its memory, in C order, in the machine's byte order, and is writable: negative strides,
read-only arrays, foreign byte orders, `channels_last` tensors and open files stay behind. A value that the target
cannot hold is an error and never a rounded one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rekindle.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["to_numpy", "to_pil", "to_tensor"]

# Modes whose numbers are no channels of a picture: an index into a palette, inks, brightness and colour apart.
_MEANT_AS_RGB = frozenset({"CMYK", "YCbCr", "HSV", "RGBX", "PA"})
_SIXTEEN_BITS = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I;16N": "=u2"}
_EIGHT_BIT_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_TOO_NARROW_FOR_NUMPY = frozenset(
    dtype
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
    if isinstance(dtype := getattr(torch, name, None), torch.dtype)
)


def to_tensor(
    source: Image | np.ndarray[Any, Any] | torch.Tensor, *, channels_last: bool | None = None
) -> torch.Tensor:
    """Return a tensor of a picture or array, in memory of its own.

    Args:
        source: a PIL picture of any mode, or an array of any strides, byte order and dtype that torch has. A tensor is
            copied.
        channels_last: True moves the last axis of an array, (..., H, W, C), to (..., C, H, W). By default only
            pictures are turned.

    Returns:
        Pictures: (C, H, W); bool for mode 1, uint8 for L, LA, RGB, RGBA; uint16 for 16-bit grey, int32 for I, float32
        for F. A palette, inks (CMYK) and YCbCr become RGB, or RGBA where there is transparency. Values are not
        scaled. Arrays: the same dtype and axes.

    Raises:
        ConfigError: torch has no such dtype, or it is none of the three kinds.
    """
    if isinstance(source, torch.Tensor):
        made = source.detach().clone(memory_format=torch.contiguous_format)
        return made.movedim(-1, -3).contiguous() if channels_last else made
    if isinstance(source, np.ndarray):
        return _from_array(source, bool(channels_last))
    if hasattr(source, "getbands") and hasattr(source, "mode"):
        return _from_picture(source)
    raise ConfigError(f"to_tensor: {type(source).__name__} is no picture, array or tensor", do="np.asarray(...) first")


def to_numpy(tensor: torch.Tensor | Image, *, channels_last: bool = False) -> np.ndarray[Any, Any]:
    """Return an array of a tensor on any device, with or without gradients, in memory of its own.

    bfloat16 and the 8-bit floats, which NumPy has not, become float32, which holds each of their values exactly.

    Args:
        tensor: of any layout; sparse ones become dense. A PIL picture gives (H, W, C), or (H, W) of one channel.
        channels_last: turn (..., C, H, W) into (..., H, W, C), as other libraries want pictures.
    """
    if not isinstance(tensor, torch.Tensor):
        array = to_numpy(to_tensor(tensor), channels_last=True)
        return array[..., 0].copy() if array.shape[-1] == 1 else array
    plain = tensor.detach()
    if plain.layout != torch.strided:
        plain = plain.to_dense()
    if plain.is_quantized:
        plain = plain.dequantize()
    plain = plain.cpu().resolve_conj().resolve_neg()
    if plain.dtype in _TOO_NARROW_FOR_NUMPY:
        plain = plain.float()
    if channels_last:
        _check_axes(plain.dim())
        plain = plain.movedim(-3, -1)
    return np.array(plain.numpy(), copy=True, order="C")


def to_pil(picture: torch.Tensor | np.ndarray[Any, Any], *, clip: bool = False) -> Image:
    """Return a PIL picture of a tensor (C, H, W) or an array (H, W, C); (H, W) of either is grey.

    Args:
        picture: bool gives mode 1; uint8 of 1, 2, 3 or 4 channels L, LA, RGB or RGBA; uint16 of one channel I;16;
            int32 of one channel I. Floats are brightness from 0 to 1, of 1 to 4 channels, and become 8 bits.
        clip: cut floats outside of 0 to 1 instead of refusing them; NaN becomes 0.

    Raises:
        ConfigError: PIL has no mode for it, or floats lie outside of 0 to 1.
    """
    from PIL import Image  # noqa: PLC0415 - only for pictures

    if isinstance(picture, torch.Tensor):
        array = to_numpy(picture, channels_last=picture.dim() == 3)
    else:
        array = np.array(picture, dtype=picture.dtype.newbyteorder("="), order="C")
    shape = array.shape
    if array.ndim == 3 and shape[2] == 1:
        array = np.ascontiguousarray(array[:, :, 0])
    channels = 1 if array.ndim == 2 else shape[2] if array.ndim == 3 else 0
    if array.dtype.kind == "f" and channels:
        array = _eight_bits(array, clip)
    if channels == 1 and array.dtype == np.uint16:
        return Image.frombytes("I;16", (array.shape[1], array.shape[0]), array.astype("<u2").tobytes())
    if channels == 1 and array.dtype in (np.bool_, np.int32):
        return Image.fromarray(array)
    if array.dtype != np.uint8 or channels not in _EIGHT_BIT_MODES:
        raise ConfigError(
            f"to_pil: PIL has no mode for {array.dtype} with shape {tuple(shape)}",
            why="pictures are uint8 with 1 to 4 channels, or bool, uint16 or int32 with one",
            do="a tensor of a picture is (C, H, W), an array of one (H, W, C); .to(torch.uint8) where values allow it",
        )
    mode = _EIGHT_BIT_MODES[channels]
    return Image.frombytes(mode, (array.shape[1], array.shape[0]), array.tobytes())


def _from_array(array: np.ndarray[Any, Any], channels_last: bool) -> torch.Tensor:
    if channels_last:
        _check_axes(array.ndim)
        array = np.moveaxis(array, -1, -3)
    # A copy in C order: no negative stride, no read-only memory, no foreign byte order is left.
    plain = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True, subok=False)
    try:
        return torch.from_numpy(plain)
    except TypeError:
        raise ConfigError(
            f"to_tensor: torch has no dtype for an array of {array.dtype}",
            why="it holds numbers and bools only",
            do="convert the array first, such as array.astype(np.float32)",
        ) from None


def _from_picture(picture: Image) -> torch.Tensor:
    mode = picture.mode
    if mode in _SIXTEEN_BITS:
        raw = np.frombuffer(picture.tobytes(), dtype=_SIXTEEN_BITS[mode])
        return _from_array(raw.reshape(1, picture.height, picture.width), channels_last=False)
    if mode in {"P", "PA"} or mode in _MEANT_AS_RGB:
        see_through = mode == "PA" or "transparency" in picture.info
        picture = picture.convert("RGBA" if see_through else "RGB")
    elif mode == "La":
        picture = picture.convert("LA")
    elif mode == "RGBa":
        picture = picture.convert("RGBA")
    elif mode not in {"1", "L", "LA", "RGB", "RGBA", "I", "F"}:
        raise ConfigError(f"to_tensor: pictures of mode {mode} are not known", do='picture.convert("RGB")')
    array = np.asarray(picture)
    array = array[:, :, None] if array.ndim == 2 else array
    return _from_array(array, channels_last=True)


def _check_axes(count: int) -> None:
    if count < 3:
        raise ConfigError(f"channels_last wants a picture of 3 axes or more, and this has {count}")


def _eight_bits(array: np.ndarray[Any, Any], clip: bool) -> np.ndarray[Any, Any]:
    if clip:
        array = np.clip(np.nan_to_num(array, nan=0.0), 0, 1)
    elif array.size and not (array.min() >= 0 and array.max() <= 1):  # also true of NaN
        raise ConfigError(
            f"to_pil: floats from {array.min():.4g} to {array.max():.4g} are no picture",
            why="floats are brightness from 0 to 1; a normalised picture must be turned back first",
            do="picture * std + mean, or to_pil(..., clip=True), or .to(torch.uint8) where they are 0 to 255",
        )
    made: np.ndarray[Any, Any] = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    return made
