"""The pages of "it says ...": torch really says it about such a file, and what the page tells to type really works."""

from __future__ import annotations

import argparse
import pickle
import re
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from archives import changed
from torch import nn

from rekindle.cli import main

PAGES = Path(__file__).parent.parent / "docs" / "situations"
MAGIC, MACHINE = 0x1950A86A20F9469CFC6C, {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 3)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3))


def refused() -> object:
    torch.save({"w": torch.ones(2), "args": argparse.Namespace(lr=0.1)}, "model.pth")
    return torch.load("model.pth")


def new_protocol() -> object:
    torch.save({"w": torch.ones(2)}, "model.pth", pickle_protocol=4)
    return torch.load("model.pth")


def wrapped() -> object:
    torch.save(nn.DataParallel(net()).state_dict(), "model.pth")
    return net().load_state_dict(torch.load("model.pth"))


def gone_class() -> object:
    Net.__module__ = "__main__"
    import __main__

    __main__.Net = Net
    torch.save(Net(), "model.pth")
    del __main__.Net
    return torch.load("model.pth", weights_only=False)


def on_a_card() -> object:
    torch.save({"w": torch.ones(2)}, "cpu.pth")
    before, after = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    changed(Path("cpu.pth"), Path("model.pth"), lambda name, data: (name, data.replace(before, after)))
    return torch.load("model.pth")


def cut() -> object:
    torch.save({"w": torch.ones(100_000)}, "model.pth")
    Path("model.pth").write_bytes(Path("model.pth").read_bytes()[:300_000])
    return torch.load("model.pth")


def page() -> object:
    Path("model.pth").write_text("<!DOCTYPE html><html><title>Log in</title></html>")
    return torch.load("model.pth")


def zip_for_old() -> object:
    torch.save({"w": torch.ones(2)}, "model.pth")
    raise RuntimeError("model.pth is a zip archive (did you mean to use torch.jit.load()?)")  # an old torch is not here


def python_2() -> object:
    head = b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, MACHINE))
    Path("model.pth").write_bytes(head + b"\x80\x02}U\x04nameU\x04caf\xe9s." + pickle.dumps([], 2))
    return torch.load("model.pth")


def bare() -> object:
    Path("model.pth").write_bytes(pickle.dumps({"w": [1.0, 2.0]}, 2))
    return torch.load("model.pth")


def state_dict() -> object:
    torch.save(net().state_dict(), "model.pth")
    return torch.load("model.pth").eval()


def script() -> object:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "model.pth")
    return torch.load("model.pth")


def pointer() -> object:
    from safetensors.torch import load_file

    Path("model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    return load_file("model.safetensors")


def large() -> None:
    torch.save({"w": torch.zeros(100_000)[:2]}, "model.pth")


def nan() -> None:
    torch.save({"w": torch.tensor([float("nan")])}, "model.pth")


MAKERS: dict[str, Callable[[], object]] = {
    "weights-only-load-failed": refused,
    "unsupported-operand": new_protocol,
    "missing-and-unexpected-keys": wrapped,
    "cant-get-attribute": gone_class,
    "cuda-is-not-available": on_a_card,
    "failed-finding-central-directory": cut,
    "invalid-load-key": page,
    "is-a-zip-archive": zip_for_old,
    "codec-cant-decode-byte": python_2,
    "invalid-magic-number": bare,
    "has-no-attribute-eval": state_dict,
    "torchscript-archives": script,
    "header-too-large": pointer,
    "file-too-large": large,
    "answers-nan": nan,
}
SILENT = {"file-too-large", "answers-nan"}
# What `doctor` must find in the file of the page.
FINDS = {
    "weights-only-load-failed": "RK-FILE-68",
    "unsupported-operand": "RK-FILE-69",
    "missing-and-unexpected-keys": "RK-FILE-65",
    "cant-get-attribute": "RK-FILE-67",
    "cuda-is-not-available": "RK-FILE-72",
    "failed-finding-central-directory": "RK-FILE-04",
    "invalid-load-key": "RK-FILE-03",
    "is-a-zip-archive": "RK-FILE-78",
    "codec-cant-decode-byte": "RK-FILE-80",
    "invalid-magic-number": "RK-FILE-86",
    "torchscript-archives": "RK-FILE-86",
    "header-too-large": "RK-FILE-20",
    "file-too-large": "RK-FILE-70",
    "answers-nan": "RK-FILE-75",
}


def plain(text: str) -> str:
    """Return a message without colours, backticks' doubles and line ends that differ."""
    return " ".join(re.sub(r"\x1b\[\d+m", "", text).split())


@pytest.mark.parametrize("name", MAKERS)
def test_torch_says_it_and_what_the_page_types_works(tmp_path: Path, monkeypatch, capsys, name: str):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rekindle.verbs.doctor.local_devices", lambda: {"cpu": 1})
    text = (PAGES / f"{name}.md").read_text()
    said = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in SILENT:
            MAKERS[name]()
        else:
            with pytest.raises(Exception) as caught:
                MAKERS[name]()
            said = plain(f"{type(caught.value).__module__}.{type(caught.value).__name__}: {caught.value}")
            block = re.search(r"```text\n(.*?)```", text, re.DOTALL)
            for line in block[1].splitlines():
                assert plain(line) in said, said
    commands = re.findall(r"^    (rekindle .*)$", text, re.MULTILINE)
    assert commands
    printed = ""
    for command in commands:
        code = main(shlex.split(command)[1:])
        printed += capsys.readouterr().out
        assert code in (0, 1), command
    if name in FINDS:
        if "RK-FILE" not in printed:
            main(["doctor", "model.pth"])
            printed += capsys.readouterr().out
        assert f"[{FINDS[name]}]" in printed


def test_every_page_is_tried_and_in_the_index():
    pages = {page.stem for page in PAGES.glob("*.md")} - {"index"}
    assert pages == set(MAKERS)
    index = (PAGES / "index.md").read_text()
    assert [name for name in pages if f"({name}.md)" not in index] == []


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
