"""The files around a conversion: what stands in the way is refused, with the command that goes on."""

import os

import pytest

from rekindle.converting.files import (
    CONTAINER_OF_SUFFIX,
    container_for,
    files_of_index,
    refuse_changed,
    refuse_existing,
    require_room,
)
from rekindle.errors import CannotWrite, UnreadableFile
from rekindle.limits import DEFAULT_LIMITS
from rekindle.source import Source


def test_a_suffix_names_the_container_and_a_word_outranks_it():
    assert {container_for(f"model{suffix.upper()}") for suffix in CONTAINER_OF_SUFFIX} == {"torch-zip", "safetensors"}
    assert container_for("model.safetensors", "torch-stream") == "torch-stream"
    with pytest.raises(CannotWrite, match=r"the suffix '\.xyz' does not say"):
        container_for("model.xyz")


def test_what_is_there_is_refused_with_the_command_that_replaces_it(tmp_path):
    target = tmp_path / "model.pth"
    refuse_existing(str(target), "again", force=False)
    target.symlink_to("nowhere")  # a dangling link is something too
    with pytest.raises(CannotWrite) as caught:
        refuse_existing(str(target), "rekindle convert A B --force", force=False)
    assert caught.value.do == "rekindle convert A B --force"
    refuse_existing(str(target), "again", force=True)
    with pytest.raises(CannotWrite, match="is a folder"):
        refuse_existing(str(tmp_path), "again", force=True)


def test_a_source_that_was_written_to_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"abc")
    with Source(path) as source:
        before = os.fstat(source.fileno())
        states = [(source, (before.st_size, before.st_mtime_ns))]
        refuse_changed(states)
        os.utime(path, ns=(0, 0))
        with pytest.raises(UnreadableFile, match=r"a\.pth: the file changed while it was read"):
            refuse_changed(states)


def test_a_disk_without_room_is_noticed_before_the_first_byte(tmp_path):
    require_room(str(tmp_path / "model.pth"), 1)
    with pytest.raises(OSError, match=r"the new file needs 1,152,921,504,606,846,976 bytes, the disk has"):
        require_room(str(tmp_path / "model.pth"), 1 << 60)
    require_room(str(tmp_path / "missing" / "model.pth"), 1 << 60)  # opening the file says it better


def test_an_index_gives_only_files_that_carry_the_names_of_shards(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    ours = "model-00001-of-00002.safetensors"
    index.write_text(f'{{"weight_map": {{"a": "{ours}", "b": "../secret", "c": "config.json", "d": 3}}}}')
    assert files_of_index(str(index), DEFAULT_LIMITS) == (str(tmp_path / ours),)
    index.write_text("[]")
    assert files_of_index(str(index), DEFAULT_LIMITS) == ()
    assert files_of_index(str(tmp_path / "missing.index.json"), DEFAULT_LIMITS) == ()
