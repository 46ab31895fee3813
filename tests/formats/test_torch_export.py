"""Exported programs (.pt2): the state dict that `torch.export.load` gives, without running their pickles."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from archives import changed, write_archive
from checkpoint_laws import facts_of_all, listed_all, listed_facts, names_of, obeys, variants

from rekindle.formats import open_path
from rekindle.listing import kind_of

GOLDEN = Path(__file__).parent.parent / "golden" / "torch_export"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
NAMES = ["program.pt2", "of_2_7.pt2", "of_2_5.pt2"]
CONFIG = "data/weights/model_weights_config.json"


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_constants_are_those_that_torch_loads(name: str):
    with open_path(GOLDEN / name) as opened:
        assert opened.format == "torch-export"
        assert kind_of(opened.tree, opened.table) == "state_dict"
        rows = {
            entry.key: {"dtype": entry.dtype, "shape": list(entry.shape), "stride": list(entry.stride)}
            | {"digest": listed_facts(entry)[2]}
            for entry in opened.table
        }
        keys = [key for key, _ in opened.tree.pairs]
        assert "outside-state-dict" in names_of(opened)
    assert keys == list(EXPECTED["state_dict"])
    assert rows == EXPECTED["state_dict"] | EXPECTED["constants"]


def test_tied_weights_share_their_record():
    with open_path(GOLDEN / "program.pt2") as opened:
        assert opened.table["tied.weight"].storage is opened.table["fc.weight"].storage
        assert opened.table["fc.weight"].parameter
        assert opened.table["fc.weight"].requires_grad
        assert not opened.table["turned"].parameter


def test_versions_are_facts_and_example_inputs_are_named():
    with open_path(GOLDEN / "program.pt2") as opened:
        assert opened.facts["archive_version"] == "0"
        assert str(opened.facts["schema_version"]).startswith("8.")
        assert "not-listed" in names_of(opened)
    with open_path(GOLDEN / "of_2_5.pt2") as opened:
        assert opened.facts["schema_version"] == "5.3"


class Kinds(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for dtype in (torch.uint8, torch.int16, torch.float64, torch.complex64, torch.bool, torch.float16):
            self.register_buffer(str(dtype).removeprefix("torch."), torch.ones(2, 3).to(dtype))
        self.register_buffer("eight", torch.ones(4).to(torch.float8_e4m3fn))
        self.register_buffer("empty", torch.zeros(0, 2))
        base = torch.arange(10.0)
        self.register_buffer("head", base[:4])
        self.register_buffer("tail", base[4:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.head[0] + self.tail[0] + self.float64[0, 0] + self.float16[0, 0]


def test_a_program_exported_now_equals_what_torch_loads(tmp_path: Path):
    path = tmp_path / "kinds.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Kinds(), (torch.ones(1),)), path)
        loaded = torch.export.load(path)
    with open_path(path) as opened:
        found = listed_all(opened)
        keys = [key for key, _ in opened.tree.pairs]
    assert {key: found[key] for key in keys} == facts_of_all(loaded.state_dict)
    assert keys == list(loaded.state_dict)


def test_several_programs_in_one_archive_are_listed_by_name(tmp_path: Path):
    records = [
        (f"p/{name}", data)
        for model in ("one", "two")
        for name, data in (
            (f"models/{model}.json", b"{}"),
            (f"data/weights/{model}_weights_config.json", config(**{model: entry()})),
        )
    ]
    records += [("p/archive_format", b"pt2"), ("p/data/weights/weight_0", bytes(24))]
    with open_path(write_archive(tmp_path / "two.pt2", records)) as opened:
        assert [entry.key for entry in opened.table] == ["one.one", "two.two"]


# --- damage ----------------------------------------------------------------------------------------------------------


def sizes(*numbers: object) -> list[dict[str, object]]:
    return [{"as_int": number} for number in numbers]


def entry(**changes: object) -> dict[str, object]:
    meta = {
        "dtype": 7,
        "sizes": sizes(2, 3),
        "strides": sizes(3, 1),
        "storage_offset": {"as_int": 0},
        "requires_grad": False,
        "device": {"type": "cpu", "index": None},
        "layout": 7,
    }
    fields = {"path_name": "weight_0", "is_param": True, "use_pickle": False}
    own = {key: changes.pop(key) for key in list(changes) if key in {"path_name", "use_pickle", "tensor_meta"}}
    return fields | {"tensor_meta": meta | changes} | own


def config(**entries: object) -> bytes:
    return json.dumps({"config": entries}).encode()


def archive(path: Path, text: bytes) -> Path:
    records = [("p/archive_format", b"pt2"), (f"p/{CONFIG}", text), ("p/data/weights/weight_0", bytes(24))]
    return write_archive(path, records)


def test_the_table_used_for_lies_is_right_as_it_stands(tmp_path: Path):
    with open_path(archive(tmp_path / "p.pt2", config(w=entry()))) as opened:
        assert names_of(opened) == []
        assert list(listed_all(opened)) == ["w"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"config": []}',
        b"[" * 100_000,
        config(w=3),
        config(w=entry(dtype=99)),
        config(w=entry(dtype="7")),
        config(w=entry(dtype=True)),
        config(w=entry(layout=1)),
        config(w=entry(sizes=[2, 3])),
        config(w=entry(sizes=sizes(-2, 3))),
        config(w=entry(sizes=sizes(2**62, 3))),
        config(w=entry(sizes=sizes(*[1] * 100), strides=sizes(*[1] * 100))),
        config(w=entry(strides=sizes(2**62, 1))),
        config(w=entry(strides=sizes(1))),
        config(w=entry(storage_offset={"as_int": 2**63})),
        config(w=entry(storage_offset={"as_int": 1})),
        config(w=entry(path_name="../../weight_0")),
        config(w=entry(path_name="weight_9")),
        config(w=entry(path_name=["weight_0"])),
        config(w=entry(use_pickle=True)),
        config(w=entry(tensor_meta=None)),
    ],
)
def test_a_table_that_lies_is_a_finding(tmp_path: Path, text: bytes):
    opened = obeys(archive(tmp_path / "p.pt2", text))
    assert opened is not None
    assert opened.format == "torch-export"
    assert {"odd-export-archive", "storage-size-mismatch"} & set(names_of(opened))


def test_sizes_that_were_symbols_have_the_value_of_the_trace(tmp_path: Path):
    symbol = {"as_expr": {"expr_str": "s0", "hint": {"as_int": 2}}}
    with open_path(archive(tmp_path / "p.pt2", config(w=entry(sizes=[symbol, {"as_int": 3}])))) as opened:
        assert opened.table["w"].shape == (2, 3)


def test_a_pickled_weight_is_read_as_symbols_and_calls_nothing(tmp_path: Path):
    import io
    import os

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    out = io.BytesIO()
    torch.save({"x": Evil()}, out)
    records = [
        ("p/archive_format", b"pt2"),
        (f"p/{CONFIG}", config(w=entry(use_pickle=True))),
        ("p/data/weights/weight_0", out.getvalue()),
    ]
    with open_path(write_archive(tmp_path / "p.pt2", records)) as opened:
        assert "not-listed" in names_of(opened)
    assert not (tmp_path / "made").exists()


def test_a_pickled_tensor_is_listed_with_its_bytes(tmp_path: Path):
    import io

    out = io.BytesIO()
    torch.save(torch.arange(4.0), out)
    records = [
        ("p/archive_format", b"pt2"),
        (f"p/{CONFIG}", config(w=entry(use_pickle=True))),
        ("p/data/weights/weight_0", out.getvalue()),
    ]
    with open_path(write_archive(tmp_path / "p.pt2", records)) as opened:
        assert listed_all(opened) == facts_of_all({"w": torch.arange(4.0)})


def test_cut_anywhere_it_is_never_an_exception(tmp_path: Path):
    data = (GOLDEN / "program.pt2").read_bytes()
    path = tmp_path / "cut.pt2"
    for length in range(8, len(data), 211):
        path.write_bytes(data[:length])
        opened = obeys(path)
        # The example inputs are an archive of their own: cut behind it, its directory is the last one in the file.
        assert opened is None or not opened.listed


def test_bytes_behind_the_archive_are_reported(tmp_path: Path):
    path = tmp_path / "more.pt2"
    path.write_bytes((GOLDEN / "program.pt2").read_bytes() + b"more")
    with open_path(path) as opened:
        assert "trailing-bytes" in names_of(opened)
        assert len(listed_all(opened)) == 9


def test_any_damage_ends_in_a_value_and_findings(tmp_path: Path):
    path = tmp_path / "damaged.pt2"
    for name in ("program.pt2", "of_2_5.pt2"):
        for data in variants((GOLDEN / name).read_bytes(), 80):
            path.write_bytes(data)
            obeys(path)


def test_a_changed_record_name_is_noticed(tmp_path: Path):
    path = changed(
        GOLDEN / "program.pt2",
        tmp_path / "renamed.pt2",
        lambda name, data: (name.replace("weight_1", "weight_8"), data),
    )
    with open_path(path) as opened:
        assert {"odd-export-archive", "unreferenced-storage"} <= set(names_of(opened))
