"""The zip archives of torch.save: equal to what torch reads, and plain words for everything else."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
import torch
import zoo
from archives import changed, records_of, write_archive
from listing import codes, listed

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.finding import Severity
from rekindle.formats import open_path
from rekindle.limits import Limits


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.pth"
    torch.save({"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(3), "epoch": 7}, path)
    return path


def rows_of(path: Path) -> list[dict[str, object]]:
    with open_path(path) as opened:
        return listed(opened)


def codes_of(path: Path) -> list[str]:
    with open_path(path) as opened:
        return codes(opened)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_everything_torch_can_save_is_listed_as_torch_loads_it(tmp_path: Path, protocol: int):
    path = tmp_path / "all.pt"
    with zoo.quiet():
        torch.save(zoo.complete(), path, pickle_protocol=protocol)
    with open_path(path) as opened:
        assert opened.format == "torch-zip"
        assert not opened.findings
        found = listed(opened)
    assert len(found) > 100
    with zoo.quiet():
        assert found == zoo.rows(zoo.load(path))


def test_a_whole_module_is_listed_without_its_class(tmp_path: Path):
    path = tmp_path / "net.pt"
    torch.save(zoo.Net(), path)
    rows = rows_of(path)
    assert rows == zoo.rows(zoo.load(path))
    keys = [row["key"] for row in rows]
    assert {"conv.weight", "blocks.1.1.bias", "tied.weight", "cache", "scale"} <= set(keys)


def test_tensors_that_share_a_storage_share_it_in_the_table(tmp_path: Path):
    path = tmp_path / "shared.pt"
    torch.save(zoo.strided(), path)
    with open_path(path) as opened:
        table = opened.table
        assert table["first"].storage is table["whole"].storage is table["last"].storage
        assert table["row"].storage is not table["whole"].storage
        assert table["last"].offset == 6


def test_the_container_says_what_it_knows(saved: Path):
    with open_path(saved) as opened:
        facts = dict(opened.facts)
        names = [member.name for member in opened.members]
    assert facts["root"] == "model"
    assert facts["byteorder"] == "little"
    assert facts["version"] == "3"
    assert facts["storage_alignment"] == "64"
    assert len(str(facts["serialization_id"])) == 40
    assert names[0] == "model/data.pkl"
    assert "model/data/0" in names


def test_members_carry_the_checksums_that_zipfile_reads(saved: Path):
    with zipfile.ZipFile(saved) as archive, open_path(saved) as opened:
        assert {m.name: m.crc32 for m in opened.members} == {i.filename: i.CRC for i in archive.infolist()}
        assert all(m.data.read() == archive.read(m.name) for m in opened.members)


def test_a_renamed_file_is_read_by_the_root_that_it_has(saved: Path, tmp_path: Path):
    renamed = saved.rename(tmp_path / "another name.bin")
    assert [row["key"] for row in rows_of(renamed)] == ["weight", "bias"]


def test_the_suffix_means_nothing(saved: Path, tmp_path: Path):
    with open_path(saved.rename(tmp_path / "model.safetensors")) as opened:
        assert opened.format == "torch-zip"


# --- whole, cut, and with bytes around it -------------------------------------------------------------------------


def test_cut_at_every_byte_it_is_truncated_and_never_an_exception(saved: Path, tmp_path: Path):
    data = saved.read_bytes()
    cut = tmp_path / "cut.pth"
    for length in range(4, len(data), 1 if len(data) < 3000 else 3):
        cut.write_bytes(data[:length])
        with open_path(cut) as opened:
            assert opened.format == "torch-zip", length
            assert not opened.listed, length
            assert codes(opened)[-1] == "RK-FILE-04", length


def test_a_truncated_archive_says_how_much_of_it_is_whole(tmp_path: Path):
    path = tmp_path / "model.pth"
    torch.save({"a": torch.ones(1000), "b": torch.ones(2000), "c": torch.ones(3000)}, path)
    data = path.read_bytes()
    end_of_b = data.find(b"model/data/2") - 30
    path.write_bytes(data[: end_of_b + 10])
    with open_path(path) as opened:
        (finding,) = opened.findings
    assert finding.name == "truncated-archive"
    assert f"found {end_of_b + 10:,} bytes, its 3 storages alone need 24,000; 2 of them are whole" in finding.what
    assert finding.why
    assert finding.do


def test_a_file_longer_than_its_storages_is_not_said_to_be_shorter(tmp_path: Path):
    """Headers and paddings of many small tensors are longer than the tensors."""
    path = tmp_path / "model.pth"
    torch.save({str(i): torch.ones(1) for i in range(9)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: data.find(b"model/data/7") - 30])
    with open_path(path) as opened:
        assert opened.findings[0].what.endswith("bytes; 7 of its 9 storages are whole")


def test_a_tail_of_zeros_is_named(saved: Path):
    data = saved.read_bytes()
    saved.write_bytes(data[: len(data) // 2] + bytes(8192))
    with open_path(saved) as opened:
        assert "zeros" in opened.findings[-1].why


def test_bytes_after_the_end_are_tolerated_and_said(saved: Path):
    before = rows_of(saved)
    saved.write_bytes(saved.read_bytes() + b"garbage" * 9)
    assert rows_of(saved) == before
    assert codes_of(saved) == ["RK-FILE-15"]


def test_bytes_in_front_are_tolerated_and_said(saved: Path):
    before = rows_of(saved)
    saved.write_bytes(b"#!/bin/sh\nexit\n" + saved.read_bytes())
    assert rows_of(saved) == before
    assert codes_of(saved) == ["RK-FILE-14"]


# --- repacked, forged and damaged ----------------------------------------------------------------------------------


def test_an_archive_packed_again_with_compression_is_read(saved: Path, tmp_path: Path):
    packed = write_archive(tmp_path / "packed.pth", records_of(saved), zipfile.ZIP_DEFLATED)
    assert rows_of(packed) == rows_of(saved)
    assert codes_of(packed) == ["RK-FILE-31"]


def test_an_outer_folder_is_found_and_said(saved: Path, tmp_path: Path):
    wrapped = changed(saved, tmp_path / "wrapped.pth", lambda name, content: (f"outer/{name}", content))
    assert rows_of(wrapped) == rows_of(saved)
    assert codes_of(wrapped) == ["RK-FILE-30"]


def test_files_that_macos_adds_are_no_model(saved: Path, tmp_path: Path):
    records = [("__MACOSX/model/data.pkl", b"\0\5\x16\7"), *records_of(saved)]
    assert rows_of(write_archive(tmp_path / "mac.pth", records)) == rows_of(saved)


def test_an_old_archive_without_dotted_records_is_little_endian(saved: Path, tmp_path: Path):
    old = changed(saved, tmp_path / "old.pth", lambda n, c: None if "/." in n or n.endswith("byteorder") else (n, c))
    assert rows_of(old) == rows_of(saved)
    assert codes_of(old) == []


def test_a_big_endian_archive_gives_the_same_values(saved: Path, tmp_path: Path):
    def swap(name: str, content: bytes) -> tuple[str, bytes]:
        if name.endswith("byteorder"):
            return name, b"big"
        if "/data/" in name and "/.data/" not in name:
            count = len(content) // 4
            return name, struct.pack(f">{count}f", *struct.unpack(f"<{count}f", content))
        return name, content

    assert rows_of(changed(saved, tmp_path / "big.pth", swap)) == rows_of(saved)


def test_a_record_shorter_than_declared_has_no_bytes(saved: Path, tmp_path: Path):
    short = changed(saved, tmp_path / "short.pth", lambda n, c: (n, c[:-4] if n.endswith("/data/0") else c))
    with open_path(short) as opened:
        (finding,) = opened.findings
        assert (finding.code, finding.severity) == ("RK-FILE-18", Severity.ERROR)
        assert "has 44 bytes, the pickle needs 48" in finding.what
        assert opened.table["weight"].storage.data is None
        assert opened.table["bias"].storage.data is not None


def test_a_record_longer_than_declared_is_cut_to_what_is_declared(saved: Path, tmp_path: Path):
    longer = changed(saved, tmp_path / "long.pth", lambda n, c: (n, c + bytes(4) if n.endswith("/data/0") else c))
    assert rows_of(longer) == rows_of(saved)
    assert codes_of(longer) == ["RK-FILE-18"]


def test_a_missing_record_is_named(saved: Path, tmp_path: Path):
    without = changed(saved, tmp_path / "without.pth", lambda n, c: None if n.endswith("/data/1") else (n, c))
    with open_path(without) as opened:
        (finding,) = opened.findings
        assert finding.code == "RK-FILE-19"
        assert "has no model/data/1" in finding.what
        assert len(opened.table) == 2


def test_a_storage_that_nothing_refers_to_is_a_note(saved: Path, tmp_path: Path):
    extra = write_archive(tmp_path / "extra.pth", [*records_of(saved), ("model/data/99", b"payload")])
    assert codes_of(extra) == ["RK-FILE-29"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_given_twice_is_an_error(saved: Path, tmp_path: Path):
    twice = write_archive(tmp_path / "twice.pth", [*records_of(saved), ("model/data/0", bytes(48))])
    assert "RK-FILE-11" in codes_of(twice)


def test_member_names_that_point_outside_are_said_and_nothing_is_written(saved: Path, tmp_path: Path):
    hostile = write_archive(tmp_path / "hostile.pth", [*records_of(saved), ("../../evil", b"x"), ("/etc/evil", b"x")])
    before = sorted(tmp_path.parent.rglob("*evil*"))
    assert codes_of(hostile).count("RK-FILE-12") == 2
    assert sorted(tmp_path.parent.rglob("*evil*")) == before


def test_a_directory_whose_local_header_has_another_name_is_not_believed(saved: Path):
    data = bytearray(saved.read_bytes())
    at = data.find(b"model/data/1")
    data[at : at + 12] = b"model/data/7"
    saved.write_bytes(data)
    with open_path(saved) as opened:
        assert "RK-FILE-05" in codes(opened)
        assert opened.table["bias"].storage.data is None


def test_two_records_on_the_same_bytes_are_an_error(saved: Path):
    data = bytearray(saved.read_bytes())
    directory = data.find(b"PK\x01\x02")
    entry = data.find(b"model/data/0", directory) - 46
    size_at = entry + 20
    data[size_at : size_at + 8] = struct.pack("<LL", 200, 200)
    saved.write_bytes(data)
    assert "RK-FILE-13" in codes_of(saved)


def test_a_bomb_is_not_inflated(tmp_path: Path, saved: Path):
    bomb = write_archive(tmp_path / "bomb.pth", [*records_of(saved)[:1]], zipfile.ZIP_DEFLATED)
    data = bytearray(bomb.read_bytes())
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = data.find(signature)
        data[start + at : start + at + 4] = struct.pack("<L", 2**31)
    bomb.write_bytes(data)
    with open_path(bomb) as opened:
        assert "RK-FILE-06" in codes(opened)
        assert not opened.listed


def test_a_record_that_inflates_to_another_size_is_damaged(saved: Path, tmp_path: Path):
    packed = write_archive(tmp_path / "packed.pth", records_of(saved), zipfile.ZIP_DEFLATED)
    with open_path(packed) as opened:
        size_in_directory = next(m for m in opened.members if m.name.endswith("/data/0")).data
        at, size = size_in_directory.offset, size_in_directory.size
    data = bytearray(packed.read_bytes())
    data[at : at + size] = bytes(size)
    packed.write_bytes(data)
    with open_path(packed) as opened, pytest.raises(UnreadableFile, match="does not inflate"):
        listed(opened)


def test_limits_stop_the_reading(saved: Path):
    with pytest.raises(LimitExceeded, match="members"):
        open_path(saved, Limits(members=3))
    with pytest.raises(LimitExceeded, match="pickle"):
        open_path(saved, Limits(pickle_bytes=10))


def test_a_damaged_pickle_is_a_finding_with_its_place(saved: Path, tmp_path: Path):
    broken = changed(saved, tmp_path / "broken.pth", lambda n, c: (n, b"\x80\x02\xff." if n.endswith(".pkl") else c))
    with open_path(broken) as opened:
        assert not opened.listed
        assert codes(opened)[0] == "RK-FILE-07"
        assert opened.findings[0].where.member == "model/data.pkl"


def test_a_tensor_that_reaches_out_of_its_storage_is_an_error(tmp_path: Path):
    path = tmp_path / "out.pth"
    torch.save({"w": torch.arange(4.0)}, path)
    forged = changed(
        path,
        tmp_path / "forged.pth",
        lambda n, c: (n, c.replace(b"K\x04\x85", b"K\x64\x85")) if ".pkl" in n else (n, c),
    )
    with open_path(forged) as opened:
        (finding,) = opened.findings
        assert finding.code == "RK-FILE-10"
        assert "bytes 0 to 400 of storage 0, which has 16" in finding.what


# --- archives of something else -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_goes_to_its_own_reader_and_is_not_called_damaged(tmp_path: Path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    with open_path(tmp_path / "script.pt") as opened:
        assert opened.format == "torchscript"
        assert not [f for f in opened.findings if "damage" in f.what + f.why]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["[Content_Types].xml", "word/document.xml"], "an Office document"),
        (["META-INF/MANIFEST.MF", "A.class"], "a Java archive"),
        (["run1/model.pth", "run1/notes.txt"], "a model inside: run1/model.pth"),
        (["notes.txt"], "1 other file,"),
        ([], "an empty zip archive"),
    ],
)
def test_other_archives_are_named(tmp_path: Path, names: list[str], words: str):
    path = write_archive(tmp_path / "model.pth", [(name, b"x") for name in names])
    with open_path(path) as opened:
        assert opened.format == "not-a-model"
        assert words in opened.findings[-1].what


def test_a_tensor_pickled_inside_a_pickle_is_listed(tmp_path: Path):
    import pickle

    path = tmp_path / "nested.pt"
    inner = torch.arange(5.0)
    torch.save({"blob": _Pickled(inner), "plain": torch.ones(2)}, path)
    assert pickle.loads(pickle.dumps(inner)).equal(inner)
    rows = rows_of(path)
    assert [(row["key"].rpartition(".")[2], row["shape"]) for row in rows] == [("0", [5]), ("plain", [2])]
    assert rows[0]["digest"] == zoo.digest(inner)


class _Pickled:
    """Holds a tensor as pickle.dumps writes its storage: a whole old stream inside."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self):
        import io

        buffer = io.BytesIO()
        torch.save(self.tensor, buffer, _use_new_zipfile_serialization=False)
        return _rebuild, (_Bytes(buffer.getvalue()),)


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.data,)


def _rebuild(tensor: object) -> object:
    return {"tensor": tensor}
