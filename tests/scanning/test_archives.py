"""Archives with tricks, and everything else that can hold a program: found by content, whatever it is called."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import zipfile

import attacks
import pytest

from rekindle.errors import RekindleError
from rekindle.finding import Severity
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.scanning.report import NESTING
from rekindle.verbs.scan import scan

CONTAINERS = attacks.containers()


@pytest.fixture
def scanned(tmp_path):
    def run(data: bytes, limits: Limits = DEFAULT_LIMITS):
        (tmp_path / "file").write_bytes(data)
        return scan(tmp_path / "file", limits=limits)

    return run


def codes(found) -> set[str]:
    return {finding.code for finding in found.findings}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_danger_is_found_wherever_it_lies(scanned, name):
    found = scanned(CONTAINERS[name])
    assert found.verdict == "dangerous", found
    assert found.findings[0].severity is Severity.DANGER


TRICKS = (
    "zip, twice the same name",
    "zip, another name in the local header",
    "zip, marked as encrypted",
    "zip, encrypted in the local header",
    "zip, other compression in the directory",
    "zip, wrong checksum",
)


@pytest.mark.parametrize("name", TRICKS)
def test_an_archive_with_two_readings_is_not_analysed_even_if_both_are_harmless(scanned, name):
    harmless = CONTAINERS[name].replace(attacks.evil(), attacks.GOOD.ljust(len(attacks.evil()), b"\0"))
    found = scanned(harmless)
    assert "RK-SCAN-08" in codes(found)
    assert found.verdict == "not-analysed"


def test_a_harmless_archive_is_clean(scanned):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert scanned(attacks.torch_zip(attacks.GOOD, method=method)).verdict == "clean"


def test_a_hidden_member_is_named(scanned):
    assert "RK-SCAN-12" in codes(scanned(CONTAINERS["zip, not in the directory"]))


def test_archives_nested_too_deep_are_not_analysed(scanned):
    assert scanned(attacks._nested(attacks.torch_zip(attacks.GOOD), NESTING - 1)).verdict == "clean"
    found = scanned(attacks._nested(attacks.torch_zip(attacks.evil()), NESTING + 1))
    assert (found.verdict, codes(found)) == ("not-analysed", {"RK-SCAN-13"})


def test_a_row_of_archives_is_as_deep_as_one(scanned):
    row = attacks.torch_zip(attacks.GOOD) * 300
    assert scanned(row).verdict == "clean"
    assert scanned(attacks.torch_zip(attacks.evil()) + row).verdict == "dangerous"


def test_unknown_bytes_around_an_archive_are_not_analysed(scanned):
    good = attacks.torch_zip(attacks.GOOD)
    for data in (b"\xfe\xed junk" + good, good + b"\xfe\xed junk"):
        assert "RK-SCAN-15" in codes(scanned(data))
    assert scanned(good + bytes(64)).verdict == "clean"


def test_unknown_members_are_not_analysed_but_storages_may_be_anything(scanned):
    noise = bytes(range(128, 256))
    assert scanned(attacks.torch_zip(attacks.GOOD, ("archive/data/0", noise))).verdict == "clean"
    assert scanned(attacks.torch_zip(attacks.GOOD, ("archive/extra/0", noise))).verdict == "not-analysed"


def test_only_torch_s_own_archives_have_storages(scanned):
    """A folder called `data` in anybody's archive is no place where anything may be."""
    import gzip

    assert scanned(attacks.zip_of(("x/data/0", gzip.compress(attacks.evil())))).verdict == "dangerous"
    packed = ("archive/data/weights.pkl.gz", gzip.compress(attacks.evil()))
    assert scanned(attacks.torch_zip(attacks.GOOD, packed)).verdict == "dangerous"


def test_an_archive_in_the_place_of_a_storage_is_looked_at_like_any_other(scanned):
    inner = attacks.torch_zip(attacks.GOOD + attacks.evil())
    assert scanned(attacks.torch_zip(attacks.GOOD, ("archive/data/0", inner))).verdict == "dangerous"


