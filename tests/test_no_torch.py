"""The file side needs the standard library only, imports nothing that a file names, and opens nothing but the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import zoo

WATCH = """
import sys, json
seen = []
def hook(event, args):
    if event == "import" and recording:
        seen.append(["import", str(args[0])])
    elif event in ("open", "exec", "compile", "os.system", "subprocess.Popen", "socket.connect") and recording:
        seen.append([event, str(args[0])])
recording = False
sys.addaudithook(hook)
"""


def run(code: str, *args: object) -> str:
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    from safetensors.torch import save_file

    net = zoo.Net()
    torch.save(net, tmp_path / "zip.pt")
    torch.save(net, tmp_path / "stream.pt", _use_new_zipfile_serialization=False)
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    (tmp_path / "page.pth").write_text("<html>")
    return sorted(tmp_path.iterdir())


LIST = "import sys; from rekindle.cli import main; [main(['inspect', path, '--digest']) for path in sys.argv[1:]]; "
LOADED = "print([name for name in ('torch', 'numpy', 'rich', 'logging', 'zipfile', 'pickle') if name in sys.modules])"


def test_inspecting_every_format_imports_no_torch(files: list[Path]):
    assert run(LIST + LOADED, *files).splitlines()[-1] == "[]"


def test_the_check_above_can_fail(files: list[Path]):
    assert "torch" in run("import torch; " + LIST + LOADED, *files).splitlines()[-1]


def test_the_modules_of_the_file_side_import_no_torch():
    code = (
        "import sys, pkgutil, importlib, rekindle.formats, rekindle.verbs, rekindle.writers, rekindle.store\n"
        "for package in (rekindle.formats, rekindle.verbs, rekindle.writers, rekindle.store):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    assert run(code).split() == ["False", "False"]


def test_reading_opens_the_file_and_nothing_else(files: list[Path]):
    code = (
        WATCH
        + "from rekindle.formats import format_modules; from rekindle.verbs.inspect import inspect\n"
        # The first round imports what is needed; the second is watched.
        + "list(format_modules()); [inspect(path, digest=True) for path in sys.argv[1:]]\n"
        + "recording = True; [inspect(path, digest=True) for path in sys.argv[1:]]; recording = False\n"
        + "print(json.dumps(seen))"
    )
    seen = json.loads(run(code, *files))
    assert sorted({name for event, name in seen if event == "open"}) == sorted(map(str, files))
    assert {event for event, _ in seen} == {"open"}


def test_a_file_that_asks_for_code_gets_none(tmp_path: Path):
    import os
    import pickle

    class Payload:
        def __init__(self, *call: object) -> None:
            self.call = call

        def __reduce__(self):
            return self.call[0], self.call[1:]

    marker = tmp_path / "ran"
    value = {
        "a": Payload(os.system, f"touch {marker}"),
        "b": Payload(eval, f"open({str(marker)!r}, 'w')"),
        "c": Payload(__import__, "antigravity"),
    }
    torch.save(value, tmp_path / "evil.pt")
    torch.save(value, tmp_path / "evil_old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(value))
    code = (
        WATCH
        + "from rekindle.formats import format_modules; from rekindle.verbs.inspect import inspect\n"
        + "list(format_modules()); [inspect(path, digest=True) for path in sys.argv[1:]]\n"
        + "recording = True; [inspect(path, digest=True) for path in sys.argv[1:]]; recording = False\n"
        + "print(json.dumps(sorted({event for event, _ in seen})))"
    )
    assert json.loads(run(code, *sorted(tmp_path.glob("evil*")))) == ["open"]
    assert not marker.exists()
