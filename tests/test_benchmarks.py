"""Benchmarks are commands like any other: each says what it measures, takes options, and keeps its results."""

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.glob("[a-z]*.py") if path.name != "report.py")


def test_the_benchmarks_are_there():
    assert len(SCRIPTS) > 12


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_shows_its_command_and_answers_help_before_it_works(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert f"python benchmarks/{path.name}" in (ast.get_docstring(tree) or "")
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    calls = [node.func.attr for node in ast.walk(main) if isinstance(node, ast.Call) and hasattr(node.func, "attr")]
    assert "parse_args" in calls
    words = [word for node in ast.walk(main) if isinstance(node, ast.Call) for word in node.keywords]
    assert any(word.arg == "description" for word in words)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_keeps_its_results_where_the_others_do(path):
    text = path.read_text(encoding="utf-8")
    assert "write_result(" in text
    assert f'"{path.stem}"' in text
