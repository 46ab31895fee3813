"""The GPUs of this machine as the driver sees them: asked of NVML, without torch and without starting CUDA.

NVML numbers the cards by their place on the bus, as `nvidia-smi` does; what CUDA makes of these numbers under
CUDA_VISIBLE_DEVICES is in `pick.py`. Every fact is asked for by itself: a card that answers half of the questions is
listed with the other half missing, and one that does not answer at all is listed with the reason.
Source: NVML API reference; nvidia-ml-py is NVIDIA's own binding of it (module ``pynvml``).

Law: looking changes nothing, and the answer is a `Survey` whatever the driver says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

__all__ = ["Gpu", "GpuProcess", "MigSlice", "Survey", "survey_gpus"]

_T = TypeVar("_T")

# Values of nvmlComputeMode_t.
_COMPUTE_MODES = {0: "shared", 1: "exclusive", 2: "prohibited", 3: "exclusive"}
# Values of nvmlReturn_t: what init says where there is simply no driver.
_NO_DRIVER = {9, 12}  # DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND
_NOT_SUPPORTED, _NO_PERMISSION, _NOT_FOUND, _LOST, _RESET_REQUIRED, _MISMATCH = 3, 4, 6, 15, 16, 18


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that uses a GPU.

    Attributes:
        pid: as this machine counts; of the host, where this is a container.
        name: of its program; None where the driver does not tell.
        memory_bytes: of the GPU; None where the driver does not tell (always on Windows).
    """

    pid: int
    name: str | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class MigSlice:
    """A part of a GPU that MIG has cut off.

    Attributes:
        index: on its GPU.
        uuid: ``MIG-...``, what CUDA_VISIBLE_DEVICES takes.
        name: with the profile, such as ``NVIDIA A100 MIG 1g.5gb``.
        memory_total_bytes, memory_free_bytes: None where the driver does not tell.
    """

    index: int
    uuid: str
    name: str
    memory_total_bytes: int | None
    memory_free_bytes: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card; what the driver does not tell is None.

    Attributes:
        index: its physical number, by place on the bus.
        uuid: ``GPU-...``.
        name: of the model.
        capability: compute capability, such as (9, 0).
        memory_total_bytes, memory_free_bytes: of the card.
        busy_percent: how much of the last second at least one kernel ran.
        compute_mode: ``shared``, ``exclusive`` (one process) or ``prohibited``.
        processes: who uses it; None where the driver does not tell.
        slices: its MIG slices; None where MIG is off.
        fault: why it cannot be used or asked, in one line; "" where all is well.
    """

    index: int
    uuid: str
    name: str
    capability: tuple[int, int] | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    busy_percent: int | None = None
    compute_mode: str | None = None
    processes: tuple[GpuProcess, ...] | None = None
    slices: tuple[MigSlice, ...] | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """What the driver said.

    Attributes:
        gpus: by physical number.
        driver: its version; None where there is none.
        cuda: the newest CUDA that this driver runs, such as (12, 8).
        asked: whether the driver could be asked at all, or is known to be absent.
        why: what is in the way where there are no GPUs; "" otherwise.
        do: what to type then.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: tuple[int, int] | None = None
    asked: bool = True
    why: str = ""
    do: str = ""


_NOTHING_TO_ASK = Survey(
    why="there is no NVIDIA driver on this machine, or this container was started without it",
    do="run on the CPU; in Docker start with --gpus all, under Slurm ask with --gpus=1",
)


def survey_gpus() -> Survey:
    """Ask the driver for every GPU of this machine; never raises for what the driver says."""
    try:
        nvml = import_module("pynvml")
    except ModuleNotFoundError:
        if not _has_driver_library():  # the binding would find nothing to ask
            return _NOTHING_TO_ASK
        return Survey(
            asked=False,
            why="the driver is asked through nvidia-ml-py, which is not installed in this Python",
            do=f"{sys.executable} -m pip install 'rekindle[gpu]'",
        )
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return _without_driver(error)
    try:
        return _survey(nvml)
    finally:
        with _ignoring(nvml):
            nvml.nvmlShutdown()


def _has_driver_library() -> bool:
    """Whether the library that nvidia-ml-py opens is there; on other systems than Linux it may lie anywhere: True."""
    if sys.platform != "linux":
        return True
    from ctypes import CDLL  # noqa: PLC0415 - only where the binding is missing

    try:
        CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _without_driver(error: Exception) -> Survey:
    code = _code(error)
    if code in _NO_DRIVER:
        return _NOTHING_TO_ASK
    if code == _MISMATCH:
        why = "the driver's kernel module and its library have different versions: it was updated since the last boot"
        return Survey(asked=False, why=why, do="reboot the machine")
    if code == _NO_PERMISSION:
        why = "this account may not talk to the driver"
        return Survey(asked=False, why=why, do="ls -l /dev/nvidiactl    shows who may")
    return Survey(asked=False, why=f"the driver does not start: {_text(error)}", do="nvidia-smi    says more")


