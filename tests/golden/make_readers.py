"""Make the stored files of tests/golden/readers: small files of each container, with what torch says of them.

Run it with the version of torch whose files are wanted; it writes NAME.pt and NAME.json beside each other. The facts
come from torch, hashlib and the safetensors library; nothing of rekindle is used. Tests only read the stored files.

    python tests/golden/make_readers.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

import torch
import zoo
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent / "readers"


def store(name: str, format: str, kind: str, rows: list[dict[str, object]]) -> None:
    facts = {"format": format, "kind": kind, "torch": torch.__version__.split("+")[0], "tensors": rows}
    (HERE / name).with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")


def save(name: str, kind: str, value: object, *, new: bool, **settings: object) -> None:
    path = HERE / f"{name}.pt"
    with zoo.quiet():
        torch.save(value, path, _use_new_zipfile_serialization=new, **settings)
        rows = zoo.rows(zoo.load(path))
    store(path.name, "torch-zip" if new else "torch-stream", kind, rows)


def main() -> None:
    HERE.mkdir(exist_ok=True)
    torch.manual_seed(0)
    state = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 2)).state_dict()
    for new in (True, False):
        container = "zip" if new else "stream"
        save(f"{container}-state-dict", "state_dict", state, new=new)
        save(f"{container}-strided", "state_dict", zoo.strided(), new=new)
        save(f"{container}-typed", "checkpoint", zoo.complete(zoo.TYPED), new=new)
        save(f"{container}-protocol-4", "checkpoint", {"w": torch.ones(2), "epoch": 3}, new=new, pickle_protocol=4)
    # Not as a stream: that would store the source text of torch's own classes, and where it lay.
    save("zip-module", "module", nn.Sequential(nn.Linear(2, 3), nn.LSTM(3, 2)), new=True)
    save("zip-everything", "checkpoint", zoo.complete(), new=True)
    tensors = {name: zoo.of_dtype(name) for name in (*zoo.FLOATS, *zoo.INTEGERS)}
    save_file(tensors, HERE / "safetensors.pt", {"format": "pt"})
    store("safetensors.pt", "safetensors", "state_dict", sorted(zoo.rows(tensors), key=lambda row: str(row["key"])))


if __name__ == "__main__":
    main()
