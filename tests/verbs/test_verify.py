"""verify: every byte that a checksum covers is compared with it, and what none covers is called unverifiable."""

import io
import json
import os
import random
import struct
import zipfile
from zlib import crc32

import pytest
import torch
from archives import records_of
from safetensors.torch import save_file

from rekindle.errors import CannotWrite, NotAModel
from rekindle.verbs.verify import record, record_path, verify

torch.manual_seed(3)
STATE = {"w": torch.randn(6, 7), "b": torch.randn(7), "empty": torch.empty(0), "tied": None}
STATE["tied"] = STATE["b"]
OBJECT = {"epoch": 2, "model": STATE, "last": torch.arange(20)}


def saved(obj=OBJECT, **options):
    buffer = io.BytesIO()
    torch.save(obj, buffer, **options)
    return buffer.getvalue()


def written(path, data):
    path.write_bytes(data)
    return path


def extents(raw):
    """Return record -> (first byte, end), by Python's own reader."""
    found = {}
    for info in zipfile.ZipFile(io.BytesIO(raw)).infolist():
        start = info.header_offset + 30 + sum(struct.unpack_from("<HH", raw, info.header_offset + 26))
        found[info.filename] = start, start + info.file_size
    return found


def turned(raw, at, bits=1):
    return raw[:at] + bytes((raw[at] ^ bits,)) + raw[at + 1 :]


ARCHIVE = saved()


def test_what_torch_saves_is_whole_and_every_record_is_compared(tmp_path):
    found = verify(written(tmp_path / "a.pth", ARCHIVE))
    assert found.is_whole
    assert found.unverifiable == []
    assert found.fingerprint == "holds"
    names = {row.name for row in found.checked if row.how == "crc32"}
    assert names == {info.filename for info in zipfile.ZipFile(tmp_path / "a.pth").infolist()}
    assert all(row.ok for row in found.checked)


def test_the_fingerprint_is_torchs_own_to_the_last_trap(tmp_path):
    """An empty record takes no part in it; one that begins with the signature of a descriptor takes part twice."""
    forged = torch.frombuffer(bytearray(b"PK\x07\x08" + bytes(range(20))), dtype=torch.uint8)
    for number, obj in enumerate(([], [torch.empty(0)], [forged], [torch.empty(0), forged, torch.ones(3)])):
        found = verify(written(tmp_path / f"{number}.pth", saved(obj)))
        assert (found.is_whole, found.fingerprint) == (True, "holds")


def test_what_rekindle_writes_is_whole_too(tmp_path):
    import rekindle as rk

    rk.save({"w": STATE["w"], "empty": torch.empty(0)}, tmp_path / "a.pth")
    assert verify(tmp_path / "a.pth").fingerprint == "holds"


