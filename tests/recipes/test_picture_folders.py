"""Folders of pictures: classes, the share kept for validation, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rekindle.errors import ConfigError
from rekindle.recipes.picture_folders import digest_of, find_labelled, find_pictures, listed_pictures


def fill(root: Path, **counts: int) -> Path:
    """Make files that are named like pictures; nobody opens them here."""
    for name, count in counts.items():
        folder = root / name.replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (folder / f"{number:03}.jpg").write_bytes(b"x" * (number + 1))
    return root


def refusal(folder: Path, **settings) -> str:
    with pytest.raises(ConfigError) as caught:
        find_pictures(str(folder), **settings)
    return str(caught.value).replace(str(folder), "F")


def test_train_and_val_are_taken_as_they_are(tmp_path):
    found = find_pictures(str(fill(tmp_path, train__bees=3, train__ants=2, val__ants=1, val__bees=1)))
    assert found.classes == ("ants", "bees")
    assert [(file.name, file.label) for file in found.train] == [
        ("train/ants/000.jpg", 0),
        ("train/ants/001.jpg", 0),
        ("train/bees/000.jpg", 1),
        ("train/bees/001.jpg", 1),
        ("train/bees/002.jpg", 1),
    ]
    assert [file.name for file in found.validation] == ["val/ants/000.jpg", "val/bees/000.jpg"]
    assert not found.is_shared
    assert found.notes == ()


def test_of_one_folder_a_share_of_each_class_is_kept(tmp_path):
    found = find_pictures(str(fill(tmp_path, ants=20, bees=10)), share=0.2)
    assert found.is_shared
    labels = [file.label for file in found.validation]
    assert (labels.count(0), labels.count(1)) == (4, 2)
    assert {file.name for file in found.train}.isdisjoint({file.name for file in found.validation})
    assert len(found.train) + len(found.validation) == 30
    again = find_pictures(str(tmp_path), share=0.2)
    assert again == found
    assert find_pictures(str(tmp_path), share=0.2, split=1).validation != found.validation


def test_a_new_picture_moves_at_most_one_other_to_the_other_side(tmp_path):
    before = {file.name for file in find_pictures(str(fill(tmp_path, ants=50, bees=50))).validation}
    (tmp_path / "ants" / "new.png").touch()
    after = {file.name for file in find_pictures(str(tmp_path)).validation}
    assert len(before ^ after) <= 2


def test_the_share_is_the_same_with_and_without_train_above_it(tmp_path):
    inner = find_pictures(str(fill(tmp_path, train__ants=20, train__bees=20)))
    outer = find_pictures(str(tmp_path / "train"))
    assert [file.name.removeprefix("train/") for file in inner.validation] == [file.name for file in outer.validation]


def test_what_is_left_out_is_said(tmp_path):
    fill(tmp_path, train__ants=2, train__bees=2, val__ants=1)
    (tmp_path / "train" / "ants" / "notes.txt").touch()
    (tmp_path / "train" / "ants" / "Thumbs.db").touch()
    (tmp_path / "train" / "ants" / ".DS_Store").touch()
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "loose.png").touch()
    notes = [note.replace(str(tmp_path), "F") for note in find_pictures(str(tmp_path)).notes]
    assert notes == [
        "left out, as no picture has their suffix: 'train/ants/notes.txt'",
        "left out, as they are in no class: 'loose.png' in F/train",
        "F/val: no pictures of 'bees'; how well they are told is not measured",
    ]


def test_pictures_deeper_in_a_class_belong_to_it(tmp_path):
    found = find_pictures(str(fill(tmp_path, ants__red=2, ants__black=2, bees=2)))
    assert found.classes == ("ants", "bees")
    assert sum(file.label == 0 for file in (*found.train, *found.validation)) == 4


REFUSED = [
    ({"ants": 3}, "F: one class only, 'ants'\n  why     there is nothing to tell apart\n"),
    ({"train__ants": 3, "val__ants": 3}, "F/train: one class only, 'ants'\n"),
    ({}, "F: no folders of classes\n  why     wanted: one folder for each class"),
    ({"ants": 3, "bees": 0, "wasps": 0}, "F: no pictures of 'bees', 'wasps'\n"),
    ({"ants": 3, "bees": 1}, "F: one picture of 'bees'\n  why     one to learn from and one to validate with"),
    ({"val__ants": 3, "val__bees": 3}, "F: there is val/, and no train/ beside it\n"),
    (
        {"train__ants": 3, "train__bees": 3, "val__ant": 2, "val__bees": 1},
        "F/val: 'ant' is not among the known classes\n  why     nearest to 'ant': ants\n",
    ),
    (
        {"train__ants": 3, "train__bees": 3, "val__ants": 0},
        "F/val: no pictures to validate with\n  why     the best weights are chosen by them\n",
    ),
]


@pytest.mark.parametrize(("counts", "words"), REFUSED, ids=[words.splitlines()[0] for _, words in REFUSED])
def test_folders_that_cannot_be_learnt_from_are_refused(tmp_path, counts, words):
    assert refusal(fill(tmp_path, **counts)).startswith(words)


def test_a_path_that_is_no_folder_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        find_pictures(str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        find_pictures(str(tmp_path / "file"))


def test_evaluation_takes_val_where_it_is_and_all_otherwise(tmp_path):
    fill(tmp_path, a__train__ants=3, a__train__bees=3, a__val__ants=1, b__bees=4)
    both = str(tmp_path / "a")
    counts = {
        part: len(find_labelled(both, ("ants", "bees"), part=part).validation)
        for part in ("auto", "val", "train", "all")
    }
    assert counts == {"auto": 1, "val": 1, "train": 6, "all": 7}
    alone = find_labelled(str(tmp_path / "b"), ("ants", "bees"))
    assert [file.label for file in alone.validation] == [1] * 4
    assert alone.notes == ("no pictures of 'ants': nothing is known about these classes",)
    with pytest.raises(ConfigError, match="'bees' is not among the known classes"):
        find_labelled(str(tmp_path / "b"), ("ants", "beetles"))


def test_the_share_of_the_training_is_found_again(tmp_path):
    trained = find_pictures(str(fill(tmp_path, ants=20, bees=20)), share=0.3, split=5)
    found = find_labelled(str(tmp_path), trained.classes, part="val", share=0.3, split=5)
    assert found.validation == trained.validation
    found = find_labelled(str(tmp_path), trained.classes, part="train", share=0.3, split=5)
    assert found.validation == trained.train


def test_the_digest_changes_with_names_labels_and_sizes_only(tmp_path):
    found = find_pictures(str(fill(tmp_path / "one", ants=3, bees=3)))
    moved = find_pictures(str(fill(tmp_path / "two", ants=3, bees=3)))
    assert digest_of(found.train) == digest_of(moved.train)
    (tmp_path / "two" / "ants" / "001.jpg").write_bytes(b"other")
    whole = (*found.train, *found.validation), (*moved.train, *moved.validation)
    assert digest_of(whole[0]) != digest_of(whole[1])


def test_paths_to_predict_may_be_files_and_folders(tmp_path):
    fill(tmp_path, ants=2)
    (tmp_path / "without-suffix").touch()
    found = listed_pictures([str(tmp_path / "ants"), str(tmp_path / "without-suffix")])
    assert [Path(file.path).name for file in found] == ["000.jpg", "001.jpg", "without-suffix"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no pictures in this folder"):
        listed_pictures([str(tmp_path / "empty")])
    with pytest.raises(FileNotFoundError):
        listed_pictures([str(tmp_path / "nowhere.jpg")])
