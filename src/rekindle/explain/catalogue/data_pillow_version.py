"""An old torchvision asks Pillow for a name that it no longer has."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-22", "data-pillow-version", "0.2"
TITLE = "ImportError: cannot import name 'PILLOW_VERSION' from 'PIL'"
RAISES = ("ImportError",)
NEEDLES = ("cannot import name 'PILLOW_VERSION'",)
PATTERNS = (r"cannot import name 'PILLOW_VERSION'(?: from 'PIL'(?: \((?P<path>[^)\n]*)\))?)?",)
OLD = ("ImportError: cannot import name 'PILLOW_VERSION'",)
WHY = "Pillow 7 removed `PILLOW_VERSION`; torchvision before 0.5 and a few other old packages import it. An old Pillow would make it run again and has known security holes; newer torchvision asks for `PIL.__version__`."
CHECK = 'The file in the traceback that imports it; `pip list | grep -i -E "pillow|torchvision"`.'


def explain(event: Event) -> Iterator[Cause]:
    """Which package imports it, from the frames."""
    package = _package(event)
    yield Cause(
        CODE,
        NAME,
        what=f"{package or 'an old package'} imports PILLOW_VERSION, which Pillow has no more",
        why="Pillow 7 removed it; torchvision asks for another name since 0.5",
        fix=(
            f"pip install -U {package or 'torchvision'}",
            'pip install "pillow<7"   # only for an old environment that has to stay as it is: it has known security holes',
            "from PIL import __version__   # in place of PILLOW_VERSION, if it is your own line",
        ),
        likelihood="certain",
    )


def _package(event: Event) -> str:
    for frame in reversed(event.frames):
        if "PILLOW_VERSION" in frame.code and "-packages" in frame.path:
            return frame.path.replace("\\", "/").partition("-packages/")[2].partition("/")[0].removesuffix(".py")
    return ""


EXAMPLE = """
from PIL import PILLOW_VERSION

print(PILLOW_VERSION)
"""
MENDED = """
from PIL import __version__

print(__version__)
"""
REQUIRES = ("PIL",)
MESSAGE = "ImportError: cannot import name 'PILLOW_VERSION' from 'PIL' (/opt/venv/lib/python3.11/site-packages/PIL/__init__.py)"
