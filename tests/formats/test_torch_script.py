"""TorchScript archives: the state dict that `torch.jit.load` gives, without its compiler."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from archives import changed, write_archive
from checkpoint_laws import facts_of, facts_of_all, listed_all, listed_facts, names_of, obeys, variants

from rekindle.formats import open_path
from rekindle.listing import kind_of, state_dict_of

GOLDEN = Path(__file__).parent.parent / "golden" / "torchscript"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


def state_rows(path: Path) -> dict[str, tuple[str, list[int], str]]:
    """Return the facts of the state dict, in its order, from the tree."""
    with open_path(path) as opened:
        keys = [key for key, _ in state_dict_of(opened.tree).pairs]
        return {key: listed_facts(opened.table[key]) for key in keys}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_state_dict_is_the_one_that_torch_gives(name: str):
    with open_path(GOLDEN / name) as opened:
        assert opened.format == "torchscript"
        assert opened.listed
        assert kind_of(opened.tree, opened.table) == "module"
        parameters = {entry.key: entry.parameter for entry in opened.table}
    found = state_rows(GOLDEN / name)
    expected = {key: (row["dtype"], row["shape"], row["digest"]) for key, row in EXPECTED[name].items()}
    assert list(found.items()) == list(expected.items())
    assert {key: parameters[key] for key in found} == {key: row["parameter"] for key, row in EXPECTED[name].items()}


def test_every_golden_file_was_looked_at():
    assert sorted(EXPECTED) == ["mobile.ptl", "of_1_0.pt", "scripted.pt", "traced.pt"]


def test_tensors_outside_the_state_dict_are_listed_behind_it_with_a_note():
    with open_path(GOLDEN / "scripted.pt") as opened:
        assert [entry.key for entry in opened.table][-1] == "inner.table"
        assert names_of(opened) == ["outside-state-dict"]
    with open_path(GOLDEN / "traced.pt") as opened:
        assert listed_facts(opened.table["CONSTANTS.c0"]) == facts_of(torch.tensor([5.0, 6.0]))


def test_tied_weights_share_their_storage():
    with open_path(GOLDEN / "scripted.pt") as opened:
        assert opened.table["tied.weight"].storage is opened.table["layers.0.weight"].storage


def test_code_extra_files_and_versions_are_facts():
    with open_path(GOLDEN / "scripted.pt") as opened:
        assert "class Net(Module)" in opened.facts["code"]["code/__torch__.py"]
        assert opened.facts["extra_files"] == ["labels.txt"]
        assert opened.facts["version"] == "3"
    with open_path(GOLDEN / "mobile.ptl") as opened:
        assert opened.facts["mobile"] is True
        assert opened.facts["bytecode_version"] == 8


def test_plain_attributes_are_kept_with_their_module_and_typed_lists_are_lists():
    with open_path(GOLDEN / "scripted.pt") as opened:
        attributes = dict(opened.tree.modules["inner"].attributes.pairs)
        assert attributes["sizes"] == [3, 4]
        assert attributes["training"] is False


class Odd(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = torch.nn.Parameter(torch.arange(4, dtype=torch.float64).reshape(2, 2).t())
        self.register_buffer("pairs", torch.tensor([1 + 2j, 3 - 1j]))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("brief", torch.ones(3, dtype=torch.bfloat16)[1:])
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(3)])
        self.names = {"a": 1}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x + self.wide.sum() + self.names["a"]


def test_a_module_scripted_now_with_its_code_compressed_equals_what_torch_loads(tmp_path: Path):
    path = tmp_path / "odd.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Odd()).save(path)
        loaded = torch.jit.load(path).state_dict()
    assert state_rows(path) == facts_of_all(loaded)
    assert len(loaded) == 11
    with zipfile.ZipFile(path) as archive:
        assert any(info.compress_type == zipfile.ZIP_DEFLATED for info in archive.infolist())


def test_without_its_code_the_tensors_are_listed_and_the_guess_is_named(tmp_path: Path):
    path = changed(
        GOLDEN / "mobile.ptl", tmp_path / "bare.ptl", lambda name, data: None if "/code/" in name else (name, data)
    )
    with open_path(path) as opened:
        assert "unread-code" in names_of(opened)
        assert opened.table["layers.0.weight"].parameter is False
        assert {"tied.weight", "inner.norm.running_mean"} <= set(listed_all(opened))
        parameters = opened.tree.modules["tied"].parameters
    assert list(parameters) == ["weight", "bias"]


def test_an_attribute_that_only_looks_like_a_parameter_list_changes_nothing(tmp_path: Path):
    def change(name: str, data: bytes) -> tuple[str, bytes]:
        if name.endswith("code/__torch__.py"):
            data += b"\ndef forward(x):\n  __parameters__ = []\n  __buffers__ = []\n"
        return name, data

    path = changed(GOLDEN / "scripted.pt", tmp_path / "tricky.pt", change)
    assert list(state_rows(path)) == list(EXPECTED["scripted.pt"])


# --- damage ----------------------------------------------------------------------------------------------------------


def test_cut_anywhere_it_ends_before_its_directory(tmp_path: Path):
    data = (GOLDEN / "traced.pt").read_bytes()
    path = tmp_path / "cut.pt"
    for length in range(8, len(data), 61):
        path.write_bytes(data[:length])
        opened = obeys(path)
        assert opened is not None
        assert not opened.listed
        assert names_of(opened)


def test_bytes_behind_the_archive_are_reported_and_change_nothing(tmp_path: Path):
    path = tmp_path / "more.pt"
    path.write_bytes((GOLDEN / "traced.pt").read_bytes() + b"more")
    with open_path(path) as opened:
        assert "trailing-bytes" in names_of(opened)
    assert list(state_rows(path)) == list(EXPECTED["traced.pt"])


def test_a_missing_storage_and_a_short_one_are_named(tmp_path: Path):
    path = changed(
        GOLDEN / "traced.pt",
        tmp_path / "short.pt",
        lambda name, data: None if name.endswith("data/0") else (name, data[:4] if name.endswith("data/1") else data),
    )
    with open_path(path) as opened:
        assert {"missing-storage", "storage-size-mismatch"} <= set(names_of(opened))
        assert opened.table["fc.weight"].storage.data is None
        assert opened.table["fc.bias"].storage.data is None


def test_any_damage_ends_in_a_value_and_findings(tmp_path: Path):
    path = tmp_path / "damaged.pt"
    for data in variants((GOLDEN / "traced.pt").read_bytes(), 150):
        path.write_bytes(data)
        obeys(path)


def model_json(**changes: object) -> bytes:
    tensor = {"dims": ["2"], "strides": ["1"], "offset": "0", "dataType": "FLOAT", "data": {"key": "tensors/0"}}
    model = {
        "mainModule": {"name": "top", "parameters": [{"name": "w", "tensorId": "0"}]},
        "tensors": [tensor | changes],
    }
    return json.dumps(model).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"mainModule": {}, "tensors": 3}',
        b'{"mainModule": {"parameters": [{"name": "w", "tensorId": "7"}]}, "tensors": []}',
        model_json(dims=["-1"]),
        model_json(dims=["1" * 30]),
        model_json(dims=5),
        model_json(dataType="STRING"),
        model_json(dataType=[1]),
        model_json(data=None),
        model_json(dims=["9223372036854775807"]),
        model_json(offset="4611686018427387904"),
    ],
)
def test_a_model_json_that_lies_is_a_finding(tmp_path: Path, text: bytes):
    path = write_archive(tmp_path / "old.pt", [("old/model.json", text), ("old/tensors/0", bytes(8))])
    opened = obeys(path)
    assert opened is not None
    assert opened.format == "torchscript"
    assert {"odd-model-json", "storage-size-mismatch"} & set(names_of(opened))


def test_the_same_model_json_without_lies_is_listed(tmp_path: Path):
    path = write_archive(tmp_path / "old.pt", [("old/model.json", model_json()), ("old/tensors/0", bytes(8))])
    with open_path(path) as opened:
        assert names_of(opened) == []
        assert list(listed_all(opened)) == ["w"]
