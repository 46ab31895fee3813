"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import subprocess
import sys

import pytest

from rekindle.errors import CannotWrite
from rekindle.store import atomic
from rekindle.store.atomic import FileWriter, exchange, fsync_folder, rename_new, write_beside


def test_a_writer_counts_and_digests_what_it_wrote(tmp_path):
    with FileWriter(tmp_path / "a") as out:
        assert out.write(b"abc") == 3
        assert out.write(memoryview(b"defg")[::1]) == 4
        assert out.write(b"") == 0
    assert (tmp_path / "a").read_bytes() == b"abcdefg"
    assert (out.size, out.digest()) == (7, hashlib.sha256(b"abcdefg").hexdigest())


def test_a_writer_takes_any_contiguous_buffer(tmp_path):
    import array

    numbers = array.array("d", range(300_000))  # more than one piece
    with FileWriter(tmp_path / "a") as out:
        out.write(numbers)
    assert (tmp_path / "a").read_bytes() == numbers.tobytes()
    assert out.digest() == hashlib.sha256(numbers.tobytes()).hexdigest()


def test_a_writer_that_is_left_by_an_error_closes_without_waiting_for_the_disk(tmp_path, monkeypatch):
    def fsync(fd):
        pytest.fail("nobody needs these bytes")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyError), FileWriter(tmp_path / "a") as out:
        raise KeyError
    assert out._fd == -1


def test_the_buffer_may_be_used_again_once_write_returned(tmp_path, monkeypatch):
    """Also when the disk is faster than the digest, which is then still being taken."""
    monkeypatch.setattr(os, "write", lambda _, data: len(data))
    buffer = bytearray(64 * 1024**2)
    with FileWriter(tmp_path / "a") as out:
        out.write(buffer)
        buffer[-1] = 1
    assert out.digest() == hashlib.sha256(bytes(64 * 1024**2)).hexdigest()


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:7]))
    with FileWriter(tmp_path / "a") as out:
        out.write(b"0123456789" * 10)
    assert (tmp_path / "a").read_bytes() == b"0123456789" * 10


def test_a_writer_without_a_digest_says_so(tmp_path):
    with FileWriter(tmp_path / "a", hashing=False) as out:
        out.write(b"abc")
    with pytest.raises(ValueError, match="is written without a digest"):
        out.digest()


@pytest.mark.parametrize("there", ["file", "dangling link", "link"])
def test_a_writer_never_opens_what_is_there(tmp_path, there):
    (tmp_path / "other").write_bytes(b"precious")
    if there == "file":
        (tmp_path / "a").write_bytes(b"old")
    else:
        (tmp_path / "a").symlink_to("nowhere" if there == "dangling link" else "other")
    with pytest.raises(FileExistsError):
        FileWriter(tmp_path / "a")
    assert (tmp_path / "other").read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_write_beside_replaces_a_file_and_keeps_its_mode(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    target.chmod(0o640)
    with write_beside(target) as out:
        out.write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["a.bin"]


def write_half(target, error):
    with write_beside(target) as out:
        out.write(b"half of the n")
        raise error


def test_an_error_in_the_block_leaves_the_target_and_no_litter(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    for error in (ValueError, KeyboardInterrupt, OSError):
        with pytest.raises(error):
            write_half(target, error)
        assert target.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["a.bin"]


def test_a_link_is_followed_and_stays_a_link(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "real.bin").write_bytes(b"old")
    (tmp_path / "a.bin").symlink_to("data/real.bin")
    with write_beside(tmp_path / "a.bin") as out:
        out.write(b"new")
    assert (tmp_path / "a.bin").is_symlink()
    assert (tmp_path / "data" / "real.bin").read_bytes() == b"new"


def test_overwrite_false_refuses_before_and_after(tmp_path):
    target = tmp_path / "a.bin"
    with write_beside(target, overwrite=False) as out:
        out.write(b"first")
    with pytest.raises(FileExistsError), write_beside(target, overwrite=False):
        pytest.fail("the block was entered")
    target.unlink()
    with pytest.raises(FileExistsError), write_beside(target, overwrite=False):
        target.write_bytes(b"somebody else's")
    assert target.read_bytes() == b"somebody else's"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_folder_or_a_device_is_refused_in_words(tmp_path):
    with pytest.raises(CannotWrite, match="is a folder"), write_beside(tmp_path):
        pass
    with pytest.raises(CannotWrite, match="/dev/null: is not a regular file"), write_beside("/dev/null"):
        pass


def test_a_long_name_can_be_written(tmp_path):
    target = tmp_path / ("n" * 250)
    with write_beside(target) as out:
        out.write(b"x")
    assert target.read_bytes() == b"x"


def test_a_file_that_may_not_grow_is_an_os_error_with_a_note(tmp_path):
    """A real limit of the kernel's: EFBIG arrives in the middle of a write."""
    script = (
        "import resource, signal, sys\n"
        "from rekindle.store.atomic import write_beside\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    with write_beside(sys.argv[1]) as out:\n"
        "        out.write(bytes(5000))\n"
        "except OSError as error:\n"
        "    print(error.errno, error.__notes__[0])\n"
    )
    assert resource.RLIM_INFINITY
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("27 while writing ")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("has_renameat2", [True, False])
def test_rename_new_never_replaces(tmp_path, monkeypatch, has_renameat2):
    if not has_renameat2:
        monkeypatch.setattr(atomic, "_renameat2", lambda: None)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError):
        rename_new(str(tmp_path / "a"), str(tmp_path / "b"))  # plain rename replaces an empty folder
    rename_new(str(tmp_path / "a"), str(tmp_path / "c"))
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]
    with pytest.raises(FileNotFoundError):
        rename_new(str(tmp_path / "a"), str(tmp_path / "d"))


