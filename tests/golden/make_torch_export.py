"""Make the files in torch_export/: an exported program of this torch, and the older layouts packed from its parts.

python tests/golden/make_torch_export.py
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "torch_export"


class Net(torch.nn.Module):
    """Tied weights, a transposed buffer, a buffer that is not persistent, a plain tensor, several element types."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 4)
        self.tied = torch.nn.Linear(3, 4)
        self.tied.weight = self.fc.weight
        self.brief = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16), requires_grad=False)
        self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.plain = torch.full((3,), 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        some = self.turned.sum() + self.scratch[0] + self.plain[0] + self.brief.float().sum() + self.steps
        return self.fc(x) + self.tied(x) + some


def facts(values: dict[str, torch.Tensor]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        found[key] = {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "stride": list(value.stride()),
            "digest": hashlib.sha256(data).hexdigest(),
        }
    return found


def saved(value: object) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def write(path: Path, records: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


def without_paths(path: Path) -> None:
    """Take the traces out of the graph: they hold this machine's paths, and most of the bytes."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}
    graph = json.loads(records["models/model.json"])
    for node in graph["graph_module"]["graph"]["nodes"]:
        node["metadata"].pop("stack_trace", None)
    records["models/model.json"] = json.dumps(graph).encode()
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.set_min_version(6)
    for name, data in records.items():
        if name not in {".data/version", ".data/serialization_id", "byteorder"}:  # it writes these itself
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    program = torch.export.export(Net(), (torch.ones(2, 3),))
    path = FOLDER / "program.pt2"
    torch.export.save(program, path)
    without_paths(path)
    again = torch.export.load(path)
    state, constants = dict(again.state_dict), dict(again.constants)
    # 2.7: one torch.save file per model; 2.1 to 2.6: flat names, no folder around them.
    write(
        FOLDER / "of_2_7.pt2",
        {
            "p/archive_format": b"pt2",
            "p/archive_version": b"0",
            "p/models/model.json": b'{"schema_version": {"major": 8, "minor": 5}}',
            "p/data/weights/model.pt": saved(state),
            "p/data/constants/model.pt": saved(constants),
        },
    )
    write(
        FOLDER / "of_2_5.pt2",
        {
            "version": b"5.3",
            "serialized_exported_program.json": b'{"schema_version": {"major": 5, "minor": 3}}',
            "serialized_state_dict.pt": saved(state),
            "serialized_constants.pt": saved(constants),
        },
    )
    expected = {"state_dict": facts(state), "constants": facts(constants)}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    print({path.name: path.stat().st_size for path in FOLDER.iterdir()})


if __name__ == "__main__":
    main()
