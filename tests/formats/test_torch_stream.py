"""Streams from before torch 1.6, as torch writes them today and as old versions wrote them, byte by byte."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import pytest
import torch
import zoo
from listing import codes, listed

from rekindle.errors import UnreadableFile
from rekindle.formats import open_path
from rekindle.tree import Map, Module

MAGIC = 0x1950A86A20F9469CFC6C
SYS_INFO = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 8},
}


def save_old(value: object, path: Path, **settings: object) -> Path:
    with zoo.quiet():
        torch.save(value, path, _use_new_zipfile_serialization=False, **settings)
    return path


def rows_of(path: Path) -> list[dict[str, object]]:
    with open_path(path) as opened:
        assert opened.format == "torch-stream"
        return listed(opened)


def codes_of(path: Path) -> list[str]:
    with open_path(path) as opened:
        return codes(opened)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_everything_an_old_stream_holds_is_listed_as_torch_loads_it(tmp_path: Path, protocol: int):
    path = save_old(zoo.complete(zoo.TYPED), tmp_path / "all.pt", pickle_protocol=protocol)
    with open_path(path) as opened:
        assert not opened.findings
        found = listed(opened)
    assert len(found) > 70
    with zoo.quiet():
        assert found == zoo.rows(zoo.load(path))


def test_a_whole_module_brings_the_source_of_its_classes(tmp_path: Path):
    path = save_old(zoo.Net(), tmp_path / "net.pt")
    with zoo.quiet(), open_path(path) as opened:
        assert listed(opened) == zoo.rows(zoo.load(path))
        assert isinstance(opened.tree, Module)
        assert "A module with everything" in (opened.tree.source or "")
        assert "zoo.Net" in opened.facts["sources"]


def test_a_list_of_a_million_bytes_of_pickle_is_found_whole(tmp_path: Path):
    path = save_old({"notes": [f"{i:099}" for i in range(20_000)], "w": torch.ones(3)}, tmp_path / "long.pt")
    assert path.stat().st_size > 2_000_000
    assert [row["key"] for row in rows_of(path)] == ["w"]


# --- whole, cut, and with bytes after its end ------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return save_old({"a": torch.arange(6.0), "b": torch.ones(2, dtype=torch.int64)}, tmp_path / "small.pt")


def test_cut_at_every_byte_it_is_truncated_and_lists_what_it_can(small: Path, tmp_path: Path):
    data = small.read_bytes()
    cut = tmp_path / "cut.pt"
    listings = set()
    for length in range(15, len(data)):
        cut.write_bytes(data[:length])
        with open_path(cut) as opened:
            assert opened.format == "torch-stream", length
            assert "RK-FILE-16" in codes(opened), length
            listings.add(len(opened.table))
    assert listings == {0, 2}


def test_a_truncated_stream_names_the_missing_storages_and_keeps_the_others(tmp_path: Path):
    path = save_old({"a": torch.arange(6.0), "b": torch.ones(100)}, tmp_path / "model.pt")
    path.write_bytes(path.read_bytes()[:-30])
    with open_path(path) as opened:
        (finding,) = opened.findings
        whole = [entry.key for entry in opened.table if entry.storage.data is not None]
    assert "1 of 2 storages are missing" in finding.what
    assert f"found {path.stat().st_size:,} of {path.stat().st_size + 30:,} bytes" in finding.what
    assert len(whole) == 1


def test_bytes_after_the_end_are_said_and_read_around(small: Path):
    before = rows_of(small)
    small.write_bytes(small.read_bytes() + b"rest")
    assert rows_of(small) == before
    assert codes_of(small) == ["RK-FILE-15"]


def test_a_second_object_in_the_same_file_is_said(tmp_path: Path):
    with (tmp_path / "two.pt").open("wb") as file:
        torch.save(torch.ones(1), file, _use_new_zipfile_serialization=False)
        torch.save(torch.ones(2), file, _use_new_zipfile_serialization=False)
    with open_path(tmp_path / "two.pt") as opened:
        assert "another object" in opened.findings[0].what
        assert [entry.key for entry in opened.table] == ["tensor"]


# --- written byte by byte --------------------------------------------------------------------------------------------


class Global:
    """Pickles as a bare reference to a global."""

    def __init__(self, module: str, name: str) -> None:
        self.path = (module, name)


class OldPickler(pickle._Pickler):
    """Writes what old versions of torch wrote: persistent ids and globals as they are given."""

    def persistent_id(self, obj: object) -> object:
        return obj.pid if isinstance(obj, Pid) else None

    def save_global_ref(self, obj: Global) -> None:
        self.write(f"c{obj.path[0]}\n{obj.path[1]}\n".encode())

    def save_call(self, obj: Call) -> None:
        self.save(obj.function)
        self.save(obj.args)
        self.write(pickle.REDUCE)


class Pid:
    def __init__(self, *pid: object) -> None:
        self.pid = pid


class Call:
    def __init__(self, function: Global, *args: object) -> None:
        self.function = function
        self.args = args


OldPickler.dispatch = {
    **pickle._Pickler.dispatch,
    Global: OldPickler.save_global_ref,
    Call: OldPickler.save_call,
}


def dumps(value: object, protocol: int = 2) -> bytes:
    import io

    out = io.BytesIO()
    OldPickler(out, protocol).dump(value)
    return out.getvalue()


def stream(value: object, storages: list[tuple[str, int, bytes]], sys_info: object = SYS_INFO) -> bytes:
    """Return an old stream: the object, then (key, count, raw bytes) of each storage."""
    parts = [MAGIC, 1001, sys_info, value, [key for key, _, _ in storages]]
    return b"".join(map(dumps, parts)) + b"".join(struct.pack("<q", count) + raw for _, count, raw in storages)


def tensor(key: str, numel: int, view: object = None, *, size: tuple[int, ...], offset: int = 0) -> Call:
    storage = Pid("storage", Global("torch", "FloatStorage"), key, "cpu", numel, view)
    return Call(Global("torch._utils", "_rebuild_tensor"), storage, offset, size, (1,))


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def values_of(path: Path, key: str) -> list[float]:
    from rekindle.gather import gather

    with open_path(path) as opened:
        data = b"".join(map(bytes, gather(opened.table[key]).chunks()))
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def test_views_of_a_root_storage_start_where_they_say(tmp_path: Path):
    path = tmp_path / "views.pt"
    value = {
        "whole": tensor("10", 6, size=(6,)),
        "part": tensor("10", 3, ("11", 2, 3), size=(2,), offset=1),
    }
    path.write_bytes(stream(value, [("10", 6, floats(0, 1, 2, 3, 4, 5))]))
    with open_path(path) as opened:
        assert not opened.findings
        assert opened.table["part"].storage is opened.table["whole"].storage
    assert values_of(path, "whole") == [0, 1, 2, 3, 4, 5]
    assert values_of(path, "part") == [3, 4]


def test_a_view_alone_takes_its_root_from_the_file(tmp_path: Path):
    path = tmp_path / "view.pt"
    path.write_bytes(stream(tensor("10", 2, ("11", 3, 2), size=(2,)), [("10", 5, floats(0, 1, 2, 3, 4))]))
    assert codes_of(path) == []
    assert values_of(path, "tensor") == [3, 4]


def test_a_file_from_a_big_endian_machine_is_little_endian_too(tmp_path: Path):
    path = tmp_path / "big.pt"
    info = {**SYS_INFO, "little_endian": False}
    path.write_bytes(stream({"w": tensor("1", 2, size=(2,))}, [("1", 2, floats(1.5, -2))], info))
    assert values_of(path, "w") == [1.5, -2]


def test_the_source_of_a_module_is_kept_as_text_and_nothing_of_it_runs(tmp_path: Path):
    path = tmp_path / "module.pt"
    source = "raise SystemExit('ran')"
    module = Call(Global("copyreg", "_reconstructor"), Pid("module", Global("gone", "Net"), "gone.py", source), None)
    path.write_bytes(stream({"net": module}, []))
    with open_path(path) as opened:
        assert opened.listed
        assert opened.facts["sources"] == {"gone.Net": {"file": "gone.py", "text": source}}
        assert isinstance(opened.tree, Map)


def test_a_count_that_the_pickle_contradicts_is_an_error(tmp_path: Path):
    path = tmp_path / "count.pt"
    path.write_bytes(stream({"w": tensor("1", 2, size=(2,))}, [("1", 3, floats(1, 2, 3))]))
    assert "RK-FILE-18" in codes_of(path)


@pytest.mark.parametrize("count", [-1, 2**62, 2**63 - 1])
def test_impossible_counts_are_no_bytes_and_no_crash(tmp_path: Path, count: int):
    path = tmp_path / "count.pt"
    path.write_bytes(stream({"w": tensor("1", 2, size=(2,))}, [("1", count, floats(1, 2))]))
    with open_path(path) as opened:
        assert "RK-FILE-16" in codes(opened)
        assert opened.table["w"].storage.data is None


def test_a_storage_that_belongs_to_nothing_stops_the_listing_of_bytes(tmp_path: Path):
    path = tmp_path / "alien.pt"
    path.write_bytes(stream({"w": tensor("2", 1, size=(1,))}, [("1", 1, floats(1)), ("2", 1, floats(2))]))
    with open_path(path) as opened:
        assert "belongs to no tensor" in opened.findings[0].what
        assert opened.table["w"].storage.data is None


def test_persistent_ids_of_another_form_are_said(tmp_path: Path):
    path = tmp_path / "odd.pt"
    path.write_bytes(stream({"w": Pid("surprise", 1), "v": tensor("1", 1, size=(1,))}, [("1", 1, floats(1))]))
    assert codes_of(path) == ["RK-FILE-08"]
    assert values_of(path, "v") == [1]


def test_a_missing_list_of_storages_is_named(tmp_path: Path):
    path = tmp_path / "headless.pt"
    whole = stream({"w": tensor("1", 1, size=(1,))}, [("1", 1, floats(1))])
    end = whole.index(dumps(["1"])) + 3
    path.write_bytes(whole[:end])
    with open_path(path) as opened:
        assert codes(opened) == ["RK-FILE-16"]
        assert [entry.key for entry in opened.table] == ["w"]


def test_the_python_2_way_of_writing_text_is_understood(tmp_path: Path):
    path = tmp_path / "py2.pt"
    pid = b"(U\x07storagectorch\nFloatStorage\nU\x011U\x03cpuK\x02NtQ"
    program = b"\x80\x02}(U\x01wctorch._utils\n_rebuild_tensor\n(" + pid + b"K\x00K\x02\x85K\x01\x85tRu."
    head = b"".join(map(dumps, (MAGIC, 1001, SYS_INFO)))
    path.write_bytes(head + program + b"\x80\x02]U\x011a." + struct.pack("<q", 2) + floats(7, 8))
    assert values_of(path, "w") == [7, 8]


def test_streams_inside_streams_stop_at_a_depth(tmp_path: Path):
    inner = stream({"w": tensor("1", 1, size=(1,))}, [("1", 1, floats(1))])
    for _ in range(8):  # protocol 3: protocol 2 has no bytes and doubles them on each level
        around = [MAGIC, 1001, SYS_INFO, Call(Global("torch.storage", "_load_from_bytes"), inner), []]
        inner = b"".join(dumps(part, 3) for part in around)
    path = tmp_path / "deep.pt"
    path.write_bytes(inner)
    with open_path(path) as opened:
        assert opened.listed
        assert len(opened.table) == 0


def test_reading_what_is_missing_is_our_error(tmp_path: Path):
    path = tmp_path / "cut.pt"
    path.write_bytes(stream({"w": tensor("1", 2, size=(2,))}, [("1", 2, floats(1, 2))])[:-1])
    with open_path(path) as opened, pytest.raises(UnreadableFile, match="no bytes"):
        listed(opened)
