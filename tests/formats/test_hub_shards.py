"""Models cut into files with an index, as Hugging Face does: every shard opened, the index believed in nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from checkpoint_laws import facts_of_all, listed_all, names_of, obeys
from safetensors.torch import save_file

from rekindle.errors import LimitExceeded
from rekindle.finding import Severity
from rekindle.formats import open_path
from rekindle.limits import Limits

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
STATE = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "a.bias": torch.ones(2, dtype=torch.bfloat16),
    "b.weight": torch.arange(4),
}


def write_index(folder: Path, weight_map: object, total: object = 60, name: str = INDEX) -> None:
    (folder / name).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    save_file({"a.weight": STATE["a.weight"], "a.bias": STATE["a.bias"]}, made / FIRST)
    save_file({"b.weight": STATE["b.weight"]}, made / SECOND)
    write_index(made, {"a.weight": FIRST, "a.bias": FIRST, "b.weight": SECOND})
    (made / "config.json").write_text("{}")
    return made


def test_folder_and_index_list_the_whole_model(folder: Path):
    for path in (folder, folder / INDEX):
        with open_path(path) as opened:
            assert opened.format == "hub-shards"
            assert opened.path == str(path)
            assert opened.findings == ()
            assert opened.listed
            assert listed_all(opened) == facts_of_all(STATE)
            assert opened.facts["index"] == INDEX
            assert opened.facts["metadata"] == {"total_size": 60}
            assert opened.facts["shards"] == [FIRST, SECOND]


def test_shards_that_torch_saved_are_read_by_their_content(tmp_path: Path):
    torch.save({"x": torch.ones(3)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save(
        {"y": torch.zeros(2), "tied": torch.ones(1)},
        tmp_path / "pytorch_model-00002-of-00002.bin",
        _use_new_zipfile_serialization=False,
    )
    names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    write_index(tmp_path, {"x": names[0], "y": names[1], "tied": names[1]}, 24, "pytorch_model.bin.index.json")
    with open_path(tmp_path) as opened:
        assert names_of(opened) == []
        assert list(listed_all(opened)) == ["x", "y", "tied"]


def test_without_an_index_the_numbers_in_the_names_say_what_belongs_together(folder: Path):
    (folder / INDEX).unlink()
    with open_path(folder) as opened:
        assert opened.findings == ()
        assert listed_all(opened) == facts_of_all(STATE)
    (folder / SECOND).unlink()
    with open_path(folder) as opened:
        assert names_of(opened) == ["missing-shard"]
        assert SECOND in opened.findings[0].what


def test_a_folder_with_a_single_model_file_is_that_file(tmp_path: Path):
    save_file(STATE, tmp_path / "model.safetensors")
    with open_path(tmp_path) as opened:
        assert opened.format == "hub-shards"
        assert sorted(listed_all(opened)) == sorted(STATE)


def test_a_folder_that_claims_to_be_a_snapshot_of_rekindle_is_left_to_its_reader(tmp_path: Path):
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "state.json").write_text("{}")
    with open_path(tmp_path) as opened:
        assert opened.format == "snapshot"


# --- what goes wrong with shards -------------------------------------------------------------------------------------


def test_a_missing_shard_is_named_with_what_it_held(folder: Path):
    (folder / FIRST).unlink()
    with open_path(folder) as opened:
        assert names_of(opened) == ["missing-shard"]
        assert opened.findings[0].severity is Severity.ERROR
        assert "1 of 2 shards are missing" in opened.findings[0].what
        assert "2 of 3 tensors" in opened.findings[0].what
        assert list(listed_all(opened)) == ["b.weight"]


def test_tensors_that_the_index_misplaces_invents_or_forgets_are_named(folder: Path):
    write_index(folder, {"a.weight": SECOND, "a.bias": FIRST, "ghost": SECOND})
    with open_path(folder) as opened:
        assert names_of(opened) == ["index-disagrees"] * 3
        texts = " ".join(finding.what for finding in opened.findings)
        assert all(key in texts for key in ("ghost", "a.weight", "b.weight"))
        assert sorted(listed_all(opened)) == sorted(STATE)


def test_a_wrong_total_size_is_noticed(folder: Path):
    write_index(folder, {"a.weight": FIRST, "a.bias": FIRST, "b.weight": SECOND}, 61)
    with open_path(folder) as opened:
        assert names_of(opened) == ["index-disagrees"]
        assert "61 bytes, the tensors have 60" in opened.findings[0].what


def test_a_tensor_in_two_shards_is_taken_from_the_one_that_the_index_names(folder: Path):
    save_file({"b.weight": STATE["b.weight"], "a.bias": torch.zeros(9)}, folder / SECOND)
    with open_path(folder) as opened:
        assert "duplicate-shard-key" in names_of(opened)
        assert opened.table["a.bias"].shape == (2,)
    write_index(folder, {"a.weight": FIRST, "a.bias": SECOND, "b.weight": SECOND})
    with open_path(folder) as opened:
        assert opened.table["a.bias"].shape == (9,)


def test_shards_of_an_older_save_are_not_mixed_in(folder: Path):
    save_file({"old": torch.ones(1)}, folder / "model-00003-of-00003.safetensors")
    with open_path(folder) as opened:
        assert names_of(opened) == ["index-disagrees"]
        assert "old" not in opened.table


def test_a_second_index_is_named_and_left(folder: Path):
    write_index(folder, {"x": "gone.bin"}, name="pytorch_model.bin.index.json")
    with open_path(folder) as opened:
        assert names_of(opened) == ["not-listed"]
        assert len(opened.table) == 3


def test_a_shard_that_is_a_pointer_or_a_web_page_is_said_to_be_one(folder: Path):
    (folder / FIRST).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1000\n")
    with open_path(folder) as opened:
        assert names_of(opened) == ["git-lfs-pointer"]
        assert opened.findings[0].where.member == FIRST
        assert opened.findings[0].what.startswith(f"{FIRST}: a git-lfs pointer")


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/passwd", "a/../../secret", "C:\\model", "\\\\host\\x", "a\0b", "", ".", "x/"],
)
def test_names_that_lead_out_of_the_folder_are_refused(folder: Path, name: str):
    save_file({"s": torch.ones(1)}, folder.parent / "secret.safetensors")
    write_index(folder, {"a.weight": FIRST, "s": name})
    with open_path(folder) as opened:
        assert "path-outside-folder" in names_of(opened)
        assert "s" not in opened.table


def test_a_link_out_of_the_folder_is_refused_and_one_into_the_blobs_of_its_cache_followed(folder: Path):
    outside = folder.parent / "blobs" / "0123"
    outside.parent.mkdir()
    os.rename(folder / FIRST, outside)
    (folder / FIRST).symlink_to(outside)
    with open_path(folder) as opened:
        assert "path-outside-folder" in names_of(opened)
    # As the cache of Hugging Face lies: <repo>/snapshots/<commit>/file -> <repo>/blobs/<hash>.
    snapshots = folder.parent / "snapshots"
    snapshots.mkdir()
    cached = Path(os.rename(folder, snapshots / "commit") or snapshots / "commit")
    (cached / FIRST).unlink()
    (cached / FIRST).symlink_to("../../blobs/0123")
    with open_path(cached) as opened:
        assert names_of(opened) == []
        assert listed_all(opened) == facts_of_all(STATE)


def test_a_shard_that_is_an_index_does_not_lead_back_into_the_folder(folder: Path):
    write_index(folder, {"a.weight": INDEX})
    opened = obeys(folder)
    assert opened is not None
    assert opened.findings


@pytest.mark.parametrize(
    "text",
    [
        b'{"weight_map": ',
        b'{"weight_map": []}',
        b'{"weight_map": {"a": 3}}',
        b'{"weight_map": {"a": null}}',
        b'{"weight_map": {}, "x": ' + b"[" * 100_000,
        b'{"weight_map": {}, "n": ' + b"9" * 5000 + b"}",
        b'\xff\xfe{"weight_map": {}}',
        b"[]",
        b"",
    ],
)
def test_an_index_that_is_none_is_a_finding(folder: Path, text: bytes):
    (folder / INDEX).write_bytes(text)
    opened = obeys(folder)
    assert opened is not None
    assert "broken-index" in names_of(opened)
    assert not opened.listed


def test_a_key_that_comes_twice_in_an_index_is_named(folder: Path):
    (folder / INDEX).write_text(f'{{"weight_map": {{"a.weight": "{FIRST}", "a.weight": "{SECOND}"}}}}')
    with open_path(folder) as opened:
        assert "duplicate-key" in names_of(opened)


def test_an_index_longer_than_the_limit_is_refused(folder: Path):
    with pytest.raises(LimitExceeded, match=r"Limits\.header_bytes"):
        open_path(folder, Limits(header_bytes=100))


def test_a_shard_cut_anywhere_ends_in_a_value_and_findings(folder: Path):
    data = (folder / FIRST).read_bytes()
    for length in range(0, len(data), 9):
        (folder / FIRST).write_bytes(data[:length])
        opened = obeys(folder)
        assert opened is not None
        assert opened.findings, length


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_a_model_of_more_shards_than_files_may_be_open_is_read(tmp_path: Path):
    count = 150
    weight_map = {}
    for number in range(1, count + 1):
        name = f"model-{number:05}-of-{count:05}.safetensors"
        save_file({f"w{number}": torch.full((3,), float(number))}, tmp_path / name)
        weight_map[f"w{number}"] = name
    write_index(tmp_path, weight_map, count * 12)
    before = open_files()
    with open_path(tmp_path) as opened:
        assert opened.findings == ()
        assert open_files() - before < 100
        found = listed_all(opened)
    assert found == facts_of_all({f"w{number}": torch.full((3,), float(number)) for number in range(1, count + 1)})
