"""Every file call fails once, or for ever: a clear error, earlier snapshots untouched, and nothing left behind."""

from __future__ import annotations

import os
import random

import crash_store_job as job
import pytest

import crash
from crash import Plan
from rekindle.errors import RunError
from rekindle.store import commit as commits
from rekindle.store.find import newest_good
from rekindle.store.layout import read_run_file, snapshots_path, write_run_file
from rekindle.store.lock import hold
from rekindle.store.manifest import verify
from rekindle.store.retention import prune


@pytest.fixture
def run(tmp_path):
    """A run with two snapshots, its lock held."""
    with hold(tmp_path / "run") as lock:
        write_run_file(lock.path, {"seed": 0})
        for step in (1, 2):
            job.right(lock, step)
        yield lock


def snapshot_bytes(run):
    """Every file of every snapshot, by name."""
    found = {}
    for folder, _, names in os.walk(snapshots_path(run.path)):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                found[os.path.relpath(os.path.join(folder, name), run.path)] = file.read()
    return found


def failing_plans(run, work, **options):
    """Plans that fail each call of `work` in turn; ends when `work` needs fewer calls than that."""
    for nth in range(1, 60):
        plan = Plan(run.path, nth, **options)
        yield plan
        if not plan.happened:
            return
    raise AssertionError("the work never ended")


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT", "EROFS"])
def test_a_failing_save_raises_what_failed_and_leaves_what_was(run, error, for_ever):
    before = snapshot_bytes(run)
    failed = 0
    for plan in failing_plans(run, job.right, mode="error", error=error, for_ever=for_ever):
        with crash.wrapped(plan):
            try:
                job.right(run, 3)
            except OSError as caught:
                failed += 1
                notes = caught.__notes__
                assert notes == [f"while saving step 3 to {run.path}; earlier snapshots are untouched"]
        after = snapshot_bytes(run)
        assert {name: data for name, data in after.items() if name in before} == before
        if not plan.happened:
            break
        assert newest_good(run.path).step == 2, f"call {plan.nth} failed: {plan.calls[plan.nth - 1]}"
    assert failed >= 15
    assert newest_good(run.path).step == 3


def test_a_failed_fsync_is_never_tried_again(run):
    """Also when the kernel dropped the bytes and would report success the second time."""
    for plan in failing_plans(run, job.right, mode="lost"):
        with crash.wrapped(plan):
            try:
                job.right(run, 3)
            except OSError:
                failed = plan.calls[plan.nth - 1]
                assert failed.name == "fsync"
                again = [call for call in plan.calls[plan.nth :] if call.name == "fsync" and call.path == failed.path]
                assert again == []
                assert verify(os.path.join(snapshots_path(run.path), "step-00000002")) is None
                assert newest_good(run.path).step == 2
            else:
                if not plan.happened:
                    break
                commits.move_to_trash(run, os.path.join(snapshots_path(run.path), "step-00000003"))
    assert newest_good(run.path).step == 3


def test_when_the_name_may_not_be_on_the_disk_the_snapshot_is_not_taken_for_saved(run):
    """The very last fsync fails: the rename happened, and is taken back."""
    with crash.wrapped(Plan(run.path)) as plan:
        job.right(run, 3)
    commits.move_to_trash(run, os.path.join(snapshots_path(run.path), "step-00000003"))
    last = max(index for index, call in enumerate(plan.calls, start=1) if call.name == "fsync")
    with crash.wrapped(Plan(run.path, last, "error")), pytest.raises(OSError, match="Input/output error"):
        job.right(run, 3)
    assert sorted(os.listdir(snapshots_path(run.path))) == ["step-00000001", "step-00000002"]
    assert job.right(run, 3) == 3


def test_a_step_that_an_earlier_life_left_is_promised_only_after_a_sync_of_its_name(run):
    """That life may have died between the rename and the fsync after it."""
    with crash.wrapped(Plan(run.path)) as plan:
        job.right(run, 2)
    assert [(call.name, call.path) for call in plan.calls] == [("fsync", snapshots_path(run.path))]
    with crash.wrapped(Plan(run.path, 1, "error")), pytest.raises(OSError, match="Input/output error"):
        job.right(run, 2)


