"""Saving while the training goes on: nothing waits, nothing is torn, nothing that failed is kept quiet."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk
from rekindle.errors import ConfigError, RunError, StateMismatch
from rekindle.run import saving, writer
from rekindle.run.snapshot import read, restore
from rekindle.store import commit as commits
from rekindle.store.find import newest_good
from rekindle.store.layout import list_snapshots, snapshot_path
from rekindle.store.lock import hold
from rekindle.store.manifest import Damage, verify

PATIENCE_S = 30.0


class Disk:
    """A disk whose fsync waits for a gate, or fails; for the thread that writes snapshots, or `for_all`."""

    def __init__(self, monkeypatch):
        self.gate = threading.Event()
        self.gate.set()
        self.error = 0
        self.for_all = False
        self.waiting = threading.Event()
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, _fd):
        if threading.current_thread() is threading.main_thread():
            if self.for_all:
                raise OSError(self.error, os.strerror(self.error))
            return
        self.waiting.set()
        assert self.gate.wait(PATIENCE_S)
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    def close(self):
        self.waiting.clear()
        self.gate.clear()


@pytest.fixture
def disk(monkeypatch):
    disk = Disk(monkeypatch)
    yield disk
    disk.error = 0
    disk.gate.set()


@pytest.fixture
def begin(tmp_path):
    """Begin or go on with a run in `tmp_path`, closed in the end."""
    lives = []

    def start(folder="run", **settings):
        settings = {"seed": 1, "save_every": None, "tensorboard": False, "progress": False} | settings
        lives.append(rk.Run(tmp_path / folder, **settings))
        return lives[-1]

    yield start
    for run in lives:
        run._shut()


def tracked(run):
    """A model whose every step adds one to its weights."""
    model = nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    run.track(model=model)
    return model


def step(run, model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    run.step()


def value_in(snapshot):
    """The one number that all weights of a snapshot are."""
    model = nn.Linear(3, 2)
    restore(snapshot, {"model": model})
    found = {float(value) for parameter in model.parameters() for value in parameter.detach().reshape(-1)}
    assert len(found) == 1, "torn"
    return found.pop()


def save_at(run, model):
    """Make a step at whose boundary a snapshot is taken."""
    run._core.saver.ask()
    step(run, model)


def wait_until(claim):
    end = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < end
        time.sleep(0.005)


# ---- nothing waits, nothing is torn


def test_the_loop_goes_on_while_a_snapshot_is_written_and_it_holds_the_state_of_its_boundary(begin, disk):
    saved = []
    run = begin(on_saved=lambda done: saved.append((done.step, run.steps_done, threading.current_thread())))
    model = tracked(run)
    disk.close()
    save_at(run, model)
    for _ in range(5):
        step(run, model)
    assert (saved, list_snapshots(run.folder)) == ([], [])
    disk.gate.set()
    wait_until(lambda: run._core.saver.under_way.done)
    assert saved == []
    step(run, model)
    assert saved == [(1, 7, threading.main_thread())]
    assert value_in(snapshot_path(run.folder, 1)) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_timing_a_snapshot_is_never_torn(begin, disk, monkeypatch, seed):
    chance = random.Random(seed)
    run = begin(save_every="2 steps", keep_last=None)
    model = tracked(run)
    whole = commits._write_file
    monkeypatch.setattr(commits, "_write_file", lambda *args: time.sleep(chance.random() * 0.01) or whole(*args))
    for _ in range(21):
        step(run, model)
        time.sleep(chance.random() * 0.01)
    run.close()
    steps = [listed.step for listed in list_snapshots(run.folder)]
    assert steps == [21, *range(20, 0, -2)]
    assert [value_in(snapshot_path(run.folder, step)) for step in steps] == steps


def test_a_save_that_is_due_waits_for_the_one_before(begin, disk):
    run = begin()
    model = tracked(run)
    disk.close()
    save_at(run, model)
    threading.Timer(0.2, disk.gate.set).start()
    began = time.monotonic()
    save_at(run, model)
    assert time.monotonic() - began > 0.15
    run.close()
    assert [listed.step for listed in list_snapshots(run.folder)] == [2, 1]


def test_or_is_left_out_and_said_so_unless_it_was_asked_for(begin, disk, capsys):
    run = begin(save_every="2 steps", when_busy="skip", keep_last=None)
    model = tracked(run)
    disk.close()
    for _ in range(7):
        step(run, model)
    disk.gate.set()
    wait_until(lambda: run._core.saver.under_way.done)
    step(run, model)
    save_at(run, model)
    run.close()
    assert [listed.step for listed in list_snapshots(run.folder)] == [9, 8, 2]
    assert capsys.readouterr().err.count("a save that was due is left out") == 1


def test_saving_in_the_foreground_is_done_when_the_step_returns(begin):
    saved = []
    run = begin(background=False, on_saved=lambda done: saved.append(done.step))
    model = tracked(run)
    save_at(run, model)
    assert saved == [1]
    assert value_in(snapshot_path(run.folder, 1)) == 1.0


def test_a_save_outside_the_loop_is_promised_when_it_returns(begin):
    run = begin()
    step(run, tracked(run))
    run.save()
    assert newest_good(run.folder).step == 1


def test_the_last_save_of_the_epochs_is_promised_when_they_end(begin):
    saved = []
    run = begin(on_saved=lambda done: saved.append(done.step))
    model = tracked(run)
    for _ in run.epochs(2):
        for _ in run.batches([1, 2]):
            step(run, model)
    assert (saved, newest_good(run.folder).step, run.finished) == ([4], 4, True)


def test_the_state_is_held_once_more_and_no_more(begin):
    """The buffers of one save are those of the next."""
    run = begin(save_every="1 steps")
    model = tracked(run)
    places = set()
    for _ in range(4):
        step(run, model)
        run._core.saver.settle(run.note)
        places.add(
            tuple(copy.data_ptr() for key, copy in run._core.saver._captured.buffers.items() if key[0][0] == "m")
        )
    assert len(places) == 1


def test_the_memory_for_the_copies_is_there_before_the_first_save(begin, monkeypatch):
    monkeypatch.setattr(saving, "_RESERVED_BYTES", 1)
    run = begin()
    model = tracked(run)
    optimizer = torch.optim.Adam(model.parameters())
    run.track(optimizer=optimizer)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    run.step()
    wait_until(lambda: run._core.saver._reserving.done)
    ready = {place: buffer.data_ptr() for place, buffer in run._core.saver._reserving._results[0].items()}
    assert ("optimizer.safetensors", "model.weight.exp_avg") in ready
    save_at(run, model)
    copies = run._core.saver._captured.buffers
    assert {place: copies[place].data_ptr() for place in ready} == ready
    run.close()
    assert verify(snapshot_path(run.folder, 2)) is None


def test_a_choice_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="when_busy='never' is not known"):
        rk.Run(tmp_path / "run", when_busy="never")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_copies_in_order_into_pinned_memory_and_the_program_goes_on(begin):
    run = begin(save_every="2 steps", keep_last=None)
    model = nn.Linear(4096, 4096).cuda()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    run.track(model=model)
    for _ in range(9):
        step(run, model)  # changes what is being copied, with nobody waiting for the copy
    copies = run._core.saver._captured
    assert copies.copied
    assert all(copy.is_pinned() for copy in copies.buffers.values() if copy.dtype == torch.float32)
    run.close()
    for listed in list_snapshots(run.folder):
        found = rk.load(os.path.join(listed.path, "model.safetensors"))
        assert {float(value) for tensor in found.values() for value in tensor.unique()} == {float(listed.step)}


# ---- what fails


def test_a_failed_save_is_raised_at_the_next_step_and_the_next_save_may_do_better(begin, disk):
    run = begin(keep_best="min:loss")
    model = tracked(run)
    save_at(run, model)
    run._core.saver.settle(run.note)
    whole = (run._core.saver.last_step, run.best)
    run.log(loss=0.5)
    disk.error = errno.ENOSPC
    step(run, model)
    wait_until(lambda: run._core.saver.under_way.done)
    with pytest.raises(OSError, match="No space left") as caught:
        step(run, model)
    assert caught.value.__notes__ == [f"while saving step 2 to {run.folder}; earlier snapshots are untouched"]
    assert (run._core.saver.last_step, run.best) == whole
    assert [listed.step for listed in list_snapshots(run.folder)] == [1]
    assert not [name for name in os.listdir(os.path.join(run.folder, "snapshots")) if name.startswith(".")]
    disk.error = 0
    save_at(run, model)
    run.close()
    assert newest_good(run.folder).step == 4


def test_a_failed_save_with_no_step_after_it_is_tried_once_more_by_close(begin, disk, capsys):
    run = begin()
    model = tracked(run)
    disk.error = errno.EIO
    save_at(run, model)
    run.close()
    assert "Input/output error" in capsys.readouterr().err
    assert value_in(newest_good(run.folder).snapshot) == 1.0


def test_and_raised_there_where_that_fails_as_well(begin, disk):
    run = begin()
    model = tracked(run)
    disk.error, disk.for_all = errno.EIO, True
    save_at(run, model)
    with pytest.raises(OSError, match="Input/output error"):
        run.close()
    assert not run._core.lock.held
    disk.for_all = False


def test_an_exception_of_the_loop_is_not_hidden_by_a_failed_save(begin, disk, capsys):
    disk.error = errno.EIO

    def train():
        with begin() as run:
            save_at(run, tracked(run))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert "Input/output error" in capsys.readouterr().err


def test_leaving_waits_for_what_is_under_way(begin, disk, tmp_path):
    def train():
        with begin() as run:
            model = tracked(run)
            disk.close()
            save_at(run, model)
            threading.Timer(0.2, disk.gate.set).start()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert newest_good(tmp_path / "run").step == 1


def test_nobody_waits_for_ever(begin, disk, monkeypatch, capsys):
    monkeypatch.setattr(writer, "WAIT_S", 0.2)
    monkeypatch.setattr(writer, "_SILENT_S", 0.1)
    run = begin()
    model = tracked(run)
    disk.close()
    save_at(run, model)
    with pytest.raises(RunError, match="the snapshot of step 1 is not on the disk after 0 seconds"):
        run.close()
    assert "waiting for the snapshot of step 1 to reach the disk" in capsys.readouterr().err
    disk.gate.set()
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "rekindle-writer"])


SCRIPT = """
import os, sys, time
import torch
import rekindle as rk
real = os.fsync
def slow(fd):
    time.sleep(0.05)
    if len(sys.argv) > 2:
        raise OSError(28, "No space left on device")
    real(fd)
