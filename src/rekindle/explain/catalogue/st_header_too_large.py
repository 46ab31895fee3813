"""The file that should be safetensors is something else."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import bytes_of, checkpoint_of, named, really
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-33", "st-header-too-large", "0.2"
TITLE = "SafetensorError: Error while deserializing header: header too large"
RAISES = ("SafetensorError",)
NEEDLES = (
    "header too large",
    "HeaderTooLarge",
    "invalid header deserialization",
    "InvalidHeader",
    "invalid UTF-8 in header",
)
PATTERNS = (
    r"deserializing header: (?P<large>header too large|HeaderTooLarge)",
    r"deserializing header: (?P<other>invalid header deserialization|InvalidHeaderDeserialization|InvalidHeaderStart|InvalidHeaderLength|InvalidHeader|invalid UTF-8 in header)",
)
OLD = ("safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",)
WHY = (
    "A safetensors file begins with the length of its header in eight bytes. When those bytes are the beginning of a text or"
    " of a zip archive, the length is astronomical. So it is a Git LFS pointer, a web page, or a `.bin`/`.pt` file that was"
    " renamed: the suffix does not change what is inside."
)
CHECK = "`rekindle doctor FILE` says what the file really is; `head -c 100 FILE`."


def explain(event: Event) -> Iterator[Cause]:
    """Hands over to doctor, with the fixes for the three usual cases."""
    size = bytes_of(event)
    file = checkpoint_of(event)
    pointer = "git lfs install && git lfs pull   # if it is a Git LFS pointer of some 130 bytes"
    renamed = f"rekindle convert {file} model.safetensors   # if it is a renamed torch file: reads any container"
    small = size is not None and size < 2000
    yield Cause(
        CODE,
        NAME,
        what=f"{named(event)} is not a safetensors file, whatever it is called"
        + (f" ({size:,} bytes)" if size is not None else ""),
        why="its first eight bytes give no sensible length of a header; a Git LFS pointer, a web page and a renamed torch"
        " file begin so" + really(event),
        fix=(
            f"rekindle doctor {file}   # what it really is",
            *((pointer, renamed) if size is None or small else (renamed, pointer)),
        ),
        likelihood="certain",
    )


EXAMPLE = """
from safetensors.torch import load_file

with open("model.safetensors", "w") as file:
    file.write("version https://git-lfs.github.com/spec/v1\\noid sha256:4d7a\\nsize 12345\\n")
load_file("model.safetensors")
"""
MENDED = """
import torch
from safetensors.torch import load_file, save_file

save_file({"weight": torch.zeros(2)}, "model.safetensors")
load_file("model.safetensors")
"""
REQUIRES = ("safetensors",)
MESSAGE = ""
