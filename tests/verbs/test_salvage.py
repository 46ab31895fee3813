"""salvage: cut a file anywhere, turn any byte of it, and every tensor that is whole comes out with its bits.

What must come out is computed from the offsets in the undamaged file, by Python's own zipfile and json, never by the
code under test.
"""

import io
import json
import os
import random
import struct
import zipfile

import pytest
import torch
from alike import bits
from safetensors.torch import load_file, save_file

from rekindle.errors import CannotWrite, NotAModel, UnreadableFile
from rekindle.gather import gather
from rekindle.listing import table_of
from rekindle.salvaging.mend import mend_one_byte
from rekindle.verbs.inspect import inspect
from rekindle.verbs.salvage import default_target, find_whole, salvage

torch.manual_seed(7)
MODEL = {
    "w": torch.randn(5, 7),
    "b": torch.randn(7),
    "half": torch.randn(9).half(),
    "i": torch.arange(40),
    "empty": torch.empty(0, 3),
    "t": torch.randn(4, 6).t(),
    "bf": torch.randn(33).bfloat16(),
}
OBJECT = {"epoch": 3, "model": MODEL, "last": torch.arange(30, dtype=torch.int16)}
WANTED = {**{f"model.{key}": bits(value) for key, value in MODEL.items()}, "last": bits(OBJECT["last"])}
ORDER = [*(f"model.{key}" for key in MODEL), "last"]


def saved(obj=OBJECT, **options):
    buffer = io.BytesIO()
    torch.save(obj, buffer, **options)
    return buffer.getvalue()


def extents(raw):
    """Return record -> (first byte, end) of an undamaged archive, without the folder's name."""
    found = {}
    for info in zipfile.ZipFile(io.BytesIO(raw)).infolist():
        lengths = struct.unpack_from("<HH", raw, info.header_offset + 26)
        start = info.header_offset + 30 + sum(lengths)
        found[info.filename.partition("/")[2]] = start, start + info.file_size
    return found


def look(path, **options):
    """Return key -> (bits, proven) of what is whole, {} where nothing is, and how it is described."""
    try:
        wreck = find_whole(str(path), **options)
    except UnreadableFile:
        return {}, "nothing"
    table, _ = table_of(wreck.tree)
    found = {}
    for entry in table:
        if entry.storage.data is not None or not entry.numel:
            try:
                data = b"".join(gather(entry, conj=entry.conj, neg=entry.neg).chunks())
            except UnreadableFile:
                continue
            found[entry.key] = data, wreck.fates[id(entry.storage)].proven
    wreck.close_files()
    return found, wreck.described


def written(path, data):
    path.write_bytes(data)
    return path


ARCHIVE = saved()
PLACES = extents(ARCHIVE)
RECORD = {key: PLACES[f"data/{number}"] for number, key in enumerate(ORDER)}
PICKLE = PLACES["data.pkl"]


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.soak)])
def test_an_archive_cut_at_any_byte_gives_every_tensor_that_lies_in_front_of_the_cut(tmp_path, step):
    for cut in range(0, len(ARCHIVE), step):
        found, _ = look(written(tmp_path / "cut.pth", ARCHIVE[:cut]))
        whole = (
            {key for key, (_, end) in RECORD.items() if end <= cut or not WANTED[key]} if cut >= PICKLE[1] else set()
        )
        assert {key: data for key, (data, _) in found.items()} == {key: WANTED[key] for key in whole}, cut
        if cut >= PICKLE[1] + 8:
            proven = {key for key in whole if WANTED[key] and RECORD[key][1] + 8 <= cut}
            assert {key for key, (data, sure) in found.items() if sure and data} == proven, cut


def turned(raw, at, chance):
    changed = bytearray(raw)
    changed[at] ^= chance.choice((1, 2, 4, 8, 16, 32, 64, 128, 255, chance.randrange(1, 256)))
    return bytes(changed)


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.soak)])
def test_any_single_byte_turned_costs_only_the_tensor_that_it_lies_in(tmp_path, step):
    """Also in the pickle, in a header, in a descriptor and in the directory: each is known twice, or mended."""
    chance = random.Random(1)
    for at in range(0, len(ARCHIVE), step):
        found, described = look(written(tmp_path / "turned.pth", turned(ARCHIVE, at, chance)))
        whole = {key for key, (start, end) in RECORD.items() if not start <= at < end}
        assert {key: data for key, (data, _) in found.items()} == {key: WANTED[key] for key in whole}, at
        assert described == ("mended" if PICKLE[0] <= at < PICKLE[1] else "whole"), at