run = rk.Run(sys.argv[1], seed=0, save_every="1 steps", tensorboard=False)
run.track(model=torch.nn.Linear(2, 2))
os.fsync = slow
run.step()
raise SystemExit(3)
"""


def test_a_script_that_ends_without_a_word_to_the_run_has_its_last_save(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "run")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")
    assert newest_good(tmp_path / "run").step == 1


def test_and_is_told_where_that_failed(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "run"), "x"], capture_output=True, text=True)
    assert done.returncode == 3
    assert "rekindle: the snapshot of step 1 could not be written: [Errno 28] No space left" in done.stderr


# ---- other processes


def test_workers_that_are_forked_while_a_snapshot_is_written_do_their_work(begin, disk):
    run = begin(save_every="2 steps", when_busy="skip")
    model = tracked(run)
    loader = run.loader(TensorDataset(torch.arange(24.0)), batch_size=4, num_workers=2)
    disk.close()
    seen = []
    for _ in run.epochs(2):
        for (values,) in run.batches(loader):  # two workers are forked an epoch
            seen += values.tolist()
            step(run, model)
            if run.steps_done == 11:
                disk.gate.set()
    assert disk.waiting.is_set()
    assert sorted(seen) == sorted([*range(24)] * 2)


def test_a_forked_child_neither_waits_for_the_save_nor_takes_it_for_its_own(begin, disk):
    run = begin()
    model = tracked(run)
    disk.close()
    save_at(run, model)
    assert disk.waiting.wait(PATIENCE_S)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert not writer._under_way
            run._core.saver.settle(run.note)
            code = 0 if run._core.saver.under_way is None and run._core.saver.last_step == -1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    disk.gate.set()
    run.close()
    assert newest_good(run.folder).step == 1


# ---- what did not change is not written again


def big(seed=0):
    """A network of a megabyte and a half."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(600, 600), nn.Linear(600, 3))


