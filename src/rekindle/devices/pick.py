"""Which device a process uses, chosen before anything of CUDA is started and without torch.

CUDA reads CUDA_VISIBLE_DEVICES once, when it starts in a process; from then on logical device 0 is the first one named
there. So choosing means setting that variable in time. By itself CUDA numbers the cards by speed, the driver's tools by
their place on the bus: CUDA_DEVICE_ORDER=PCI_BUS_ID is set along with it, so that both mean the same card.
Source: CUDA C++ Programming Guide, "CUDA Environment Variables"; `torch.cuda._parse_visible_devices`.

Law: choosing asks the driver and the environment only; nothing here starts CUDA, and what comes too late is refused.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from rekindle.devices.gpus import Gpu, MigSlice, Survey, survey_gpus
from rekindle.errors import CannotPick, ConfigError

__all__ = [
    "Picked",
    "VisibleDevices",
    "choose_gpus",
    "parse_bytes",
    "parse_device",
    "pick_gpus",
    "started_cuda",
    "visible_devices",
]

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
_NAME = re.compile(r"(auto|cpu|cuda|mps|xpu)(?::([0-9]{1,4}))?")
_BYTES = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_CU_NOT_INITIALIZED = 3


@dataclass(frozen=True, slots=True)
class VisibleDevices:
    """What CUDA makes of its environment.

    Attributes:
        devices: logical number -> the card, or the slice of one.
        text: of CUDA_VISIBLE_DEVICES; None where it is not set.
        note: what is odd about it, in one line; "" where nothing is.
    """

    devices: tuple[Gpu | MigSlice, ...]
    text: str | None
    note: str = ""

    def logical_of(self, device: Gpu | MigSlice) -> int | None:
        """Return a device's logical number, None where this process does not see it."""
        return next((number for number, seen in enumerate(self.devices) if seen.uuid == device.uuid), None)


@dataclass(frozen=True, slots=True)
class Picked:
    """What `pick_gpus` chose; prints as the map from logical to physical numbers.

    Attributes:
        devices: logical number -> the card, or the slice of one, freest first.
        visible: what CUDA_VISIBLE_DEVICES is now.
    """

    devices: tuple[Gpu | MigSlice, ...]
    visible: str

    def __str__(self) -> str:
        """Return the map in one line."""
        return ", ".join(
            f"cuda:{number} is {_title(device)} ({_gib(device.memory_free_bytes)} free)"
            for number, device in enumerate(self.devices)
        )


def parse_device(name: str) -> tuple[str, int | None]:
    """Return the kind and the number of a device's name: ``("cuda", 1)`` of ``"cuda:1"``; None for "any".

    Raises:
        ConfigError: no device is called so.
    """
    found = _NAME.fullmatch(name.strip().lower())
    if found is None:
        raise ConfigError(
            f"no device is called {name!r}",
            why="devices are called auto, cpu, cuda, cuda:0, cuda:1, mps",
            do='Run(..., device="auto") takes a GPU where there is one',
        )
    return found[1], None if found[2] is None else int(found[2])


