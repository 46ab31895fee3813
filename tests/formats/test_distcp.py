"""Folders of torch.distributed.checkpoint: assembled from the pieces of all ranks, or listed nameless without names."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from checkpoint_laws import copied, facts_of_all, listed_all, listed_facts, names_of, obeys, variants
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorStorageMetadata

from rekindle.errors import UnreadableFile
from rekindle.finding import Severity
from rekindle.formats import open_path
from rekindle.formats._assembled import Assembled
from rekindle.gather import gather

GOLDEN = Path(__file__).parent.parent / "golden" / "distcp"
EXPECTED = {
    name: {key: (row["dtype"], row["shape"], row["digest"]) for key, row in rows.items()}
    for name, rows in json.loads((GOLDEN / "expected.json").read_text()).items()
}


def save(state: dict[str, object], folder: Path) -> None:
    """Save as a single process; torch warns that it is one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder)


def plain(value: object) -> object:
    """Return a tree as Python's own dicts and lists, tensors by their shape."""
    from rekindle.tree import Map, Tensor

    if isinstance(value, Map):
        return {key: plain(child) for key, child in value.pairs}
    if isinstance(value, list):
        return [plain(child) for child in value]
    return list(value.shape) if isinstance(value, Tensor) else value


def test_a_folder_of_one_process_is_listed_with_its_dicts_lists_and_values():
    with open_path(GOLDEN / "mixed") as opened:
        assert opened.format == "distcp"
        assert opened.findings == ()
        assert listed_all(opened) == EXPECTED["mixed"]
        assert plain(opened.tree) == {
            "model": {"a.weight": [3, 4], "turned": [3, 2]},
            "optimizer": {"state": [{"step": [], "avg": [2, 2]}, {"step": []}], "lr": 0.1, "betas": (0.9, 0.999)},
            "flags": [3],
            "empty": [0, 3],
            "epoch": 7,
            "text": "hello",
        }
        assert opened.facts["version"] == "1.0.0"
    assert len(EXPECTED["mixed"]) == 7


def test_pieces_of_three_ranks_are_put_together():
    with open_path(GOLDEN / "sharded") as opened:
        assert opened.findings == ()
        assert listed_all(opened) == {f"net.{key}": row for key, row in EXPECTED["sharded"].items()}
        assert isinstance(opened.table["net.columns"].storage.data, Assembled)
        assert dict(opened.tree.pairs)["epoch"] == 3


