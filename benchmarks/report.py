"""What every benchmark of files prints and keeps: command, date, versions, processor, and its table."""

from __future__ import annotations

import datetime as dt
import os
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "safetensors", "numpy")


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "")
    except OSError:
        model = platform.processor()
    return f"{model or 'unknown processor'}, {os.cpu_count()} cores"


def versions(more=()):
    found = [f"Python {platform.python_version()}"]
    for name in (*PACKAGES, *more):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def header(name, options, more=()):
    """Return the lines above a table; `more` are packages whose versions belong there too."""
    day = dt.datetime.now(dt.UTC).date().isoformat()
    return f"## {day}\n\n    python benchmarks/{name}.py {options}\n\n{processor()}; {versions(more)}\n"


def write_result(name, lines):
    """Print the lines, and put them behind what earlier runs left in `benchmarks/results/<name>.md`."""
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{name}.md")
    if not os.path.exists(path):
        lines = [f"# {name.capitalize()}\n", *lines]
    with open(path, "a", encoding="utf-8") as out:
        out.write("\n".join(lines) + "\n\n")
    print("\n".join(lines))
