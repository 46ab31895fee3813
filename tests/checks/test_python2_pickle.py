"""Pickles that Python 2 wrote."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from doctoring import found, shown

MAGIC = 0x1950A86A20F9469CFC6C
MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def write(text: bytes) -> None:
    """Write m.pth: a dict with one text as Python 2 pickled it, SHORT_BINSTRING."""
    object_ = b"\x80\x02}U\x04name" + b"U" + bytes([len(text)]) + text + b"s."
    head = b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, MACHINE))
    Path("m.pth").write_bytes(head + object_ + pickle.dumps([], 2))


def test_a_text_that_is_not_utf8_stops_torch_and_is_shown_with_its_place():
    write(b"caf\xe9")
    with pytest.raises(UnicodeDecodeError, match="can't decode byte 0xe9"):
        torch.load("m.pth")
    start = Path("m.pth").read_bytes().index(b"U\x04caf")
    assert shown("m.pth", "python2-pickle") == (
        f"warning  m.pth: a pickle of Python 2: 2 of its texts are byte strings, and some are not UTF-8 (byte 0xe9 at "
        f"{start} of the object)  [RK-FILE-80]\n"
        "  why     Python 2 wrote texts as bytes; those that are not UTF-8 stop torch.load with `UnicodeDecodeError: "
        "'utf-8' codec can't decode byte`\n"
        "  do      rekindle doctor m.pth --fix m.fixed.pth     (or torch.load('m.pth', encoding=\"latin1\"))"
    )
    assert torch.load("m.fixed.pth") == {"name": b"caf\xe9"}


def test_plain_texts_of_python_2_are_a_note():
    write(b"cafe")
    assert torch.load("m.pth") == {"name": "cafe"}
    (finding,) = found("m.pth", "python2-pickle")
    assert finding.severity.value == "note"


def test_bytes_of_python_3_are_no_texts_of_python_2():
    torch.save({"name": b"caf\xe9", "w": torch.ones(1)}, "m.pth")
    assert found("m.pth", "python2-pickle") == []