def test_torch_and_rekindle_load_the_same(tmp_path: Path):
    state = {"a": torch.randn(5, 6), "b": {"c": torch.randint(0, 9, (4,)), "d": torch.randn(3).to(torch.float16)}}
    save(state, tmp_path / "saved")
    loaded = {"a": torch.zeros(5, 6), "b": {"c": torch.zeros(4, dtype=torch.int64), "d": torch.zeros(3).half()}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(loaded, checkpoint_id=tmp_path / "saved")
    with open_path(tmp_path / "saved") as opened:
        assert listed_all(opened) == facts_of_all({"a": loaded["a"], "b.c": loaded["b"]["c"], "b.d": loaded["b"]["d"]})


def test_listing_reads_no_item_and_reading_one_tensor_reads_only_its_items():
    with open_path(GOLDEN / "sharded") as opened:
        data = opened.table["net.same"].storage.data
        assert data.found is None
        assert listed_facts(opened.table["net.same"]) == EXPECTED["sharded"]["same"]
        assert data.found is not None
        assert all(box.read.__self__.found is None for box in opened.table["net.rows"].storage.data.boxes)


# --- without the description -----------------------------------------------------------------------------------------


def test_without_its_description_every_item_is_listed_nameless(tmp_path: Path):
    folder = copied(GOLDEN / "sharded", tmp_path / "lost")
    (folder / ".metadata").unlink()
    with open_path(folder) as opened:
        assert opened.format == "distcp"
        assert names_of(opened) == ["missing-metadata"]
        assert opened.findings[0].severity is Severity.ERROR
        shapes = {entry.key: list(entry.shape) for entry in opened.table}
        items = [plain(values) for _, values in opened.tree.pairs]
        everything = listed_all(opened)
    # Rank 0 has rows 0 to 2 of seven, columns 0 to 2 of seven, four of ten elements, and what all ranks have alike.
    assert sorted(shapes) == sorted(everything)
    assert sum(len(item) for item in items) == len(shapes) + 1
    assert [3, 4] in [shape for key, shape in shapes.items() if key.startswith("__0_0.distcp")]
    assert any(3 in item for item in items), "the epoch is a value among the items"
    assert EXPECTED["sharded"]["scalar"] in everything.values()


def test_a_file_of_pieces_alone_is_listed_nameless(tmp_path: Path):
    path = tmp_path / "alone.bin"
    shutil.copy(GOLDEN / "mixed" / "__0_0.distcp", path)
    with open_path(path) as opened:
        assert opened.format == "distcp"
        assert names_of(opened) == ["missing-metadata"]
        assert sorted(listed_all(opened).values()) == sorted(EXPECTED["mixed"].values())


def test_a_file_of_one_archive_is_a_torch_save_file(tmp_path: Path):
    torch.save(torch.ones(3), tmp_path / "one.pt")
    with open_path(tmp_path / "one.pt") as opened:
        assert opened.format == "torch-zip"


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_and_the_other_tensors_are_read(tmp_path: Path):
    folder = copied(GOLDEN / "sharded", tmp_path / "missing")
    (folder / "__1_0.distcp").unlink()
    with open_path(folder) as opened:
        assert names_of(opened) == ["missing-shard"]
        assert "__1_0.distcp" in opened.findings[0].what
        found = listed_all(opened)
        assert opened.table["net.rows"].storage.data is None
    assert found
    assert all(EXPECTED["sharded"][key.removeprefix("net.")] == row for key, row in found.items())


def test_a_file_cut_anywhere_costs_only_the_items_behind_the_cut(tmp_path: Path):
    folder = copied(GOLDEN / "mixed", tmp_path / "cut")
    piece = folder / "__0_0.distcp"
    data = piece.read_bytes()
    counts = []
    for length in range(0, len(data), 701):
        piece.write_bytes(data[:length])
        with open_path(folder) as opened:
            assert "damaged-part" in names_of(opened)
            found = listed_all(opened)
        counts.append(len(found))
        assert all(EXPECTED["mixed"][key] == row for key, row in found.items()), length
    assert counts == sorted(counts)
    assert counts[0] <= 1 < counts[-1]


@pytest.mark.parametrize("end", ["first", "last"])
def test_an_item_whose_ends_were_overwritten_is_named_before_it_is_read(tmp_path: Path, end: str):
    folder = copied(GOLDEN / "mixed", tmp_path / "zeroed")
    place = next(p for index, p in read_metadata(folder).storage_data.items() if index.fqn == "flags")
    data = bytearray((folder / place.relative_path).read_bytes())
    at = place.offset if end == "first" else place.offset + place.length - 22
    data[at : at + 22] = bytes(22)
    (folder / place.relative_path).write_bytes(data)
    with open_path(folder) as opened:
        assert names_of(opened) == ["damaged-part"]
        assert opened.findings[0].where.key == "flags"
        assert opened.table["flags"].storage.data is None


def test_cut_without_its_description_the_whole_items_are_found(tmp_path: Path):
    path = tmp_path / "cut.distcp"
    data = (GOLDEN / "mixed" / "__0_0.distcp").read_bytes()
    folder = tmp_path / "folder"
    folder.mkdir()
    for length in range(1500, len(data), 1501):
        path = folder / "__0_0.distcp"
        path.write_bytes(data[:length])
        opened = obeys(folder)
        assert opened is not None
        assert names_of(opened)[0] == "missing-metadata"
        assert "damaged-part" in names_of(opened)


def test_bytes_behind_the_last_item_change_nothing(tmp_path: Path):
    folder = copied(GOLDEN / "mixed", tmp_path / "more")
    with (folder / "__0_0.distcp").open("ab") as file:
        file.write(b"more")
    with open_path(folder) as opened:
        assert listed_all(opened) == EXPECTED["mixed"]


def test_an_item_of_another_save_is_noticed_when_it_is_read(tmp_path: Path):
    folder = copied(GOLDEN / "mixed", tmp_path / "other")
    save({"flags": torch.zeros(3)}, tmp_path / "second")
    swap_places(folder, tmp_path / "second", "flags")
    with open_path(folder) as opened, pytest.raises(UnreadableFile, match=r"float32 \[3\].*says bool \[3\]"):
        list(gather(opened.table["flags"]).chunks())


def swap_places(folder: Path, other: Path, key: str) -> None:
    """Let a description point at an item of another folder's file, copied in beside its own."""
    metadata = read_metadata(folder)
    place = next(iter(read_metadata(other).storage_data.values()))
    shutil.copy(other / place.relative_path, folder / "other.distcp")
    index = next(index for index in metadata.storage_data if index.fqn == key)
    metadata.storage_data[index] = replace(place, relative_path="other.distcp")
    write_metadata(folder, metadata)


def read_metadata(folder: Path) -> Metadata:
    return pickle.loads((folder / ".metadata").read_bytes())


def write_metadata(folder: Path, metadata: object) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(metadata, 4))


def lied_about(tmp_path: Path, change) -> Path:
    folder = copied(GOLDEN / "sharded", tmp_path / "lies")
    metadata = read_metadata(folder)
    change(metadata)
    write_metadata(folder, metadata)
    return folder


