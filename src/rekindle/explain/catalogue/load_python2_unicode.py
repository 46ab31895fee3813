"""The pickle was written by Python 2 and holds byte strings."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, is_loading, named, stem_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-21", "load-python2-unicode", "0.2"
TITLE = "UnicodeDecodeError: 'utf-8' codec can't decode byte (inside torch.load)"
RAISES = ("UnicodeDecodeError",)
NEEDLES = ("codec can't decode byte",)
PATTERNS = (r"'(?P<codec>utf-8|ascii)' codec can't decode byte (?P<byte>0x[0-9a-f]{2}) in position (?P<position>\d+)",)
OLD: tuple[str, ...] = ()
WHY = (
    "A text of Python 2 is a string of bytes, and a pickle of Python 2 holds its keys and names that way. Python 3 turns"
    " them into text as UTF-8 unless it is told the encoding; a byte that is no UTF-8 (a name with an accent, or raw bytes)"
    " ends it."
)
CHECK = "`rekindle inspect FILE` reads such files; the file begins with `80 02`, pickle's protocol 2."


def explain(event: Event) -> Iterator[Cause]:
    """Only inside torch.load: any other file of text is the user's own."""
    if not is_loading(event):
        return
    file, stem = checkpoint_of(event), stem_of(event)
    yield Cause(
        CODE,
        NAME,
        what=f"{named(event, 'the checkpoint')} holds byte strings of Python 2 ({event.facts['byte']} is no {event.facts['codec']})",
        why="it was written under Python 2, whose strings are bytes; torch.load reads them as UTF-8 unless told otherwise",
        fix=(
            'torch.load(path, map_location="cpu", encoding="latin1")   # takes every byte; then save it again',
            f"rekindle convert {file} {stem}.plain.pth   # or once, in the file; runs nothing of it",
        ),
        likelihood="certain",
    )


_MAKE = """
import pickle

import torch

parts = [torch.serialization.MAGIC_NUMBER, 1001, {}]  # what torch wrote in front, before 1.6
data = b"".join(pickle.dumps(part, 2) for part in parts)
data += b"\\x80\\x02}U\\x04caf\\xe9K\\x01s."  # {"caf\\xe9": 1}, as Python 2 pickles it
data += pickle.dumps([], 2)
with open("old.pth", "wb") as file:
    file.write(data)
"""
EXAMPLE = f"""{_MAKE}
torch.load("old.pth", weights_only=False)  # runs code from the file: our own
"""
MENDED = f"""{_MAKE}
torch.load("old.pth", weights_only=False, encoding="latin1")  # runs code from the file: our own
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
