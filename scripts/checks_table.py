"""Write docs/checks.md from the code: what `rekindle doctor` looks for, with code, name and reason.

    python scripts/checks_table.py           write the page
    python scripts/checks_table.py --check   say whether it is as the code has it

The checks are asked; what readers say of containers is found in their source, where each finding is made.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

from rekindle.checks import check_modules

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "checks.md"
READERS = ("formats", "unpickling", "listing.py")
_CODE = re.compile(r"RK-FILE-\d\d")


def page() -> str:
    """Return the page."""
    lines = [
        "# What is looked for",
        "",
        "`rekindle doctor` shows what the readers of containers found and what these checks find. Codes and names",
        "never change their meaning. The page is made from the code by `scripts/checks_table.py`.",
        "",
        "## Checks",
        "",
        "| code | name | what it is | why |",
        "| --- | --- | --- | --- |",
    ]
    for check in check_modules():
        title = (inspect.getdoc(check) or "").splitlines()[0].rstrip(".")
        lines.append(f"| {check.CODE} | `{check.NAME}` | {_cell(title)} | {_cell(_why(check.WHY))} |")
    lines += ["", "## What readers say of a container", "", "| code | name |", "| --- | --- |"]
    lines += [f"| {code} | {', '.join(f'`{name}`' for name in names)} |" for code, names in reader_codes().items()]
    return "\n".join(lines) + "\n"


def reader_codes() -> dict[str, list[str]]:
    """Return code -> names of the findings that readers make: the text that follows a code in a call."""
    found: dict[str, set[str]] = {}
    source = ROOT / "src" / "rekindle"
    for path in sorted(file for place in READERS for file in [source / place, *(source / place).glob("*.py")]):
        if path.suffix != ".py":
            continue
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call):
                for first, second in zip(call.args, call.args[1:], strict=False):
                    codes, names = _texts(first), _texts(second)
                    for code in codes:
                        if _CODE.fullmatch(code):
                            index = codes.index(code) if len(names) == len(codes) else 0
                            found.setdefault(code, set()).update(names[index : index + 1])
    return {code: sorted(found[code]) for code in sorted(found)}


def _texts(node: ast.expr) -> list[str]:
    """Return the constant texts of an argument: itself, or the branches of a choice."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body), *_texts(node.orelse)]
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in _texts(value)]
    return []


def _why(text: str) -> str:
    """Return a reason without its places for names; a reason that is only a place has nothing to say here."""
    return "" if re.fullmatch(r"\{\w+\}", text) else re.sub(r"`?\{(\w+)\}`?", r"*\1*", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    made = page()
    if "--check" in sys.argv[1:]:
        sys.exit(0 if PAGE.exists() and PAGE.read_text() == made else f"{PAGE.name} is not as the code has it")
    PAGE.write_text(made)
