"""The lines of settings: right wherever TOML lets a setting stand."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from rekindle.recipes.toml_lines import lines_of

EVERYWHERE = r'''# a comment with = and [brackets]
plain = 1
"quoted = key" = 2          # behind
'literal.key' = 3
a.b . "c" = 4
text = "with \" # [ = inside"
several = """
line 8 of the file
"""
literal = \'\'\'
x = 1
\'\'\'
fenced = """two quotes at the end"""""
numbers = [
  1,  # one

  [ 2, 3,
    4 ],
  "]",
]
inline = { x = 1, y = [ 5, { z = 6 } ] }
[table]
  deep = true
[table.inner]
date = 1979-05-27T07:32:00Z
[[rows]]
name = "first"
[[rows]]
name = "second"
[rows.part]
size = 1
[[rows.cells]]
v = 1
[[rows.cells]]
v = 2
'''.replace("\\'", "'")

EXPECTED = {
    ("plain",): 2,
    ("quoted = key",): 3,
    ("literal.key",): 4,
    ("a", "b", "c"): 5,
    ("a", "b"): 5,
    ("text",): 6,
    ("several",): 7,
    ("literal",): 10,
    ("fenced",): 13,
    ("numbers",): 14,
    ("numbers", 0): 15,
    ("numbers", 1): 17,
    ("numbers", 1, 1): 17,
    ("numbers", 1, 2): 18,
    ("numbers", 2): 19,
    ("inline", "y", 1, "z"): 21,
    ("table",): 22,
    ("table", "deep"): 23,
    ("table", "inner", "date"): 25,
    ("rows",): 26,
    ("rows", 0): 26,
    ("rows", 0, "name"): 27,
    ("rows", 1, "name"): 29,
    ("rows", 1, "part", "size"): 31,
    ("rows", 1, "cells", 0, "v"): 33,
    ("rows", 1, "cells", 1, "v"): 35,
}


def paths_of(value, path=()):
    """Every path that a parsed document has, from tomllib's own answer."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in parts:
        yield from paths_of(inner, (*path, name))


def test_every_setting_has_the_line_it_stands_in():
    found = lines_of(EVERYWHERE)
    assert {path: found.get(path) for path in EXPECTED} == EXPECTED


def test_every_setting_that_tomllib_sees_has_a_line_and_no_other_has():
    assert set(lines_of(EVERYWHERE)) == set(paths_of(tomllib.loads(EVERYWHERE)))


def test_windows_line_ends_count_once():
    assert lines_of("a = 1\r\nb = 2\r\n\r\nc = 3")[("c",)] == 4


def test_an_empty_file_has_no_settings():
    assert lines_of("") == {(): 1}


text = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=8)
basic = text.map(lambda t: '"' + t.replace("\\", "\\\\").replace('"', '\\"') + '"')
fenced = st.lists(text.map(lambda t: t.replace("\\", "").replace('"', "")), min_size=1, max_size=3).map(
    lambda rows: '"""' + "\n".join(rows) + '"""'
)
scalar = st.one_of(st.integers().map(str), st.sampled_from(["true", "-inf", "1e5", "'lit # ['"]), basic, fenced)
gap = st.sampled_from(["", " ", "\n", " # note ] }\n", "\n\n\t"])
value = st.recursive(
    scalar,
    lambda inner: st.one_of(
        st.lists(st.tuples(gap, inner, gap), max_size=3).map(
            lambda c: "[" + ",".join(a + b + d for a, b, d in c) + "]"
        ),
        st.lists(inner, max_size=3).map(lambda c: "{ " + ", ".join(f"k{i} = {v}" for i, v in enumerate(c)) + " }"),
    ),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.sampled_from(["", "\n", "# c\n", "[t{}]\n", "[[rows]]\n"]), value), max_size=6))
def test_lines_of_any_document_are_those_it_was_written_with(parts):
    document, expected, prefix, rows = "", {}, (), 0
    for number, (before, content) in enumerate(parts):
        document += before.format(number)
        if before.startswith("[t"):
            prefix = (f"t{number}",)
        if before.startswith("[[rows"):
            prefix, rows = ("rows", rows), rows + 1
        expected[(*prefix, f"key{number}")] = document.count("\n") + 1
        document += f"key{number} = {content}\n"
    found = lines_of(document)
    assert {path: found[path] for path in expected} == expected
    assert set(found) == set(paths_of(tomllib.loads(document)))
