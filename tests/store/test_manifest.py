"""The manifest vouches for itself, then for the files; and is data from a stranger."""

from __future__ import annotations

import hashlib
import json
import os
import random

import pytest

from rekindle.errors import SnapshotDamaged
from rekindle.store.digests import BLOCK_BYTES
from rekindle.store.manifest import (
    Damage,
    FileFacts,
    Manifest,
    decode_manifest,
    encode_manifest,
    is_safe_name,
    read_manifest,
    read_verified,
    verify,
)

FILES = {"a.bin": FileFacts(3, (hashlib.sha256(b"abc").hexdigest(),))}


@pytest.fixture
def snapshot(tmp_path):
    folder = tmp_path / "step-00000005"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"abc")
    (folder / "manifest.json").write_bytes(encode_manifest(5, FILES, {"torch": "2.13"}))
    return folder


def signed(body):
    """A manifest of any content whose own digest holds."""
    text = json.dumps(body, indent=2).removesuffix("\n}").encode()
    return text + f',\n  "sha256_of_all_above": "{hashlib.sha256(text).hexdigest()}"\n}}\n'.encode()


def test_it_is_json_with_sorted_keys_and_its_digest_last(snapshot):
    text = (snapshot / "manifest.json").read_text()
    value = json.loads(text)
    assert list(value) == ["block_bytes", "facts", "files", "format", "format_version", "step", "sha256_of_all_above"]
    body = text[: text.index(',\n  "sha256_of_all_above"')]
    assert value["sha256_of_all_above"] == hashlib.sha256(body.encode()).hexdigest()


def test_it_comes_back(snapshot):
    assert read_manifest(snapshot) == Manifest(5, FILES, {"torch": "2.13"})
    assert read_manifest(snapshot).size_bytes == 3
    assert verify(snapshot) is None


def test_every_single_bit_counts():
    data = encode_manifest(5, FILES, {"torch": "2.13"})
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            with pytest.raises(SnapshotDamaged):
                decode_manifest(bytes(changed), "step-00000005")


def test_every_cut_counts():
    data = encode_manifest(5, FILES, {})
    for end in range(len(data)):
        with pytest.raises(SnapshotDamaged, match="cut short or overwritten"):
            decode_manifest(data[:end], "step-00000005")
    with pytest.raises(SnapshotDamaged):
        decode_manifest(data + b" ", "step-00000005")


ENTRY = {"sha256_of_blocks": ["0" * 64], "size": 3}
GOOD = {
    "block_bytes": 4096,
    "facts": {},
    "files": {"a.bin": ENTRY},
    "format": "rekindle-snapshot",
    "format_version": 2,
    "step": 5,
}


def test_the_helper_signs_as_we_do():
    assert decode_manifest(signed(GOOD), "step-00000005").step == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "other"}, "not a rekindle manifest"),
        ({"format_version": 3}, "written in format 3; this rekindle reads 2"),
        ({"format_version": [2]}, r"written in format \[2\]"),
        ({"format_version": "\x1b[31m"}, r"written in format \\x1b\[31m"),
        ({"step": -1}, "lacks a step"),
        ({"step": 5.0}, "lacks a step"),
        ({"step": True}, "lacks a step"),
        ({"step": 6}, "is of step 6, the folder is named for step 5"),
        ({"files": []}, "lacks a step, its files"),
        ({"files": {"../a": ENTRY}}, "names a file that cannot be one"),
        ({"files": {"/etc/passwd": ENTRY}}, "names a file that cannot be one"),
        ({"files": {"..": ENTRY}}, "names a file that cannot be one"),
        ({"files": {"a\\b": ENTRY}}, "names a file that cannot be one"),
        ({"files": {"manifest.json": ENTRY}}, "names a file that cannot be one"),
        ({"files": {"a": {**ENTRY, "size": -3}}}, "a size that is none"),
        ({"files": {"a": {**ENTRY, "size": 2**64}}}, "a size that is none"),
        ({"files": {"a": {**ENTRY, "size": 3.0}}}, "a size that is none"),
        ({"files": {"a": {**ENTRY, "sha256_of_blocks": ["g" * 64]}}}, "a digest that is none"),
        ({"files": {"a": {**ENTRY, "sha256_of_blocks": [7]}}}, "a digest that is none"),
        ({"files": {"a": {**ENTRY, "sha256_of_blocks": "0" * 64}}}, "a digest that is none"),
        ({"files": {"a": {**ENTRY, "sha256_of_blocks": []}}}, "a digest that is none"),
        ({"files": {"a": {**ENTRY, "sha256_of_blocks": ["0" * 64] * 2}}}, "a digest that is none"),
        ({"files": {"a": {**ENTRY, "size": 4097}}}, "a digest that is none"),
        ({"files": {"a": {"sha256_of_blocks": ["0" * 64]}}}, "something else than size and sha256_of_blocks"),
        ({"files": {"a": {"sha256": "0" * 64, "size": 3}}}, "something else than size and sha256_of_blocks"),
        ({"files": {"a": []}}, "something else than size and sha256"),
        ({"format_version": 1}, "something else than size and sha256"),
        ({"block_bytes": 0}, "blocks of a size that is none"),
        ({"block_bytes": 8388608.0}, "blocks of a size that is none"),
        ({"block_bytes": None}, "blocks of a size that is none"),
        ({"facts": {"x": float("nan")}}, "not strict JSON"),
    ],
)
def test_a_strangers_manifest_ends_in_one_reason(change, reason):
    with pytest.raises(SnapshotDamaged, match=reason) as caught:
        decode_manifest(signed({**GOOD, **change}), "step-00000005")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{\n "x": ' + b"[" * 200_000 + b"]" * 200_000, "not strict JSON"),
        (b'{\n "step": 1, "step": 2', "a key stands twice"),
    ],
)
def test_nesting_and_doubled_keys_are_refused(body, reason):
    tail = f',\n  "sha256_of_all_above": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()
    with pytest.raises(SnapshotDamaged, match=reason):
        decode_manifest(body + tail, "x")


