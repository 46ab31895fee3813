"""What torchrun, NCCL, Slurm and drivers print leads to the root cause and its rank, not to the last line."""

from __future__ import annotations

import explaining  # noqa: F401 - the entries as they are now
import pytest
from launcher_logs import ORDINARY, SHAPES

from rekindle.explain.report import explain_text


@pytest.mark.parametrize("name", SHAPES)
def test_the_root_cause_is_said_first_and_of_its_rank(name):
    report = explain_text(SHAPES[name].text, strict=True)
    assert [cause.code for cause in report.causes][:1] == [SHAPES[name].code]
    assert report.explained[0].ranks == SHAPES[name].ranks


@pytest.mark.parametrize("name", ORDINARY)
def test_what_only_reads_like_a_known_error_is_left_alone(name):
    assert explain_text(ORDINARY[name], strict=True).causes == ()


def test_how_the_launcher_ended_the_rest_is_not_listed_as_unexplained():
    assert explain_text(SHAPES["slurm_time"].text).unknown == ()
    assert explain_text(SHAPES["accelerate_oom"].text).unknown == ()


def test_a_failure_nobody_knows_is_listed_beside_the_rank_that_ended():
    report = explain_text(SHAPES["nccl_remote_exited"].text)
    assert [(event.text, event.rank) for event in report.unknown] == [("KeyError: 'rekindle'", 3)]


def test_the_driver_is_believed_before_the_kernel_that_noticed():
    said = [cause.code for cause in explain_text(SHAPES["xid"].text).causes]
    assert said == ["RK-DEV-21", "RK-DEV-16"]


def test_job_and_step_of_one_cancelled_job_are_one_cause():
    assert len(explain_text(SHAPES["slurm_time"].text).causes) == 1
