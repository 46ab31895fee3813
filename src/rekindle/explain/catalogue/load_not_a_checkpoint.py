"""The file is of another kind than torch reads: its first bytes say which."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, is_loading, named, really, stem_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-39", "load-not-a-checkpoint", "0.2"
TITLE = "UnpicklingError: invalid load key, 'H'. / RuntimeError: Invalid magic number; corrupt file?"
RAISES = ("UnpicklingError", "RuntimeError")
NEEDLES = ("invalid load key, ", "Unsupported operand ", "Invalid magic number; corrupt file?")
PATTERNS = (
    r"invalid load key, '(?P<key>\\x[0-9a-f]{2}|[^'\\\n])'",
    r"Unsupported operand (?P<operand>\d{1,3})\b",
    r"(?P<magic>Invalid magic number; corrupt file\?)",
)
OLD = ("RuntimeError: Invalid magic number; corrupt file?",)
WHY = (
    "`torch.load` reads what `torch.save` writes: a zip archive, or the stream of releases before 1.6. Any other file is"
    " taken for a pickle and refused at its first bytes: an archive inside an archive (`.gz`), Keras' HDF5, an image, a"
    " program. `Invalid magic number` means that there is a pickle, and not one of torch: a file of `pickle.dump` or"
    " `joblib`."
)
CHECK = "`rekindle doctor FILE` recognises the usual kinds by their content, whatever the suffix says."

# First bytes that torch reports, as a number or as a character, and what begins with them.
_KINDS = {
    0x1F: "a gzip archive",
    0x23: "a text that begins with '#', a script or a list",
    0x48: "an HDF5 file, as Keras writes it",
    0x78: "compressed data (zlib), as joblib writes it",
    0xFF: "an image (JPEG)",
}
_OTHERS = frozenset((0x3C, 0x7B, 0x0A, 0x0D, 0x20, 0x76, 0x95))  # have entries of their own


def explain(event: Event) -> Iterator[Cause]:
    """The kind by its first byte where it is known; else only that it is none of torch's."""
    file = checkpoint_of(event)
    if event.facts.get("magic"):
        yield Cause(
            CODE,
            NAME,
            what=f"{named(event)} is a pickle, and not one that torch.save wrote",
            why="torch's own files begin with a number that this one lacks; pickle.dump and joblib write such files",
            fix=(
                f"rekindle inspect {file} --tree   # what it holds; runs nothing of it",
                f"rekindle convert {file} {stem_of(event)}.pth --data-only   # its tensors and arrays as a checkpoint",
            ),
            likelihood="certain",
        )
        return
    byte = _byte(event)
    if byte is None or byte in _OTHERS or not (event.facts.get("operand") or is_loading(event)):
        return
    kind = _KINDS.get(byte, "")
    shown = repr(chr(byte)) if 0x20 < byte < 0x7F else f"byte 0x{byte:02x}"
    yield Cause(
        CODE,
        NAME,
        what=f"{named(event)} is no checkpoint of torch" + (f" but {kind}" if kind else f": it was refused at {shown}"),
        why=(
            "torch took its first bytes for a pickle and met what no pickle of torch's has"
            if kind
            else "it is a file of another kind under this name, or its first bytes were overwritten"
        )
        + really(event),
        fix=(
            *((f"gunzip -k {file}   # then load what is inside",) if byte == 0x1F else ()),
            f"rekindle doctor {file}   # what the file really is",
        ),
        likelihood="likely" if kind else "possible",
    )


def _byte(event: Event) -> int | None:
    operand, key = event.facts.get("operand", ""), event.facts.get("key", "")
    if operand:
        return int(operand)
    return int(key.removeprefix("\\x"), 16) if key.startswith("\\x") else ord(key) if key else None


EXAMPLE = """
import gzip
import torch

torch.save({"weight": torch.zeros(2)}, "model.pth")
with open("model.pth", "rb") as file:
    data = gzip.compress(file.read())
with open("model.pth", "wb") as file:  # compressed, under the old name
    file.write(data)
torch.load("model.pth")
"""
MENDED = """
import gzip
import torch

torch.save({"weight": torch.zeros(2)}, "model.pth")
with open("model.pth", "rb") as file:
    data = gzip.compress(file.read())
with open("model.pth.gz", "wb") as file:
    file.write(data)
with gzip.open("model.pth.gz") as file:
    torch.load(file)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
