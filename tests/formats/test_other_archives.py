"""Archives that were packed again by hand: folders around them, and a desktop's own files, change nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from checkpoint_laws import listed_all, names_of

from rekindle.formats import open_path
from rekindle.formats._archive_storages import root_where, roots_of

GOLDEN = Path(__file__).parent.parent / "golden"
ARCHIVES = [
    "torchscript/scripted.pt",
    "torchscript/mobile.ptl",
    "torchscript/of_1_0.pt",
    "torch_export/program.pt2",
    "torch_export/of_2_7.pt2",
    "torch_export/of_2_5.pt2",
    "torch_package/package.pt",
    "readers/zip-state-dict.pt",
]


def packed_again(path: Path, target: Path, outer: str, extra: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as packed:
        for name in extra:
            packed.writestr(name, "")
        for name in archive.namelist():
            packed.writestr(outer + name, archive.read(name))
    return target


@pytest.mark.parametrize("name", ARCHIVES)
def test_two_folders_around_an_archive_are_a_finding_and_no_more(tmp_path: Path, name: str):
    junk = ("out/", "out/er/", "out/.DS_Store", "__MACOSX/out/._er")
    with open_path(GOLDEN / name) as opened:
        expected, findings, format = listed_all(opened), names_of(opened), opened.format
    for extra in ((), junk):
        with open_path(packed_again(GOLDEN / name, tmp_path / "again.zip", "out/er/", extra)) as opened:
            assert opened.format == format
            assert listed_all(opened) == expected
            assert sorted(names_of(opened)) == sorted(["unusual-root", *findings])
    assert expected


def test_arrays_keep_their_path_and_desktop_files_are_passed_over(tmp_path: Path):
    import numpy as np

    np.savez(tmp_path / "a.npz", w=np.arange(3.0))
    path = packed_again(tmp_path / "a.npz", tmp_path / "b.npz", "x/y/", ("x/.DS_Store",))
    with open_path(path) as opened:
        assert opened.format == "numpy"
        assert [entry.key for entry in opened.table] == ["x/y/w"]


def test_the_folders_around_all_names_are_found_outermost_first():
    assert roots_of(["a/b/c", "a/b/d/e"]) == ["", "a/", "a/b/"]
    assert roots_of(["a/b", "c"]) == [""]
    assert roots_of([]) == [""]
    assert len(roots_of(["x/" * 1000 + "y"])) == 9
    assert root_where(["a/b/want", "a/b/c"], lambda names: "want" in names) == "a/b/"
    assert root_where(["a/b/c"], lambda names: "want" in names) is None
