"""What DistributedDataParallel averages, and what each process would train alone; two real processes with gloo."""

from __future__ import annotations

import os

import pytest
from lives import Nursery
from ranks_job import live

from rekindle.errors import ConfigError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forked")

REFUSED = str(
    ConfigError(
        "{}: each process would train its own",
        why="DistributedDataParallel averages the gradients of those parameters alone that were in the model, "
        "and trained, when it was wrapped",
        do="wrap it before anything is frozen: "
        'model = run.prepare(model, ddp={"find_unused_parameters": True}); then rk.freeze(model, ...)',
    )
)


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> list[dict[str, str]]:
    nursery = Nursery("thaw_job")
    outcome = live(nursery, 2, tmp_path_factory.mktemp("thaw"), job="thaw_job")
    nursery.close()
    assert outcome.codes == [0, 0], outcome.output
    return outcome.results


@pytest.mark.parametrize(
    ("way", "what"),
    [
        ("frozen_first", "middle.0.weight and 1 more"),
        ("planned_first", "middle.0.weight and 1 more"),
        ("unfrozen", "middle.0.weight and 1 more"),
        ("by_hand", "middle.0.weight and 1 more"),
        ("replaced", "head.weight and 1 more"),
    ],
)
def test_what_is_thawed_or_added_after_wrapping_is_refused_on_every_rank(ended, way, what):
    assert [result[way] for result in ended] == [REFUSED.replace("{}: each", f"{what}: each")] * 2


@pytest.mark.parametrize("way", ["wrapped_first", "wrapped_by_hand"])
def test_what_was_wrapped_before_it_was_frozen_thaws_and_stays_the_same_everywhere(ended, way):
    first, second = (result[way] for result in ended)
    assert first == second
    assert first.endswith(" trained")


def test_without_the_look_each_process_trains_its_own(ended):
    """What is refused is no matter of style."""
    first, second = (result["unwatched"] for result in ended)
    assert first.endswith(" trained")
    assert second.endswith(" trained")
    assert first != second