def test_a_byte_turned_in_a_record_names_the_record_and_the_tensors_in_it(tmp_path):
    lies_in = {"archive/data/0": ("model.w",), "archive/data/1": ("model.b", "model.tied"), "archive/data/3": ("last",)}
    for name, (start, end) in extents(ARCHIVE).items():
        for at in range(start, end, max((end - start) // 5, 1)):
            found = verify(written(tmp_path / "bad.pth", turned(ARCHIVE, at)))
            assert not found.is_whole, (name, at)
            row = next(row for row in found.damaged if row.name == name)
            if name in lies_in:
                assert row.keys == lies_in[name]
                assert [row.name for row in found.checked if not row.ok and row.how == "crc32"] == [name]
                assert found.fingerprint == "differs"


def test_every_byte_turned_anywhere_is_noticed_but_for_those_that_mean_nothing(tmp_path):
    """Padding, dates and what else no reader looks at may change; whatever torch would read differently may not."""
    chance = random.Random(4)
    unnoticed = []
    wanted = torch.load(io.BytesIO(ARCHIVE), weights_only=True)
    for at in range(0, len(ARCHIVE), 3):
        raw = turned(ARCHIVE, at, chance.randrange(1, 256))
        try:
            whole = verify(written(tmp_path / "bad.pth", raw)).is_whole
        except NotAModel:
            continue
        if whole:
            unnoticed.append(at)
            try:
                again = torch.load(io.BytesIO(raw), weights_only=True)
            except (RuntimeError, ValueError):
                continue
            assert all(torch.equal(again["model"][key], wanted["model"][key]) for key in STATE), at
    data = [at for start, end in extents(ARCHIVE).values() for at in range(start, end)]
    assert set(unnoticed).isdisjoint(data)
    assert unnoticed


def test_a_record_that_was_replaced_together_with_its_checksum_is_seen_by_the_fingerprint(tmp_path):
    start, end = extents(ARCHIVE)["archive/data/0"]
    raw = bytearray(ARCHIVE)
    old = crc32(ARCHIVE[start:end]).to_bytes(4, "little")
    raw[start] ^= 1
    new = crc32(raw[start:end]).to_bytes(4, "little")
    assert bytes(raw).count(old) == 2  # behind the record, and in the directory
    raw = bytes(raw).replace(old, new)
    found = verify(written(tmp_path / "forged.pth", raw))
    assert all(row.ok for row in found.checked if row.how == "crc32")
    assert found.fingerprint == "differs"
    assert [row.name for row in found.damaged] == ["archive/.data/serialization_id"]
    assert "replaced" in found.damaged[0].why


def test_a_checksum_that_was_changed_in_the_directory_is_told_from_damaged_bytes(tmp_path):
    start, end = extents(ARCHIVE)["archive/data/0"]
    at = ARCHIVE.rindex(crc32(ARCHIVE[start:end]).to_bytes(4, "little"))
    found = verify(written(tmp_path / "bad.pth", turned(ARCHIVE, at)))
    assert [(row.name, row.keys) for row in found.damaged] == [("archive/data/0", ())]
    assert "the directory was changed" in found.damaged[0].why
    assert found.fingerprint == "holds"


def test_files_saved_without_checksums_are_called_unverifiable(tmp_path):
    from torch.utils.serialization import config

    with config.patch("save.compute_crc32", False):
        found = verify(written(tmp_path / "none.pth", saved()))
    assert found.is_whole
    assert found.fingerprint == "absent"
    assert {row.name for row in found.unverifiable} >= {"archive/data/0", "archive/data.pkl"}
    assert not any(row.how == "crc32" and row.size_bytes for row in found.checked)


def test_packed_archives_of_other_tools_are_compared_too(tmp_path):
    path = written(tmp_path / "a.pth", ARCHIVE)
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in records_of(path):
            target.writestr(name, content)
    found = verify(tmp_path / "packed.pth")
    assert found.is_whole
    assert found.fingerprint == "holds"
    raw = (tmp_path / "packed.pth").read_bytes()
    start, _ = extents(raw)["archive/data/0"]
    found = verify(written(tmp_path / "packed.pth", turned(raw, start + 20)))
    assert [row.keys for row in found.damaged if row.name == "archive/data/0"] == [("model.w",)]


def test_an_archive_that_was_cut_says_which_tensors_are_whole(tmp_path):
    _, end = extents(ARCHIVE)["archive/data/1"]
    found = verify(written(tmp_path / "cut.pth", ARCHIVE[: end + 40]))
    assert {row.name for row in found.checked if row.ok and row.how == "crc32"} == {
        *("model.w", "model.b", "model.empty", "model.tied"),
    }
    assert {row.name for row in found.damaged} == {str(tmp_path / "cut.pth"), "last"}


@pytest.mark.parametrize("kind", ["safetensors", "stream"])
def test_formats_without_checksums_are_unverifiable_until_their_digests_are_recorded(tmp_path, kind):
    path = tmp_path / "a.bin"
    flat = {"w": STATE["w"], "b": STATE["b"]}
    if kind == "safetensors":
        save_file(flat, path)
    else:
        torch.save(flat, path, _use_new_zipfile_serialization=False)
    found = verify(path)
    assert found.is_whole
    assert {row.name for row in found.unverifiable} == {"w", "b"}
    assert {(row.how, row.ok) for row in found.checked} == {("size", True)}
    found = record(path)
    assert found.is_whole
    assert found.unverifiable == []
    body = json.loads((tmp_path / "a.bin.rekindle.json").read_text())
    assert set(body["tensors"]) == {"w", "b"}
    raw = path.read_bytes()
    at = raw.index(STATE["w"].numpy().tobytes())
    found = verify(written(path, turned(raw, at)))
    assert {row.name for row in found.damaged} == {"a.bin", "w"}
    assert found.unverifiable == []
    with pytest.raises(CannotWrite, match="is damaged"):
        record(path)
    assert json.loads((tmp_path / "a.bin.rekindle.json").read_text()) == body


def test_digests_that_cannot_be_read_are_a_finding_and_vouch_for_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"w": STATE["w"]}, path)
    for text in (
        "",
        "{",
        "[]",
        '{"rekindle": "digests", "version": 1, "files": {"../x": {}}, "tensors": {}}',
        "[" * 9999,
    ):
        (tmp_path / "a.safetensors.rekindle.json").write_text(text)
        found = verify(path)
        assert [finding.name for finding in found.findings] == ["broken-record"]
        assert [row.name for row in found.unverifiable] == ["w"]


