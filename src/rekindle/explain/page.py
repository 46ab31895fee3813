"""The long page of one error, from the same lines that explain it; and of the codes that `doctor` shows.

`rekindle explain RK-SHAPE-01` prints the page that `docs/errors/` holds. Codes of the file side (RK-FILE) have theirs
from the check that finds them, or from the words of the readers that do.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable

from rekindle.explain.catalogue import Entry, Heading, entry, headings

TYPE_CHECKING = False  # type checkers read it as True
if TYPE_CHECKING:
    import ast

__all__ = ["file_page", "find_heading", "known_words", "page_of"]


def find_heading(word: str) -> Heading | None:
    """Return the entry of a code or a name, in any case; None where there is none."""
    wanted = word.lower()
    return next((heading for heading in headings() if wanted in (heading.code.lower(), heading.name)), None)


def known_words() -> list[str]:
    """Return every code and every name."""
    return [word for heading in headings() for word in (heading.code, heading.name)]


def page_of(heading: Heading) -> str:
    """Return the long page of an entry, as Markdown."""
    found = entry(heading.module)
    title = (inspect.getdoc(found) or found.NAME).splitlines()[0]
    lines = [f"# {found.TITLE}", "", f"`{found.CODE}` `{found.NAME}`: {title}", "", "## Why", "", found.WHY]
    if found.CHECK:
        lines += ["", "## How to make sure", "", found.CHECK]
    needs = [word for word in found.REQUIRES if word != "process"]
    note = f" (needs {', '.join(needs)})" if needs else ""
    if found.EXAMPLE.strip():
        ends = "fails" if found.RAISES else "shows it"
        lines += ["", f"## An example that {ends}{note}", "", "```python", found.EXAMPLE.strip(), "```"]
    if found.MESSAGE.strip():
        lines += ["", "It prints", "", "```text", found.MESSAGE.strip(), "```"]
    if found.MENDED.strip():
        lines += ["", "## Mended", "", "```python", found.MENDED.strip(), "```"]
    texts = _other_wordings(found)
    if texts:
        lines += ["", "## Also worded", "", "```text", *texts, "```"]
    return "\n".join(lines) + "\n"


def _other_wordings(found: Entry) -> list[str]:
    return list(dict.fromkeys(text.strip() for text in found.OLD))


def file_page(word: str) -> str:
    """Return the page of a code or name that `rekindle doctor` shows; empty where there is none."""
    from rekindle.checks import check_modules  # noqa: PLC0415 - only for a code of files

    wanted = word.lower()
    for check in check_modules():
        if wanted in (check.CODE.lower(), check.NAME):
            title = (inspect.getdoc(check) or check.NAME).splitlines()[0]
            return "\n".join(
                [
                    f"# {title.rstrip('.')}",
                    "",
                    f"`{check.CODE}` `{check.NAME}`: a finding of `rekindle doctor FILE`.",
                    *_section("Why", check.WHY),
                    *_section("What to do", check.DO),
                    "",
                ]
            )
    return _reader_page(word.upper()) if wanted.startswith("rk-file-") else ""


def _reader_page(code: str) -> str:
    """Return the page of a code that readers of containers give; empty where none does.

    A reader makes its findings where it meets them, so their words are looked up in the readers' own source.
    """
    import ast  # noqa: PLC0415 - only for such a code

    names: dict[str, None] = {}
    reasons: dict[str, None] = {}
    for path in _reader_sources():
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if code not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and code in _constants([*node.args[:1], *_named(node, "code")]):
                names.update(dict.fromkeys(_constants([*node.args[1:2], *_named(node, "name")])))
                reasons.update(dict.fromkeys(_constants(_named(node, "why"))))
    if not names:
        return ""
    said = [f"- {reason}" for reason in reasons if " " in reason]
    title = " or ".join(name.replace("-", " ") for name in names)
    lines = [f"# {title[:1].upper()}{title[1:]}", "", f"`{code}`: a finding of the readers of containers."]
    lines += ["", "## Why", "", *said] if said else []
    return "\n".join(
        [*lines, "", "## What to do", "", "rekindle doctor FILE: it says where in the file, and what can be typed", ""]
    )


def _reader_sources() -> list[str]:
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    found = [os.path.join(folder, "listing.py")]
    for room in ("formats", "unpickling"):
        found += [os.path.join(folder, room, name) for name in sorted(os.listdir(os.path.join(folder, room)))]
    return [path for path in found if path.endswith(".py")]


def _named(call: ast.Call, name: str) -> list[ast.expr]:
    return [keyword.value for keyword in call.keywords if keyword.arg == name]


def _constants(nodes: Iterable[ast.expr]) -> list[str]:
    """Return the texts that stand as such in expressions: themselves, or the branches of a choice."""
    found: list[str] = []
    for node in nodes:
        kind = type(node).__name__
        if kind == "Constant" and isinstance(getattr(node, "value", None), str):
            found.append(node.value)  # type: ignore[attr-defined] # a Constant, by the line above
        elif kind == "IfExp":
            found += _constants([node.body, node.orelse])  # type: ignore[attr-defined] # an IfExp
        elif kind == "BoolOp":
            found += _constants(node.values)  # type: ignore[attr-defined] # a BoolOp
    return found


def _section(heading: str, template: str) -> list[str]:
    """A section with a check's words; a template that is only a place for words of the case says nothing here."""
    if not template or re.fullmatch(r"\{\w+\}", template):
        return []
    return ["", f"## {heading}", "", re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), template)]
