"""The file is a web page (or another answer of a server) saved under the checkpoint's name."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import bytes_of, checkpoint_of, named, really
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-17", "load-html", "0.2"
TITLE = "UnpicklingError: invalid load key, '<'. / WeightsUnpickler error: Unsupported operand 60"
RAISES = ("UnpicklingError",)
NEEDLES = ("invalid load key, ", "Unsupported operand ")
PATTERNS = (
    r"invalid load key, '(?P<key><|\{|\\n|\\r|\\x0a|\\x0d| |\n)'",
    r"Unsupported operand (?P<operand>60|123|10|13|32)\b",
)
OLD = ("_pickle.UnpicklingError: invalid load key, '<'.",)
WHY = (
    "An expired link, a login, or the warning page of a file host was saved under the checkpoint's name. `torch.load` takes"
    " its first character for an instruction of pickle and refuses it; the new reader gives the character as a number: 60"
    " is `<`, 123 is `{`. `weights_only=False`, which the message recommends, changes nothing."
)
CHECK = "`rekindle doctor FILE` says that it is a web page; the file is a few KiB long; `head -c 300 FILE` shows it."

_KINDS = {"<": "<", "60": "<", "{": "{", "123": "{"}


def explain(event: Event) -> Iterator[Cause]:
    """A page where the first character is `<`; a likely one where it is white space."""
    first = _KINDS.get(event.facts.get("key") or event.facts.get("operand", ""), "")
    size = bytes_of(event)
    kind = "an answer in JSON" if first == "{" else "a web page"
    begins = f"it begins with {first!r}" if first else "it begins with white space, as pages do and checkpoints do not"
    yield Cause(
        CODE,
        NAME,
        what=f"{named(event)} is {kind}, not a checkpoint" + (f" ({size:,} bytes)" if size is not None else ""),
        why=f"{begins}: the download answered with a login, an error or a confirmation, and that was saved{really(event)}",
        fix=(
            f"rekindle doctor {checkpoint_of(event)}   # what the file really is",
            "curl -L --fail -o model.pth URL   # download the file itself, not the page around it; then compare the size",
        ),
        likelihood="certain" if first else "likely",
    )


EXAMPLE = """
import torch

with open("model.pth", "w") as file:
    file.write("<!DOCTYPE html><html>404 Not Found</html>")
torch.load("model.pth")
"""
MENDED = """
import torch

torch.save({"weight": torch.zeros(2)}, "model.pth")
torch.load("model.pth")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
