"""Snapshots and runs: written by the store, read without torch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import zoo
from listing import codes, listed

from rekindle.formats import open_path
from rekindle.run.snapshot import capture
from rekindle.store.commit import commit
from rekindle.store.lock import RunLock, hold
from rekindle.tree import Map, Tensor, lookup


def things() -> dict[str, object]:
    torch.manual_seed(0)
    model = zoo.Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.125)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with zoo.quiet():
        quantized = torch.quantize_per_tensor(torch.randn(3), 0.5, 1, torch.quint8)
        sparse = torch.eye(3).to_sparse()
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3),
        "rng": random.Random(0),
        "notes": {"exact": torch.randn(2, dtype=torch.complex128), "q": quantized, "s": sparse, "big": 2**70},
    }


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunLock]:
    with hold(tmp_path / "run") as lock:
        yield lock


def save(run: RunLock, step: int, tracked: dict[str, object]) -> Path:
    with zoo.quiet():
        captured = capture(tracked, {"epoch": 2, "step": step})
    return Path(commit(run, step, captured.files, {"torch": "2"}).path)


def test_a_snapshot_shows_what_was_tracked_by_its_name(run: RunLock):
    tracked = things()
    path = save(run, 400, tracked)
    with open_path(path) as opened:
        assert opened.format == "snapshot"
        assert not opened.findings
        assert opened.facts["step"] == 400
        rows = {row["key"]: row for row in listed(opened)}
        state = lookup(opened.tree, "model")
        assert isinstance(state, Map)
        wanted = tracked["model"].state_dict()  # type: ignore[attr-defined] # a module
        assert [key for key, _ in state.pairs] == list(wanted)
        for key, value in wanted.items():
            assert rows[f"model.{key}"]["digest"] == zoo.digest(value)
        assert lookup(lookup(opened.tree, "run"), "epoch") == 2
        assert lookup(lookup(opened.tree, "notes"), "big") == 2**70


def test_optimizer_state_is_found_by_the_name_of_the_parameter(run: RunLock):
    tracked = things()
    with open_path(save(run, 1, tracked)) as opened:
        rows = {row["key"]: row for row in listed(opened)}
        optimizer = lookup(opened.tree, "optimizer")
        (group,) = lookup(optimizer, "param_groups")  # type: ignore[misc] # a list of one
        assert lookup(group, "lr") == 0.125
    moment = tracked["optimizer"].state_dict()["state"][0]["exp_avg"]  # type: ignore[attr-defined] # an optimizer
    first = next(name for name, _ in tracked["model"].named_parameters())  # type: ignore[attr-defined] # a module
    assert rows[f"optimizer.state.model.{first}.exp_avg"]["digest"] == zoo.digest(moment)


def test_tied_keys_share_a_storage_again_and_buffers_outside_the_state_dict_stand_apart(run: RunLock):
    with open_path(save(run, 1, things())) as opened:
        assert opened.table["model.tied.weight"].storage is opened.table["model.blocks.0.weight"].storage
        assert "non_persistent.model.cache" in opened.table
        assert "model.cache" not in opened.table


def test_types_that_safetensors_lacks_come_back_as_they_were(run: RunLock):
    tracked = things()
    notes = tracked["notes"]
    assert isinstance(notes, dict)
    with open_path(save(run, 1, tracked)) as opened:
        rows = {row["key"]: row for row in listed(opened)}
        assert rows["notes.exact"]["dtype"] == "complex128"
        assert rows["notes.exact"]["digest"] == zoo.digest(notes["exact"])
        assert rows["notes.q"]["dtype"] == "quint8"
        assert rows["notes.q"]["digest"] == zoo.digest(notes["q"])
        quantized = lookup(lookup(opened.tree, "notes"), "q")
        assert isinstance(quantized, Tensor)
        assert quantized.quantizer == ("per_tensor_affine", 0.5, 1)
        assert opened.table["notes.s.indices"].layout == "sparse_coo"


def test_a_damaged_snapshot_says_what_differs(run: RunLock):
    path = save(run, 1, things())
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    with open_path(path) as opened:
        assert codes(opened) == ["RK-FILE-38"]
        assert "model.safetensors" in opened.findings[0].what
        assert opened.findings[0].severity.value == "error"


@pytest.mark.parametrize("file", ["manifest.json", "state.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 40, b"[" * 100_000], ids=["empty", "object", "ff", "deep"])
def test_any_bytes_in_any_file_are_findings(run: RunLock, file: str, content: bytes):
    path = save(run, 1, things())
    (path / file).write_bytes(content)
    with open_path(path) as opened:
        assert opened.format == "snapshot"
        assert "RK-FILE-38" in codes(opened)


def test_a_link_in_a_snapshot_is_not_followed(run: RunLock, tmp_path: Path):
    path = save(run, 1, things())
    (path / "model.safetensors").rename(tmp_path / "elsewhere")
    (path / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with open_path(path) as opened:
        assert "RK-FILE-38" in codes(opened)
        assert not opened.listed


def test_a_run_shows_its_newest_snapshot_that_holds(run: RunLock, tmp_path: Path):
    save(run, 1, things())
    newest = save(run, 2, things())
    with open_path(tmp_path / "run") as opened:
        assert (opened.format, opened.facts["step"]) == ("run", 2)
        assert not opened.findings
    (newest / "model.safetensors").write_bytes(b"")
    with open_path(tmp_path / "run") as opened:
        assert (opened.format, opened.facts["step"]) == ("run", 1)
        (finding,) = opened.findings
    assert finding.code == "RK-FILE-39"
    assert finding.what.startswith("step-00000002 does not hold: ")


def test_a_run_in_which_nothing_holds_is_not_listed(run: RunLock, tmp_path: Path):
    (save(run, 1, things()) / "manifest.json").unlink()
    with open_path(tmp_path / "run") as opened:
        assert not opened.listed
        assert codes(opened) == ["RK-FILE-39", "RK-FILE-38"]
