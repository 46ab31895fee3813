"""Where in the user's script something stands."""

from __future__ import annotations

import sys
import threading
from types import ModuleType

import pytest

from rekindle.parallel.standing import place_of, where_main_thread_is

SCRIPT = """
import json
def load(text):
    return json.loads(text)
"""


@pytest.fixture
def script(tmp_path):
    """A script's functions, and its path."""
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    names: dict = {}
    exec(compile(SCRIPT, path, "exec"), names)
    return names["load"], str(path)


def test_an_error_deep_in_a_library_stands_at_the_line_of_the_script_that_called_it(script):
    load, path = script
    with pytest.raises(ValueError, match="Expecting") as caught:
        load("nonsense")
    assert place_of(caught.value.__traceback__, path) == "train.py, line 4, in load"


def test_where_nothing_is_the_scripts_it_is_the_innermost_place_of_all(tmp_path):
    with pytest.raises(ValueError, match="Expecting") as caught:
        __import__("json").loads("nonsense")
    assert place_of(caught.value.__traceback__, str(tmp_path / "else.py")).startswith("decoder.py, line ")
    assert place_of(None, "train.py") == ""


def test_another_thread_sees_where_the_main_one_is(script, monkeypatch):
    load, path = script
    main = ModuleType("__main__")
    main.__file__ = path
    monkeypatch.setitem(sys.modules, "__main__", main)
    seen = []

    class Slow(str):
        """What `json.loads` asks about while it is at work."""

        __slots__ = ()

        def startswith(self, *words):
            look = threading.Thread(target=lambda: seen.append(where_main_thread_is()))
            look.start()
            look.join(10)
            return str.startswith(self, *words)

    assert load(Slow("1")) == 1
    assert seen == ["train.py, line 4, in load"]


def test_a_process_without_a_script_says_where_it_is_all_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    assert ".py, line " in where_main_thread_is()