def test_native_code_and_source_code_in_an_archive_are_a_notice(scanned):
    library = b"\x7fELF\x02\x01\x01" + bytes(100)
    assert "RK-SCAN-17" in codes(scanned(attacks.zip_of(("model.so", library))))
    found = scanned(attacks.zip_of(("m/model.py", b"import os\nimport sys\n\ndef run():\n    pass\n")))
    assert (found.verdict, codes(found)) == ("notice", {"RK-SCAN-19"})


def test_weights_that_torch_unpickles_are_a_notice(scanned):
    config = b'{"config": {"w": {"path_name": "weight_0", "use_pickle": true}}}'
    found = scanned(attacks.zip_of(("p/archive_format", b"pt2"), ("p/data/weights/model_weights_config.json", config)))
    assert found.verdict == "notice"
    plain = b'{"expr_str": "2*s0 + 1", "use_pickle": false}'
    assert scanned(attacks.zip_of(("p/archive_format", b"pt2"), ("p/models/m.json", plain))).verdict == "clean"


def test_a_bomb_is_bounded_and_not_analysed(scanned):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"N0" * 3_000_000 + b"N.")
    found = scanned(out.getvalue(), Limits(pickle_bytes=1_000_000, opcodes=100_000))
    assert found.verdict == "not-analysed"


def test_safetensors_is_clean_up_to_its_last_tensor(scanned):
    assert scanned(attacks.safetensors()).verdict == "clean"
    assert scanned(attacks.safetensors(b"\xfe\xed")).verdict == "not-analysed"
    assert scanned(attacks.safetensors(attacks.evil())).verdict == "dangerous"
    twice = (
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    assert scanned(struct.pack("<Q", len(twice)) + twice + bytes(4)).verdict == "not-analysed"


def test_whatever_the_bytes_the_answer_is_a_verdict(tmp_path):
    chance = random.Random(5)
    bases = [*CONTAINERS.values()]
    path = tmp_path / "file"
    for _ in range(700):
        data = bytearray(chance.choice(bases))
        for _ in range(chance.choice((1, 3, 8))):
            at = chance.randrange(len(data))
            data[at : at + chance.choice((0, 1, 1, 1, 4))] = bytes(
                chance.choices(range(256), k=chance.choice((0, 1, 1, 4)))
            )
            if not data:
                data = bytearray(b".")
        path.write_bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data) + 1)))])
        try:
            assert scan(path).verdict in {"dangerous", "not-analysed", "notice", "clean"}
        except RekindleError:
            pytest.fail("a scan of a regular file has an answer")


def test_a_danger_in_a_whole_member_outlives_every_cut_behind_it(tmp_path):
    data = attacks.torch_zip(attacks.evil())
    first = data.index(b"K\x01K\x02") + len(attacks.evil())
    for end in range(first, len(data) + 1):
        (tmp_path / "file").write_bytes(data[:end])
        assert scan(tmp_path / "file").verdict == "dangerous", end


def tar_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_a_tar_whose_last_member_is_an_archive_is_read_as_a_tar(scanned):
    """The directory of that member stands near the end of the file, where that of a zip would."""
    good = attacks.torch_zip(attacks.GOOD)
    for packed in (tar_of(a=good, b=good), gzip.compress(tar_of(a=good, b=good))):
        assert scanned(packed).verdict == "clean", scanned(packed)
    found = scanned(gzip.compress(tar_of(a=good, b=attacks.torch_zip(attacks.evil()))))
    assert found.verdict == "dangerous"
    assert " > b > " in found.findings[0].where.member


def test_a_zip_that_is_no_member_of_the_tar_in_front_of_it_is_a_second_reading(scanned):
    good = attacks.torch_zip(attacks.GOOD)
    found = scanned(tar_of(a=b"text") + good)
    assert "RK-SCAN-08" in codes(found)
    # A directory in the second member, whose entry is in the first.
    evil = attacks.torch_zip(attacks.evil())
    cut = evil.index(b"PK\x01\x02")
    shifted = bytearray(evil[cut:])
    end = shifted.rindex(b"PK\x05\x06")
    struct.pack_into("<I", shifted, end + 16, cut + (-cut % 512) + 512)
    found = scanned(tar_of(a=evil[:cut].ljust(cut + -cut % 512, b"\0"), b=bytes(shifted)))
    assert found.verdict in {"dangerous", "not-analysed"}
