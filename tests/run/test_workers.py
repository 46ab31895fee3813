"""Workers: deaf to the signals of a run, and gone when it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from torch.utils.data import DataLoader, Dataset

from rekindle.run.workers import Shield, kill_workers, shield, starting_workers, watch


class Slow(Dataset):
    """Each sample takes its time; the first names the process that made it."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __len__(self):
        return 8

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return os.getpid()


def started(seconds=0.0, **settings):
    loader = DataLoader(Slow(seconds), num_workers=2, **settings)
    shield(loader)
    with starting_workers():
        iterator = iter(loader)
        watch(iterator)
    return iterator


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_worker_does_not_hear_the_signals_of_the_run(number):
    iterator = started(0.02)
    for process in iterator._workers:
        os.kill(process.pid, number)
    assert len(list(iterator)) == 8


def test_the_own_function_of_a_loader_is_still_called(tmp_path):
    def mine(worker_id):
        (tmp_path / str(worker_id)).touch()

    list(started(worker_init_fn=mine))
    assert sorted(os.listdir(tmp_path)) == ["0", "1"]
    loader = DataLoader(Slow(), num_workers=1, worker_init_fn=mine)
    shield(loader), shield(loader)
    assert isinstance(loader.worker_init_fn, Shield)
    assert loader.worker_init_fn.inner is mine


def test_signals_are_only_held_back_while_workers_start():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with starting_workers():
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_workers_are_killed_at_once_and_torch_does_not_complain():
    iterator = started(60.0)
    pids = [process.pid for process in iterator._workers]
    began = time.monotonic()
    kill_workers()
    assert time.monotonic() - began < 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    del iterator
    assert len(list(started())) == 8


def test_a_worker_whose_run_was_killed_while_it_was_born_does_not_stay(tmp_path):
    """The parent dies before the worker's first own instruction, which is held back until then."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, signal, sys, time
            from torch.utils.data import DataLoader
            import rekindle.run.workers as workers

            def late(self, worker_id, real=workers.Shield.__call__):
                open("born", "w").write(str(os.getpid()))
                time.sleep(1)
                real(self, worker_id)

            workers.Shield.__call__ = late
            loader = DataLoader(range(4), num_workers=1)
            workers.shield(loader)
            with workers.starting_workers():
                iterator = iter(loader)
            while not (os.path.exists("born") and open("born").read()):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
            """)
    )
    assert subprocess.run([sys.executable, str(script)], cwd=tmp_path, timeout=60).returncode == -signal.SIGKILL
    worker = int((tmp_path / "born").read_text())
    end = time.monotonic() + 20
    while os.path.exists(f"/proc/{worker}"):
        assert time.monotonic() < end, "it stayed"
        time.sleep(0.05)


def test_a_worker_that_dies_by_itself_is_still_an_error():
    iterator = started(0.5)
    os.kill(iterator._workers[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="worker"):
        list(iterator)
    kill_workers()


@pytest.mark.parametrize("leaves", ["1 / 0", "pass"])
def test_a_script_never_hangs_on_a_busy_worker_when_it_ends(leaves, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import sys, time
            from torch.utils.data import DataLoader, Dataset
            import rekindle as rk

            class Stuck(Dataset):
                def __len__(self):
                    return 4
                def __getitem__(self, index):
                    time.sleep(0 if index == 0 else 600)
                    return index

            if __name__ == "__main__":
                run = rk.Run("run", tensorboard=False)
                for _ in run.batches(run.loader(Stuck(), shuffle=False, num_workers=2)):
                    {leaves}
                    break
            """)
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == (leaves != "pass"), done.stderr
    assert time.monotonic() - began < 30