def inodes(run, step):
    folder = snapshot_path(run.folder, step)
    return {name: os.stat(os.path.join(folder, name)).st_ino for name in os.listdir(folder)}


def save_now(run, model, count=1):
    for _ in range(count):
        with torch.no_grad():
            next(p for p in model.parameters() if p.requires_grad).add_(1)
        run._core.saver.ask()
        run.step()
        run._core.saver.settle(run.note)


def test_a_teacher_that_never_changes_is_written_once_and_outlives_the_first_snapshot(begin):
    run = begin(keep_last=2)
    model, teacher = big(), big(1)
    run.track(model=model, teacher=teacher)
    save_now(run, model, 2)
    first, second = inodes(run, 1), inodes(run, 2)
    assert first["teacher.safetensors"] == second["teacher.safetensors"]
    assert not set(first.values()) - {first["teacher.safetensors"]} & set(second.values())
    save_now(run, model, 3)
    assert [listed.step for listed in list_snapshots(run.folder)] == [5, 4]
    assert inodes(run, 5)["teacher.safetensors"] == first["teacher.safetensors"]
    assert all(verify(listed.path) is None for listed in list_snapshots(run.folder))
    other = big(2)
    restore(snapshot_path(run.folder, 5), {"teacher": other})
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), teacher.parameters(), strict=True))


