"""Archives of torch.package: all pickles of all packages, nothing imported."""

from __future__ import annotations

import json
from pathlib import Path

from archives import changed
from checkpoint_laws import listed_all, names_of, obeys, variants

from rekindle.formats import open_path

GOLDEN = Path(__file__).parent.parent / "golden" / "torch_package"
FILE = GOLDEN / "package.pt"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


def test_every_pickle_is_listed_by_its_path():
    with open_path(FILE) as opened:
        assert opened.format == "torch-package"
        assert listed_all(opened) == {key: (r["dtype"], r["shape"], r["digest"]) for key, r in EXPECTED.items()}
        assert dict(dict(opened.tree.pairs)["model/weights"].pairs)["epoch"] == 5
    assert len(EXPECTED) == 5


def test_a_module_whose_class_is_in_the_package_is_understood_without_it():
    with open_path(FILE) as opened:
        module = dict(opened.tree.pairs)["model/module"]
        assert list(module.parameters) == ["weight"]
        assert list(module.buffers) == ["seen"]
        assert "class Doubler" in opened.facts["sources"]["doubling.py"]


def test_pickles_share_storages():
    with open_path(FILE) as opened:
        storages = {key: opened.table[key].storage for key in ("model/weights.w", "model/weights.t", "extra/data.0")}
    assert len({id(storage) for storage in storages.values()}) == 1


def test_a_resource_called_data_does_not_make_it_another_format():
    with open_path(FILE) as opened:
        assert any(member.name.endswith("extra/data.pkl") for member in opened.members)
        assert opened.format == "torch-package"


def test_texts_are_named_and_versions_are_facts():
    with open_path(FILE) as opened:
        assert names_of(opened) == ["not-listed"]
        assert "model/labels.txt" in opened.findings[0].what
        assert opened.facts["python_version"].startswith("3.")
        assert "torch" in opened.facts["extern_modules"]


def test_a_missing_storage_is_named_and_the_rest_is_listed(tmp_path: Path):
    path = changed(
        FILE, tmp_path / "p.pt", lambda name, data: None if name.endswith(".data/0.storage") else (name, data)
    )
    with open_path(path) as opened:
        assert "missing-storage" in names_of(opened)
        assert sorted(listed_all(opened)) == ["model/module.seen", "model/module.weight"]


def test_a_broken_pickle_is_named_and_the_others_are_listed(tmp_path: Path):
    path = changed(
        FILE, tmp_path / "p.pt", lambda name, data: (name, data[:20] if name.endswith("weights.pkl") else data)
    )
    with open_path(path) as opened:
        assert "broken-pickle" in names_of(opened)
        assert opened.listed
        assert "model/module.weight" in opened.table


def test_cut_anywhere_it_is_never_an_exception(tmp_path: Path):
    data = FILE.read_bytes()
    path = tmp_path / "cut.pt"
    for length in range(4, len(data), 37):
        path.write_bytes(data[:length])
        opened = obeys(path)
        assert opened is None or not opened.listed


def test_bytes_behind_the_archive_are_reported(tmp_path: Path):
    path = tmp_path / "more.pt"
    path.write_bytes(FILE.read_bytes() + b"more")
    with open_path(path) as opened:
        assert "trailing-bytes" in names_of(opened)
        assert len(listed_all(opened)) == 5


def test_any_damage_ends_in_a_value_and_findings(tmp_path: Path):
    path = tmp_path / "damaged.pt"
    for data in variants(FILE.read_bytes(), 200):
        path.write_bytes(data)
        obeys(path)