def test_rename_new_looks_first_where_the_file_system_lacks_the_flag(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_renameat2", lambda: lambda *_: 22)
    (tmp_path / "a").mkdir()
    rename_new(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path) == ["b"]
    assert exchange(str(tmp_path / "b"), str(tmp_path / "b")) is False


def test_a_rename_that_happened_although_an_error_came_back_is_a_rename(tmp_path, monkeypatch):
    """Over NFS a request that is sent twice fails the second time."""

    def twice(old, new, flags):
        os.rename(old, new)
        return 2

    monkeypatch.setattr(atomic, "_renameat2", lambda: twice)
    (tmp_path / "a").mkdir()
    rename_new(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path) == ["b"]


def twice_over_nfs(monkeypatch, name, number):
    """A request that is sent twice: it is done, and what comes back is the answer to the second one."""
    real = getattr(os, name)

    def move(old, new):
        real(old, new)
        raise OSError(number, os.strerror(number), old, None, new)

    monkeypatch.setattr(os, name, move)
    monkeypatch.setattr(atomic, "_renameat2", lambda: lambda *_: errno.EINVAL)  # NFS has no flags for rename


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EEXIST])
def test_a_plain_rename_and_a_replacement_that_happened_although_an_error_came_back_are_done(
    tmp_path, monkeypatch, number
):
    twice_over_nfs(monkeypatch, "rename", number)
    (tmp_path / "a").mkdir()
    rename_new(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path) == ["b"]
    twice_over_nfs(monkeypatch, "replace", number)
    with write_beside(tmp_path / "file") as out:
        out.write(b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_rename_that_failed_and_did_not_happen_is_an_error(tmp_path, monkeypatch):
    def never(old, new):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", old, None, new)

    monkeypatch.setattr(os, "rename", never)
    monkeypatch.setattr(atomic, "_renameat2", lambda: lambda *_: errno.EINVAL)
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        rename_new(str(tmp_path / "a"), str(tmp_path / "b"))


def test_exchange_swaps_two_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchange(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path / "a") == ["b"]
    assert os.listdir(tmp_path / "b") == ["a"]


def test_a_folder_that_cannot_be_synced_is_let_pass_and_one_that_fails_is_not(tmp_path, monkeypatch):
    def failing(number):
        def fsync(fd):
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", failing(22))
    fsync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", failing(5))
    with pytest.raises(OSError, match="Input/output error"):
        fsync_folder(tmp_path)
