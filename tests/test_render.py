"""Text for people and JSON for programs: nothing from a file may act on a terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.finding import Finding, Severity, Where
from rekindle.render import Paint, escape, finding_lines, findings_json, human_bytes, to_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layer1.0.weight", "layer1.0.weight"),
        ("Größe 漢字", "Größe 漢字"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\nb\r\tc\x00", r"a\x0ab\x0d\x09c\x00"),
        ("\x7f\x9b31m", r"\x7f\x9b31m"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("line\u2028sep", r"line\u2028sep"),
        ("\ud800lone", r"\ud800lone"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("blank\u3164\u2800", r"blank\u3164\u2800"),
    ],
)
def test_what_could_act_is_shown_as_its_code(text: str, shown: str):
    assert escape(text) == shown


def test_long_texts_are_cut():
    assert escape("x" * 300) == "x" * 200 + "…"
    assert len(escape("\x1b" * 300)) == 201


@given(st.text(st.characters(codec=None)))
def test_an_escaped_text_is_one_short_printable_line(text: str):
    shown = escape(text)
    assert len(shown) <= 201
    assert shown.isprintable()
    assert not any(unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for letter in shown)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (44_730_608, "44.7 MB"),
        (999_960, "1.0 MB"),
        (10**19, "10,000.0 PB"),
    ],
)
def test_bytes_have_decimal_units(count: int, shown: str):
    assert human_bytes(count) == shown


FINDING = Finding(
    "RK-FILE-04",
    "truncated-archive",
    Severity.ERROR,
    "m.pth: cut\x1b[2J",
    "the copy stopped",
    "copy again",
    Where("d", 3),
)


def test_a_finding_has_three_parts():
    assert finding_lines(FINDING, "m.pth") == [
        r"error  m.pth: cut\x1b[2J  [RK-FILE-04]",
        "  why     the copy stopped",
        "  do      copy again",
    ]
    assert finding_lines(Finding("C", "n", Severity.NOTE, "fact"), "x.pt") == ["note  x.pt: fact  [C]"]


def test_a_finding_in_json_keeps_the_words_exactly():
    (found,) = findings_json([FINDING])
    assert found["what"] == "m.pth: cut\x1b[2J"
    assert found["where"] == {"member": "d", "offset": 3}
    assert found["severity"] == "error"


def test_json_is_ascii_without_control_characters():
    value = {"key\x7f\x1b\u202e\ud800": "ü\n"}
    text = to_json(value)
    assert text.isascii()
    assert not any(ord(letter) < 32 and letter != "\n" for letter in text)
    assert "\x7f" not in text
    assert json.loads(text) == value


def test_colours_only_where_they_are_wanted():
    assert Paint(on=False).bold("x") == "x"
    assert Paint(on=True).severity(Severity.ERROR, "x") == "\x1b[1;31mx\x1b[0m"
    assert all(Paint(on=True).severity(severity, "x") != "x" for severity in Severity)