def test_a_huge_manifest_is_not_read_to_its_end(snapshot):
    with open(snapshot / "manifest.json", "wb") as file:
        file.truncate(10 * 2**30)
    assert verify(snapshot) == Damage("manifest.json", "manifest.json has more than 134,217,728 bytes")


def test_only_safe_names_can_be_written():
    assert all(map(is_safe_name, ["model.safetensors", "a", "_x-1+2.json"]))
    assert not any(map(is_safe_name, ["", ".hidden", "a/b", "a b", "ä", "a.", "-x", "n" * 201, "a\n"]))
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        encode_manifest(1, {"../x": FILES["a.bin"]}, {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_manifest(1, {}, {"x": float("nan")})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"abd", "a.bin has other bytes than were saved: its SHA-256 does not match the manifest"),
        (b"ab", "a.bin has 2 bytes; the manifest says 3"),
        (None, "a.bin is missing"),
    ],
)
def test_what_differs_is_one_line(snapshot, content, reason):
    os.unlink(snapshot / "a.bin")
    if content is not None:
        (snapshot / "a.bin").write_bytes(content)
    assert verify(snapshot) == Damage("a.bin", reason)
    same_size = content is not None and len(content) == 3
    assert (verify(snapshot, digests=False) is None) is same_size


def test_damage_in_a_large_file_has_a_place(tmp_path):
    size = 5 * BLOCK_BYTES // 2
    data = random.Random(0).randbytes(size)
    blocks = [hashlib.sha256(data[at : at + BLOCK_BYTES]).hexdigest() for at in range(0, size, BLOCK_BYTES)]
    (tmp_path / "a.bin").write_bytes(data)
    (tmp_path / "manifest.json").write_bytes(encode_manifest(5, {"a.bin": FileFacts(size, tuple(blocks))}, {}))
    assert verify(tmp_path) is None
    with open(tmp_path / "a.bin", "r+b") as file:
        file.seek(size - 1)
        file.write(bytes([data[-1] ^ 1]))
    assert verify(tmp_path) == Damage(
        "a.bin",
        "a.bin has other bytes than were saved: 1 of its 3 blocks, between bytes 16,777,216 and 20,971,520, "
        "do not match the manifest",
    )


@pytest.mark.parametrize("content", [b"", b"abc", b"x" * (BLOCK_BYTES + 1)], ids=["empty", "small", "over a block"])
def test_a_manifest_of_the_version_before_is_read_with_a_digest_of_each_whole_file(tmp_path, content):
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    body = {key: value for key, value in GOOD.items() if key != "block_bytes"}
    (tmp_path / "manifest.json").write_bytes(signed({**body, "files": {"a.bin": entry}, "format_version": 1}))
    (tmp_path / "a.bin").write_bytes(content)
    assert verify(tmp_path) is None
    into = bytearray(len(content))
    read_verified(tmp_path, "a.bin", read_manifest(tmp_path), memoryview(into))
    assert into == content
    (tmp_path / "a.bin").write_bytes(content[:-1] + b"y" if content else b"y")
    assert verify(tmp_path) is not None


def test_only_blocks_of_the_one_size_are_written():
    with pytest.raises(ValueError, match="in blocks of 4,096 bytes"):
        encode_manifest(1, {"a.bin": FileFacts(3, ("0" * 64,), 4096)}, {})


def test_a_missing_folder_a_file_and_a_link_are_three_things(tmp_path, snapshot):
    with pytest.raises(FileNotFoundError):
        verify(tmp_path / "step-00000001")
    (tmp_path / "step-00000002").touch()
    (tmp_path / "step-00000003").symlink_to(snapshot)
    for name in ("step-00000002", "step-00000003"):
        assert verify(tmp_path / name) == Damage(None, "it is not a folder, or it is a symbolic link")
    (snapshot / "manifest.json").unlink()
    assert verify(snapshot) == Damage("manifest.json", "manifest.json is missing: the save did not finish")


def test_a_link_is_not_followed_even_to_the_right_bytes(tmp_path, snapshot):
    os.rename(snapshot / "a.bin", tmp_path / "elsewhere.bin")
    (snapshot / "a.bin").symlink_to(tmp_path / "elsewhere.bin")
    assert verify(snapshot) == Damage("a.bin", "a.bin cannot be opened: Too many levels of symbolic links")


def test_the_bytes_that_are_read_are_the_bytes_that_are_verified(snapshot):
    manifest = read_manifest(snapshot)
    into = bytearray(3)
    read_verified(snapshot, "a.bin", manifest, memoryview(into))
    assert into == b"abc"
    (snapshot / "a.bin").write_bytes(b"abX")
    with pytest.raises(SnapshotDamaged, match="its SHA-256 does not match"):
        read_verified(snapshot, "a.bin", manifest, memoryview(into))


def test_any_bytes_are_a_manifest_or_one_error():
    rng = random.Random(1)
    good = encode_manifest(5, FILES, {"a": [1, {"b": None}]})
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(4)] = rng.randbytes(rng.randrange(4))
        try:
            decode_manifest(bytes(data), "step-00000005")
        except SnapshotDamaged:
            continue
        assert bytes(data) == good
