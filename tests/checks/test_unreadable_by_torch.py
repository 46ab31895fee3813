"""What another version of torch would say."""

from __future__ import annotations

import pytest
import torch
from doctoring import found, shown

from rekindle.errors import ConfigError
from rekindle.verbs.doctor import doctor, torch_version


def test_a_zip_is_too_new_for_1_4_and_the_stream_is_not():
    torch.save({"w": torch.ones(2)}, "m.pth")
    assert shown("m.pth", "unreadable-by-torch", torch="torch==1.4") == (
        "error  m.pth: torch 1.4 cannot read this container: it stops at `Attempted to read a PyTorch file with "
        "version "
        "3, but the maximum supported version for reading is 2`  [RK-FILE-78]\n"
        "  why     a torch reads what it and older ones wrote; this is a zip archive of the kind that torch.save "
        "writes since "
        "1.6\n"
        "  do      rekindle convert m.pth m.torch1.4.pth --to torch-stream"
    )
    assert found("m.torch1.4.pth", "unreadable-by-torch", torch="1.4") == []
    assert torch.equal(torch.load("m.torch1.4.pth")["w"], torch.ones(2))


@pytest.mark.parametrize(("version", "words"), [("1.2", "is a zip archive (did you mean"), ("0.4.1", "key, 'P'")])
def test_each_age_has_its_own_words(version: str, words: str):
    torch.save({"w": torch.ones(2)}, "m.pth")
    (finding,) = found("m.pth", "unreadable-by-torch", torch=version)
    assert words in finding.what


def test_types_that_came_later_are_named_and_no_stream_is_offered():
    torch.save({"w": torch.ones(2, dtype=torch.float8_e4m3fn), "b": torch.ones(2).bfloat16()}, "m.pth")
    findings = found("m.pth", "unreadable-by-torch", torch="1.1")
    assert [finding.do.startswith("rekindle") for finding in findings] == [False, False]
    assert "bfloat16 (since 1.2), float8_e4m3fn (since 2.1)" in findings[1].what


def test_a_version_that_reads_it_has_nothing_to_say():
    torch.save({"w": torch.ones(2)}, "m.pth")
    assert found("m.pth", "unreadable-by-torch", torch="torch==1.6") == []
    assert found("m.pth", "unreadable-by-torch") == []


@pytest.mark.parametrize("text", ["torch", "", "latest", "torch>=1.4", "1..4", "torch==1.4; rm"])
def test_what_is_no_version_is_refused(text: str):
    torch.save({"w": torch.ones(2)}, "m.pth")
    with pytest.raises(ConfigError, match="is no version of torch"):
        doctor("m.pth", torch=text)


def test_versions_are_read_as_pip_writes_them():
    assert torch_version("torch==2.6.0+cu124") == (2, 6, 0)
    assert torch_version("1.13") == (1, 13)