def _survey(nvml: ModuleType) -> Survey:
    driver = _ask(nvml, nvml.nvmlSystemGetDriverVersion)
    number = _ask(nvml, nvml.nvmlSystemGetCudaDriverVersion)
    cuda = (number // 1000, number % 1000 // 10) if number else None
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        return Survey((), _word(driver), cuda, asked=False, why=f"the driver cannot count its GPUs: {_text(error)}")
    gpus = tuple(_gpu(nvml, index) for index in range(count))
    if gpus:
        return Survey(gpus, _word(driver), cuda)
    why = "the driver is there, and sees no GPU"
    return Survey((), _word(driver), cuda, why=why, do="lspci | grep -i nvidia    shows whether a card is on the bus")


def _gpu(nvml: ModuleType, index: int) -> Gpu:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as error:
        return Gpu(index, "", "unknown", fault=_fault(error))
    fault = ""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        memory = None  # cards that share the machine's memory have no number of their own
        fault = "" if _code(error) == _NOT_SUPPORTED else _fault(error)
    rates = _ask(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    capability = _ask(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    mode = _ask(nvml, nvml.nvmlDeviceGetComputeMode, handle)
    return Gpu(
        index,
        _word(_ask(nvml, nvml.nvmlDeviceGetUUID, handle)) or "",
        _word(_ask(nvml, nvml.nvmlDeviceGetName, handle)) or "unknown",
        None if capability is None else (int(capability[0]), int(capability[1])),
        None if memory is None else int(memory.total),
        None if memory is None else int(memory.free),
        None if rates is None else int(rates.gpu),
        None if mode is None else _COMPUTE_MODES.get(mode),
        _processes(nvml, handle),
        _slices(nvml, handle),
        fault,
    )


def _processes(nvml: ModuleType, handle: object) -> tuple[GpuProcess, ...] | None:
    found: dict[int, GpuProcess] = {}
    told = False
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        listed = _ask(nvml, ask, handle)
        told = told or listed is not None
        for entry in listed or ():
            found[entry.pid] = GpuProcess(entry.pid, _process_name(nvml, entry.pid), entry.usedGpuMemory)
    return tuple(sorted(found.values(), key=lambda process: process.pid)) if told else None


def _process_name(nvml: ModuleType, pid: int) -> str | None:
    name = _word(_ask(nvml, nvml.nvmlSystemGetProcessName, pid))
    if not name:
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                name = file.read(100).strip()
        except OSError:
            return None
    return name.replace("\\", "/").rsplit("/", 1)[-1] or None


def _slices(nvml: ModuleType, handle: object) -> tuple[MigSlice, ...] | None:
    mode = _ask(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if mode is None or mode[0] != 1:  # (now, after the next reset)
        return None
    found = []
    for index in range(_ask(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        if part is None:
            continue  # numbers may have gaps
        uuid = _word(_ask(nvml, nvml.nvmlDeviceGetUUID, part))
        if not uuid:
            continue
        memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, part)
        name = _word(_ask(nvml, nvml.nvmlDeviceGetName, part)) or "MIG slice"
        total, free = (None, None) if memory is None else (int(memory.total), int(memory.free))
        found.append(MigSlice(index, uuid, name, total, free))
    return tuple(found)


def _ask(nvml: ModuleType, question: Callable[..., _T], *about: object) -> _T | None:
    """Return what the driver answers, None where it does not."""
    try:
        return question(*about)
    except nvml.NVMLError:
        return None


@contextmanager
def _ignoring(nvml: ModuleType) -> Iterator[None]:
    try:
        yield
    except nvml.NVMLError:
        return


def _fault(error: Exception) -> str:
    code = _code(error)
    if code == _LOST:
        return "it fell off the bus or lost power; the machine must be rebooted"
    if code == _RESET_REQUIRED:
        return "it must be reset before it can be used again: nvidia-smi --gpu-reset"
    if code == _NO_PERMISSION:
        return "this account may not use it"
    return f"the driver says: {_text(error)}"


def _code(error: Exception) -> int | None:
    value = getattr(error, "value", None)
    return value if isinstance(value, int) else None


def _text(error: Exception) -> str:
    return str(error).strip()[:200] or type(error).__name__


def _word(value: Any) -> str | None:
    """Return a text of the driver's, which older bindings give as bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None