@pytest.mark.parametrize("error", ["EIO", "EACCES"])
def test_a_failing_prune_is_a_warning_and_keeps_what_it_must(run, error):
    for step in (3, 4):
        job.right(run, step)
    warned = 0
    for plan in failing_plans(run, prune, mode="error", error=error):
        with crash.wrapped(plan):
            pruned = prune(run, keep_last=2)
        warned += pruned.warning is not None
        assert verify(os.path.join(snapshots_path(run.path), "step-00000003")) is None
        assert newest_good(run.path).step == 4
        if not plan.happened:
            break
    assert warned
    commits.clean_leftovers(run)
    assert sorted(os.listdir(snapshots_path(run.path))) == ["step-00000003", "step-00000004"]


def test_a_failing_run_file_leaves_the_old_one_and_no_litter(run):
    before = sorted(os.listdir(run.path))
    for plan in failing_plans(run, write_run_file, mode="error", error="ENOSPC"):
        with crash.wrapped(plan):
            try:
                write_run_file(run.path, {"seed": 5})
            except OSError:
                assert plan.happened
        if not plan.happened:
            break
        renamed = any(call.name == "rename" for call in plan.calls[: plan.nth - 1])
        assert read_run_file(run.path)["seed"] == (5 if renamed else 0)
        assert sorted(os.listdir(run.path)) == before
        write_run_file(run.path, {"seed": 0})
    assert read_run_file(run.path)["seed"] == 5


def test_a_disk_without_room_is_said_before_anything_is_written(run):
    with crash.wrapped(Plan(run.path)) as plan, pytest.raises(RunError, match="not enough room on the disk") as caught:
        commits.commit(run, 3, job.writers(3), {}, need_bytes=10**17)
    assert plan.calls == []
    assert "100,000,000,000,000,000" not in caught.value.what
    assert "105,000,000,000,000,000 bytes" in caught.value.why


def test_a_write_that_raises_its_own_error_leaves_nothing(run):
    def fails(out):
        out.write(b"some")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commits.commit(run, 3, {"a.bin": fails}, {})
    assert sorted(os.listdir(snapshots_path(run.path))) == ["step-00000001", "step-00000002"]


def damages(folder, other, rng):
    """Yield after each kind of damage to a snapshot, which is put right again afterwards."""
    names = sorted(os.listdir(folder))
    for name in names:
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            whole = file.read()
        flips = bytearray(whole)
        flips[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        with open(os.path.join(other, name), "rb") as file:
            swapped = file.read()
        versions = {
            "one bit flipped": bytes(flips),
            "cut": whole[: rng.randrange(len(whole))],
            "emptied": b"",
            "zeroed": bytes(len(whole)),
            "longer": whole + b"\0",
            "another step's": swapped,
        }
        for what, data in versions.items():
            with open(path, "wb") as file:
                file.write(data)
            yield f"{name} {what}"
        os.unlink(path)
        yield f"{name} missing"
        os.symlink(os.path.join(other, name), path)
        yield f"{name} a link to another step's"
        os.unlink(path)
        os.mkdir(path)
        yield f"{name} a folder"
        os.rmdir(path)
        os.mkfifo(path)
        yield f"{name} a pipe"
        os.unlink(path)
        with open(path, "wb") as file:
            file.write(whole)


def test_every_damage_is_noticed_named_and_passed_over(run):
    job.right(run, 3)
    newest, other = (os.path.join(snapshots_path(run.path), f"step-0000000{step}") for step in (3, 2))
    rng = random.Random(0)
    seen = 0
    for _ in range(4):
        for what in damages(newest, other, rng):
            seen += 1
            found = newest_good(run.path)
            assert found.step == 2, what
            ((name, reason),) = found.passed_over
            assert name == "step-00000003"
            assert what.split()[0] in reason, (what, reason)
            assert "\n" not in reason
    assert seen == 4 * 3 * 10
    assert newest_good(run.path).step == 3


def test_a_snapshot_under_another_steps_name_is_passed_over(run):
    folder = snapshots_path(run.path)
    os.rename(os.path.join(folder, "step-00000002"), os.path.join(folder, "step-00000009"))
    found = newest_good(run.path)
    assert found.step == 1
    assert found.passed_over == (("step-00000009", "manifest.json is of step 2, the folder is named for step 9"),)


def test_a_damaged_snapshot_of_the_same_step_is_written_anew(run):
    with open(os.path.join(snapshots_path(run.path), "step-00000002", "model.bin"), "r+b") as file:
        file.write(b"X")
    assert newest_good(run.path).step == 1
    assert job.right(run, 2) == 2
    assert newest_good(run.path).step == 2
    assert sorted(os.listdir(snapshots_path(run.path))) == ["step-00000001", "step-00000002"]
