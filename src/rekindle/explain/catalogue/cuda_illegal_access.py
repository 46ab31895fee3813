"""A GPU kernel read or wrote outside of its memory."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._devices import seen_devices
from rekindle.explain.catalogue._words import listed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-16", "cuda-illegal-access", "0.2"
TITLE = "CUDA error: an illegal memory access was encountered"
RAISES = ("AcceleratorError", "RuntimeError")
NEEDLES = (
    "an illegal memory access was encountered",
    "cuda runtime error (77)",
    "cudaErrorIllegalAddress",
    "misaligned address",
    "unspecified launch failure",
)
PATTERNS = (
    r"(?P<kind>an illegal memory access was encountered)",
    r"cuda runtime error \(77\)",
    r"CUDA error: (?P<kind>misaligned address|unspecified launch failure)",
)
OLD = (
    "RuntimeError: CUDA error: an illegal memory access was encountered",
    "RuntimeError: cuda runtime error (77) : an illegal memory access was encountered at THCStorage.cu:20",
)
WHY = (
    "PyTorch's own operations check what they are given, so that this mostly comes from a kernel of another package, from a tensor"
    " of one GPU in a kernel that runs on another, from more than 2**31 elements where a kernel counts in 32 bits, or from a"
    " fault of the machine (the system log then has an `Xid`). It is noticed later than it happens."
)
CHECK = "`CUDA_LAUNCH_BLOCKING=1`; packages with kernels of their own in the frames; `dmesg | grep -i xid`."
_EXTENSIONS = (
    "flash_attn",
    "xformers",
    "bitsandbytes",
    "spconv",
    "triton",
    "torch_scatter",
    "torch_sparse",
    "apex",
    "deepspeed",
    "vllm",
    "mamba_ssm",
    "causal_conv1d",
    "MinkowskiEngine",
    "detectron2",
    "mmcv",
    "pytorch3d",
)


def explain(event: Event) -> Iterator[Cause]:
    """The package with kernels that stands in the frames; GPUs of the tensors in the line."""
    package = next(
        (name for name in _EXTENSIONS if any(f"/{name}/" in f.path.replace("\\", "/") for f in event.frames)), ""
    )
    several = [fact for fact in seen_devices(event) if fact.device.startswith("cuda")]
    gpus = sorted({fact.device for fact in several})
    if len(gpus) > 1:
        why = f"the tensors of this line are on {listed(gpus)}; a kernel runs on one of them"
    elif package:
        why = f"{package} brings kernels of its own, and is in the traceback; such a kernel, not PyTorch, most likely did it"
    else:
        why = "a kernel of another package, a tensor of another GPU, more than 2**31 elements, or a fault of the machine; the"
        why += " line of the traceback is only where it was noticed"
    yield Cause(
        CODE,
        NAME,
        what=f"a kernel on the GPU failed: {event.facts.get('kind') or 'an illegal memory access was encountered'}",
        why=why,
        fix=(
            "CUDA_LAUNCH_BLOCKING=1 python train.py   # the traceback then names the true line",
            f"pip install --upgrade {package}   # and try without it"
            if package
            else "compute-sanitizer python train.py   # names the kernel and the access",
            "with torch.cuda.device(x.device):   # around a kernel of another package, if there is more than one GPU",
            "dmesg | grep -i xid   # a fault of the GPU or of its memory",
        ),
    )


EXAMPLE = ""
MENDED = ""
REQUIRES = ("cuda",)
MESSAGE = (
    "torch.AcceleratorError: CUDA error: an illegal memory access was encountered\n"
    "Search for `cudaErrorIllegalAddress' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more"
    " information."
)
