"""The tar container of PyTorch 0.1.1 to 0.1.9."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
from pathlib import Path

import pytest
import torch
from checkpoint_laws import drained, facts_of, listed_all, names_of, obeys, variants

from rekindle.formats import open_path

GOLDEN = Path(__file__).parent.parent / "golden" / "torch_tar"
FILE = GOLDEN / "views.tar"


def changed(tmp_path: Path, old: bytes, new: bytes) -> Path:
    data = FILE.read_bytes()
    assert len(old) == len(new)
    assert data.count(old) == 1, "the test must change exactly one place"
    path = tmp_path / "changed.tar"
    path.write_bytes(data.replace(old, new))
    return path


def test_a_file_of_0_1_9_is_listed_as_todays_torch_loads_it():
    expected = json.loads((GOLDEN / "views.json").read_text())
    with open_path(FILE) as opened:
        assert opened.format == "torch-tar"
        assert opened.listed
        assert opened.findings == ()
        found = {
            entry.key: {"dtype": entry.dtype, "shape": list(entry.shape), "stride": list(entry.stride)}
            for entry in opened.table
        }
        digests = {key: row[2] for key, row in listed_all(opened).items()}
    assert {key: row | {"digest": digests[key]} for key, row in found.items()} == expected
    assert len(expected) == 5


def test_torch_load_and_the_listing_agree_on_the_file():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.load(FILE, weights_only=False)
    with open_path(FILE) as opened:
        found = listed_all(opened)
    again = found.pop("nested.again")
    assert found == {key: facts_of(loaded[key]) for key in found}
    assert again == facts_of(loaded["nested"]["again"])


def test_tensors_and_views_of_one_storage_share_it():
    with open_path(FILE) as opened:
        storages = {entry.key: entry.storage for entry in opened.table}
        offsets = {entry.key: entry.offset for entry in opened.table}
    assert storages["weight"] is storages["transposed"] is storages["row"] is storages["nested.again"]
    assert storages["counts"] is not storages["weight"]
    assert offsets["row"] == 12  # six into a view that starts six into its root


def test_the_plain_values_of_the_object_are_in_the_tree():
    with open_path(FILE) as opened:
        assert dict(opened.tree.pairs)["epoch"] == 12
        assert opened.facts["byteorder"] == "little"
        assert [member.name for member in opened.members] == ["sys_info", "pickle", "tensors", "storages"]


def test_cut_anywhere_it_says_so_and_lists_only_what_is_whole(tmp_path: Path):
    data = FILE.read_bytes()
    with open_path(FILE) as opened:
        whole = listed_all(opened)
    path = tmp_path / "cut.tar"
    end = 3584 + 263  # of the last member; what follows is padding
    for length in [*range(512, 600, 7), *range(600, end, 53), end - 1]:
        path.write_bytes(data[:length])
        opened = obeys(path)
        assert opened is not None
        assert opened.format == "torch-tar"
        assert any(name in {"broken-tar", "broken-pickle"} for name in names_of(opened)), length
        with open_path(path) as again:
            for key, row in listed_all(again).items():
                assert row == whole[key]


def test_padding_is_no_part_of_the_file_and_other_bytes_behind_it_are_reported(tmp_path: Path):
    path = tmp_path / "more.tar"
    path.write_bytes(FILE.read_bytes() + bytes(70_000))
    with open_path(path) as opened:
        assert names_of(opened) == []
    path.write_bytes(FILE.read_bytes() + bytes(70_000) + b"more")
    with open_path(path) as opened:
        assert names_of(opened) == ["trailing-bytes"]
        assert drained(opened) == 5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (struct.pack("<q", 24) + struct.pack("<f", 0.0), struct.pack("<q", 2**62) + struct.pack("<f", 0.0)),
        (struct.pack("<q", 24) + struct.pack("<f", 0.0), struct.pack("<q", -1) + struct.pack("<f", 0.0)),
        (
            struct.pack("<i", 2) + b"\xff" * 4 + struct.pack("<2q", 4, 6),
            struct.pack("<i", 2**31 - 1) + b"\xff" * 4 + struct.pack("<2q", 4, 6),
        ),
        (struct.pack("<2q", 2, 3), struct.pack("<2q", -2, 3)),
    ],
    ids=["huge storage", "negative storage", "a billion dimensions", "negative size"],
)
def test_hostile_numbers_are_findings(tmp_path: Path, old: bytes, new: bytes):
    opened = obeys(changed(tmp_path, old, new))
    assert opened is not None
    assert "broken-tar" in names_of(opened)


def test_a_tensor_that_reaches_out_of_its_storage_is_not_read(tmp_path: Path):
    path = changed(tmp_path, struct.pack("<2q", 2, 3), struct.pack("<2q", 2, 2**40))
    with open_path(path) as opened:
        assert names_of(opened) == ["tensor-outside-storage"]
        assert drained(opened) == 4


def test_a_damaged_member_header_is_noticed(tmp_path: Path):
    data = bytearray(FILE.read_bytes())
    data[1024 + 130] ^= 1  # the size of `pickle`
    path = tmp_path / "header.tar"
    path.write_bytes(data)
    opened = obeys(path)
    assert opened is not None
    assert "broken-tar" in names_of(opened)
    assert not opened.listed


def test_another_tar_archive_is_not_taken_for_one_of_torch(tmp_path: Path):
    import io
    import tarfile

    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("photo.png")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    with open_path(path) as opened:
        assert opened.format == "not-a-model"


def test_a_pickle_that_would_call_something_only_records_it(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            import os

            return os.mkdir, (str(tmp_path / "made"),)

    evil = pickle.dumps(Evil(), 2)
    data = bytearray(FILE.read_bytes())
    data[1536 : 1536 + len(evil)] = evil
    path = tmp_path / "evil.tar"
    path.write_bytes(data)
    opened = obeys(path)
    assert opened is not None
    assert not (tmp_path / "made").exists()


def test_any_damage_ends_in_a_value_and_findings(tmp_path: Path):
    path = tmp_path / "damaged.tar"
    for data in variants(FILE.read_bytes()[:4096], 300):
        path.write_bytes(data)
        obeys(path)
