"""Write the table in docs/pitfalls.md from the code: every pitfall with code, name and reason.

python scripts/pitfalls_table.py           write it
python scripts/pitfalls_table.py --check   say whether it is as the code has it
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from rekindle.pitfalls import pitfall_modules

PAGE = Path(__file__).parent.parent / "docs" / "pitfalls.md"
BEGIN, END = "<!-- made by scripts/pitfalls_table.py -->\n", "<!-- end -->\n"


def table() -> str:
    """Return the table."""
    lines = ["| code | name | what it is | why |", "| --- | --- | --- | --- |"]
    for pitfall in pitfall_modules():
        title = (inspect.getdoc(pitfall) or "").splitlines()[0].rstrip(".")
        why = "" if re.fullmatch(r"\{\w+\}", pitfall.WHY) else re.sub(r"\{(\w+)\}", r"*\1*", pitfall.WHY)
        lines.append(f"| {pitfall.CODE} | `{pitfall.NAME}` | {_cell(title)} | {_cell(why)} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """Return the page with the table as the code has it."""
    before, found, rest = page.partition(BEGIN)
    if not found or END not in rest:
        sys.exit(f"{PAGE.name} has no place for the table")
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    made = with_table(PAGE.read_text())
    if "--check" in sys.argv[1:]:
        sys.exit(0 if PAGE.read_text() == made else f"{PAGE.name} is not as the code has it")
    PAGE.write_text(made)
