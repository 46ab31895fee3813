"""The memory of the GPU is used up."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rekindle.explain.catalogue._devices import size_of
from rekindle.explain.catalogue._modules import first_input, is_in
from rekindle.explain.catalogue._words import shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-14", "cuda-oom", "0.2"
TITLE = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate ..."
RAISES = ("OutOfMemoryError", "RuntimeError", "AcceleratorError", "CublasError")
NEEDLES = (
    "CUDA out of memory",
    "cuda runtime error (2) : out of memory",
    "CUDA error: out of memory",
    "HIP out of memory",
    "XPU out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
PATTERNS = (
    r"(?:CUDA|HIP|XPU) out of memory\. Tried to allocate (?P<tried>[\d.]+ \w+)",
    r"(?:CUDA|HIP) out of memory",
    r"cuda runtime error \(2\) : out of memory",
    r"CUDA error: out of memory",
    r"CUBLAS_STATUS_ALLOC_FAILED",
)
OLD = (
    (
        "RuntimeError: CUDA out of memory. Tried to allocate 12.50 MiB (GPU 0; 10.92 GiB total capacity; 8.57 MiB already"
        " allocated; 9.28 GiB free; 4.68 MiB cached)"
    ),
    "RuntimeError: cuda runtime error (2) : out of memory at /opt/conda/conda-bld/pytorch/aten/src/THC/generic/THCStorage.cu:58",
    "RuntimeError: CUDA error: out of memory",
    (
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 23.69 GiB total capacity; 20.10 GiB already"
        " allocated; 1.40 GiB free; 21.50 GiB reserved in total by PyTorch) If reserved memory is >> allocated memory try setting"
        " max_split_size_mb to avoid fragmentation."
    ),
)
WHY = (
    "The message holds the figures that decide. (a) PyTorch itself holds nearly all of it: the batch, the sequence or the model is"
    " too large. (b) Another process holds it. (c) Much is reserved and not allocated: the free memory lies in pieces. (d) It"
    " fails after many steps that went well: something keeps graphs alive, such as `total += loss`, a list of outputs, a hidden"
    " state, or validation without `torch.no_grad()`. `torch.cuda.empty_cache()` gives unused memory back to other processes; it"
    " frees no tensor that is still held."
)
CHECK = (
    "`nvidia-smi`: who else is there. `torch.cuda.memory_allocated()` at the same point of each step: it should not grow."
    " `torch.cuda.max_memory_allocated()` with a small batch and with twice as much: the difference is what a sample costs."
)
_UNITS = {
    "bytes": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "kb": 1 << 10,
    "mb": 1 << 20,
    "gb": 1 << 30,
}
_SIZE = r"([\d.]+ \w+)"
_FIGURES = {
    "total": re.compile(rf"total capacity of {_SIZE}|{_SIZE} total capacity"),
    "allocated": re.compile(rf"Of the allocated memory {_SIZE} is allocated by PyTorch|{_SIZE} already allocated"),
    "idle": re.compile(rf"{_SIZE} is reserved by PyTorch but unallocated"),
    "reserved": re.compile(rf"{_SIZE} reserved in total by PyTorch|{_SIZE} cached"),
    "free": re.compile(rf"of which {_SIZE} is free|{_SIZE} free"),
    "mine": re.compile(rf"this process has {_SIZE} memory in use"),
}
_OTHERS = re.compile(rf"Process (\d+) has {_SIZE} memory in use")
_GPU = re.compile(r"GPU (\d+)")


def explain(event: Event) -> Iterator[Cause]:
    """By the figures: who holds the memory, and what would fit; more than one may be true, the likelier first."""
    text = event.message
    facts = {name: _first(pattern, text) for name, pattern in _FIGURES.items()}
    tried = _bytes(event.facts.get("tried", ""))
    total, allocated = facts["total"], facts["allocated"]
    idle = facts["idle"] or max(0, facts["reserved"] - allocated)
    others = _other_processes(text, total, allocated + idle)
    other = sum(others.values())
    gpu = f"GPU {found[1]}" if (found := _GPU.search(text)) else "the GPU"
    asked = f"{_said(tried)} were asked for" if tried else "memory was asked for"
    loading = is_in(event, "torch/serialization.py")
    if total and other > total * 0.3 and other > allocated + idle:
        number, held = max(others.items(), key=lambda item: item[1])
        yield _cause(
            f"{gpu} is full, most of it with another process: {number} holds {_said(held)} of {_said(total)}",
            f"PyTorch here has {_said(allocated)} allocated; {asked}",
            (
                "rekindle gpus   # which GPUs are free, and who is on them",
                f"ps -p {number} -o pid,user,etime,args   # a run of your own that is left over can be ended",
                "rekindle launch --gpus 1 train.py   # on the freest one",
            ),
            loading,
        )
        return
    if tried and idle >= max(tried, total // 10):
        yield _cause(
            f"the memory of {gpu} lies in pieces: {_said(idle)} reserved and free, and no piece of {_said(tried)}",
            "blocks of many sizes were taken and given back; PyTorch holds enough, but not in one piece",
            (
                "PYTORCH_ALLOC_CONF=expandable_segments:True python train.py   # PYTORCH_CUDA_ALLOC_CONF before 2.9",
                "pad the batches to few different lengths, or a little less of them   # so that blocks are used again",
            ),
            loading,
        )
        return
    if (not tried and not total) or facts["free"] >= max(tried, total // 5) > 0:
        yield _cause(
            f"CUDA was refused memory on {gpu} although {_said(facts['free'])} of {_said(total)} are free"
            if total
            else f"CUDA itself was refused memory on {gpu}, outside of PyTorch's own bookkeeping",
            "mostly another process held it at that moment, or there is a limit for this process; after an earlier failure in"
            " the same process it can also be its consequence",
            (
                "rekindle gpus   # who is on the GPUs, and which are free",
                "start again in a new process (a notebook: restart the kernel)",
            ),
            loading,
        )
        return
    batch, where = _batch(event)
    holders = _holders(event)
    why = f"{asked}; PyTorch had {_said(allocated)} of {_said(total)} allocated" if total and allocated else asked
    why += f"; the largest tensors at hand: {holders}" if holders else ""
    yield _cause(
        f"{gpu} is full{_validation(event)}"
        if not tried
        else f"{gpu} is full{_validation(event)}: {_said(tried)} more did not fit",
        why,
        tuple(
            _fixes(
                event,
                batch,
                where,
                allocated + idle + facts["free"] if facts["free"] else total - other,
                allocated + tried,
            )
        ),
        loading,
    )


def _cause(what: str, why: str, fix: tuple[str, ...], loading: bool) -> Cause:
    return Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="possible" if loading else "likely")


def _first(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return _bytes(next(filter(None, found.groups()), "")) if found else 0


def _bytes(text: str) -> int:
    number, _, unit = text.partition(" ")
    try:
        return int(float(number) * _UNITS.get(unit.lower(), 0))
    except ValueError:
        return 0


def _said(count: int) -> str:
    """Return bytes in the units of the message: ``78.33 GiB``."""
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


def _other_processes(text: str, total: int, mine: int) -> dict[str, int]:
    """Return the bytes that other processes hold, by their number.

    In a container this process itself is listed under the number that it has outside: the largest one is this process
    if it holds about what PyTorch has here, so that both together would be more than there is.
    """
    others = {number: _bytes(size) for number, size in _OTHERS.findall(text)}
    if others and total and mine + sum(others.values()) > total * 1.02 and "this process has" not in text:
        own = min(others, key=lambda number: abs(others[number] - mine))
        del others[own]
    return others


def _batch(event: Event) -> tuple[int, str]:
    """Return the batch size and the tensor that tells it: the outermost model's input; 0 where it is unknown."""
    module = event.live.modules[0] if event.live and event.live.modules else None
    fact = first_input(module)
    if fact is None and event.live:
        fact = event.live.find_tensor("images", "inputs", "input_ids", "x", "batch", "data")
    return (
        (fact.shape[0], f"{fact.name} {shape_text(fact.shape)}")
        if fact and fact.shape and fact.shape[0] > 0
        else (0, "")
    )


