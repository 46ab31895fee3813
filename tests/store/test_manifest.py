"""The manifest vouches for itself, then for the files; and is data from a stranger."""

from __future__ import annotations

import hashlib
import json
import os
import random

import pytest

from rekindle.errors import SnapshotDamaged
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

FILES = {"a.bin": FileFacts(3, hashlib.sha256(b"abc").hexdigest())}


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
    assert list(value) == ["facts", "files", "format", "format_version", "step", "sha256_of_all_above"]
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


GOOD = {
    "facts": {},
    "files": {"a.bin": {"sha256": "0" * 64, "size": 3}},
    "format": "rekindle-snapshot",
    "format_version": 1,
    "step": 5,
}


def test_the_helper_signs_as_we_do():
    assert decode_manifest(signed(GOOD), "step-00000005").step == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "other"}, "not a rekindle manifest"),
        ({"format_version": 2}, "written in format 2; this rekindle reads 1"),
        ({"format_version": "\x1b[31m"}, r"written in format \\x1b\[31m"),
        ({"step": -1}, "lacks a step"),
        ({"step": 5.0}, "lacks a step"),
        ({"step": True}, "lacks a step"),
        ({"step": 6}, "is of step 6, the folder is named for step 5"),
        ({"files": []}, "lacks a step, its files"),
        ({"files": {"../a": {"sha256": "0" * 64, "size": 3}}}, "names a file that cannot be one"),
        ({"files": {"/etc/passwd": {"sha256": "0" * 64, "size": 3}}}, "names a file that cannot be one"),
        ({"files": {"..": {"sha256": "0" * 64, "size": 3}}}, "names a file that cannot be one"),
        ({"files": {"a\\b": {"sha256": "0" * 64, "size": 3}}}, "names a file that cannot be one"),
        ({"files": {"manifest.json": {"sha256": "0" * 64, "size": 3}}}, "names a file that cannot be one"),
        ({"files": {"a": {"sha256": "0" * 64, "size": -3}}}, "a size that is none"),
        ({"files": {"a": {"sha256": "0" * 64, "size": 2**64}}}, "a size that is none"),
        ({"files": {"a": {"sha256": "0" * 64, "size": 3.0}}}, "a size that is none"),
        ({"files": {"a": {"sha256": "g" * 64, "size": 3}}}, "a digest that is none"),
        ({"files": {"a": {"sha256": "0" * 64}}}, "something else than size and sha256"),
        ({"files": {"a": []}}, "something else than size and sha256"),
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
    assert verify(snapshot) == Damage("manifest.json", "manifest.json has more than 16,777,216 bytes")


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
