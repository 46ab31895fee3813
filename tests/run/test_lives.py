"""Lives that are to be killed: a kill leaves nothing of them behind, wherever it was started."""

from __future__ import annotations

import os
import sys
import time

import pytest

from rekindle.run.lives import Process

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="strays are found in /proc")

STARTS_ANOTHER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_kill_also_takes_what_was_started_in_a_session_of_its_own_as_torchrun_does(tmp_path):
    output = tmp_path / "output.txt"
    command = [sys.executable, "-c", STARTS_ANOTHER]
    with Process(command, str(tmp_path / "run"), str(tmp_path / "evidence"), str(output), dict(os.environ)) as life:
        until = time.monotonic() + 20
        while not output.read_text().endswith("\n") and time.monotonic() < until:
            time.sleep(0.01)
        child = int(output.read_text())
        assert is_alive(child)
        life.kill()
        assert not is_alive(child)
        assert is_alive(os.getpid())