def _holders(event: Event) -> str:
    """Return the largest tensors on a GPU that the user's frames hold, in words."""
    held = {
        fact.name: fact
        for frame in (event.live.frames if event.live else ())
        if frame.frame.is_users
        for fact in frame.tensors
        if fact.device.startswith(("cuda", "xpu", "hip"))
    }
    largest = sorted(held.values(), key=size_of, reverse=True)[:3]
    return ", ".join(f"{fact.name} {shape_text(fact.shape)} {fact.dtype} ({_said(size_of(fact))})" for fact in largest)


def _validation(event: Event) -> str:
    names = ("valid", "val_", "eval", "test_", "predict", "infer")
    function = next((f.function for f in reversed(event.frames) if f.is_users and f.function.startswith(names)), "")
    return f" in {function}" if function else ""


def _fixes(event: Event, batch: int, where: str, limit: int, needed: int) -> Iterator[str]:
    if _validation(event):
        yield "with torch.inference_mode():   # around the evaluation: without it every graph is kept"
    if batch > 1:
        fits = min(batch // 2, int(batch * limit / needed)) if 0 < limit < needed else batch // 2
        size = max(1, 1 << (fits.bit_length() - 1)) if fits else 1
        steps = -(-batch // size)
        yield f"batch_size={size}   # {where} now; an estimate that takes all of the memory as growing with the batch"
        yield f"accumulate gradients over {steps} batches of {size}   # the same update as one of {batch}"
    else:
        yield "batch_size=...   # half of it, with gradients accumulated over two batches: the same update"
    yield 'with torch.autocast("cuda", dtype=torch.bfloat16):   # about half the memory of the activations'
    yield "total += loss.item()   # if it grows from step to step: not the loss itself, which keeps its graph"


EXAMPLE = """
import torch

torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
"""
MENDED = """
import torch

torch.empty(1 << 20, dtype=torch.uint8, device="cuda")
"""
REQUIRES = ("cuda",)
MESSAGE = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 594.00 MiB. GPU 0 has a total capacity of 79.33 GiB of which"
    " 508.44 MiB is free. Process 113443 has 78.33 GiB memory in use. Of the allocated memory 74.24 GiB is allocated by PyTorch,"
    " and 185.89 MiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting"
    " PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