def test_a_file_of_a_hugging_face_cache_is_compared_with_its_name_there(tmp_path):
    from hashlib import sha256

    save_file({"w": STATE["w"]}, tmp_path / "a.safetensors")
    raw = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "blobs").mkdir()
    blob = written(tmp_path / "blobs" / sha256(raw).hexdigest(), raw)
    link = tmp_path / "snapshots" / "main" / "model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    found = verify(link)
    assert found.is_whole
    assert found.unverifiable == []
    blob.write_bytes(turned(raw, len(raw) - 1))
    assert [row.name for row in verify(link).damaged] == ["model.safetensors"]


def test_the_shards_of_a_folder_are_each_verified(tmp_path):
    torch.save({"w": STATE["w"]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": STATE["b"]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    weights = {"w": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    for path in (tmp_path, index):
        found = verify(path)
        assert found.is_whole
        assert sum(row.ok for row in found.checked) >= 12
    shard = tmp_path / weights["w"]
    raw = shard.read_bytes()
    at = raw.index(STATE["w"].numpy().tobytes())
    shard.write_bytes(turned(raw, at))
    found = verify(tmp_path)
    assert [(row.name.partition(":")[0], row.keys) for row in found.damaged] == [(weights["w"], ("w",))]
    shard.unlink()
    assert any("missing" in row.why for row in verify(tmp_path).damaged)


def test_the_items_of_a_distributed_checkpoint_are_each_verified(tmp_path):
    from torch.distributed import checkpoint

    with pytest.warns(UserWarning, match="single process"):
        checkpoint.save({"w": STATE["w"], "b": STATE["b"]}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    found = verify(tmp_path / "dcp")
    assert found.is_whole
    assert any(row.how == "crc32" for row in found.checked)
    file = next((tmp_path / "dcp").glob("*.distcp"))
    raw = file.read_bytes()
    file.write_bytes(turned(raw, raw.index(STATE["w"].numpy().tobytes()) + 5))
    (row,) = verify(tmp_path / "dcp").damaged
    assert row.keys == ("w",)
    assert row.name.startswith(f"{file.name}@")


def test_a_run_is_compared_with_the_manifests_of_its_snapshots(tmp_path):
    import rekindle as rk

    with rk.Run(tmp_path / "run", seed=0, resume="never") as run:
        model = torch.nn.Linear(2, 2)
        run.track(model=model)
        run.save()
    found = verify(tmp_path / "run")
    assert (found.format, found.is_whole) == ("run", True)
    assert {row.how for row in found.checked} == {"digest"}
    snapshot = next((tmp_path / "run" / "snapshots").iterdir())
    assert verify(snapshot).is_whole
    weights = snapshot / "model.safetensors"
    os.chmod(weights, 0o644)
    weights.write_bytes(turned(weights.read_bytes(), weights.stat().st_size - 1))
    for path in (tmp_path / "run", snapshot):
        (row,) = verify(path).damaged
        assert row.name.endswith("model.safetensors")
        assert set(row.keys) == {"weight", "bias"}
    with pytest.raises(CannotWrite, match="has its digests already"):
        record(tmp_path / "run")


def test_of_a_large_file_of_a_snapshot_only_the_tensors_in_damaged_blocks_are_named(tmp_path):
    import rekindle as rk

    names = [f"w{number}" for number in range(5)]  # of 4 MB each, in blocks of 8.4
    with rk.Run(tmp_path / "run", seed=0, resume="never") as run:
        run.track(model=torch.nn.ParameterDict({name: torch.zeros(1_000_000) for name in names}))
        run.save()
    snapshot = next((tmp_path / "run" / "snapshots").iterdir())
    weights = snapshot / "model.safetensors"
    os.chmod(weights, 0o644)
    weights.write_bytes(turned(weights.read_bytes(), weights.stat().st_size - 1))
    (row,) = verify(snapshot).damaged
    assert set(row.keys) == {"w4"}
    assert "1 of its 3 blocks, between bytes 16,777,216 and 20,000," in row.why


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(NotAModel):
        verify(written(tmp_path / "page.pth", b"<!DOCTYPE html><html></html>"))
    with pytest.raises(FileNotFoundError):
        verify(tmp_path / "none")


def test_looking_writes_nothing(tmp_path):
    path = written(tmp_path / "a.pth", ARCHIVE)
    verify(path)
    assert os.listdir(tmp_path) == ["a.pth"]
    assert record_path(path) == f"{path}.rekindle.json"