def test_a_byte_turned_in_an_archive_without_its_directory_costs_no_more(tmp_path):
    """There the CRC behind a record is its only one: a byte turned in it costs that record."""
    chance = random.Random(2)
    raw = ARCHIVE[: ARCHIVE.index(b"PK\x01\x02")]
    for at in range(0, len(raw), 5):
        found, _ = look(written(tmp_path / "turned.pth", turned(raw, at, chance)))
        whole = {k for k, (a, b) in RECORD.items() if not (a <= at < b or (b + 4 <= at < b + 8 and WANTED[k]))}
        assert {key: data for key, (data, _) in found.items()} == {key: WANTED[key] for key in whole}, at


def test_blocks_overwritten_with_zeros_or_noise_never_give_wrong_bits(tmp_path):
    chance = random.Random(3)
    for case in range(150):
        start = chance.randrange(PICKLE[1] + 16, len(ARCHIVE) - 64)
        length = chance.randrange(1, 700)
        noise = bytes(length) if case % 2 else chance.randbytes(length)
        raw = (ARCHIVE[:start] + noise)[: len(ARCHIVE)] + ARCHIVE[start + length :]
        found, _ = look(written(tmp_path / "hurt.pth", raw))
        end = start + length
        whole = {k for k, (a, b) in RECORD.items() if b + 8 <= start or a >= end + 30 or not WANTED[k]}
        got = {key: data for key, (data, _) in found.items()}
        assert all(got[key] == WANTED[key] for key in got), case
        assert whole <= set(got), (case, start, end)


def test_a_tail_of_zeros_is_not_taken_for_tensors(tmp_path):
    cut = RECORD["model.i"][0] - 20
    found, _ = look(written(tmp_path / "zeros.pth", ARCHIVE[:cut] + bytes(len(ARCHIVE) - cut)))
    assert {key for key, (data, _) in found.items() if data} == {"model.w", "model.b", "model.half"}


def test_bytes_lost_in_the_middle_cost_only_what_they_were_part_of(tmp_path):
    start = RECORD["model.i"][0] + 3
    found, _ = look(written(tmp_path / "short.pth", ARCHIVE[:start] + ARCHIVE[start + 10 :]))
    assert {key for key, (data, _) in found.items() if data} == set(ORDER) - {"model.i", "model.empty"}
    assert all(found[key][0] == WANTED[key] for key in found)


def test_an_archive_inside_a_tensor_is_not_taken_for_the_tensors_themselves(tmp_path):
    inner = saved({"w": torch.full((35,), 5.0)})
    obj = {"blob": torch.frombuffer(bytearray(inner), dtype=torch.uint8), "w": torch.randn(35)}
    raw = saved(obj)
    places = extents(raw)
    for damage in (None, places["data/0"][0] - 40, places["data/0"][0] + 5, places["data/1"][0] + 1):
        for end in (len(raw), raw.rindex(b"PK\x01\x02", 0, raw.rindex(b"PK\x01\x02"))):
            changed = bytearray(raw[:end])
            if damage is not None:
                changed[damage] ^= 4
            found, _ = look(written(tmp_path / "nested.pth", bytes(changed)))
            assert all(found[key][0] == bits(obj[key]) for key in found)
            assert found or damage is not None


def test_a_checkpoint_saved_without_checksums_comes_out_and_is_not_called_proven(tmp_path):
    from torch.utils.serialization import config

    with config.patch("save.compute_crc32", False):
        raw = saved()
    found, _ = look(written(tmp_path / "none.pth", raw[: raw.index(b"PK\x01\x02")]))
    assert {key: data for key, (data, _) in found.items()} == WANTED
    assert not any(sure for data, sure in found.values() if data)


def hurt_pickle(raw):
    """Overwrite eight bytes of the pickle with opcodes that there are not, behind the first tensors."""
    at = raw.index(b"half", PICKLE[0])
    return raw[:at] + b"\xff" * 8 + raw[at + 8 :]


