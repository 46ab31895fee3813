"""Make the file in torch_package/: two pickles that share a storage, a module whose class is interned, texts.

python tests/golden/make_torch_package.py
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch.package import PackageExporter, PackageImporter

FOLDER = Path(__file__).parent / "torch_package"

SOURCE = """
import torch


class Doubler(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(3.0))
        self.register_buffer("seen", torch.tensor(2))
"""


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")
    path = FOLDER / "package.pt"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "doubling.py").write_text(SOURCE)
        sys.path.insert(0, folder)
        import doubling

        shared = torch.arange(6.0).reshape(2, 3)
        with PackageExporter(path) as exporter:
            exporter.extern("torch.**")
            exporter.intern("doubling")
            exporter.save_pickle("model", "weights.pkl", {"w": shared, "t": shared.t(), "epoch": 5})
            exporter.save_pickle("model", "module.pkl", doubling.Doubler())
            exporter.save_pickle("extra", "data.pkl", [shared[1]])
            exporter.save_text("model", "labels.txt", "cat dog")
    importer = PackageImporter(path)
    weights = importer.load_pickle("model", "weights.pkl")
    module = importer.load_pickle("model", "module.pkl")
    values = {
        "model/weights.w": weights["w"],
        "model/weights.t": weights["t"],
        **{f"model/module.{key}": value for key, value in module.state_dict().items()},
        "extra/data.0": importer.load_pickle("extra", "data.pkl")[0],
    }
    expected = {
        key: {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "digest": hashlib.sha256(
                value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            ).hexdigest(),
        }
        for key, value in values.items()
    }
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    print({path.name: path.stat().st_size for path in FOLDER.iterdir()})


if __name__ == "__main__":
    main()
