"""Use the file side where there is no torch and no NumPy, as somebody does who installed the bare package.

Makes a small .safetensors file by hand, converts it into both torch containers and back, and lists all of them. Needs
nothing but rekindle; `make bare` runs it in an environment that has nothing else.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import sys
import tempfile
from typing import Any

BLOCKED = ("torch", "numpy", "safetensors")


def main() -> int:
    """Return 0 when everything held; an assertion says what did not."""
    from rekindle.cli import command_names  # noqa: PLC0415 - after the path is set by whoever runs this

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            _check_files()
        finally:
            os.chdir(os.path.dirname(folder))
    for name in command_names():
        assert _rekindle(name, "--help"), name
    assert _rekindle("--help").startswith("usage: rekindle COMMAND")
    loaded = [name for name in BLOCKED if sys.modules.get(name) is not None]
    assert not loaded, f"loaded on the way: {loaded}"
    print(f"bare: {', '.join(command_names())} work in Python {sys.version.split()[0]} without {' and '.join(BLOCKED)}")
    return 0


def _check_files() -> None:
    _write_example("example.safetensors")
    _rekindle("convert", "example.safetensors", "zip.pth")
    _rekindle("convert", "zip.pth", "stream.pth", "--to", "torch-stream")
    _rekindle("convert", "stream.pth", "back.safetensors")
    found = {}
    for name in ("example.safetensors", "zip.pth", "stream.pth", "back.safetensors"):
        listing = json.loads(_rekindle("inspect", name, "--json", "--digest"))
        found[name] = listing["format"], _facts(listing)
    assert [form for form, _ in found.values()] == ["safetensors", "torch-zip", "torch-stream", "safetensors"], found
    assert all(facts == found["example.safetensors"][1] for _, facts in found.values()), found
    assert len(found["zip.pth"][1]) == 3
    text = _rekindle("inspect", "zip.pth")
    assert "layer.weight" in text
    assert "bfloat16" in text


def _facts(listing: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {t["key"]: (t["dtype"], tuple(t["shape"]), t["digest"]) for t in listing["tensors"]}


def _write_example(path: str) -> None:
    """Write three tensors by the safetensors format: length of the header, header, bytes."""
    header = {
        "layer.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "layer.bias": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]},
        "steps": {"dtype": "I64", "shape": [], "data_offsets": [28, 36]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(
            struct.pack("<Q", len(text)) + text + struct.pack("<6f", *range(6)) + bytes(4) + struct.pack("<q", 7)
        )


def _rekindle(*words: str) -> str:
    """Run a command in this process and return what it printed."""
    from rekindle.cli import main as rekindle  # noqa: PLC0415 - as above

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = rekindle(words)
    assert code == 0, f"rekindle {' '.join(words)}: exit code {code}"
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