def test_with_the_pickle_broken_the_first_tensors_keep_their_names_and_the_others_come_out_flat(tmp_path):
    raw = hurt_pickle(ARCHIVE)
    for end in (len(raw), raw.index(b"PK\x01\x02")):
        found, described = look(written(tmp_path / "hurt.pth", raw[:end]))
        assert described == "partly"
        got = {key: data for key, (data, _) in found.items()}
        numbers = {f"storage_{number}": key for number, key in enumerate(ORDER) if WANTED[key]}
        assert got["model.w"] == WANTED["model.w"]
        assert got["model.b"] == WANTED["model.b"]
        flat = {numbers[key]: data for key, data in got.items() if key.startswith("storage_")}
        assert set(flat) == {key for key in ORDER if WANTED[key]} - {"model.w", "model.b"}
        assert all(data == stored(key) for key, data in flat.items())


def stored(key):
    """Return a tensor's bytes as they lie in the file."""
    start, end = RECORD[key]
    return ARCHIVE[start:end]


def test_another_file_of_the_same_model_gives_the_names_and_shapes_back(tmp_path):
    other = written(tmp_path / "other.pth", saved({"epoch": 9, "model": MODEL, "last": OBJECT["last"] + 1}))
    path = written(tmp_path / "hurt.pth", hurt_pickle(ARCHIVE))
    done = salvage(path, tmp_path / "out.pth", like=other)
    assert done.described == "by another file"
    assert not any(tensor.proven for tensor in done.written)
    assert torch.equal(torch.load(tmp_path / "out.pth", weights_only=True)["model.t"], MODEL["t"])
    made = torch.load(tmp_path / "out.pth", weights_only=True)
    assert {key: bits(value) for key, value in made.items()} == {key: data for key, data in WANTED.items() if data}


def test_a_file_of_another_model_is_not_used(tmp_path):
    other = written(tmp_path / "other.pth", saved({"x": torch.randn(1000)}))
    done = salvage(written(tmp_path / "hurt.pth", hurt_pickle(ARCHIVE)), tmp_path / "out.pth", like=other)
    assert "like-does-not-fit" in [finding.name for finding in done.findings]


def test_an_archive_that_another_tool_packed_is_read_without_its_directory(tmp_path):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as target, zipfile.ZipFile(io.BytesIO(ARCHIVE)) as source:
            for info in source.infolist():
                target.writestr(info.filename, source.read(info))
        raw = buffer.getvalue()
        found, _ = look(written(tmp_path / "packed.pth", raw[: raw.index(b"PK\x01\x02")]))
        assert {key: data for key, (data, _) in found.items()} == WANTED
        assert all(sure for data, sure in found.values() if data)


# --- streams ----------------------------------------------------------------------------------------------------------

STREAM = saved(_use_new_zipfile_serialization=False)


def stream_extents():
    """Return key -> (first byte, end), from the counts at the end of the stream: keys are sorted as text."""
    sizes = {key: len(WANTED[key]) for key in ORDER}
    ends, at = {}, len(STREAM)
    names = {str(value.untyped_storage()._cdata): key for key, value in ((k, tensor_of(k)) for k in ORDER)}
    for name in sorted(names, reverse=True):
        ends[names[name]] = at - sizes[names[name]], at
        at -= sizes[names[name]] + 8
    return ends, at


def tensor_of(key):
    return OBJECT["last"] if key == "last" else MODEL[key.removeprefix("model.")]


def test_a_stream_cut_anywhere_gives_every_tensor_that_lies_in_front_of_the_cut(tmp_path):
    ends, begin = stream_extents()
    for cut in range(begin - 40, len(STREAM)):
        found, _ = look(written(tmp_path / "cut.pt", STREAM[:cut]))
        whole = {key for key, (_, end) in ends.items() if end <= cut or not WANTED[key]} if found else set()
        assert {key: data for key, (data, _) in found.items()} == {key: WANTED[key] for key in whole}, cut
        assert found or cut < begin
        assert not any(sure for data, sure in found.values() if data)