def parse_bytes(amount: int | str) -> int:
    """Return a number of bytes: an integer as it is, or ``"10 GB"``, ``"512MiB"``; K, M, G and T count by 1024.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(amount, int) and not isinstance(amount, bool) and amount >= 0:
        return amount
    found = _BYTES.fullmatch(amount) if isinstance(amount, str) else None
    if found is None:
        raise ConfigError(f"{amount!r} is not an amount of memory", do='write it as "10 GB" or "512 MiB"')
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " "))


def pick_gpus(n: int = 1, *, min_free: int | str = 0, quiet: bool = False) -> Picked:
    """Choose the `n` GPUs with the most free memory, and make them CUDA's logical devices 0 to n-1.

    Sets CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER of this process, which its children inherit; so it must come before
    CUDA starts. What CUDA_VISIBLE_DEVICES allows already (a scheduler's choice) is chosen from, never widened. The
    memory is not reserved: two processes that pick at the same moment may pick the same card.

    Args:
        n: how many.
        min_free: memory that each must have free: bytes, or ``"10 GB"``.
        quiet: do not print the map on stderr.

    Raises:
        CannotPick: CUDA has started in this process already; or there are fewer such GPUs, with what there is.
        ConfigError: `n` or `min_free` cannot be meant.
    """
    started = started_cuda()
    if started:
        raise CannotPick(
            "GPUs are picked too late: CUDA has started in this process",
            why=f"{started}; {VISIBLE} is read only once, when CUDA starts",
            do="call rekindle.pick_gpus() first in the script, before anything asks torch.cuda, "
            "or start it with: rekindle launch --gpus 1 SCRIPT",
        )
    picked = choose_gpus(survey_gpus(), n, min_free=min_free)
    _set(os.environ, picked)
    if not quiet and sys.stderr is not None:  # closed: `print` would take it for stdout
        print(f"rekindle: {picked}; {VISIBLE}={picked.visible}", file=sys.stderr)  # noqa: T201 - it was asked to say it
    return picked


def choose_gpus(
    survey: Survey, n: int = 1, *, min_free: int | str = 0, environment: Mapping[str, str] | None = None
) -> Picked:
    """Return what `pick_gpus` would choose; sets nothing.

    Args:
        survey: what the driver said.
        n: how many.
        min_free: memory that each must have free.
        environment: in which CUDA will start; this process's by default.

    Raises:
        CannotPick, ConfigError: as `pick_gpus`.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ConfigError(f"{n!r} GPUs cannot be picked", do="a whole number of at least 1")
    need = parse_bytes(min_free)
    if not survey.gpus:
        raise CannotPick("no GPU can be picked", why=survey.why, do=survey.do)
    seen = visible_devices(survey.gpus, environment)
    usable = [device for device in seen.devices if not _refusal(device, need)]
    # CUDA uses one MIG slice per process at most, and never one beside whole cards.
    slices = [device for device in usable if isinstance(device, MigSlice)]
    cards = [device for device in usable if isinstance(device, Gpu)]
    choice: Sequence[Gpu | MigSlice] = cards if len(cards) >= n else slices if n == 1 and slices else cards
    if len(choice) < n:
        raise CannotPick(_too_few(n, need, len(cards)), why=_reasons(survey, seen, need), do="rekindle gpus")
    # Equal ones keep their order, so that a machine at rest always gives the same cards.
    chosen = sorted(choice, key=lambda device: -(device.memory_free_bytes or 0))[:n]
    names = [device.uuid if isinstance(device, MigSlice) else str(device.index) for device in chosen]
    return Picked(tuple(chosen), ",".join(names))


def visible_devices(gpus: Sequence[Gpu], environment: Mapping[str, str] | None = None) -> VisibleDevices:
    """Return what CUDA would make of an environment: which device gets which logical number.

    Numbers, ``GPU-`` and ``MIG-`` ids and their unambiguous beginnings are understood; as CUDA does it, the list ends
    at the first entry that names nothing, and one that names a card twice is no list at all.

    Args:
        gpus: all of the machine, by place on the bus.
        environment: this process's by default.
    """
    known = os.environ if environment is None else environment
    text = known.get(VISIBLE)
    by_number = [gpu for gpu in gpus if not gpu.fault]
    everything = tuple(device for gpu in by_number for device in _parts(gpu))
    note = ""
    if known.get(ORDER, "FASTEST_FIRST") != "PCI_BUS_ID" and len({gpu.name for gpu in by_number}) > 1:
        note = f"the cards differ and {ORDER} is not PCI_BUS_ID: CUDA may number them otherwise, fastest first"
    if text is None:
        return VisibleDevices(everything, None, note)
    found: list[Gpu | MigSlice] = []
    for entry in (part.strip() for part in text.split(",")):
        device = _named(entry, gpus)
        if device is None:
            if entry not in {"", "-1", "NoDevFiles"}:
                note = f"{VISIBLE} names {entry!r}, which is not here; CUDA ignores it and all that follows"
            break
        if any(device.uuid == other.uuid for other in found):
            return VisibleDevices((), text, f"{VISIBLE} names {entry!r} twice; CUDA then sees no device")
        found.append(device)
    return VisibleDevices(tuple(found), text, note)


def started_cuda() -> str:
    """Return how it is known that CUDA has started in this process, "" where it has not.

    torch is asked only if it was imported already; the driver, only if its library was loaded already, so that asking
    starts nothing.
    """
    cuda = sys.modules.get("torch.cuda")
    if cuda is not None and cuda.is_initialized():
        return "torch has initialised CUDA"
    library = _loaded_driver()
    if library is not None:
        count = ctypes.c_int()
        if library.cuDeviceGetCount(ctypes.byref(count)) != _CU_NOT_INITIALIZED:
            return "something asked CUDA for its devices, such as torch.cuda.is_available()"
    return ""


def _loaded_driver() -> ctypes.CDLL | None:
    """Return CUDA's driver library if this process has it loaded already."""
    try:
        if sys.platform == "win32":
            handle = ctypes.windll.kernel32.GetModuleHandleW("nvcuda.dll")
            return ctypes.CDLL("nvcuda.dll") if handle else None
        # RTLD_NOLOAD: a handle of what is loaded, an error otherwise.
        return ctypes.CDLL("libcuda.so.1", mode=getattr(os, "RTLD_NOLOAD", 4) | getattr(os, "RTLD_LAZY", 1))
    except (OSError, AttributeError):
        return None


def _set(environment: MutableMapping[str, str], picked: Picked) -> None:
    environment[VISIBLE] = picked.visible
    environment[ORDER] = "PCI_BUS_ID"


def _parts(gpu: Gpu) -> tuple[Gpu | MigSlice, ...]:
    return (gpu,) if gpu.slices is None else gpu.slices


def _named(entry: str, gpus: Sequence[Gpu]) -> Gpu | MigSlice | None:
    """Return the one device that an entry of CUDA_VISIBLE_DEVICES names; None for none, or for several."""
    if entry.startswith("MIG-"):
        slices = [part for gpu in gpus for part in gpu.slices or () if part.uuid.startswith(entry)]
        return slices[0] if len(slices) == 1 else None
    if entry.startswith("GPU-"):
        cards = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
    elif entry.isascii() and entry.isdigit():
        cards = [gpu for gpu in gpus if gpu.index == int(entry)]
    else:
        return None
    if len(cards) != 1 or cards[0].fault:
        return None
    # Of a card that MIG has cut up, CUDA takes the first slice.
    parts = _parts(cards[0])
    return parts[0] if parts else None


def _refusal(device: Gpu | MigSlice, need_bytes: int) -> str:
    """Return why a device is not chosen, "" where it can be."""
    if isinstance(device, Gpu):
        if device.fault:
            return device.fault
        if device.compute_mode == "prohibited":
            return "computing is switched off (compute mode: prohibited)"
        if device.compute_mode == "exclusive" and device.processes:
            return f"process {device.processes[0].pid} has it for itself (compute mode: exclusive)"
    if device.memory_free_bytes is not None and device.memory_free_bytes < need_bytes:
        return f"{_gib(device.memory_free_bytes)} free"
    if device.memory_free_bytes is None and need_bytes:
        return "its free memory is not known"
    return ""


def _too_few(n: int, need_bytes: int, have: int) -> str:
    wanted = f"{n} GPU{'s' * (n != 1)}" + (f" with {_gib(need_bytes)} free" if need_bytes else "")
    return f"{wanted} asked for, {have or 'none'} can be had"


def _reasons(survey: Survey, seen: VisibleDevices, need_bytes: int) -> str:
    lines = [f"{_title(device)}: {reason}" for device in seen.devices if (reason := _refusal(device, need_bytes))]
    lines += [f"GPU {gpu.index}: {gpu.fault}" for gpu in survey.gpus if gpu.fault]
    if any(isinstance(device, MigSlice) for device in seen.devices):
        lines.append("CUDA uses at most one MIG slice in a process")
    if seen.text is not None:
        lines.append(f"{VISIBLE}={seen.text} allows {len(seen.devices)} of {len(survey.gpus)}")
    return "; ".join(lines) or f"this machine has {len(survey.gpus)}"


def _title(device: Gpu | MigSlice) -> str:
    return f"GPU {device.index} {device.name}" if isinstance(device, Gpu) else f"{device.name} {device.uuid}"


def _gib(count: int | None) -> str:
    return "unknown memory" if count is None else f"{count / 1024**3:.1f} GiB"
