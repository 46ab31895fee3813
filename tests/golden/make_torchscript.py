"""Make the files in torchscript/: scripted, traced and mobile archives of this torch, and one of the form of 1.0.

The last is written byte by byte after `caffe2/proto/torch.proto` of PyTorch 1.0; today's `torch.jit.load` no longer
reads it, so what it holds is written down from what was put into it.

    python tests/golden/make_torchscript.py
"""

from __future__ import annotations

import hashlib
import json
import struct
import warnings
import zipfile
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "torchscript"


class Inner(torch.nn.Module):
    """A module with everything that a state dict must tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.register_buffer("scratch", torch.arange(4.0), persistent=False)
        self.table = torch.arange(6).reshape(2, 3)  # a tensor that is neither parameter nor buffer
        self.sizes = [3, 4]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) + self.table[0, 1] + self.scratch[0] + self.sizes[0]


class Net(torch.nn.Module):
    """Tied weights, a bias that is None, numbered submodules."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3, bias=False))
        self.tied = torch.nn.Linear(3, 3)
        self.tied.weight = self.layers[0].weight
        self.scale = torch.nn.Parameter(torch.tensor(2.0), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tied(self.layers(self.inner(x))) * self.scale


class Constant(torch.nn.Module):
    """What is traced keeps the tensors it met as constants of its code."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(2, 2)
        self.offsets = torch.arange(2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + torch.from_numpy(self.offsets.numpy() + 5)


def digest(tensor: torch.Tensor) -> str:
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()


def facts(path: Path) -> dict[str, object]:
    module = torch.jit.load(path)
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return {
        key: {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "digest": digest(value),
            "parameter": key in parameters,
        }
        for key, value in module.state_dict().items()
    }


def write_model_json(path: Path) -> None:
    """Write an archive as PyTorch 1.0 did: a weight with a transposed view of it, and a buffer in a submodule."""
    weight = struct.pack("<6f", *range(6))
    running = struct.pack("<2d", 0.5, -0.5)
    model = {
        "protoVersion": "2",
        "producerName": "pytorch",
        "producerVersion": "1.0",
        "mainModule": {
            "torchscriptArena": {"key": "code/top.py"},
            "name": "top",
            "optimize": True,
            "parameters": [
                {"isBuffer": False, "tensorId": "0", "name": "weight"},
                {"isBuffer": False, "tensorId": "1", "name": "turned"},
            ],
            "submodules": [
                {
                    "torchscriptArena": {"key": "code/top_1.py"},
                    "name": "norm",
                    "optimize": True,
                    "parameters": [{"isBuffer": True, "tensorId": "2", "name": "running"}],
                }
            ],
        },
        "tensors": [
            {
                "dims": ["2", "3"],
                "offset": "0",
                "strides": ["3", "1"],
                "requiresGrad": True,
                "dataType": "FLOAT",
                "data": {"key": "tensors/0"},
                "device": "cpu",
            },
            {
                "dims": ["3", "2"],
                "offset": "0",
                "strides": ["1", "3"],
                "requiresGrad": False,
                "dataType": "FLOAT",
                "data": {"key": "tensors/0"},
                "device": "cpu",
            },
            {
                "dims": ["2"],
                "offset": "0",
                "strides": ["1"],
                "requiresGrad": False,
                "dataType": "DOUBLE",
                "data": {"key": "tensors/2"},
                "device": "cpu",
            },
        ],
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (
            ("version", b"1\n"),
            ("code/top.py", b"op_version_set = 0\ndef forward(self, x: Tensor) -> Tensor:\n  return x\n"),
            ("code/top_1.py", b"op_version_set = 0\n"),
            ("tensors/0", weight),
            ("tensors/2", running),
            ("model.json", json.dumps(model).encode()),
        ):
            archive.writestr(zipfile.ZipInfo(f"{path.stem}/{name}", (1980, 1, 1, 0, 0, 0)), data)


def facts_of_1_0() -> dict[str, object]:
    """Return what `write_model_json` puts in."""
    weight = torch.arange(6.0).reshape(2, 3)
    rows = (
        ("weight", weight, True),
        ("turned", weight.reshape(-1).as_strided((3, 2), (1, 3)), True),
        ("norm.running", torch.tensor([0.5, -0.5], dtype=torch.float64), False),
    )
    return {
        key: {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "digest": digest(value),
            "parameter": parameter,
        }
        for key, value, parameter in rows
    }


def without_paths(path: Path) -> None:
    """Take out what only debuggers read: it holds this machine's paths, and most of the bytes."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, data in records.items():
        if not name.endswith("debug_pkl") and name not in {"version", ".data/serialization_id", "byteorder"}:
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.jit.script(Net().eval()).save(FOLDER / "scripted.pt", _extra_files={"labels.txt": "cat dog"})
    torch.jit.trace(Constant().eval(), torch.ones(1, 2)).save(FOLDER / "traced.pt")
    torch.jit.script(Net().eval())._save_for_lite_interpreter(str(FOLDER / "mobile.ptl"))
    write_model_json(FOLDER / "of_1_0.pt")
    found = {}
    for path in sorted(FOLDER.glob("*.pt*")):
        if path.name != "of_1_0.pt":
            without_paths(path)
            found[path.name] = facts(path)
    found["of_1_0.pt"] = facts_of_1_0()
    (FOLDER / "expected.json").write_text(json.dumps(found, indent=1) + "\n")
    print({path.name: path.stat().st_size for path in FOLDER.iterdir()})


if __name__ == "__main__":
    main()
