"""The installed PyTorch holds no code for this GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-13", "cuda-no-kernel-image", "0.2"
TITLE = "CUDA error: no kernel image is available for execution on the device"
RAISES = ("AcceleratorError", "RuntimeError", "UserWarning")
NEEDLES = (
    "no kernel image is available",
    "is not compatible with the current PyTorch installation",
    "of cuda capability",
    "which is of compute capability",
)
PATTERNS = (
    r"no kernel image is available for execution on the device",
    r"(?:^|Warning: )\s{0,20}(?P<name>[\w. ()-]{1,80}?) with CUDA capability (?P<sm>sm_\d+) is not compatible with the current PyTorch installation\.\s*(?:The current PyTorch install supports CUDA capabilities (?P<has>[\w ]+))?",
    r"Found GPU\d+ (?P<name>[^\n]{0,80}?) which is of (?:compute|cuda) capability(?: \(CC\))? (?P<old>\d+\.\d+)\.(?P<range>\s{0,20}Minimum and Maximum cuda capability)?",
)
OLD = (
    "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    (
        "UserWarning: Found GPU0 Tesla V100-SXM2-32GB which is of compute capability (CC) 7.0.\nThe following list shows the CCs"
        " this version of PyTorch was built for and the hardware CCs it supports:"
    ),
    "UserWarning: Found GPU0 Tesla K80 which is of cuda capability 3.7. PyTorch no longer supports this GPU because it is too old.",
)
WHY = (
    "A wheel holds code for a list of GPU generations. A card that is newer than the wheel (sm_120 came with the builds for CUDA"
    " 12.8) or older than the list (builds for CUDA 13 begin at sm_75) finds none. An extension with kernels of its own that was"
    " built for another card says the same."
)
CHECK = "`torch.cuda.get_device_capability()` against `torch.cuda.get_arch_list()`; is a package other than torch in the last frames?"
_WARNED = re.compile(r"([\w. ()-]{1,80}) with CUDA capability sm_(\d+) is not compatible")
_INDEX = re.compile(r"download\.pytorch\.org/whl/(cu\d+)")
_EXTENSION = re.compile(r"site-packages[/\\](?!torch[/\\])(\w+)[/\\]")


def explain(event: Event) -> Iterator[Cause]:
    """Card and list where the warning told them; an extension where its frames are the last ones."""
    warned = _WARNED.search(event.before) or _WARNED.search(event.message)
    number = int(warned[2]) if warned else _capability(event.facts.get("old", ""))
    package = next((found[1] for frame in reversed(event.frames[-3:]) if (found := _EXTENSION.search(frame.path))), "")
    name = event.facts.get("name", "").strip() or (warned[1].strip() if warned else "")
    card = f"{name} (sm_{number})" if name and number else name or (f"sm_{number}" if number else "this GPU")
    has = f"; it has {event.facts['has'].strip()}" if event.facts.get("has") else ""
    whose = f"the extension {package}" if package else "the installed PyTorch"
    yield Cause(
        CODE,
        NAME,
        what=f"{whose} has no code for {card}",
        why=f"a build holds code for some generations of GPUs only{has}: a card newer than the build or older than its list finds none",
        fix=tuple(_fixes(number, package, event.message)),
        likelihood="possible" if event.facts.get("range") else "certain",  # such a card may run code of its generation
    )


def _capability(text: str) -> int:
    return int(text.replace(".", "")) if text else 0


def _fixes(number: int, package: str, said: str) -> Iterator[str]:
    named = _INDEX.search(said)
    if named:
        yield f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{named[1]}   # as the warning says"
        return
    if package:
        yield f"TORCH_CUDA_ARCH_LIST=native pip install --no-binary {package} --force-reinstall {package}   # built for this card"
    if not number or number >= 75:
        yield "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130   # a newer build, for a newer card"
    if 0 < number < 50:
        yield f"an older release: https://pytorch.org/get-started/previous-versions   # one whose get_arch_list() has sm_{number}"
    elif not number or number < 75:
        yield "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126   # for cards before sm_75 (P100, V100)"
    yield 'python -c "import torch; print(torch.cuda.get_device_capability(), torch.cuda.get_arch_list())"'


EXAMPLE = ""
MENDED = ""
REQUIRES = ("cuda",)
MESSAGE = (
    "/usr/lib/python3/site-packages/torch/cuda/__init__.py:230: UserWarning: NVIDIA GeForce RTX 5090 with CUDA capability"
    " sm_120 is not compatible with the current PyTorch installation.\n"
    "The current PyTorch install supports CUDA capabilities sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90.\n"
    "Traceback (most recent call last):\n"
    '  File "train.py", line 4, in <module>\n'
    '    model = Net().to("cuda")\n'
    "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device\n"
    "Search for `cudaErrorNoKernelImageForDevice' in"
    " https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information."
)
