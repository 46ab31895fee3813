"""Write what is made from the catalogue of errors: its index, docs/errors/, and the outputs in docs/explain.md.

    python scripts/error_pages.py           write _index.py, docs/errors/*.md, their list and the outputs
    python scripts/error_pages.py --check   say what is not as the catalogue has it

The index is what a log is searched for before any entry is imported. Run it after each change of an entry.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path

from rekindle.explain.catalogue import Heading, entry, entry_names, heading_of
from rekindle.explain.page import page_of
from rekindle.explain.report import explain_text
from rekindle.explain.words import report_lines

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "errors"
INDEX = ROOT / "src" / "rekindle" / "explain" / "catalogue" / "_index.py"
FAMILIES = {
    "LOAD": "Reading and writing checkpoints",
    "SHAPE": "Shapes and indices",
    "DTYPE": "Types of numbers",
    "DEV": "Devices and memory",
    "GRAD": "Gradients",
    "LOSS": "Losses and labels",
    "DATA": "Data sets and loaders",
    "DIST": "Several processes",
    "AMP": "Mixed precision",
    "COMPILE": "Tracing and compiling",
    "MISC": "Modules, tensors, installation",
}


def made() -> dict[Path, str]:
    """Return every file that is made, and its text."""
    found = [heading_of(name, entry(name)) for name in entry_names()]
    found.sort(key=lambda heading: heading.code)
    files = {INDEX: _index(found), PAGES / "index.md": _list(found)}
    for heading in found:
        files[PAGES / f"{heading.name}.md"] = page_of(heading)
    page = ROOT / "docs" / "explain.md"
    if page.exists():
        files[page] = with_outputs(page.read_text())
    return files


def with_outputs(text: str) -> str:
    """Return docs/explain.md with what the command and the count of the corpus print now."""
    for block, output in (("console\n$ rekindle explain train.log\n", _example()), ("text\nlogs  ", _counts())):
        start = "```" + block
        if text.count(start) != 1:
            raise SystemExit(f"docs/explain.md has no block that begins with {start!r}")
        before, _, rest = text.partition(start)
        kept = start if block.startswith("console") else "```text\n"
        text = f"{before}{kept}{output}\n```{rest.partition('```')[2]}"
    return text


def _example() -> str:
    log = (ROOT / "tests" / "logs" / "plain" / "linear.log").read_text()
    return "\n".join(report_lines(explain_text(log)))


def _counts() -> str:
    spec = importlib.util.spec_from_file_location("explain_corpus", ROOT / "scripts" / "explain_corpus.py")
    assert spec is not None
    assert spec.loader is not None
    corpus = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(corpus)
    return "\n".join(corpus.lines())


def stale() -> list[str]:
    """Return what is missing, different or left over, by its path."""
    files = made()
    wrong = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    wrong += [path for path in PAGES.glob("*.md") if path not in files]
    return [str(path.relative_to(ROOT)) for path in wrong]


def _index(found: list[Heading]) -> str:
    lines = [
        '"""What each entry looks for; made by ``python scripts/error_pages.py``, not by hand."""',
        "",
        "from __future__ import annotations",
        "",
        "# fmt: off",
        "INDEX: dict[str, tuple[str, str, str, tuple[str, ...], tuple[str, ...]]] = {",
    ]
    for heading in sorted(found, key=lambda heading: heading.module):
        row = (heading.code, heading.name, heading.title, heading.raises, heading.needles)
        lines.append(f"    {heading.module!r}: {row!r},  # noqa: E501")
    return "\n".join([*lines, "}", "# fmt: on", ""])


def _list(found: list[Heading]) -> str:
    lines = [
        "# Errors, by their message",
        "",
        "One page an error, made from the same lines that explain it. `rekindle explain CODE` prints the page.",
    ]
    for family, title in FAMILIES.items():
        rows = [heading for heading in found if heading.code.split("-")[1] == family]
        if rows:
            lines += ["", f"## {title}", "", "| code | message | what it is |", "| --- | --- | --- |"]
            lines += [
                f"| [{row.code}]({row.name}.md) | `{_cell(row.title)}` | {_cell(_first_line(row))} |" for row in rows
            ]
    return "\n".join(lines) + "\n"


def _first_line(heading: Heading) -> str:
    return (inspect.getdoc(entry(heading.module)) or "").splitlines()[0].rstrip(".")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")


def main() -> None:
    """Write, or with --check compare."""
    if "--check" in sys.argv[1:]:
        wrong = stale()
        sys.exit(f"not as the catalogue has it: {', '.join(wrong[:20])}" if wrong else 0)
    files = made()
    PAGES.mkdir(parents=True, exist_ok=True)
    for path in PAGES.glob("*.md"):
        if path not in files:
            path.unlink()
    for path, text in files.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


if __name__ == "__main__":
    main()
