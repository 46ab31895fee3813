"""Names of devices and the choice of GPUs, without torch, with a driver that is a dict."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from fake_nvml import card, fake, install, sliced

from rekindle.devices.gpus import survey_gpus
from rekindle.devices.pick import choose_gpus, parse_bytes, parse_device, pick_gpus, visible_devices
from rekindle.errors import CannotPick, ConfigError


@pytest.mark.parametrize(
    ("name", "expected"), [("auto", ("auto", None)), ("cuda:1", ("cuda", 1)), (" CPU ", ("cpu", None))]
)
def test_names(name, expected):
    assert parse_device(name) == expected


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError, match="no device is called"):
        parse_device(name)


def test_it_needs_no_torch():
    code = "import sys, rekindle.devices.pick; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    code = "import torch, sys, rekindle.devices.pick; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 1


# ---- GPUs


@pytest.fixture
def machine(monkeypatch):
    """A machine with these cards, and CUDA not started."""

    def put(cards, **variables):
        monkeypatch.setitem(sys.modules, "pynvml", fake(cards))
        for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return survey_gpus()

    monkeypatch.setattr("rekindle.devices.pick.started_cuda", lambda: "")
    return put


def seen(survey):
    return [device.uuid.split("-aaaa")[0] for device in visible_devices(survey.gpus).devices]


def test_the_freest_becomes_logical_device_0(machine, capsys):
    machine([card(0, 5), card(1, 39), card(2, 20)])
    picked = pick_gpus(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == picked.visible == "1,2"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert [device.index for device in picked.devices] == [1, 2]
    assert str(picked) == ("cuda:0 is GPU 1 NVIDIA A100 (39.0 GiB free), cuda:1 is GPU 2 NVIDIA A100 (20.0 GiB free)")
    assert capsys.readouterr().err == f"rekindle: {picked}; CUDA_VISIBLE_DEVICES=1,2\n"
    assert [device.index for device in visible_devices(survey_gpus().gpus).devices] == [1, 2]


def test_equal_ones_keep_their_order(machine):
    machine([card(0, 39), card(1, 39)])
    assert pick_gpus(2, quiet=True).visible == "0,1"


def test_what_a_scheduler_allows_is_never_widened(machine):
    machine([card(0, 5), card(1, 39), card(2, 20)], CUDA_VISIBLE_DEVICES="0,2")
    assert pick_gpus(1, quiet=True).visible == "2"
    with pytest.raises(CannotPick, match="2 GPUs asked for, 1 can be had") as caught:
        pick_gpus(2, quiet=True)
    assert "CUDA_VISIBLE_DEVICES=2 allows 1 of 3" in caught.value.why


def test_too_little_memory_is_said_card_by_card(machine):
    machine([card(0, 5), card(1, 39), {"handle": "lost"}])
    with pytest.raises(CannotPick, match=r"2 GPUs with 10.0 GiB free asked for, 1 can be had") as caught:
        pick_gpus(2, min_free="10 GB")
    assert "GPU 0 NVIDIA A100: 5.0 GiB free" in caught.value.why
    assert "GPU 2: it fell off the bus" in caught.value.why
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_cards_that_nobody_may_use_are_passed_over(machine):
    machine([card(0, 39, mode=2), card(1, 38, mode=3, processes=[(12, None)]), card(2, 5, mode=3)])
    assert pick_gpus(1, quiet=True).visible == "2"
    with pytest.raises(CannotPick) as caught:
        choose_gpus(survey_gpus(), 2, environment={})
    assert "compute mode: prohibited" in caught.value.why
    assert "process 12 has it for itself" in caught.value.why


def test_one_slice_can_be_picked_and_never_two(machine):
    machine([sliced(0, _0=3, _4=9)])
    assert pick_gpus(1, quiet=True).visible == "MIG-04"
    with pytest.raises(CannotPick) as caught:
        choose_gpus(survey_gpus(), 2, environment={})
    assert "at most one MIG slice" in caught.value.why


def test_no_gpu_says_why(machine):
    machine([])
    with pytest.raises(CannotPick, match="no GPU can be picked") as caught:
        pick_gpus()
    assert "sees no GPU" in caught.value.why


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": True}, {"n": "2"}, {"min_free": "much"}, {"min_free": -1}])
def test_numbers_that_cannot_be_meant_are_refused(machine, wrong):
    machine([card(0, 5)])
    with pytest.raises(ConfigError):
        pick_gpus(**wrong)


@pytest.mark.parametrize(
    ("text", "count"), [("10 GB", 10 * 1024**3), ("512MiB", 512 * 1024**2), ("1.5k", 1536), (7, 7), ("12", 12)]
)
def test_amounts_of_memory(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "expected", "note"),
    [
        (None, ["GPU-000", "GPU-111", "MIG-20"], ""),
        ("2,0", ["MIG-20", "GPU-000"], ""),  # of a card in slices CUDA takes the first
        ("GPU-11,0", ["GPU-111", "GPU-000"], ""),
        ("MIG-20", ["MIG-20"], ""),
        ("GPU-", [], "names 'GPU-', which is not here"),  # more than one begins so
        ("0,7,1", ["GPU-000"], "names '7', which is not here; CUDA ignores it and all that follows"),
        ("1,-1,0", ["GPU-111"], ""),
        ("0,1,0", [], "names '0' twice; CUDA then sees no device"),
        ("", [], ""),
        ("-1", [], ""),
        ("none", [], "names 'none', which is not here"),
    ],
)
def test_the_map_is_what_cuda_makes_of_the_variable(machine, text, expected, note):
    survey = machine(
        [card(0, 5), card(1, 39), sliced(2, _0=3)], **({} if text is None else {"CUDA_VISIBLE_DEVICES": text})
    )
    assert seen(survey) == expected
    assert note in visible_devices(survey.gpus).note


def test_cards_of_several_kinds_may_be_numbered_otherwise(machine):
    survey = machine([card(0, 5), card(1, 5, name="NVIDIA T4")])
    assert "CUDA may number them otherwise" in visible_devices(survey.gpus).note
    survey = machine([card(0, 5), card(1, 5, name="NVIDIA T4")], CUDA_DEVICE_ORDER="PCI_BUS_ID")
    assert visible_devices(survey.gpus).note == ""


def test_it_is_too_late_once_torch_has_started_cuda(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(CannotPick, match="picked too late: CUDA has started in this process") as caught:
        pick_gpus()
    assert "torch has initialised CUDA" in caught.value.why
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


DRIVER = "static int up; int cuInit(int f){up=1;return 0;} int cuDeviceGetCount(int *n){*n=1;return up?0:3;}"


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("cc") is None, reason="needs a C compiler")
def test_it_is_too_late_once_anything_has_asked_the_driver(tmp_path):
    """A library with the driver's name and two of its functions; loading it is not starting it."""
    (tmp_path / "cuda.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, tmp_path / "cuda.c"]
    subprocess.run(command, check=True)
    code = (
        "import ctypes, sys; from rekindle.devices.pick import started_cuda\n"
        "print(repr(started_cuda())); cuda = ctypes.CDLL(sys.argv[1]); print(repr(started_cuda()))\n"
        "cuda.cuInit(0); print(started_cuda())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(library)], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "''",
        "''",
        "something asked CUDA for its devices, such as torch.cuda.is_available()",
    ], done.stderr


WINDOWS = """
import sys, os, types, argparse, ctypes, importlib.abc, json, shlex, shutil, socket, subprocess, tempfile

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in posix:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

posix = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}
for name in posix:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
for name in ("getuid", "geteuid", "fork", "setsid", "killpg", "getpgid", "sched_getaffinity", "sysconf"):
    delattr(os, name)
sys.platform = "win32"
loaded = {}  # name of a DLL -> what it is for this process
ctypes.windll = types.SimpleNamespace(kernel32=types.SimpleNamespace(GetModuleHandleW=loaded.get))
ctypes.CDLL = lambda name, **_: loaded[name]

import rekindle as rk
from rekindle.cli import main

print(rk.pick_gpus(1, quiet=True), os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"])
print(main(["gpus"]))
cuda = types.SimpleNamespace(cuDeviceGetCount=lambda count: cuda.answer, answer=3)  # CUDA_ERROR_NOT_INITIALIZED
loaded["nvcuda.dll"] = cuda
print(rk.pick_gpus(1, quiet=True))
cuda.answer = 0
try:
    rk.pick_gpus(1)
except rk.RekindleError as error:
    print(error)
"""


def test_cards_are_listed_and_picked_on_windows(tmp_path):
    """A Python that looks like Windows': no module of POSIX, nvcuda.dll, paths with backslashes, no memory per process.

    That NVML and CUDA themselves do there what they do on Linux cannot be seen from here.
    """
    cards = [card(0, 5, processes=[(7, None)]), card(1, 39, name="NVIDIA GeForce RTX 4090")]
    environment = {**os.environ, **install(tmp_path / "driver", cards)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    driver = tmp_path / "driver" / "pynvml.py"
    driver.write_text(driver.read_text().replace("/usr/bin/program-{pid}", r"C:\\Program Files\\Python\\python.exe"))
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0] == "cuda:0 is GPU 1 NVIDIA GeForce RTX 4090 (39.0 GiB free) 1 PCI_BUS_ID"
    assert [line.split()[:2] for line in lines[4:6]] == [["0", "hidden"], ["1", "cuda:0"]]
    assert lines[6].split("  ")[1:3] == ["GPU 0: process 7", "python.exe"]
    assert lines[8].startswith("cuda:0 is GPU 1")
    assert lines[9] == "GPUs are picked too late: CUDA has started in this process"
