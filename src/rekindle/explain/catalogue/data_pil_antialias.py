"""Pillow 10 removed the old names of its filters."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-23", "data-pil-antialias", "0.2"
TITLE = "AttributeError: module 'PIL.Image' has no attribute 'ANTIALIAS'"
RAISES = ("AttributeError",)
NEEDLES = (
    "module 'PIL.Image' has no attribute",
    "module 'PIL' has no attribute",
    "has no attribute 'getsize'",
    "has no attribute 'textsize'",
)
PATTERNS = (
    r"module 'PIL\.Image' has no attribute '(?P<name>ANTIALIAS|LINEAR|CUBIC|FLIP_LEFT|ANTIALIAS_\w+)'",
    r"'(?P<kind>FreeTypeFont|ImageDraw)' object has no attribute '(?P<name>getsize|textsize|getoffset)'",
)
OLD = (
    "AttributeError: 'FreeTypeFont' object has no attribute 'getsize'",
    "AttributeError: 'ImageDraw' object has no attribute 'textsize'",
)
WHY = "Pillow 10 removed names that had been deprecated since 2.7: `Image.ANTIALIAS` is `Image.LANCZOS`, `LINEAR` is `BILINEAR`, `CUBIC` is `BICUBIC`; `getsize` and `textsize` became `getbbox` and `textbbox`."
CHECK = "Whose line it is: your own, or that of a package that has a newer version."


def explain(event: Event) -> Iterator[Cause]:
    """The new name, and whose line it is."""
    name = event.facts["name"]
    new = {
        "ANTIALIAS": "Image.LANCZOS",
        "LINEAR": "Image.BILINEAR",
        "CUBIC": "Image.BICUBIC",
        "getsize": "font.getbbox(text)",
        "textsize": "draw.textbbox((0, 0), text)",
    }.get(name, "")
    last = event.frames[-1] if event.frames else None
    package = (
        last.path.replace("\\", "/").partition("-packages/")[2].partition("/")[0] if last and not last.is_users else ""
    )
    fix = [f"{new}   # in place of {name}"] if new else []
    fix.insert(
        0 if package else len(fix),
        f"pip install -U {package or 'PACKAGE'}   # {'the line is its own' if package else 'if the line is of a package and not yours'}",
    )
    yield Cause(
        CODE,
        NAME,
        what=f"{name} was removed in Pillow 10",
        why=f"{f'{new} is the same filter under the name that stays' if new.startswith('Image') else f'{new} took its place' if new else 'newer versions have another name'}",
        fix=tuple(fix),
        likelihood="certain",
    )


EXAMPLE = """
from PIL import Image

Image.new("RGB", (8, 8)).resize((4, 4), Image.ANTIALIAS)
"""
MENDED = """
from PIL import Image

Image.new("RGB", (8, 8)).resize((4, 4), Image.LANCZOS)
"""
REQUIRES = ("PIL",)
MESSAGE = "AttributeError: module 'PIL.Image' has no attribute 'ANTIALIAS'"
