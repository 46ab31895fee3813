"""The export to ONNX needs packages that PyTorch does not bring."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-37", "env-onnx", "0.2"
TITLE = "ModuleNotFoundError: No module named 'onnxscript'"
RAISES = ("ModuleNotFoundError", "OnnxExporterError", "ImportError")
NEEDLES = ("No module named 'onnx", "Module onnx is not installed", "Module onnxscript is not installed")
PATTERNS = (
    r"No module named '(?P<name>onnx|onnxscript|onnxruntime)'",
    r"Module (?P<name>onnx|onnxscript) is not installed",
)
OLD: tuple[str, ...] = ()
WHY = "`torch.onnx.export` writes with the packages `onnx` and, since its new exporter became the default in PyTorch 2.9, `onnxscript`. Reading the file back takes `onnxruntime`."
CHECK = "`pip list | grep -i onnx`."


def explain(event: Event) -> Iterator[Cause]:
    """Which package."""
    name = event.facts["name"]
    packages = "onnxruntime" if name == "onnxruntime" else "onnx onnxscript"
    yield Cause(
        CODE,
        NAME,
        what=f"the package {name} is not installed",
        why="PyTorch does not bring it, and its export to ONNX needs it"
        if name != "onnxruntime"
        else "it runs ONNX files, and is a package of its own",
        fix=(f"pip install {packages}",),
        likelihood="certain",
    )


EXAMPLE = ""
MENDED = ""
MESSAGE = "ModuleNotFoundError: No module named 'onnxscript'"
REQUIRES: tuple[str, ...] = ()
