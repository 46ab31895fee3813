"""Half weights, averages, several loss scales and time limits on several real processes, and with elastic bits."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lives import Nursery
from ranks_job import Outcome, live

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forked")

LOSSES = {"fp16_here": True, "precision": "fp16", "losses": 2}


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    found = Nursery()
    yield found
    found.close()


def folder(base: Path, name: object) -> Path:
    found = base / str(name)
    found.mkdir()
    return found


def killed_and_whole(nursery: Nursery, base: Path, ranks: int, death: list[int], **config: Any) -> Outcome:
    """Live once undisturbed and once with a death; both must end alike, on every rank. Return the first."""
    whole = live(nursery, ranks, folder(base, "whole"), **config)
    assert whole.codes == [0] * ranks, whole.output
    died = live(nursery, ranks, folder(base, "killed"), die_at=death, **config)
    assert died.codes[death[0]] == -signal.SIGKILL, died.output
    again = live(nursery, ranks, base / "killed", **config)
    assert again.codes == [0] * ranks, again.output
    assert "goes on after step" in again.output
    assert again.bits == whole.bits
    assert again.results[0]["metrics"] == whole.results[0]["metrics"]
    assert len(whole.bits) == 1, "the same on every rank"
    return whole


def test_half_weights_are_the_same_on_every_rank_and_after_a_kill(nursery, tmp_path):
    """Each rank draws other weights at first; master weights must come from rank 0 as the weights do."""
    killed_and_whole(nursery, tmp_path, 3, [1, 8], precision="O2")


@pytest.mark.parametrize(("buffers", "save_by"), [("copy", "one"), ("average", "all")])
def test_averages_and_their_buffers_are_those_of_rank_0(nursery, tmp_path, buffers, save_by):
    killed_and_whole(nursery, tmp_path, 3, [2, 8], average=buffers, save_by=save_by)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_with_a_scale_each_are_reduced_and_skip_together(nursery, tmp_path, accumulate):
    """Through one forward pass, and put aside inside accumulation windows; the second loss overflows on its own."""
    whole = killed_and_whole(nursery, tmp_path, 3, [0, 7], accumulate=accumulate, second=8.0, epochs=3, **LOSSES)
    scales = whole.results[0]["scales"]
    assert 0 < whole.results[0]["skipped"] < whole.results[0]["steps"]
    assert scales["scaler.size"] < scales["scaler.square"]


def test_two_losses_of_one_forward_pass_move_all_ranks_alike_without_any_scale(nursery, tmp_path):
    """torch's DDP would leave the gradients of the second backward pass different on each process."""
    outcome = live(nursery, 2, tmp_path, losses=2, epochs=1)
    assert outcome.codes == [0, 0], outcome.output
    assert len(outcome.bits) == 1


@pytest.mark.parametrize("settings", [{"precision": "O2"}, {"average": "average"}], ids=["O2", "average"])
def test_elastic_bits_hold_for_half_weights_and_averages(nursery, tmp_path, settings):
    bits = set()
    for ranks in (1, 2):
        outcome = live(nursery, ranks, folder(tmp_path, ranks), elastic="bits", all_of=16, **settings)
        assert outcome.codes == [0] * ranks, outcome.output
        bits |= outcome.bits
    assert len(bits) == 1


def test_elastic_bits_with_one_loss_scale_hold_and_with_several_are_refused(nursery, tmp_path):
    one = {"elastic": "bits", "all_of": 16, "fp16_here": True, "precision": "fp16"}
    bits = set()
    for ranks in (1, 2):
        outcome = live(nursery, ranks, folder(tmp_path, ranks), epochs=3, **one)
        assert outcome.codes == [0] * ranks, outcome.output
        assert outcome.results[0]["skipped"] > 0
        bits |= outcome.bits
    assert len(bits) == 1
    refused = live(nursery, 2, folder(tmp_path, "several"), losses=2, **one)
    assert refused.codes == [1, 1]
    assert 'run.backward(loss, scaler=...) and elastic="bits" do not go together' in refused.output


@pytest.mark.parametrize("elastic", [{}, {"elastic": "bits", "all_of": 16}], ids=["ddp", "elastic"])
def test_a_time_limit_has_all_ranks_save_and_leave_together(nursery, tmp_path, elastic):
    whole = live(nursery, 2, folder(tmp_path, "whole"), epochs=4, **elastic)
    base = folder(tmp_path, "limited")
    left = live(nursery, 2, base, epochs=4, sleep=0.2, save_every=None, time_limit="1 second", **elastic)
    assert left.codes == [75, 75], left.output
    assert "time_limit: " in left.output
    assert left.output.count("saved after step") == 1
    again = live(nursery, 2, base, epochs=4, **elastic)
    assert again.codes == [0, 0], again.output
    assert again.bits == whole.bits


def test_settings_of_ddp_that_are_not_exact_are_said_once(nursery, tmp_path):
    outcome = live(nursery, 3, tmp_path, epochs=1, ddp={"static_graph": True, "broadcast_buffers": False})
    assert outcome.codes == [0, 0, 0], outcome.output
    assert outcome.output.count("static_graph=True: torch lays out its gradient buckets anew") == 1
    assert outcome.output.count("each process has its own statistics of first.1") == 1
