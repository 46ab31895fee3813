"""What the processes of a run say to each other, by threads around one table; real processes are in tests/run."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import torch

from rekindle.errors import ConfigError, RunError, RunLocked
from rekindle.parallel.company import Company, combine
from rekindle.parallel.ranks import Ranks
from rekindle.parallel.ties import Ties


class Seat:
    """Stands for the ties of one rank: a gather gives everybody the values of all."""

    def __init__(self, rank: int, around: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.around, self.barrier = rank, around, barrier
        self.failures: list[str] = []

    def gather(self, what: str, value: Any, **_: Any) -> list[Any]:
        self.around[self.rank] = (what, value)
        self.barrier.wait()
        values = list(self.around)
        self.barrier.wait()
        assert {name for name, _ in values} == {what}
        return [one for _, one in values]

    def fail(self, text: str) -> None:
        self.failures.append(text)


def together(count: int, work: Callable[[Company], Any]) -> list[Any]:
    """Do something in every process, and return what came out of it, or the error."""
    around, barrier = [None] * count, threading.Barrier(count, timeout=10)

    def one(rank: int) -> Any:
        try:
            return work(Company(Ranks(rank, count), cast("Ties", Seat(rank, around, barrier))))
        except Exception as error:  # noqa: BLE001 - what is raised is looked at
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_real_numbers_are_averaged_and_everything_else_is_rank_0s():
    def log(company: Company) -> dict[str, Any]:
        rank = company.ranks.rank
        return company.logged(7, {"loss": torch.tensor(1.0 + rank), "seen": 10 + rank, "name": f"rank {rank}"})

    values = together(3, log)
    assert [one["loss"] for one in values] == [2.0, 2.0, 2.0]
    assert values[0]["seen"] == 10
    assert values[0]["name"] == "rank 0"


def test_a_metric_that_is_not_finite_on_one_rank_is_not_finite_for_all():
    values = together(2, lambda company: company.logged(1, {"loss": math.nan if company.ranks.rank else 1.0}))
    assert all(math.isnan(one["loss"]) for one in values)


@pytest.mark.parametrize("odd", [{"step": 8, "names": ["loss"]}, {"step": 7, "names": ["accuracy", "loss"]}])
def test_ranks_that_log_other_things_are_named_with_both(odd):
    def log(company: Company) -> Any:
        step, names = (odd["step"], odd["names"]) if company.ranks.rank == 1 else (7, ["loss"])
        return company.logged(step, dict.fromkeys(names, 1.0))

    for error in together(2, log):
        assert isinstance(error, RunError)
        assert (
            f"rank 1 logs {', '.join(odd['names'])} after step {odd['step']}, and rank 0 loss after step 7"
            in error.what
        )
        assert error.do == "call run.log on every rank, not inside `if run.is_main:`"


def test_a_value_is_reduced_to_one_that_all_have_of_the_type_that_was_given():
    def reduce(company: Company) -> list[Any]:
        rank = company.ranks.rank
        return [
            company.reduce(rank, "sum", None),
            company.reduce(rank, "max", None),
            company.reduce(torch.tensor(rank, dtype=torch.int64), "min", None),
            company.reduce(float(rank), "mean", 1.0 + rank),  # (0 + 2 + 6) / 6
        ]

    for total, most, least, mean in together(3, reduce):
        assert (total, most, mean) == (3, 2, pytest.approx(8 / 6))
        assert (least.item(), least.dtype) == (0, torch.int64)


def test_a_value_that_ranks_reduce_in_other_ways_or_that_is_no_number_is_refused():
    def differ(company: Company) -> Any:
        return company.reduce(1, "sum" if company.ranks.rank else "mean", None)

    assert all(isinstance(error, RunError) for error in together(2, differ))
    for value in (True, "3", None):
        [error] = together(1, lambda company, value=value: company.reduce(value, "sum", None))
        assert isinstance(error, TypeError)
    with pytest.raises(ValueError, match="how='median'"):
        combine([1.0], "median", [1.0])
    assert math.isnan(combine([1.0], "mean", [0.0]))


def test_settings_that_differ_are_named_with_both_values():
    for error in together(3, lambda company: company.agree_on({"seed": 0, "accumulate": 1 + company.ranks.rank // 2})):
        assert isinstance(error, ConfigError)
        assert error.what == "accumulate is 1 on rank 0 and 2 on rank 2"


def test_what_keeps_rank_0_from_opening_the_run_ends_all_with_the_same_words():
    def begin(company: Company) -> Any:
        if company.ranks.rank:
            return company.follow()
        return company.lead_astray(RunLocked("runs/a: another process writes this run", why="it is at work", do="wait"))

    for error in together(3, begin)[1:]:
        assert isinstance(error, RunLocked)
        assert (error.what, error.why, error.do) == ("runs/a: another process writes this run", "it is at work", "wait")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("two\nlines"), ["ValueError: two"]),
        (KeyboardInterrupt(), ["KeyboardInterrupt"]),
        (SystemExit(3), ["SystemExit: 3"]),
        (SystemExit(75), []),
        (SystemExit(), []),
    ],
)
def test_the_others_hear_why_a_process_ends_unless_it_leaves_in_good_order(error, told):
    def end(company: Company) -> list[str]:
        company.tell_failure(error)
        return cast("Any", company.ties).failures

    assert together(1, end) == [told]