def test_a_wrong_count_in_a_stream_does_not_shift_what_follows(tmp_path):
    ends, _ = stream_extents()
    for start, _ in ends.values():
        for byte in range(8):
            raw = bytearray(STREAM)
            raw[start - 8 + byte] ^= 1
            found, _ = look(written(tmp_path / "count.pt", bytes(raw)))
            assert {key: data for key, (data, _) in found.items()} == WANTED


def test_a_stream_whose_list_of_keys_is_broken_is_followed_by_its_counts(tmp_path):
    _, begin = stream_extents()
    raw = bytearray(STREAM)
    raw[begin - 3] = 0xFF
    found, _ = look(written(tmp_path / "keys.pt", bytes(raw)))
    assert {key: data for key, (data, _) in found.items()} == WANTED


# --- safetensors ------------------------------------------------------------------------------------------------------

FLAT = {key.replace(".", "_"): tensor_of(key).contiguous() for key in ORDER}


def flat_file(path):
    save_file(FLAT, path, metadata={"made by": "a test"})
    return path.read_bytes()


def test_a_safetensors_file_cut_anywhere_gives_every_tensor_in_front_of_the_cut(tmp_path):
    raw = flat_file(tmp_path / "a.safetensors")
    base = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:base])
    for cut in [*range(0, base, 37), *range(base, len(raw))]:
        found, _ = look(written(tmp_path / "cut.safetensors", raw[:cut]))
        ends = {key: base + header[key]["data_offsets"][1] for key in FLAT if FLAT[key].numel()}
        assert {key for key, (data, _) in found.items() if data} == {key for key, end in ends.items() if end <= cut}, (
            cut
        )
        assert all(data == bits(FLAT[key]) for key, (data, _) in found.items())


def test_a_byte_turned_in_the_header_costs_at_most_the_tensor_it_describes(tmp_path):
    raw = flat_file(tmp_path / "a.safetensors")
    base = 8 + int.from_bytes(raw[:8], "little")
    for at in range(8, base, 3):
        changed = bytearray(raw)
        changed[at] = 0xFF  # never part of JSON
        found, _ = look(written(tmp_path / "turned.safetensors", bytes(changed)))
        assert len(found) >= len(FLAT) - 1, at
        assert all(data == bits(FLAT[key]) for key, (data, _) in found.items()), at


def test_a_header_that_is_lost_is_taken_from_another_file(tmp_path):
    raw = flat_file(tmp_path / "other.safetensors")
    base = 8 + int.from_bytes(raw[:8], "little")
    hurt = written(tmp_path / "hurt.safetensors", raw[:9] + b"\xff" * (base - 9) + raw[base:])
    with pytest.raises(UnreadableFile):
        salvage(hurt, tmp_path / "out.safetensors")
    done = salvage(hurt, tmp_path / "out.safetensors", like=tmp_path / "other.safetensors")
    assert {key: bits(value) for key, value in load_file(done.target).items()} == {k: bits(v) for k, v in FLAT.items()}


# --- rows of archives -------------------------------------------------------------------------------------------------


def test_of_a_row_of_archives_every_whole_item_comes_out(tmp_path):
    tensors = [torch.randn(11 + number) for number in range(4)]
    items = [saved(tensor) for tensor in tensors]
    row = b"".join(items)
    starts = [sum(map(len, items[:number])) for number in range(5)]
    names = [f"item_{number}" for number in range(4)]
    chance = random.Random(5)
    for at in (*starts[:4], *(chance.randrange(len(row)) for _ in range(30))):
        changed = turned(row, at, chance)
        found, _ = look(written(tmp_path / "__0_0.distcp", changed))
        right = {key: data for key, (data, _) in found.items()}
        hit = next(number for number in range(4) if starts[number] <= at < starts[number + 1])
        for number in range(4):
            if number != hit:
                assert right[names[number]] == bits(tensors[number]), (at, number)
        assert right.get(names[hit], bits(tensors[hit])) == bits(tensors[hit])
    found, _ = look(written(tmp_path / "__0_0.distcp", row[: starts[3] + 100]))
    assert [name for name in names[:3] if found.get(name, (b"",))[0] == bits(tensors[names.index(name)])] == names[:3]


