"""A driver that is not there: NVML's functions, with cards as a dict describes them, in the place of `pynvml`.

Beside it in a folder of its own, as ``pynvml.py``, it serves a whole process: the cards come from the variable
FAKE_NVML as JSON. In a test of one process, `fake(cards)` is the module.
"""

from __future__ import annotations

import json
import os
import types
from pathlib import Path
from typing import Any

GIB = 1024**3
CODES = {"not supported": 3, "no permission": 4, "not found": 6, "lost": 15, "reset": 16, "mismatch": 18}
CODES |= {"no driver": 9, "no library": 12, "unknown": 999}


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"fault {value}")
        self.value = value


def card(number: int, free_gib: float, **facts: Any) -> dict[str, Any]:
    """Describe a card of 40 GiB; a fact that is the name of an error is raised instead of answered."""
    return {
        "uuid": f"GPU-{number}{number}{number}-aaaa",
        "name": "NVIDIA A100",
        "capability": [8, 0],
        "total": 40 * GIB,
        "free": int(free_gib * GIB),
        "busy": 7,
        "mode": 0,
        "processes": [],
        "slices": None,
        **facts,
    }


def fake(cards: list[dict[str, Any]], **faults: str) -> types.ModuleType:
    """Return a module that answers for these cards; `faults` names functions that fail, and how."""
    module = types.ModuleType("pynvml")
    module.NVMLError = NVMLError
    module.calls = []

    def answer(name: str, make: Any) -> None:
        def call(*arguments: Any) -> Any:
            module.calls.append(name)
            if name in faults:
                raise NVMLError(CODES[faults[name]])
            value = make(*arguments)
            if isinstance(value, str) and value in CODES:
                raise NVMLError(CODES[value])
            return value

        setattr(module, name, call)

    def memory(device: dict[str, Any]) -> Any:
        if isinstance(device["free"], str):
            return device["free"]
        return types.SimpleNamespace(total=device["total"], free=device["free"])

    def processes(device: dict[str, Any]) -> Any:
        if isinstance(device["processes"], str):
            return device["processes"]
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in device["processes"]]

    def part(device: dict[str, Any], index: int) -> Any:
        return device["slices"].get(str(index), "not found")

    answer("nvmlInit", lambda: None)
    answer("nvmlShutdown", lambda: None)
    answer("nvmlSystemGetDriverVersion", lambda: "570.1")
    answer("nvmlSystemGetCudaDriverVersion", lambda: 12080)
    answer("nvmlDeviceGetCount", lambda: len(cards))
    answer("nvmlDeviceGetHandleByIndex", lambda index: cards[index].get("handle", cards[index]))
    answer("nvmlDeviceGetMemoryInfo", memory)
    answer("nvmlDeviceGetUUID", lambda device: device["uuid"])
    answer("nvmlDeviceGetName", lambda device: device["name"])
    answer("nvmlDeviceGetCudaComputeCapability", lambda device: device["capability"])
    answer("nvmlDeviceGetUtilizationRates", lambda device: types.SimpleNamespace(gpu=device["busy"]))
    answer("nvmlDeviceGetComputeMode", lambda device: device["mode"])
    answer("nvmlDeviceGetComputeRunningProcesses", processes)
    answer("nvmlDeviceGetGraphicsRunningProcesses", lambda _device: [])
    answer("nvmlSystemGetProcessName", lambda pid: f"/usr/bin/program-{pid}")
    answer("nvmlDeviceGetMigMode", lambda device: "not supported" if device["slices"] is None else (1, 1))
    answer("nvmlDeviceGetMaxMigDeviceCount", lambda _device: 7)
    answer("nvmlDeviceGetMigDeviceHandleByIndex", part)
    return module


def sliced(number: int, **free_gib: float) -> dict[str, Any]:
    """Describe a card that MIG has cut up: ``sliced(1, _0=3, _4=9)``."""
    slices = {
        name[1:]: {
            "uuid": f"MIG-{number}{name[1:]}",
            "name": "A100 MIG 1g.10gb",
            "total": 10 * GIB,
            "free": int(f * GIB),
        }
        for name, f in free_gib.items()
    }
    return card(number, 1, slices=slices)


def install(folder: Path, cards: list[dict[str, Any]], **faults: str) -> dict[str, str]:
    """Put the driver into a folder, and return the variables that have a process find it there."""
    folder.mkdir(exist_ok=True)
    (folder / "pynvml.py").write_text(Path(__file__).read_text() + "\nglobals().update(vars(_from_environment()))\n")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return {"PYTHONPATH": path, "FAKE_NVML": json.dumps([cards, faults])}


def _from_environment() -> types.ModuleType:
    cards, faults = json.loads(os.environ["FAKE_NVML"])
    return fake(cards, **faults)
