"""The name of a device is not one that PyTorch knows."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-09", "device-bad-string", "0.2"
TITLE = "Expected one of cpu, cuda, ... device type at start of device string: gpu"
RAISES = ("RuntimeError",)
NEEDLES = (
    "device type at start of device string",
    "Invalid device string:",
    "Device string must not be empty",
    "Device index must not be negative",
)
PATTERNS = (
    r"Expected one of [\w, ]+ device type at start of device string: (?P<text>[^\n]*)",
    r"Invalid device string: '(?P<text>[^'\n]*)'",
    r"Device string must not be empty",
)
OLD = (
    "RuntimeError: Expected one of cpu, cuda, mkldnn, opengl, opencl, ideep, hip, msnpu device type at start of device string: gpu",
    "RuntimeError: Invalid device string: 'cuda:a'",
)
WHY = (
    "A device is a type and, after a colon, a number: `cpu`, `cuda`, `cuda:1`, `mps`. NVIDIA's and AMD's GPUs are both called"
    " `cuda`. A space, a capital letter, a number alone in a text, or the empty text of a setting that was not given are refused."
)
CHECK = "`print(repr(device))`."
_GPU = re.compile(r"(?:gpu|nvidia|rocm|amd)[:_ ]*(\d*)", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:cuda)?[:_ ]*(\d+)", re.IGNORECASE)

_DTYPES = {
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "half",
    "float",
    "double",
    "int8",
    "int16",
    "int32",
    "int64",
    "long",
    "int",
    "uint8",
    "bool",
    "complex64",
}


def explain(event: Event) -> Iterator[Cause]:
    """With the name that was meant, where it can be read out of the wrong one."""
    text = event.facts.get("text", "").strip()
    if text.replace("torch.", "") in _DTYPES:
        dtype = text.replace("torch.", "")
        yield Cause(
            CODE,
            NAME,
            what=f"{text!r} is the name of a dtype, given as a text where a device is read",
            why="a dtype is an object of torch; every text is taken for a device",
            fix=(f"x.to(torch.{dtype})", f'x.to(getattr(torch, "{dtype}"))   # if the name comes from a config file'),
            likelihood="certain",
        )
        return
    meant = _meant(text)
    fix = [f'torch.device("{meant}")'] if meant else []
    fix += ['torch.device("cuda:0")   # a type, a colon, a number; "cpu", "cuda", "mps"']
    if text.isdigit():
        fix.insert(1, f"torch.device({text})   # a number alone, not a text")
    yield Cause(
        CODE,
        NAME,
        what=f"{text!r} is not the name of a device" if text else "the name of the device is empty",
        why="PyTorch calls GPUs cuda, in small letters, with the number after a colon and no space"
        if text
        else "a setting or an argument that was not given became an empty text",
        fix=tuple(dict.fromkeys(fix)),
        likelihood="certain",
    )


def _meant(text: str) -> str:
    plain = text.replace(" ", "")
    gpu = _GPU.fullmatch(plain) or _NUMBERED.fullmatch(plain)
    if gpu:
        return f"cuda:{gpu[1]}" if gpu[1] else "cuda"
    return plain.lower() if plain.lower() in {"cpu", "cuda", "mps", "xpu"} else ""


EXAMPLE = """
import torch

torch.device("gpu:0")
"""
MENDED = """
import torch

torch.device("cuda:0")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
