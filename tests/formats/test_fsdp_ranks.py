"""A file per rank, as FSDP leaves them: put together as `full_tensor()` has it, and what one file says alone."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoint_laws import copied, facts_of, listed_all, listed_facts, names_of, obeys, variants

import rekindle as rk
from rekindle.finding import Severity
from rekindle.formats import open_path
from rekindle.formats._sharded import Part, _cut, words_of
from rekindle.limits import DEFAULT_LIMITS
from rekindle.tensors import Storage
from rekindle.tree import Map, StorageRef

GOLDEN = Path(__file__).parent.parent / "golden" / "fsdp_ranks"
EXPECTED = {
    name: {
        kind: {key: (row["dtype"], row["shape"], row["digest"]) for key, row in rows.items()}
        for kind, rows in kinds.items()
    }
    for name, kinds in json.loads((GOLDEN / "expected.json").read_text()).items()
}


def test_the_folders_are_there():
    assert sorted(EXPECTED) == ["flat", "older", "replicas", "strided", "tensor", "three", "two"]
    assert all(sum(f.stat().st_size for f in path.glob("*.pt")) < 100_000 for path in GOLDEN.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", ["three", "replicas", "tensor", "strided", "older"])
def test_the_parts_of_all_ranks_are_what_torch_puts_together(name: str):
    with open_path(GOLDEN / name) as opened:
        assert opened.format == "fsdp-ranks"
        assert opened.findings == ()
        assert listed_all(opened) == EXPECTED[name]["model"]
        assert opened.facts["world_size"] == (3 if name in {"three", "older"} else 4)


def test_a_model_and_its_optimizer_come_side_by_side_and_what_is_of_no_model_by_rank():
    with open_path(GOLDEN / "two") as opened:
        found = listed_all(opened)
        assert opened.findings == ()
        assert isinstance(opened.tree, Map)
        assert [key for key, _ in opened.tree.pairs] == ["model", "extra_state", "optim"]
    expected = {f"{kind}.{key}": row for kind, rows in EXPECTED["two"].items() for key, row in rows.items()}
    rng = {f"extra_state.rank_{rank}.rng": facts_of(torch.tensor([rank, 7])) for rank in range(2)}
    assert found == expected | rng
    assert len(expected) > 20


def test_loading_gives_a_state_dict_that_the_whole_model_takes():
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2))
    net.load_state_dict(rk.load(GOLDEN / "three"))
    state = net.state_dict()
    assert {key: facts_of(value) for key, value in state.items()} == EXPECTED["three"]["model"]


def test_flat_parameters_are_whole_but_flat_and_a_finding_says_so():
    with open_path(GOLDEN / "flat") as opened:
        assert names_of(opened) == ["flat-parameters"]
        whole = rk.load(GOLDEN / "flat")["flat"]["_flat_param"]
        assert opened.table["rank_0.0.weight"].shape != (5, 3)
    # The row holds every parameter, one behind the other, as the unit has them.
    expected = {key: row for key, row in EXPECTED["flat"]["model"].items() if "running" not in key and "num" not in key}
    at = 0
    for _, shape, digest in expected.values():
        count = torch.Size(shape).numel()
        assert facts_of(whole[at : at + count].reshape(shape))[2] == digest
        end, at = at + count, at + -(-count // 4) * 4  # every parameter begins at a multiple of 16 bytes
    assert len(whole) == end


def test_a_missing_rank_is_named_with_what_it_holds(tmp_path: Path):
    folder = copied(GOLDEN / "three", tmp_path / "saved")
    (folder / "model_world_size_3_rank_1.pt").unlink()
    with open_path(folder) as opened:
        missing, lost = opened.findings
        assert (missing.name, missing.severity) == ("missing-ranks", Severity.ERROR)
        assert missing.what == (
            "1 of 3 ranks cannot be read: model_world_size_3_rank_1.pt; it holds "
            "[2:4, :] of 0.weight, [2:4] of 0.bias, [2:4] of 1.weight and 3 more"
        )
        assert lost.name == "incomplete-tensor"
        assert lost.what.startswith("6 tensors are not whole: 0.weight, 0.bias")
        buffers = ("1.running_mean", "1.running_var", "1.num_batches_tracked")
        whole = {key: EXPECTED["three"]["model"][key] for key in buffers}
        assert listed_all(opened) == whole
        assert opened.table["0.weight"].storage.data is None


def test_a_missing_rank_of_sharded_tensors_is_named_with_what_it_holds(tmp_path: Path):
    folder = copied(GOLDEN / "older", tmp_path / "saved")
    (folder / "model_world_size_3_rank_0.pt").unlink()
    with open_path(folder) as opened:
        assert names_of(opened) == ["missing-ranks", "incomplete-tensor"]
        assert "model_world_size_3_rank_0.pt; it holds [0:2, :] of 0.weight" in opened.findings[0].what


def test_a_missing_replica_costs_nothing(tmp_path: Path):
    folder = copied(GOLDEN / "replicas", tmp_path / "saved")
    (folder / "model_world_size_4_rank_0.pt").unlink()
    with open_path(folder) as opened:
        assert [(f.name, f.severity) for f in opened.findings] == [("missing-ranks", Severity.WARNING)]
        assert listed_all(opened) == EXPECTED["replicas"]["model"]


def test_one_file_lists_its_own_parts_and_says_what_they_are_of():
    path = GOLDEN / "tensor" / "model_world_size_4_rank_3.pt"
    with open_path(path) as opened:
        assert opened.format == "torch-zip"
        assert opened.facts["parts"] == {
            "0.weight": "[8:10, :] of [10, 6]",
            "0.bias": "[8:10] of [10]",
            "1.weight": "[4:7, 5:10] of [7, 10]",
            "1.bias": "[4:7] of [7]",
        }
        (finding,) = opened.findings
        assert (finding.name, finding.severity) == ("one-rank-of-several", Severity.NOTE)
        assert finding.what.startswith(
            "the file of rank 3 of 4; 4 tensors are its parts: 0.weight is [8:10, :] of [10, 6]"
        )
        alone = {entry.key: listed_facts(entry) for entry in opened.table}
    loaded = rk.load(path)
    assert {key: list(value.shape) for key, value in loaded.items()} == {key: row[1] for key, row in alone.items()}
    with open_path(GOLDEN / "tensor") as opened:
        whole = rk.load(GOLDEN / "tensor")
    assert torch.equal(loaded["1.weight"], whole["1.weight"][4:7, 5:10])
    assert torch.equal(loaded["0.weight"], whole["0.weight"][8:10])


def test_a_rank_without_any_part_of_a_tensor_lists_it_empty():
    with open_path(GOLDEN / "older" / "model_world_size_3_rank_2.pt") as opened:
        assert opened.facts["parts"]["2.weight"] == "nothing of [2, 5]"  # type: ignore[index]  # a dict of texts
        assert opened.table["2.weight"].shape == (0, 5)


def test_a_part_of_several_runs_names_them_all():
    with open_path(GOLDEN / "strided" / "model_world_size_4_rank_0.pt") as opened:
        assert opened.facts["parts"] == {
            "tall": "[0:3, :], [5:8, :], [10:12, :] of [13, 2]",
            "wide": "[:, 0:5], [:, 10:15] of [3, 20]",
        }


def test_names_that_say_only_the_rank_are_believed_with_such_content(tmp_path: Path):
    for rank in range(3):
        shutil.copy(GOLDEN / "three" / f"model_world_size_3_rank_{rank}.pt", tmp_path / f"net_0001.rank_{rank}.pth")
    with open_path(tmp_path) as opened:
        assert opened.format == "fsdp-ranks"
        assert listed_all(opened) == EXPECTED["three"]["model"]
    (tmp_path / "net_0001.rank_2.pth").unlink()
    with open_path(tmp_path) as opened:
        assert "net_0001.rank_2.pth" in opened.findings[0].what
    other = tmp_path / "other"
    other.mkdir()
    torch.save({"a": torch.ones(2)}, other / "model.rank_0.pth")
    with open_path(other) as opened:
        assert opened.format == "not-a-model"


def test_files_of_a_save_with_other_ranks_are_left_out_and_said(tmp_path: Path):
    folder = copied(GOLDEN / "three", tmp_path / "saved")
    shutil.copy(GOLDEN / "two" / "model_world_size_2_rank_0.pt", folder)
    with open_path(folder) as opened:
        assert names_of(opened) == ["index-disagrees"]
        assert listed_all(opened) == EXPECTED["three"]["model"]


def test_files_of_two_saves_that_disagree_are_not_mixed(tmp_path: Path):
    folder = copied(GOLDEN / "tensor", tmp_path / "saved")
    shutil.copy(GOLDEN / "replicas" / "model_world_size_4_rank_2.pt", folder)
    with open_path(folder) as opened:
        assert "incomplete-tensor" in names_of(opened)
        assert "different saves" in next(f.why for f in opened.findings if f.name == "incomplete-tensor")
        assert opened.table["0.weight"].storage.data is None


def test_converted_it_is_the_whole_model_and_does_not_differ(tmp_path: Path):
    from rekindle.verbs.convert import convert
    from rekindle.verbs.diff import diff
    from rekindle.verbs.doctor import doctor
    from rekindle.verbs.verify import verify

    for target in ("whole.safetensors", "whole.pth"):
        convert(GOLDEN / "tensor", tmp_path / target)
        with open_path(tmp_path / target) as opened:
            assert listed_all(opened) == EXPECTED["tensor"]["model"]
        assert diff(GOLDEN / "tensor", tmp_path / target, values=True).same
    assert set(torch.load(tmp_path / "whole.pth", weights_only=True)) == set(EXPECTED["tensor"]["model"])
    assert verify(GOLDEN / "tensor").is_whole
    assert not [f for f in doctor(GOLDEN / "tensor").findings if f.severity is Severity.ERROR]


@pytest.mark.parametrize(
    ("placement", "words"), [(b"Chunk\n", "the placement 'Chunk' is not known"), (b"Partial\n", "has a summand of it")]
)
def test_a_placement_that_cannot_be_put_together_is_named_not_guessed(tmp_path: Path, placement: bytes, words: str):
    from rekindle.formats._sharded import read_sharded
    from rekindle.formats.fsdp_ranks import _places
    from rekindle.unpickling.machine import run_program

    with zipfile.ZipFile(GOLDEN / "three" / "model_world_size_3_rank_0.pt") as archive:
        program = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    changed = program.replace(b"placement_types\nShard\n", b"placement_types\n" + placement)
    assert changed != program
    storage = StorageRef(Storage("0", 2**20, None), "float32", 0, 2**18)
    tree = run_program(changed, persistent=lambda _: storage).value
    sharded = read_sharded(dict(_places(tree))["0.weight",], DEFAULT_LIMITS, {})
    assert sharded is not None
    assert words in sharded.problem


@pytest.mark.parametrize(
    ("size", "factor", "count"), [(13, 3, 2), (9, 2, 4), (5, 1, 4), (0, 1, 2), (7, 7, 3), (3, 5, 2), (64, 4, 8)]
)
def test_cutting_takes_every_index_exactly_once_and_as_torch_chunks(size: int, factor: int, count: int):
    indices = list(range(size))
    taken: list[int] = []
    for index in range(count):
        mine = [at for first, length in _cut(((0, size),), factor, count, index) for at in range(first, first + length)]
        expected: list[int] = []
        outer = torch.arange(size).chunk(factor) if size else ()
        for piece in outer:
            chunks = piece.chunk(count)
            expected.extend(chunks[index].tolist() if index < len(chunks) else [])
        assert mine == expected
        taken.extend(mine)
    assert sorted(taken) == indices


def test_a_part_is_written_as_python_slices_it():
    assert words_of(Part((4, 0), (4, 3), (0, 0)), (16, 3)) == "[4:8, :]"


@pytest.mark.parametrize("name", ["strided", "older"])
def test_damaged_files_end_in_findings_or_our_one_error(tmp_path: Path, name: str):
    folder = copied(GOLDEN / name, tmp_path / "saved")
    path = min(folder.glob("*_rank_1.pt"))
    data = path.read_bytes()
    for changed in variants(data, 60, seed=3):
        path.write_bytes(changed)
        obeys(folder)
        obeys(path)
    for end in range(0, len(data), 97):
        path.write_bytes(data[:end])
        obeys(folder)


def test_numbers_that_a_file_makes_up_cost_nothing(tmp_path: Path):
    folder = copied(GOLDEN / "strided", tmp_path / "saved")
    path = folder / "model_world_size_4_rank_0.pt"
    data = path.read_bytes()
    # split_factor 3 becomes 255: as many runs as there are rows, or refused; never more.
    at = data.index(b"split_factor")
    at = data.index(b"K\x03", at)
    path.write_bytes(data[: at + 1] + b"\xff" + data[at + 2 :])
    with open_path(folder) as opened:
        assert "incomplete-tensor" in names_of(opened)
    assert obeys(path) is not None
