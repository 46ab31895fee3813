"""Files that are no models: each is named, with what to do instead."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from pathlib import Path

import pytest
import torch

from rekindle.finding import Severity
from rekindle.formats import open_path


def torch_bytes(*, new: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(10)}, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("run/model.pth")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    return buffer.getvalue()


def tar_with_long_facts() -> bytes:
    """A tar as Python writes it where a time has a fraction: a header that describes comes before the member's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("run/model.pth")
        info.mtime = 1.5
        tar.addfile(info)
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 446300608\n"

CASES = {
    "empty": (b"", "RK-FILE-01", "the file is empty"),
    "zeros": (bytes(10_000), "RK-FILE-02", "10,000 bytes, zeros"),
    "html": (b"\n<!DOCTYPE html><html><head><title>Sign in</title>", "RK-FILE-03", "titled 'Sign in'"),
    "xml": (b"<?xml version='1.0'?><Error><Message>Denied</Message></Error>", "RK-FILE-03", "titled 'Denied'"),
    "json error": (b'{"error": "not found"}', "RK-FILE-03", "an error message of a web service"),
    "lfs": (LFS, "RK-FILE-20", "the model itself has 446,300,608 bytes"),
    "gzip": (gzip.compress(torch_bytes()), "RK-FILE-21", "gzip; inside is a zip archive, probably a torch.save file"),
    "gzip of a stream": (
        gzip.compress(torch_bytes(new=False)),
        "RK-FILE-21",
        "inside is a torch.save file of the kind",
    ),
    "tar.gz": (gzip.compress(tar_bytes()), "RK-FILE-21", "a tar archive that starts with 'run/model.pth'"),
    "tar.gz of Python": (gzip.compress(tar_with_long_facts()), "RK-FILE-21", "starts with 'run/model.pth'"),
    "bzip2": (bz2.compress(torch_bytes()), "RK-FILE-21", "bzip2; inside is a zip archive"),
    "xz": (lzma.compress(torch_bytes()), "RK-FILE-21", "xz; inside is a zip archive"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(range(1, 40)), "RK-FILE-21", "compressed with zstd"),
    "broken gzip": (b"\x1f\x8b" + b"\xff" * 40, "RK-FILE-21", "compressed with gzip"),
    "tar": (tar_bytes(), "RK-FILE-21", "a tar archive that starts with 'run/model.pth'"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(40), "RK-FILE-22", "a GGUF model"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "RK-FILE-22", "an HDF5 file"),
    "onnx": (b"\x08\x08\x12\x07pytorch" + bytes(9), "RK-FILE-22", "an ONNX model"),
    "flatbuffer": (b"\x20\0\0\0PTMF" + bytes(40), "RK-FILE-22", "mobile model"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(40), "RK-FILE-22", "a picture"),
    "python": (b"import torch\nmodel = 1\n", "RK-FILE-23", "Python source code"),
    "text": ("Grüße\n".encode(), "RK-FILE-23", "a text file"),
    "json": (b'{"layers": 3}', "RK-FILE-23", "a JSON file"),
    "noise": (b"\xde\xad\xbe\xef" * 20, "RK-FILE-24", "start with de ad be ef"),
    "one byte": (b"\xff", "RK-FILE-24", "1 bytes"),
    "mangled": (torch_bytes(new=False).replace(b"\n", b"\r\n"), "RK-FILE-25", "line ends were changed"),
}


def test_an_archive_that_was_copied_as_text_is_named(tmp_path: Path):
    path = tmp_path / "model.pth"
    torch.save({"w": torch.randn(5000), "b": torch.arange(300)}, path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with open_path(path) as opened:
        assert "line ends were changed" in opened.findings[-1].what


@pytest.mark.parametrize("name", CASES)
def test_an_impostor_is_named(tmp_path: Path, name: str):
    content, code, words = CASES[name]
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with open_path(path) as opened:
        (finding,) = opened.findings
        assert opened.format == "not-a-model"
        assert not opened.listed
        assert opened.tree is None
        assert len(opened.table) == 0
    assert finding.code == code
    assert finding.severity is Severity.ERROR
    assert words in finding.what
    assert finding.what.startswith(str(path))


def test_the_pointer_of_git_lfs_gives_the_command_to_type(tmp_path: Path):
    path = tmp_path / "model.pth"
    path.write_bytes(LFS)
    with open_path(path) as opened:
        (finding,) = opened.findings
    assert finding.do == f"git lfs install && git lfs pull --include {path}"
    assert "sha256:4d7a2146" in finding.why


def test_a_folder_of_something_else_is_named_with_what_is_in_it(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "model.pth").write_bytes(torch_bytes())
    with open_path(tmp_path) as opened:
        (finding,) = opened.findings
        assert not opened.listed
    assert "neither a run nor a snapshot" in finding.what
    assert finding.do.endswith("model.pth")


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path):
    with open_path(tmp_path) as opened:
        assert opened.findings[0].why == "it is empty"


def test_a_missing_file_is_the_error_of_the_system(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        open_path(tmp_path / "gone.pth")


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][1] == "RK-FILE-22"])
def test_every_other_format_has_something_to_do(tmp_path: Path, name: str):
    path = tmp_path / "model.pth"
    path.write_bytes(CASES[name][0])
    with open_path(path) as opened:
        assert opened.findings[0].do


def test_an_archive_of_other_files_says_how_to_list_it(tmp_path: Path):
    import zipfile

    path = tmp_path / "notes.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")
    with open_path(path) as opened:
        (finding,) = opened.findings
    assert finding.what == f"{path}: a zip archive of 1 other file, no PyTorch model"
    assert finding.do.endswith(f"unzip -l {path}")


def test_a_packed_tar_is_unpacked_as_a_tar(tmp_path: Path):
    (tmp_path / "m.tar.gz").write_bytes(gzip.compress(tar_bytes()))
    (tmp_path / "m.pth.gz").write_bytes(gzip.compress(torch_bytes()))
    for name, command in (("m.tar.gz", "tar -xf"), ("m.pth.gz", "gunzip")):
        with open_path(tmp_path / name) as opened:
            assert opened.findings[0].do == f"{command} {tmp_path / name}"