def rows_of(metadata: Metadata) -> TensorStorageMetadata:
    return metadata.state_dict_metadata["net.rows"]


def first_place(metadata: Metadata) -> MetadataIndex:
    return next(index for index in metadata.storage_data if index.fqn == "net.rows")


def set_chunk(metadata: Metadata, number: int, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    old = rows_of(metadata).chunks[number]
    rows_of(metadata).chunks[number] = ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
    for index in [index for index in metadata.storage_data if index.fqn == "net.rows" and index.offset == old.offsets]:
        metadata.storage_data[MetadataIndex("net.rows", offsets)] = metadata.storage_data.pop(index)


def drop_chunk(metadata: Metadata) -> None:
    del rows_of(metadata).chunks[1]


def move_place(metadata: Metadata, **fields: object) -> None:
    index = first_place(metadata)
    metadata.storage_data[index] = replace(metadata.storage_data[index], **fields)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (drop_chunk, "incomplete-tensor"),
        (lambda m: set_chunk(m, 1, (2, 0), (3, 4)), "incomplete-tensor"),
        (lambda m: set_chunk(m, 1, (3, 1), (3, 4)), "incomplete-tensor"),
        (lambda m: set_chunk(m, 1, (2**62, 0), (3, 4)), "incomplete-tensor"),
        (lambda m: setattr(rows_of(m), "size", torch.Size((8, 4))), "incomplete-tensor"),
        (lambda m: setattr(rows_of(m), "size", (2**62, 2**62)), "broken-metadata"),
        (lambda m: setattr(rows_of(m), "size", (-1, 4)), "broken-metadata"),
        (lambda m: setattr(rows_of(m), "chunks", "none"), "broken-metadata"),
        (lambda m: setattr(rows_of(m), "properties", 3), "broken-metadata"),
        (lambda m: m.storage_data.pop(first_place(m)), "broken-metadata"),
        (lambda m: move_place(m, offset=2**62), "damaged-part"),
        (lambda m: move_place(m, length=2**62), "damaged-part"),
        (lambda m: move_place(m, length=1), "damaged-part"),
        (lambda m: move_place(m, offset=-1), "broken-metadata"),
        (lambda m: move_place(m, offset="0"), "broken-metadata"),
        (lambda m: move_place(m, relative_path="../sharded/__0_0.distcp"), "path-outside-folder"),
        (lambda m: move_place(m, relative_path="/etc/passwd"), "path-outside-folder"),
        (lambda m: move_place(m, relative_path="C:\\model"), "path-outside-folder"),
        (lambda m: move_place(m, relative_path="gone.distcp"), "missing-shard"),
        (lambda m: move_place(m, transform_descriptors=["stream.zstd/1"]), "not-listed"),
        (lambda m: setattr(m, "storage_data", None), "missing-metadata"),
    ],
)
def test_a_description_that_lies_is_a_finding_and_costs_one_tensor(tmp_path: Path, change, name: str):
    folder = lied_about(tmp_path, change)
    opened = obeys(folder)
    assert opened is not None
    assert name in names_of(opened)
    if name != "missing-metadata":
        with open_path(folder) as again:
            found = listed_all(again)
        assert "net.rows" not in found
        assert found["net.columns"] == EXPECTED["sharded"]["columns"]


def test_a_link_that_leaves_the_folder_is_not_followed(tmp_path: Path):
    folder = copied(GOLDEN / "sharded", tmp_path / "links")
    outside = tmp_path / "outside.distcp"
    (folder / "__1_0.distcp").rename(outside)
    (folder / "__1_0.distcp").symlink_to(outside)
    with open_path(folder) as opened:
        assert "path-outside-folder" in names_of(opened)
        assert opened.table["net.rows"].storage.data is None


def test_paths_that_contradict_each_other_still_name_every_tensor(tmp_path: Path):
    def change(metadata: Metadata) -> None:
        metadata.planner_data["net.rows"] = ("net",)
        metadata.planner_data["net.half"] = ("net", "rows", "deep", "deeper")
        metadata.planner_data["net.cube"] = ("list", 2**40)
        metadata.planner_data["net.same"] = ("other", -3)

    with open_path(lied_about(tmp_path, change)) as opened:
        assert len(listed_all(opened)) == 6


@pytest.mark.parametrize("text", [b"", b"\x80\x04.", b"\x80\x04]q\x00h\x00a.", b"not a pickle", bytes(100)])
def test_a_description_that_is_none_is_treated_as_lost(tmp_path: Path, text: bytes):
    folder = copied(GOLDEN / "mixed", tmp_path / "none")
    (folder / ".metadata").write_bytes(text)
    opened = obeys(folder)
    assert opened is not None
    assert {"missing-metadata", "broken-metadata"} <= set(names_of(opened))