def test_one_element_that_changes_is_noticed(begin):
    """The sample that tells "surely changed" does not see it; the digest does."""
    run = begin(keep_last=2)
    model, teacher = big(), big(1)
    run.track(model=model, teacher=teacher)
    save_now(run, model)
    before = run._core.saver._captured.samples()["teacher.safetensors"]
    with torch.no_grad():
        teacher[0].weight.view(-1)[600] += 1e-3
    save_now(run, model)
    assert run._core.saver._captured.samples()["teacher.safetensors"] == before
    assert inodes(run, 1)["teacher.safetensors"] != inodes(run, 2)["teacher.safetensors"]
    other = big(2)
    restore(snapshot_path(run.folder, 2), {"teacher": other})
    assert torch.equal(other[0].weight, teacher[0].weight)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP])
def test_where_links_are_refused_everything_is_written(begin, monkeypatch, number):
    def refuse(*_args, **_settings):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    run = begin()
    model, teacher = big(), big(1)
    run.track(model=model, teacher=teacher)
    save_now(run, model, 2)
    assert inodes(run, 1)["teacher.safetensors"] != inodes(run, 2)["teacher.safetensors"]
    assert verify(snapshot_path(run.folder, 2)) is None


def test_a_file_that_somebody_touched_is_not_linked_to(begin):
    run = begin()
    model, teacher = big(), big(1)
    run.track(model=model, teacher=teacher)
    save_now(run, model)
    with open(os.path.join(snapshot_path(run.folder, 1), "teacher.safetensors"), "r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    save_now(run, model)
    assert verify(snapshot_path(run.folder, 1)) is not None
    assert verify(snapshot_path(run.folder, 2)) is None


def test_a_frozen_part_has_a_file_of_its_own_that_everything_still_reads(begin, tmp_path):
    from safetensors.torch import load_file

    run = begin()
    model = big()
    model[0].requires_grad_(False)
    run.track(model=model)
    save_now(run, model, 2)
    path = snapshot_path(run.folder, 2)
    trained, frozen = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    assert sorted(os.listdir(path)) == sorted(
        ["manifest.json", trained, frozen, "model.safetensors.index.json", "state.json"]
    )
    assert inodes(run, 1)[frozen] == inodes(run, 2)[frozen]
    assert inodes(run, 1)[trained] != inodes(run, 2)[trained]
    index = json.loads(Path(path, "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        "0.bias": frozen,
        "0.weight": frozen,
        "1.bias": trained,
        "1.weight": trained,
    }
    live = model.state_dict()
    by_hand = {key: load_file(os.path.join(path, file))[key] for key, file in index["weight_map"].items()}
    read_back = {
        "by hand": by_hand,
        "the index": rk.load(os.path.join(path, "model.safetensors.index.json")),
        "the snapshot": rk.load(path)["model"],
    }
    converted = tmp_path / "model.safetensors"
    done = subprocess.run(
        [sys.executable, "-m", "rekindle", "convert", run.folder, str(converted)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    flat = load_file(converted)
    read_back["convert"] = {key: flat.get(key, flat.get(f"model.{key}")) for key in live}
    for how, found in read_back.items():
        assert found.keys() == live.keys(), how
        assert all(torch.equal(found[key], live[key]) for key in live), how
    again = big(5)
    again[0].requires_grad_(False)
    restore(path, {"model": again})
    assert all(torch.equal(again.state_dict()[key], live[key]) for key in live)


def test_the_next_life_links_to_the_last_ones_frozen_file(begin):
    run = begin()
    model = big()
    model[0].requires_grad_(False)
    run.track(model=model)
    save_now(run, model)
    run._shut()
    run = begin()
    model = big(3)
    model[0].requires_grad_(False)
    run.track(model=model)
    save_now(run, model)
    frozen = "model-00002-of-00002.safetensors"
    assert inodes(run, 1)[frozen] == inodes(run, 2)[frozen]
    assert verify(snapshot_path(run.folder, 2)) is None


def test_a_small_frozen_part_is_no_reason_for_another_file(begin):
    run = begin()
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    run.track(model=model)
    save_now(run, model)
    assert "model.safetensors" in inodes(run, 1)


# ---- verified


def test_a_thousand_flipped_bits_and_cuts_are_all_noticed_and_stepped_over(begin, monkeypatch):
    run = begin(keep_last=None)
    model = nn.Linear(40, 3)
    optimizer = torch.optim.Adam(model.parameters())
    run.track(model=model, optimizer=optimizer)
    model(torch.ones(2, 40)).sum().backward()
    for _ in range(2):
        optimizer.step()
        run._core.saver.ask()
        run.step()
    run._core.saver.settle(run.note)
    newest = snapshot_path(run.folder, 2)
    chance = random.Random(0)
    whole = {name: Path(newest, name).read_bytes() for name in sorted(os.listdir(newest))}
    for _ in range(1000):
        name = chance.choice(list(whole))
        data = bytearray(whole[name])
        if chance.random() < 0.7:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        else:
            del data[chance.randrange(len(data)) :]
        path = os.path.join(newest, name)
        with open(path, "wb") as file:
            file.write(data)
        found = newest_good(run.folder)
        assert found.step == 1, (name, len(data))
        assert found.passed_over[0][0] == "step-00000002"
        with open(path, "wb") as file:
            file.write(whole[name])
    assert newest_good(run.folder).step == 2
    assert read(newest).step == 2


def with_manifest(folder, change):
    """Put another manifest over a snapshot's files, whose own digest holds; return its bytes."""
    path = Path(folder, "manifest.json")
    body = json.loads(path.read_text())
    del body["sha256_of_all_above"]
    text = json.dumps(change(body), indent=2, sort_keys=True).removesuffix("\n}").encode()
    digest = hashlib.sha256(text).hexdigest()
    path.write_bytes(text + f',\n  "sha256_of_all_above": "{digest}"\n}}\n'.encode())
    return path.read_bytes()


def of_another_version(run, step):
    """Make a snapshot one of a rekindle to come: whole, and in a format that this one cannot know."""
    return with_manifest(snapshot_path(run.folder, step), lambda body: {**body, "format_version": 99})


def of_the_version_before(folder):
    """Make a snapshot one of the rekindle that digested whole files."""

    def change(body):
        del body["block_bytes"]
        for name, entry in body["files"].items():
            del entry["sha256_of_blocks"]
            entry["sha256"] = hashlib.sha256(Path(folder, name).read_bytes()).hexdigest()
        return {**body, "format_version": 1}

    with_manifest(folder, change)


def test_a_run_goes_on_from_a_snapshot_of_the_version_before(begin):
    run = begin(keep_last=None)
    model = tracked(run)
    save_at(run, model)
    run.close()
    folder = snapshot_path(run.folder, 1)
    of_the_version_before(folder)
    wanted = torch.cat([parameter.flatten() for parameter in model.parameters()])
    again = begin(keep_last=None)
    model = tracked(again)
    assert again.steps_done == 1
    assert torch.equal(torch.cat([parameter.flatten() for parameter in model.parameters()]), wanted)
    save_at(again, model)
    again.close()
    assert [verify(snapshot_path(run.folder, step)) for step in (1, 2)] == [None, None]
    whole = Path(folder, "model.safetensors").read_bytes()
    Path(folder, "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert verify(folder) == Damage(
        "model.safetensors",
        "model.safetensors has other bytes than were saved: its SHA-256 does not match the manifest",
    )


def test_a_snapshot_of_another_rekindle_is_neither_passed_over_nor_replaced(begin):
    run = begin(keep_last=None)
    model = tracked(run)
    save_at(run, model)
    save_at(run, model)
    run.close()
    whole = of_another_version(run, 2)
    with pytest.raises(RunError, match="step-00000002 was written by another version of rekindle") as caught:
        begin()
    assert "written in format 99; this rekindle reads 2" in caught.value.why
    with hold(run.folder) as lock, pytest.raises(RunError, match="a snapshot of another version of rekindle"):
        commits.commit(lock, 2, {"a.bin": lambda out: out.write(b"a")}, {}, replace=True)
    assert Path(snapshot_path(run.folder, 2), "manifest.json").read_bytes() == whole


def test_a_clock_that_jumps_makes_no_save_early_or_late(begin, monkeypatch):
    """Minutes between saves are those of a clock that nobody sets."""
    run = begin(save_every="5 minutes")
    model = tracked(run)
    for wall in (0.0, 4e9):
        monkeypatch.setattr(time, "time", lambda wall=wall: wall)
        step(run, model)
        assert not run._core.saver.is_due(run.steps_done)
    now = time.monotonic()
    monkeypatch.setattr(saving.time, "monotonic", lambda: now + 301)
    assert run._core.saver.is_due(run.steps_done)


def test_what_cannot_be_saved_is_named_by_its_path_and_the_run_goes_on(begin):
    class Odd:
        def state_dict(self):
            return {"ok": 1, "inner": [{"file": sys.stdout}]}

        def load_state_dict(self, state):
            pass

    run = begin()
    run.track(odd=Odd())
    run._core.saver.ask()
    with pytest.raises(StateMismatch, match=r"odd\['inner'\]\[0\]\['file'\]"):
        run.step()
    assert list_snapshots(run.folder) == []
