"""salvage of what is no plain `torch.save` archive: programs, packages, folders, streams without their object."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from rekindle.cli import main
from rekindle.errors import CannotWrite, RekindleError
from rekindle.formats._items import walk_items
from rekindle.formats.torch_stream import read_stream
from rekindle.limits import DEFAULT_LIMITS
from rekindle.salvaging.zip_scan import find_headers
from rekindle.source import Source
from rekindle.verbs.doctor import doctor
from rekindle.verbs.inspect import inspect
from rekindle.verbs.salvage import salvage

GOLDEN = Path(__file__).parent.parent / "golden"


def digests(path: Path) -> dict[str, str]:
    return dict(inspect(path, digest=True).digests)


def borders(path: Path) -> list[int]:
    """Bytes at which the parts of an archive begin and end."""
    with Source(str(path)) as source:
        found = find_headers(source, DEFAULT_LIMITS)
        size = source.size
    places = {at for local in found.locals for at in (local.offset, local.data_at, local.data_at + 3)}
    places |= {central.offset for central in found.centrals} | set(found.descriptors) | {size - 22, size - 1}
    return sorted(places)


# file, tensors, (where the description is whole when the file is cut: the record behind it)
PROGRAMS = {
    "torchscript/scripted.pt": 13,
    "torch_export/program.pt2": 9,
    "torch_export/of_2_7.pt2": 9,
    "torch_package/package.pt": 5,
    "torchscript/of_1_0.pt": 3,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_cut_or_changed_at_any_border_never_gives_wrong_bits(tmp_path, name):
    data = (GOLDEN / name).read_bytes()
    true = digests(GOLDEN / name)
    whole = 0
    for index, at in enumerate(borders(GOLDEN / name)):
        damages = [data[:at], data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]]
        for damaged in damages if index % 3 == 0 or len(data) < 4000 else damages[index % 2 :][:1]:
            (tmp_path / "x").write_bytes(damaged)
            try:
                done = salvage(tmp_path / "x", tmp_path / "out.safetensors", force=True)
            except RekindleError:
                continue
            found = digests(tmp_path / "out.safetensors")
            assert [row.key for row in done.written if found[row.key] != true.get(row.key, found[row.key])] == [], at
            whole += len([row for row in done.written if row.key in true and row.proven]) == PROGRAMS[name]
    assert whole > 5


def test_a_program_without_its_directory_has_all_its_tensors_by_name_and_proven(tmp_path):
    for name in ("torchscript/scripted.pt", "torch_export/program.pt2", "torch_package/package.pt"):
        data = (GOLDEN / name).read_bytes()
        (tmp_path / "x").write_bytes(data[: data.index(b"PK\x01\x02")])
        done = salvage(tmp_path / "x", tmp_path / "out.safetensors", force=True)
        assert (len(done.written), all(row.proven for row in done.written)) == (PROGRAMS[name], True), name
        assert digests(tmp_path / "out.safetensors") == digests(GOLDEN / name)


def test_a_program_cut_before_its_description_gives_flat_storages_and_another_file_names_them(tmp_path):
    source = GOLDEN / "torchscript/scripted.pt"
    data = source.read_bytes()
    with zipfile.ZipFile(source) as archive:
        at = archive.getinfo("scripted/data.pkl").header_offset
    (tmp_path / "x").write_bytes(data[:at])
    done = salvage(tmp_path / "x", tmp_path / "flat.safetensors")
    assert done.described == "lost"
    assert all(row.key.startswith("storage_") and row.proven for row in done.written)
    named = salvage(tmp_path / "x", tmp_path / "named.safetensors", like=source)
    assert named.described == "by another file"
    true, found = digests(source), digests(tmp_path / "named.safetensors")
    assert sum(found.get(key) == digest for key, digest in true.items()) >= 10
    assert [key for key in found if key in true and found[key] != true[key]] == []


# --- old streams whose object is broken ------------------------------------------------------------------------------


@pytest.fixture
def stream(tmp_path):
    torch.manual_seed(0)
    state = {
        "a": torch.randn(10, 3), "b": torch.randn(7).half(), "c": torch.arange(5), "d": torch.randn(100),
        "e": torch.tensor(3, dtype=torch.uint8), "f": torch.randn(11).double(),
    }  # fmt: skip
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with Source(str(tmp_path / "a.pt")) as source:
        end = read_stream(source, DEFAULT_LIMITS).object_end
    return tmp_path / "a.pt", state, end


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_stream_whose_object_is_broken_anywhere_gives_every_storage(tmp_path, stream):
    path, state, end = stream
    data = path.read_bytes()
    known = {raw(tensor) for tensor in state.values()}
    for at in range(20, end, 9):
        (tmp_path / "x").write_bytes(data[:at] + b"\xff" + data[at + 1 :])
        done = salvage(tmp_path / "x", tmp_path / "out.safetensors", force=True)
        found = {raw(tensor) for tensor in load_file(tmp_path / "out.safetensors").values()}
        assert found <= known, at
        assert not any(row.proven for row in done.written)
        if done.described != "whole":  # a byte that changes no structure is not noticed
            assert found == known, at
            assert "RK-SALV-03" in {finding.code for finding in done.findings}


def test_another_file_gives_the_storages_of_a_stream_their_names_and_shapes(tmp_path, stream):
    path, state, _ = stream
    data = bytearray(path.read_bytes())
    data[data.index(b"storage") - 5] = 0xFF  # the first opcode of the first persistent id
    (tmp_path / "x").write_bytes(data)
    torch.save({key: torch.zeros_like(value) for key, value in state.items()}, tmp_path / "like.pth")
    done = salvage(tmp_path / "x", tmp_path / "out.safetensors", like=tmp_path / "like.pth")
    assert done.described == "by another file"
    found = load_file(tmp_path / "out.safetensors")
    assert {key: tuple(value.shape) for key, value in found.items()} == {k: tuple(v.shape) for k, v in state.items()}
    assert all(torch.equal(found[key], value) for key, value in state.items())


# --- damaged tensors on request ---------------------------------------------------------------------------------------


def test_damaged_tensors_are_written_when_asked_for_and_named_in_the_file(tmp_path, cli):
    state = {"a": torch.arange(100.0), "b": torch.ones(100), "c": torch.zeros(3)}
    torch.save(state, tmp_path / "m.pth")
    data = bytearray((tmp_path / "m.pth").read_bytes())
    at = data.index(raw(state["a"])) + 2
    data[at] ^= 1
    (tmp_path / "m.pth").write_bytes(data)
    assert [row.key for row in salvage(tmp_path / "m.pth", tmp_path / "o.safetensors").written] == ["b", "c"]
    done = salvage(tmp_path / "m.pth", tmp_path / "o.safetensors", keep_damaged=True, force=True)
    assert [(row.key, row.proven, bool(row.damaged)) for row in done.written] == [
        ("a", False, True), ("b", True, False), ("c", True, False)
    ]  # fmt: skip
    assert not done.is_whole
    assert "RK-SALV-08" in {finding.code for finding in done.findings}
    with safe_open(tmp_path / "o.safetensors", "pt") as file:
        said = json.loads(file.metadata()["rekindle.damaged"])
    assert list(said) == ["a"]
    assert said["a"].startswith("its bytes were changed: CRC-32 ")
    assert (load_file(tmp_path / "o.safetensors")["a"] != state["a"]).sum() == 1
    told = cli("salvage", "m.pth", "-o", "p.safetensors", "--keep-damaged")
    assert told.returncode == 1
    assert "2 of 3 tensors are whole" in told.stdout
    assert "damaged, kept         1" in told.stdout
    with pytest.raises(CannotWrite, match="safetensors files only"):
        salvage(tmp_path / "m.pth", tmp_path / "o.pth", keep_damaged=True)


# --- torch.distributed.checkpoint folders -----------------------------------------------------------------------------


def test_a_changed_item_of_a_folder_costs_its_tensor_and_the_report_says_which_piece(tmp_path):
    done = salvage(GOLDEN / "distcp/sharded", tmp_path / "whole.safetensors")
    assert (len(done.written), all(row.proven for row in done.written)) == (6, True)
    shutil.copytree(GOLDEN / "distcp/sharded", tmp_path / "d")
    file = tmp_path / "d/__0_0.distcp"
    with Source(str(file)) as source:
        start, size = list(walk_items(source, DEFAULT_LIMITS))[1]
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(io.BytesIO(data[start : start + size])) as item:
        (info,) = [info for info in item.infolist() if info.filename.endswith("data/0")]
        place = start + data[start:].index(item.read(info), info.header_offset)
    data[place] ^= 1
    file.write_bytes(data)
    done = salvage(tmp_path / "d", tmp_path / "out.safetensors")
    (lost,) = [loss for loss in done.lost if loss.is_tensor]
    assert lost.key == "net.columns"
    assert lost.why.startswith("its piece at [0, 0] (__0_0.distcp, byte 1,577) was changed: CRC-32 of archive/data/0 ")
    true = digests(tmp_path / "whole.safetensors")
    assert digests(tmp_path / "out.safetensors") == {key: true[key] for key in true if key != "net.columns"}
    kept = salvage(tmp_path / "d", tmp_path / "kept.safetensors", keep_damaged=True)
    assert [row.key for row in kept.written if row.damaged] == ["net.columns"]


# --- archives in front of a header ------------------------------------------------------------------------------------


@pytest.mark.parametrize("objects", [1, 9])
def test_tensors_behind_objects_come_out_and_doctor_names_the_cause(tmp_path, objects):
    parts = []
    for number in range(objects):
        out = io.BytesIO()
        torch.save({"param_groups": [number] * 3000}, out)
        parts.append(out.getvalue())
    weights = {"w": torch.arange(50_000.0), "b": torch.ones(3).half()}
    path = tmp_path / "shard-00001-model-00001-of-00001.safetensors"
    path.write_bytes(b"".join(parts) + safetensors_bytes(weights))
    first = doctor(path).findings[0]
    assert (first.code, first.name) == ("RK-FILE-88", "archives-before-header")
    assert first.do.startswith(f"rekindle salvage {path} -o ")
    done = salvage(path, tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(found[key], value) for key, value in weights.items())
    assert f"{objects} objects that are no tensors" in done.findings[-1].what


# --- folders of which files are missing


def shards_without_the_second(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    weight_map = {}
    for number in (1, 2, 3):
        name = f"model-{number:05}-of-00003.safetensors"
        weight_map |= dict.fromkeys((f"{number}.a", f"{number}.b"), name)
        if number != 2:
            (folder / name).write_bytes(safetensors_bytes({f"{number}.{x}": torch.ones(number) for x in "ab"}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_tensors_of_a_missing_shard_are_lost_by_name(tmp_path):
    done = salvage(shards_without_the_second(tmp_path), tmp_path / "saved.safetensors")
    assert {loss.key for loss in done.lost} == {"2.a", "2.b"}
    assert done.lost[0].why == "its shard model-00002-of-00003.safetensors is missing or cannot be read"
    assert not done.is_whole
    assert set(load_file(tmp_path / "saved.safetensors")) == {"1.a", "1.b", "3.a", "3.b"}


def test_digests_of_a_folder_with_missing_shards_are_not_offered(tmp_path, capsys):
    folder = shards_without_the_second(tmp_path)
    assert main(["verify", str(folder)]) == 1
    assert "next: rekindle verify --record" not in capsys.readouterr().out


def test_pieces_without_their_metadata_are_proven_and_yet_not_whole(tmp_path):
    """Each piece is an archive with its own checksums; what the pieces were called is lost."""
    shutil.copytree(GOLDEN / "distcp/sharded", tmp_path / "d")
    (tmp_path / "d/.metadata").unlink()
    done = salvage(tmp_path / "d", tmp_path / "pieces.safetensors")
    assert done.written
    assert all(tensor.proven for tensor in done.written)
    assert not done.is_whole
    (tmp_path / "other.pth").write_bytes((GOLDEN / "fsdp_ranks/two/extra_state_world_size_2_rank_0.pt").read_bytes())
    named = salvage(tmp_path / "d", tmp_path / "named.safetensors", like=tmp_path / "other.pth")
    assert "RK-SALV-05" in {finding.code for finding in named.findings}