def test_descriptions_of_single_ranks_are_read_together(tmp_path: Path):
    folder = copied(GOLDEN / "sharded", tmp_path / "ranks")
    whole = read_metadata(folder)
    (folder / ".metadata").unlink()
    for rank in range(3):
        file = f"__{rank}_0.distcp"
        places = {index: place for index, place in whole.storage_data.items() if place.relative_path == file}
        described = {
            key: TensorStorageMetadata(value.properties, value.size, [])
            if isinstance(value, TensorStorageMetadata)
            else value
            for key, value in whole.state_dict_metadata.items()
            if any(index.fqn == key for index in places)
        }
        for index in places:
            value = described[index.fqn]
            if isinstance(value, TensorStorageMetadata):
                chunks = whole.state_dict_metadata[index.fqn].chunks
                value.chunks.extend(chunk for chunk in chunks if chunk.offsets == index.offset)
        part = Metadata(described, whole.planner_data, places, version="1.0.0")
        (folder / f"__{rank}.metadata").write_bytes(pickle.dumps(part, 4))
    with open_path(folder) as opened:
        assert names_of(opened) == []
        assert listed_all(opened) == {f"net.{key}": row for key, row in EXPECTED["sharded"].items()}


def test_a_description_that_would_call_something_only_records_it(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            import os

            return os.mkdir, (str(tmp_path / "made"),)

    folder = lied_about(tmp_path, lambda metadata: setattr(metadata, "planner_data", Evil()))
    opened = obeys(folder)
    assert opened is not None
    assert not (tmp_path / "made").exists()
    assert len(opened.table) == 6


def test_any_damage_to_the_description_ends_in_a_value_and_findings(tmp_path: Path):
    folder = copied(GOLDEN / "sharded", tmp_path / "damaged")
    for data in variants((GOLDEN / "sharded" / ".metadata").read_bytes(), 120):
        (folder / ".metadata").write_bytes(data)
        obeys(folder)


def test_any_damage_to_a_file_of_pieces_ends_in_a_value_and_findings(tmp_path: Path):
    folder = copied(GOLDEN / "mixed", tmp_path / "damaged")
    for data in variants((GOLDEN / "mixed" / "__0_0.distcp").read_bytes(), 40):
        (folder / "__0_0.distcp").write_bytes(data)
        obeys(folder)
    (folder / ".metadata").unlink()
    for data in variants((GOLDEN / "mixed" / "__0_0.distcp").read_bytes(), 40, seed=1):
        (folder / "__0_0.distcp").write_bytes(data)
        obeys(folder)


# --- the Hugging Face writer -----------------------------------------------------------------------------------------


def test_shards_of_the_hugging_face_writer_are_put_together_by_their_headers():
    with open_path(GOLDEN / "hub") as opened:
        assert opened.format == "distcp"
        assert names_of(opened) == ["size-not-stated"]
        expected = {key: row for key, row in EXPECTED["sharded"].items() if key != "scalar"}
        assert listed_all(opened) == expected


def test_objects_that_the_writer_put_in_front_of_a_header_are_taken_apart():
    with open_path(GOLDEN / "hub_damaged") as opened:
        assert names_of(opened).count("objects-in-front") == 2
        assert listed_all(opened) == {"rows": EXPECTED["sharded"]["rows"]}
        values = [plain(child) for key, child in opened.tree.pairs if key != "rows"]
    assert values == [[3], [0.5]]


def test_a_missing_middle_shard_leaves_a_hole_that_is_named(tmp_path: Path):
    folder = copied(GOLDEN / "hub", tmp_path / "hole")
    (folder / "shard-00002-model-00001-of-00001.safetensors").unlink()
    with open_path(folder) as opened:
        assert "incomplete-tensor" in names_of(opened)
        assert opened.table["rows"].storage.data is None


def test_shards_that_do_not_say_where_they_belong_are_not_guessed(tmp_path: Path):
    folder = copied(GOLDEN / "hub", tmp_path / "silent")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"DCP_SHARDING_INFO", b"DCP_SHARDING_GONE"))
    with open_path(folder) as opened:
        assert "broken-metadata" in names_of(opened)
        assert opened.table["rows"].storage.data is None or opened.table["rows"].shape != (7, 4)


def test_any_damage_to_shards_ends_in_a_value_and_findings(tmp_path: Path):
    for name in ("hub", "hub_damaged"):
        folder = copied(GOLDEN / name, tmp_path / name)
        path = folder / "shard-00002-model-00001-of-00001.safetensors"
        for data in variants(path.read_bytes(), 60):
            path.write_bytes(data)
            obeys(folder)
