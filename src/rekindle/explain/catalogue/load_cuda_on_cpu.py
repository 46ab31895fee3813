"""The tensors were saved on a GPU, and no GPU can be used here."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-04", "load-cuda-on-cpu", "0.2"
TITLE = "Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False"
RAISES = ("RuntimeError",)
NEEDLES = ("Attempting to deserialize object on a ", "is_available() is False")
PATTERNS = (
    r"Attempting to deserialize object on a (?P<kind>\w+) device but torch\.(?:cuda|xpu|mps|hpu|npu|\w+)\.is_available\(\) is False",
)
OLD = (
    (
        "RuntimeError: Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False. If you are"
        " running on a CPU-only machine, please use torch.load with map_location='cpu' to map your storages to the CPU."
    ),
)
WHY = (
    "`torch.save` writes down on which device each tensor lay, and `torch.load` puts it there again. Without"
    " `map_location` a file from a GPU therefore needs a GPU. This machine has none, or torch cannot use it: a build for"
    " the CPU, no driver, no GPU granted by the scheduler, or an empty `CUDA_VISIBLE_DEVICES`."
)
CHECK = "`rekindle inspect FILE` lists the device of each tensor; `python -c 'import torch; print(torch.version.cuda)'` prints None for a build without CUDA."

_ASKED = re.compile(r"map_location\s*=\s*(?:torch\.device\()?[\"'](?!cpu)")


def explain(event: Event) -> Iterator[Cause]:
    """The one argument that is missing; whether a GPU should be there is another question."""
    file = checkpoint_of(event)
    kind = event.facts.get("kind", "") or "CUDA"
    shown = "path" if file == "FILE" else repr(file.strip("'"))
    asked = event.live.find_plain("map_location", function="load") if event.live else ""
    if str(asked).startswith(kind.lower()) or _ASKED.search(_code(event)):
        yield Cause(
            CODE,
            NAME,
            what=f"map_location asks for a {kind} device, and torch can use none here",
            why="the call names the device itself; it has to follow what the machine has",
            fix=(
                f'torch.load({shown}, map_location="{kind.lower()}" if torch.{kind.lower()}.is_available() else "cpu")',
                "print(torch.version.cuda, torch.cuda.device_count())   # if a GPU should be there: None means a build without CUDA",
            ),
            likelihood="certain",
        )
        return
    yield Cause(
        CODE,
        NAME,
        what=f"the tensors of {'the file' if file == 'FILE' else file} were saved on a {kind} device, and torch can use none here",
        why="torch.load puts every tensor back on the device it was saved on unless map_location says otherwise",
        fix=(
            f'torch.load({shown}, map_location="cpu")',
            "print(torch.version.cuda, torch.cuda.device_count())   # if a GPU should be there: None means a build without CUDA",
        ),
        likelihood="certain",
    )


def _code(event: Event) -> str:
    return event.user_frame.code if event.user_frame else ""


# A file from a GPU is made here without one: for a moment torch is told that the CPU's tensors lie on cuda:0.
_MAKE = """
import os
import torch

os.environ["CUDA_VISIBLE_DEVICES"] = ""
torch.serialization.register_package(0, lambda storage: "cuda:0", lambda storage, device: None)
torch.save({"weight": torch.zeros(2)}, "gpu.pt")
torch.serialization._package_registry.pop(0)
"""
EXAMPLE = f"""{_MAKE}
torch.load("gpu.pt")
"""
MENDED = f"""{_MAKE}
torch.load("gpu.pt", map_location="cpu")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
