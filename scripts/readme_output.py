"""Run the commands of the README and paste what they really print; write the table of settings: `make readme`.

In a block that follows the line `<!-- real output, ... -->`, each line that starts with `$ ` is a command; they run one
after the other, in one folder, and what stands between them is replaced. The page `docs/configure.md` gets its table
from the list of settings itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rekindle.recipes.config import SETTINGS, Setting, toml_value

ROOT = Path(__file__).parent.parent
MARK = "<!-- real output, written by scripts/readme_output.py -->\n"
BLOCK = re.compile(re.escape(MARK) + r"```console\n(.*?)```\n", re.DOTALL)
TABLE = re.compile(r"(<!-- settings: begin -->\n).*(<!-- settings: end -->\n)", re.DOTALL)


def main() -> int:
    """Rewrite both pages."""
    page = ROOT / "docs" / "configure.md"
    page.write_text(with_table(page.read_text()))
    readme = ROOT / "README.md"
    with tempfile.TemporaryDirectory() as folder:
        text = BLOCK.sub(lambda found: f"{MARK}```console\n{_outputs(found[1], folder)}```\n", readme.read_text())
    readme.write_text(text)
    return 0


def with_table(page: str) -> str:
    """Return the page of settings with its table made new."""
    return TABLE.sub(lambda found: found[1] + settings_table() + found[2], page)


def settings_table() -> str:
    """Return the settings as a table in Markdown."""
    rows = [f"| `{s.name}` | {_allowed(s)} | `{toml_value(s.default)}` | {s.means} |" for s in SETTINGS]
    return "\n".join(["| setting | is | default | means |", "| --- | --- | --- | --- |", *rows]) + "\n"


def _allowed(setting: Setting) -> str:
    if setting.words:
        return ", ".join(f"`{word}`" for word in setting.words)
    bounds = [
        words + f" {bound:g}"
        for words, bound in (
            ("at least", setting.least),
            ("above", setting.above),
            ("at most", setting.most),
            ("below", setting.below),
        )
        if bound is not None
    ]
    kind = {"integer": "whole number", "switch": "true or false", "numbers": "array of numbers"}
    return ", ".join([kind.get(setting.kind, setting.kind), *bounds])


def _outputs(block: str, folder: str) -> str:
    lines = [line for line in block.splitlines() if line.startswith("$ ")]
    return "".join(f"{line}\n{_output(line[2:], folder)}" for line in lines)


def _output(command: str, folder: str) -> str:
    """Run one command as a shell does and return what it prints, the terminal's colours left out."""
    print(f"$ {command}", file=sys.stderr, flush=True)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
    }
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    shown = done.stdout.replace(folder, "~")
    if done.returncode == 137 and not shown.endswith("Killed\n"):
        shown += "Killed\n"
    return shown


if __name__ == "__main__":
    sys.exit(main())
