"""The tensors were saved on a GPU of a number that this machine does not have."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-05", "load-cuda-index", "0.2"
TITLE = "Attempting to deserialize object on CUDA device 3 but torch.cuda.device_count() is 1"
RAISES = ("RuntimeError",)
NEEDLES = ("Attempting to deserialize object on ",)
PATTERNS = (
    r"Attempting to deserialize object on (?P<kind>\w+) device (?P<index>\d+) but torch\.\w+\.device_count\(\) is (?P<count>\d+)",
)
OLD: tuple[str, ...] = ()
WHY = (
    "`torch.save` writes down on which GPU each tensor lay, with its number, and `torch.load` puts it there again. A file"
    " from the fourth GPU of a bigger machine (`cuda:3`) has no place on a machine that shows one."
)
CHECK = "`rekindle inspect FILE` lists the device of each tensor; `torch.cuda.device_count()` counts what is visible here (`CUDA_VISIBLE_DEVICES`)."


def explain(event: Event) -> Iterator[Cause]:
    """Both numbers, and the argument that maps one to the other."""
    file = checkpoint_of(event)
    index, count = int(event.facts["index"]), int(event.facts["count"])
    kind = event.facts["kind"].lower()
    shown = "path" if file == "FILE" else repr(file.strip("'"))
    visible = "1 is" if count == 1 else f"{count} are"
    yield Cause(
        CODE,
        NAME,
        what=f"the tensors were saved on {kind}:{index}, and {visible} visible here",
        why="torch.load puts every tensor back on the device it was saved on, with its number, unless map_location says"
        f" otherwise; {kind}:{index} would be the {_nth(index + 1)} GPU",
        fix=(
            f'torch.load({shown}, map_location="cpu")   # then model.to(device)',
            f'torch.load({shown}, map_location={{"{kind}:{index}": "{kind}:0"}})   # straight onto the first GPU',
        ),
        likelihood="certain",
    )


def _nth(number: int) -> str:
    return {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth"}.get(
        number, f"{number}th"
    )


# A file from the fourth GPU of another machine, and a machine with one GPU: both are pretended.
_MAKE = """
from unittest import mock

import torch

torch.serialization.register_package(0, lambda storage: "cuda:3", lambda storage, device: None)
torch.save({"weight": torch.zeros(2)}, "gpu3.pt")
torch.serialization._package_registry.pop(0)
one_gpu = mock.patch.multiple(torch.cuda, is_available=lambda: True, device_count=lambda: 1)
number = mock.patch("torch._utils._get_device_index", lambda *args, **kwargs: 3)
"""
EXAMPLE = f"""{_MAKE}
with one_gpu, number:
    torch.load("gpu3.pt")
"""
MENDED = f"""{_MAKE}
with one_gpu, number:
    torch.load("gpu3.pt", map_location="cpu")
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
