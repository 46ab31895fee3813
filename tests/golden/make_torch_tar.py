"""Make the files in torch_tar/: the container of PyTorch 0.1.1 to 0.1.9, which no current version writes.

Written byte by byte, with the standard library's tar writer and pickler, as 0.1.9's `serialization.py` did it. torch is
used only to check that today's `torch.load` still reads them, and to write down what it finds.

    python tests/golden/make_torch_tar.py
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import tarfile
import warnings
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "torch_tar"


class ById(pickle.Pickler):
    """Pickle the object with tensors replaced by their key, as text."""

    def persistent_id(self, obj: object) -> str | None:
        return obj.key if isinstance(obj, Reference) else None


class Reference:
    """Stands for a tensor or storage in the object."""

    def __init__(self, key: int) -> None:
        self.key = str(key)


def storages(items: list[tuple[int, str, type, bytes, int]], views: list[tuple[int, int, int, int]]) -> bytes:
    out = io.BytesIO()
    pickle.dump(len(items), out, 2)
    for key, location, kind, data, itemsize in items:
        pickle.dump((key, location, kind), out, 2)
        out.write(struct.pack("<q", len(data) // itemsize) + data)
    pickle.dump(views, out, 2)
    return out.getvalue()


def tensors(items: list[tuple[int, int, type, tuple[int, ...], tuple[int, ...], int]]) -> bytes:
    out = io.BytesIO()
    pickle.dump(len(items), out, 2)
    for key, storage, kind, size, stride, offset in items:
        pickle.dump((key, storage, kind), out, 2)
        out.write(struct.pack("<i", len(size)) + b"\xff" * 4)  # the padding was whatever the stack held
        out.write(struct.pack(f"<{2 * len(size) + 1}q", *size, *stride, offset))
    return out.getvalue()


def archive(path: Path, obj: object, storage_bytes: bytes, tensor_bytes: bytes) -> None:
    text = io.BytesIO()
    ById(text, 2).dump(obj)
    info = {"protocol_version": 1000, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 8}}
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (
            ("sys_info", pickle.dumps(info, 2)),
            ("pickle", text.getvalue()),
            ("tensors", tensor_bytes),
            ("storages", storage_bytes),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def facts(value: object, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, child in value.items():
        if isinstance(child, dict):
            found |= facts(child, f"{prefix}{key}.")
        elif isinstance(child, torch.Tensor):
            data = child.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            found[prefix + key] = {
                "dtype": str(child.dtype).removeprefix("torch."),
                "shape": list(child.shape),
                "stride": list(child.stride()),
                "digest": hashlib.sha256(data).hexdigest(),
            }
    return found


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    ramp = struct.pack("<24f", *[x / 4 for x in range(24)])
    longs = struct.pack("<6q", *range(-3, 3))
    state = {
        "weight": Reference(7),
        "transposed": Reference(8),
        "row": Reference(9),
        "counts": Reference(10),
        "nested": {"again": Reference(7)},
        "epoch": 12,
    }
    archive(
        FOLDER / "views.tar",
        state,
        storages(
            [(1, "cpu", torch.FloatStorage, ramp, 4), (2, "cpu", torch.LongStorage, longs, 8)],
            [(3, 1, 6, 12)],  # elements 6 to 17 of storage 1
        ),
        tensors(
            [
                (7, 1, torch.FloatTensor, (4, 6), (6, 1), 0),
                (8, 1, torch.FloatTensor, (6, 4), (1, 6), 0),
                (9, 3, torch.FloatTensor, (6,), (1,), 6),
                (10, 2, torch.LongTensor, (2, 3), (3, 1), 0),
            ]
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.load(FOLDER / "views.tar", weights_only=False)
    (FOLDER / "views.json").write_text(json.dumps(facts(loaded), indent=1) + "\n")


if __name__ == "__main__":
    main()
