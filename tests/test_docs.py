"""The documentation is true: every block is tried, every command, option and public name is described."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_scripts import Scripts

import rekindle
from rekindle.cli import command_names
from rekindle.recipes.config import read_settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*kinds: str) -> Iterator[pytest.param]:
    for page in PAGES:
        for number, (kind, text) in enumerate(BLOCK.findall(page.read_text()), 1):
            if kind in kinds:
                yield pytest.param(page, text, id=f"{page.name}-{number}")


def command_lines() -> Iterator[pytest.param]:
    """Every line that is a call of rekindle, in blocks and in indented text, without the shell around it."""
    for page in PAGES:
        for line in page.read_text().splitlines():
            found = re.match(r"(?:    |\$ |)(?:timeout -s KILL \d+ )?(rekindle [a-z].*)", line)
            if found and not line.startswith("rekindle "):
                yield pytest.param(found[1], id=f"{page.name}: {found[1]}")


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scripts():
    """What runs scripts, started when the first one needs it."""
    made: list[Scripts] = []

    def get() -> Scripts:
        if not made:
            made.append(Scripts())
        return made[0]

    yield get
    for one in made:
        one.close()


def test_the_pages_were_found():
    assert len(PAGES) > 7
    assert len(list(blocks("python"))) > 4
    assert len(list(command_lines())) > 10


@pytest.mark.parametrize("line", list(command_lines()))
def test_every_command_line_is_one_that_rekindle_accepts(line):
    words = shlex.split(re.split(r" [|>&]|    | 2>", line)[0], comments=True)
    name, rest = words[1], words[2:]
    assert name in command_names(), f"no command {name}"
    parser = argparse.ArgumentParser(exit_on_error=False)
    command = importlib.import_module(f"rekindle.cli.{name}")
    command.add_arguments(parser)
    parser.parse_args(rest)


@pytest.mark.parametrize(("page", "text"), list(blocks("python")))
def test_every_python_block_runs_or_is_part_of_one_that_does(tmp_path, scripts, page, text):
    """A block that imports rekindle is a whole script and is run; another one must at least be valid Python."""
    compile(text, str(page), "exec")
    if "import rekindle" not in text:
        return
    pytest.importorskip("torch")
    (tmp_path / "script.py").write_text(text)
    done = scripts().run(tmp_path / "script.py")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "text"), list(blocks("toml")))
def test_every_file_of_settings_is_one_that_is_accepted(tmp_path, page, text):
    (tmp_path / "my.toml").write_text(text)
    assert tomllib.loads(text)
    read_settings(str(tmp_path / "my.toml"))


@pytest.mark.parametrize(("page", "text"), list(blocks("json")))
def test_every_json_block_is_json(page, text):
    json.loads(text)


def test_every_block_is_of_a_kind_that_is_tried():
    kinds = {kind for page in PAGES for kind, _ in BLOCK.findall(page.read_text())}
    assert kinds <= {"python", "toml", "json", "console", "sh", "text"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", command_names())
def test_every_command_has_a_page_that_describes_all_of_its_options(name):
    page = ROOT / "docs" / f"{name}.md"
    assert page.exists()
    text = page.read_text()
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"rekindle.cli.{name}").add_arguments(parser)
    options = [option for option in parser._option_string_actions if option.startswith("--")]
    assert [option for option in options if option not in text] == []


@pytest.mark.parametrize("name", [name for name in rekindle.__all__ if not name.startswith("__")])
def test_every_public_name_is_described(name):
    assert any(f"rk.{name}" in page.read_text() for page in PAGES)


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in index and page.name != "index.md"]
    assert missing == []


def test_the_table_of_settings_is_made_from_the_settings():
    page = (ROOT / "docs" / "configure.md").read_text()
    assert load_script("readme_output").with_table(page) == page


def test_the_output_in_the_readme_was_pasted():
    script = load_script("readme_output")
    pasted = script.BLOCK.findall((ROOT / "README.md").read_text())
    assert pasted
    for block in pasted:
        commands = [line for line in block.splitlines() if line.startswith("$ ")]
        assert len(block.splitlines()) > len(commands), block


def test_the_readme_shows_the_words_that_training_prints_now():
    """The fixed parts of the journey's last lines, from the program itself, stand in the README."""
    readme = (ROOT / "README.md").read_text()
    for words in ("goes on after step", "test accuracy ", "rekindle inspect runs/digits", "tensorboard --logdir"):
        assert words in readme


def test_every_library_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    needs = [*project["project"]["dependencies"], *(need for extra in extras for need in extra)]
    names = {re.split(r"[>=\[]", need)[0] for need in [*needs, *project["build-system"]["requires"]]} - {"rekindle"}
    text = (ROOT / "docs" / "dependencies.md").read_text()
    assert sorted(name for name in names if name not in text) == []


@pytest.mark.parametrize("example", ["interrupted_lenet.py", "regression.py"])
def test_the_examples_do_what_they_say(tmp_path, example):
    pytest.importorskip("sklearn")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example), str(tmp_path / "out")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("equal, bit for bit")


def first_run_block(page: Path) -> str:
    return next(text for kind, text in BLOCK.findall(page.read_text()) if kind == "python" and "rk.Run(" in text)


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", pytest.param(ROOT / "docs" / "training-loop.md", marks=pytest.mark.soak)],
    ids=lambda page: page.name,
)
def test_the_loop_that_we_show_is_proven(tmp_path, page):
    pytest.importorskip("torch")
    (tmp_path / "script.py").write_text(first_run_block(page))
    command = [sys.executable, "-m", "rekindle", "prove", "--kills", "2", "--", sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("proven")
