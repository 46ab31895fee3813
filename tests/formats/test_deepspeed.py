"""DeepSpeed's folders: partitions of all ranks put together without DeepSpeed, missing ranks named."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from checkpoint_laws import copied, listed_all, names_of, obeys, variants

from rekindle.formats import open_path
from rekindle.tree import lookup

GOLDEN = Path(__file__).parent.parent / "golden" / "deepspeed"
ENGINE = GOLDEN.parent / "deepspeed_engine"  # what the engine of 0.19.8 saved, and what its own programs made of it
EXPECTED = {
    key: (row["dtype"], row["shape"], row["digest"])
    for key, row in json.loads((GOLDEN / "expected.json").read_text()).items()
}
NAMES = ["zero1", "zero2", "zero3", "universal"]


def values_in(folder: Path) -> dict[str, tuple[str, list[int], str]]:
    """Return all tensors but the counters of groups."""
    with open_path(folder) as opened:
        return {key: row for key, row in listed_all(opened).items() if not key.startswith("optimizer.groups")}


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_moments_are_put_together(name: str):
    with open_path(GOLDEN / name) as opened:
        assert opened.format == "deepspeed"
        assert opened.findings == ()
    assert values_in(GOLDEN / name) == EXPECTED
    assert len(EXPECTED) == 16


@pytest.mark.parametrize("name", NAMES)
def test_no_padding_comes_with_the_bytes(name: str):
    with open_path(GOLDEN / name) as opened:
        for entry in opened.table:
            assert entry.storage.data.size == entry.storage.size_bytes == entry.size_bytes, entry.key


def test_trainable_weights_are_the_float32_ones_and_counters_keep_their_type():
    with open_path(GOLDEN / "zero2") as opened:
        assert opened.table["module.embed.weight"].dtype == "float32"  # the model file has bfloat16
        assert opened.table["module.embed.weight"].parameter
        assert opened.table["module.norm.count"].dtype == "int64"


def test_shared_names_share_one_tensor():
    for name in ("zero2", "zero3"):
        with open_path(GOLDEN / name) as opened:
            assert opened.table["module.head.weight"].storage is opened.table["module.embed.weight"].storage


def test_the_step_that_latest_names_is_read_and_what_is_known_is_told():
    with open_path(GOLDEN / "zero1") as opened:
        assert opened.path == str(GOLDEN / "zero1")
        assert opened.facts["tag"] == "global_step40"
        assert (opened.facts["zero_stage"], opened.facts["partitions"]) == (1, 3)
        assert opened.facts["ds_version"] == "0.16.4"
        assert lookup(opened.tree, "global_steps") == 40
        assert lookup(lookup(opened.tree, "lr_scheduler"), "last_epoch") == 4
        groups = lookup(lookup(opened.tree, "optimizer"), "param_groups")
    assert lookup(groups[0], "lr") == 0.1


@pytest.mark.parametrize("tag", ["../zero2", "/", "", "global_step99", "global_step40/../global_step40"])
def test_a_latest_that_leads_elsewhere_is_not_followed(tmp_path: Path, tag: str):
    folder = copied(GOLDEN / "zero1", tmp_path / "run")
    copied(GOLDEN / "zero2", tmp_path / "zero2")
    (folder / "latest").write_text(tag)
    with open_path(folder) as opened:
        assert opened.format == "not-a-model"


# --- what DeepSpeed's own engine saved ------------------------------------------------------------------------------


def part_of(found: dict[str, tuple[str, list[int], str]], prefix: str) -> dict[str, list[object]]:
    """Return what lies under a prefix, without it, as `expected.json` has it."""
    return {key.removeprefix(prefix): list(row) for key, row in found.items() if key.startswith(prefix)}


@pytest.mark.parametrize("name", ["zero1", "zero3", "universal"])
def test_what_the_engine_saved_is_what_its_own_program_makes_of_it(name: str):
    expected = json.loads((ENGINE / "expected.json").read_text())
    with open_path(ENGINE / name) as opened:
        assert opened.findings == ()
        groups = lookup(lookup(opened.tree, "optimizer"), "param_groups")
    found = values_in(ENGINE / name)
    assert part_of(found, "module.") == expected["zero3" if name == "universal" else name]
    moments = part_of(found, "optimizer.state.")
    assert len(moments) == 14
    if name != "zero1":
        assert moments == expected["moments"]
    assert [lookup(group, "weight_decay") for group in groups] == [0.01, 0.0]


def test_a_universal_checkpoint_of_stage_3_needs_the_model_files_of_all_ranks_for_what_is_frozen(tmp_path: Path):
    folder = copied(ENGINE / "universal", tmp_path / "run")
    (folder / "step3" / "zero_pp_rank_1_mp_rank_00_model_states.pt").unlink()
    with open_path(folder) as opened:
        assert names_of(opened) == ["incomplete-tensor"]
        assert "frozen.weight" in opened.findings[0].what
        assert "rank 1" in opened.findings[0].why
    assert {"module.first.weight", "module.tied.weight"} < set(values_in(folder))


def test_a_shared_name_is_the_weight_it_shares_whatever_its_own_file_says(tmp_path: Path):
    folder = copied(ENGINE / "universal", tmp_path / "run")
    (folder / "step3" / "zero" / "tied.weight").mkdir()
    torch.save(torch.zeros(15), folder / "step3" / "zero" / "tied.weight" / "fp32.pt")
    with open_path(folder) as opened:
        assert opened.table["module.tied.weight"].storage is opened.table["module.last.weight"].storage


def test_a_row_shorter_than_its_shape_stays_a_row(tmp_path: Path):
    folder = copied(ENGINE / "universal", tmp_path / "run")
    torch.save(torch.ones(3), folder / "step3" / "zero" / "first.weight" / "fp32.pt")
    with open_path(folder) as opened:
        assert opened.table["module.first.weight"].shape == (3,)


# --- missing and damaged files ---------------------------------------------------------------------------------------


def test_missing_ranks_are_named_and_whole_parameters_still_read(tmp_path: Path):
    folder = copied(GOLDEN / "zero1", tmp_path / "run")
    step = folder / "global_step40"
    (step / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with open_path(folder) as opened:
        assert names_of(opened) == ["missing-ranks", "incomplete-tensor"]
        assert "1 of 3 partitions are missing: rank 1" in opened.findings[0].what
    found = values_in(folder)
    # A row of 50 elements in partitions of 18: the first parameter reaches into the second, the second into it as well.
    assert "module.embed.weight" not in found
    assert "module.stem.weight" in found
    assert all(EXPECTED[key] == row for key, row in found.items())


def test_a_parameter_that_lies_in_the_other_partitions_is_whole(tmp_path: Path):
    folder = copied(GOLDEN / "zero2", tmp_path / "run")
    (folder / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    found = values_in(folder)
    assert "module.block.bias" not in found or EXPECTED["module.block.bias"] == found["module.block.bias"]
    assert "module.block.weight" not in found
    assert all(EXPECTED[key] == row for key, row in found.items())


def test_without_one_rank_no_parameter_of_stage_3_is_whole(tmp_path: Path):
    folder = copied(GOLDEN / "zero3", tmp_path / "run")
    (folder / "zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
    with open_path(folder) as opened:
        assert "missing-ranks" in names_of(opened)
        assert "every parameter of stage 3" in opened.findings[0].why
    found = values_in(folder)
    # A scalar has its only element on rank 0, whatever the number of ranks.
    assert {key for key in found if key.startswith("module.") and "norm" not in key} == {
        "module.scale",
        "module.stem.weight",
    }
    assert all(EXPECTED[key] == row for key, row in found.items())


def test_a_frozen_parameter_of_stage_3_needs_all_model_files(tmp_path: Path):
    folder = copied(GOLDEN / "zero3", tmp_path / "run")
    (folder / "zero_pp_rank_1_mp_rank_00_model_states.pt").unlink()
    found = values_in(folder)
    assert "module.stem.weight" not in found
    assert found["module.embed.weight"] == EXPECTED["module.embed.weight"]


def test_without_any_partition_the_model_file_is_listed_as_it_is(tmp_path: Path):
    folder = copied(GOLDEN / "zero2", tmp_path / "run")
    for path in folder.glob("*optim_states.pt"):
        path.unlink()
    with open_path(folder) as opened:
        assert names_of(opened) == ["missing-ranks"]
        assert opened.table["module.embed.weight"].dtype == "bfloat16"


def test_without_a_model_file_the_names_are_lost_and_this_is_said(tmp_path: Path):
    folder = copied(GOLDEN / "zero2", tmp_path / "run")
    (folder / "mp_rank_00_model_states.pt").unlink()
    with open_path(folder) as opened:
        assert "odd-partition" in names_of(opened)
        assert "param_shapes" in opened.findings[0].what


def test_files_of_two_saves_do_not_fit(tmp_path: Path):
    folder = copied(GOLDEN / "zero2", tmp_path / "run")
    path = folder / "mp_rank_00_model_states.pt"
    model = torch.load(path, weights_only=False)
    model["param_shapes"][0]["embed.weight"] = torch.Size((700, 5))
    torch.save(model, path)
    with open_path(folder) as opened:
        assert {"odd-partition", "incomplete-tensor"} <= set(names_of(opened))
        assert opened.table["module.block.bias"].storage.data is not None


@pytest.mark.parametrize(
    "change",
    [
        {"param_shapes": 3},
        {"param_shapes": [{"w": (-1, 2)}]},
        {"param_shapes": [{"w": (2**62, 2**62)}]},
        {"param_shapes": [{"w": (2**40,)}]},
        {"shared_params": {"a": "b", "c": 3}},
        {"buffer_names": {"x": 1}},
        {"frozen_param_shapes": {"x": "y"}, "frozen_param_fragments": None},
        {"module": None},
    ],
)
@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_a_model_file_that_lies_is_no_exception(tmp_path: Path, name: str, change: dict[str, object]):
    folder = copied(GOLDEN / name, tmp_path / "run")
    for path in folder.glob("*model_states.pt"):
        model = torch.load(path, weights_only=False)
        torch.save(model | change, path)
    assert obeys(folder) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"zero_stage": "2"},
        {"zero_stage": -1},
        {"partition_count": 2**40},
        {"partition_count": 0},
        {"partition_count": [1, "x"]},
        {"single_partition_of_fp32_groups": None},
        {"single_partition_of_fp32_groups": [torch.zeros(1)]},
        {"single_partition_of_fp32_groups": [torch.zeros(2, 2), torch.zeros(0)]},
        {"base_optimizer_state": []},
        {"base_optimizer_state": {"state": {"x": 3}}},
    ],
)
def test_an_optimizer_file_that_lies_is_no_exception(tmp_path: Path, change: dict[str, object]):
    folder = copied(GOLDEN / "zero2", tmp_path / "run")
    path = folder / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    # Without the class of DeepSpeed that it names, torch cannot load it; what is left out is of no interest here.
    optimizer = {
        "zero_stage": 2,
        "partition_count": [2, 2],
        "single_partition_of_fp32_groups": [torch.zeros(26), torch.zeros(2)],
    }
    torch.save({"optimizer_state_dict": optimizer | change}, path)
    opened = obeys(folder)
    assert opened is not None
    if "partition_count" in change and change["partition_count"] == 2**40:
        assert opened.facts["partitions"] == 2


def test_model_parallel_ranks_are_models_of_their_own(tmp_path: Path):
    folder = copied(GOLDEN / "zero2", tmp_path / "run")
    for path in list(folder.iterdir()):
        (folder / path.name.replace("mp_rank_00", "mp_rank_01")).write_bytes(path.read_bytes())
    with open_path(folder) as opened:
        assert names_of(opened) == ["model-parallel"]
        assert "mp_rank_01.module.embed.weight" in opened.table


def test_pipeline_layers_are_listed_by_file(tmp_path: Path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "layer_03-model_00-model_states.pt")
    with open_path(tmp_path) as opened:
        assert [entry.key for entry in opened.table] == ["layer_03-model_00-model_states.weight"]


def test_a_universal_parameter_without_weights_is_named(tmp_path: Path):
    folder = copied(GOLDEN / "universal", tmp_path / "run")
    (folder / "zero" / "scale" / "fp32.pt").unlink()
    with open_path(folder) as opened:
        assert names_of(opened) == ["incomplete-tensor"]
        assert "scale" in opened.findings[0].what
        assert "optimizer.state.scale.exp_avg" in opened.table


def test_a_link_to_a_file_outside_is_not_followed(tmp_path: Path):
    folder = copied(GOLDEN / "zero2", tmp_path / "run")
    path = folder / "mp_rank_00_model_states.pt"
    path.rename(tmp_path / "outside.pt")
    path.symlink_to(tmp_path / "outside.pt")
    with open_path(folder) as opened:
        assert "path-outside-folder" in names_of(opened)


def test_each_file_cut_or_damaged_anywhere_ends_in_a_value_and_findings(tmp_path: Path):
    for name in ("zero2", "zero3", "universal"):
        folder = copied(GOLDEN / name, tmp_path / name)
        for path in sorted(folder.rglob("*.pt")):
            data = path.read_bytes()
            for length in range(0, len(data), len(data) // 3):
                path.write_bytes(data[:length])
                opened = obeys(folder)
                assert opened is not None
                assert opened.findings, (path.name, length)
            for damaged in variants(data, 4):
                path.write_bytes(damaged)
                obeys(folder)
            path.write_bytes(data)


def test_the_last_partition_may_lack_its_padding_as_deepspeed_0_19_saves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    module = types.ModuleType("deepspeed.runtime.fp16.loss_scaler")
    module.LossScaler = type("LossScaler", (), {"__module__": module.__name__})  # type: ignore[attr-defined]  # made up
    for name in ("deepspeed", "deepspeed.runtime", "deepspeed.runtime.fp16"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    folder = tmp_path / "saved"
    copied(GOLDEN / "zero2", folder)
    with open_path(GOLDEN / "zero2") as opened:
        expected = listed_all(opened)
    path = max(folder.rglob("*zero_pp_rank_*_optim_states.pt"))
    state = torch.load(path, weights_only=False)
    groups = state["optimizer_state_dict"]["single_partition_of_fp32_groups"]
    before = [len(group) for group in groups]
    state["optimizer_state_dict"]["single_partition_of_fp32_groups"] = [_unpadded(group) for group in groups]
    after = [len(group) for group in state["optimizer_state_dict"]["single_partition_of_fp32_groups"]]
    assert after != before
    torch.save(state, path)
    with open_path(folder) as opened:
        found = listed_all(opened)
        assert "odd-partition" not in [finding.name for finding in opened.findings]
    assert {key: row for key, row in found.items() if key.startswith("module.")} == {
        key: row for key, row in expected.items() if key.startswith("module.")
    }


def _unpadded(group: torch.Tensor) -> torch.Tensor:
    """Return a partition without the zeros at its end; no parameter of the stored folder ends with one."""
    return group[: int(group.nonzero().max()) + 1].clone()