# --- the new file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_new_file_holds_the_bits_and_opens_everywhere(tmp_path, suffix):
    cut = (RECORD["model.t"][0] + RECORD["model.t"][1]) // 2
    path = written(tmp_path / "cut.pth", ARCHIVE[:cut])
    done = salvage(path, tmp_path / f"out{suffix}")
    rows = {row.key: row for row in done.written}
    assert set(rows) == {"model.w", "model.b", "model.half", "model.i", "model.empty"}
    assert all(row.proven for row in rows.values())
    assert {loss.key for loss in done.lost if loss.is_tensor} == {"model.t", "model.bf", "last"}
    if suffix == ".pth":
        made = torch.load(tmp_path / "out.pth", weights_only=True)
        assert made["epoch"] == 3
        found = {f"model.{key}": bits(value) for key, value in made["model"].items()}
    else:
        found = {key: bits(value) for key, value in load_file(done.target).items()}
    assert found == {key: WANTED[key] for key in rows}
    assert not done.is_whole
    assert path.read_bytes() == ARCHIVE[:cut]


def test_an_undamaged_file_comes_out_whole_and_proven(tmp_path):
    done = salvage(written(tmp_path / "a.pth", ARCHIVE), tmp_path / "out.pth")
    assert done.is_whole
    assert done.findings == ()
    assert all(row.proven for row in done.written)
    a, b = inspect(tmp_path / "a.pth", digest=True), inspect(tmp_path / "out.pth", digest=True)
    assert a.digests == b.digests


@pytest.mark.parametrize("make", [torch.nn.Linear(3, 2), {"tied": [MODEL["w"], MODEL["w"][1:3]]}])
def test_modules_and_shared_tensors_come_out(tmp_path, make):
    raw = saved(make)
    done = salvage(written(tmp_path / "a.pth", raw[: raw.index(b"PK\x01\x02")]), tmp_path / "out.pth")
    assert done.is_whole
    assert len(done.written) == 2
    assert inspect(done.target, digest=True).digests == inspect(written(tmp_path / "b.pth", raw), digest=True).digests


def test_a_rescue_never_writes_over_what_it_reads_or_what_is_there(tmp_path):
    path = written(tmp_path / "a.pth", ARCHIVE)
    for force in (False, True):
        with pytest.raises(CannotWrite, match="is the damaged file itself"):
            salvage(path, path, force=force)
    written(tmp_path / "b.pth", b"mine")
    with pytest.raises(CannotWrite, match="there is a file of this name"):
        salvage(path, tmp_path / "b.pth")
    assert salvage(path, tmp_path / "b.pth", force=True).is_whole
    with pytest.raises(CannotWrite, match="suffix"):
        salvage(path, tmp_path / "b.txt")


def test_where_nothing_is_whole_nothing_is_written(tmp_path):
    path = written(tmp_path / "cut.pth", ARCHIVE[: PICKLE[0] + 100])
    with pytest.raises(UnreadableFile):
        salvage(path)
    written(tmp_path / "page.pth", b"<!DOCTYPE html><html><body>Log in</body></html>")
    with pytest.raises(NotAModel):
        salvage(tmp_path / "page.pth")
    with pytest.raises(FileNotFoundError):
        salvage(tmp_path / "there is none")
    assert sorted(os.listdir(tmp_path)) == ["cut.pth", "page.pth"]


def test_the_name_of_the_new_file_says_what_it_is():
    assert default_target("runs/a.pth") == "runs/a.rescued.safetensors"
    assert default_target("__0_0.distcp") == "__0_0.rescued.safetensors"
    assert default_target("model.v2") == "model.v2.rescued.safetensors"


def test_one_wrong_byte_is_found_by_its_checksum_and_two_are_not():
    from zlib import crc32

    chance = random.Random(9)
    for _ in range(50):
        data = chance.randbytes(chance.randrange(1, 2000))
        at = chance.randrange(len(data))
        assert mend_one_byte(turned(data, at, chance)[:at] + turned(data, at, chance)[at:], crc32(data)) == (data, at)
    data = bytes(1000)
    assert mend_one_byte(b"\1" + data[1:-1] + b"\1", crc32(data)) is None
    assert mend_one_byte(data, crc32(data)) is None
