"""One tree of errors, each in three parts."""

from __future__ import annotations

import pytest

from rekindle import errors
from rekindle.errors import RekindleError


def test_the_text_has_three_parts():
    error = RekindleError("m.pth: cut short", why="the copy stopped", do="copy it again", code="RK-FILE-04")
    assert str(error) == "m.pth: cut short  [RK-FILE-04]\n  why     the copy stopped\n  do      copy it again"
    assert str(RekindleError("only this")) == "only this"


@pytest.mark.parametrize("name", errors.__all__)
def test_each_class_is_in_the_tree_and_in_its_picture(name: str):
    kind = getattr(errors, name)
    assert issubclass(kind, RekindleError)
    assert name in (errors.__doc__ or "")


def test_a_careful_caller_catches_the_builtin():
    assert issubclass(errors.NotAModel, ValueError)
    assert issubclass(errors.RunLocked, RuntimeError)
