"""Several processes: the first cause and not what followed, exit codes with their meaning, ranks and calls by name."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from explaining import run_example

from rekindle.explain.catalogue import entry
from rekindle.explain.catalogue._ranks import code_said, seconds_said
from rekindle.explain.event import Event, Frame, event_of
from rekindle.explain.match import causes_of
from rekindle.explain.report import explain_events, explain_text


def told(text: str, *codes: str, library: str = "", function: str = "init_process_group"):
    """What is said of a message raised by these lines of the user's, inside this library if one is named."""
    frames = [Frame("train.py", 3 + number, "main", code) for number, code in enumerate(codes)]
    frames += [Frame(library, 9, function, "", is_users=False)] if library else []
    event = event_of(text)
    return causes_of(Event(event.raised, event.message, tuple(frames)), strict=True)


def child_failed(
    exitcode: str, traceback: str = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"
) -> str:
    """What torchrun prints at the end."""
    return f"""Traceback (most recent call last):
  File "/opt/venv/bin/torchrun", line 8, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-20_10:00:02
  host      : node07
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 7)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 7
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-20_10:00:01
  host      : node07
  rank      : 5 (local_rank: 1)
  exitcode  : {exitcode} (pid: 8)
  error_file: <N/A>
  traceback : {traceback}
============================================================
"""


CODES = [
    ("-9", "SIGKILL", "memory", "dmesg"),
    ("-11", "SIGSEGV", "crash in native code", "read the lines of rank 5"),
    ("-6", "SIGABRT", "watchdog", "read the lines of rank 5"),
    ("-7", "SIGBUS", "shared memory", "df -h /dev/shm"),
    ("-15", "SIGTERM", "told to end", "scheduler"),
    ("137", "SIGKILL", "memory", "dmesg"),
    ("2", "exit code 2", "argument", "--help"),
    ("1", "exit code 1", "an exception in Python", "read the traceback of rank 5"),
    ("3", "exit code 3", "the script's own", "read the traceback of rank 5"),
]


@pytest.mark.parametrize(("exitcode", "name", "why", "fix"), CODES)
def test_the_rank_under_root_cause_is_told_with_what_its_exit_code_means(exitcode, name, why, fix):
    report = explain_text(child_failed(exitcode), strict=True)
    (cause,) = report.causes
    assert cause.what == f"rank 5 ended first, with {name}"
    assert why in cause.why
    assert fix in cause.fix[0]


def test_a_recorded_traceback_is_explained_in_the_place_of_the_launchers_report():
    traceback = (
        'Traceback (most recent call last):\n    File "train.py", line 3, in main\n      loss = F.cross_entropy(x, y)\n'
        "  IndexError: Target 10 is out of bounds.\n"
    )
    report = explain_text(child_failed("1", traceback), strict=True)
    assert [cause.code for cause in report.causes] == ["RK-LOSS-01"]


def test_a_recorded_error_without_an_entry_is_quoted():
    traceback = 'Traceback (most recent call last):\n    File "train.py", line 3, in main\n  LookupError: no shard\n'
    report = explain_text(child_failed("1", traceback), strict=True)
    assert report.causes[0].what == "rank 5 ended first, with exit code 1: LookupError: no shard"


def test_the_launchers_report_hides_what_the_other_ranks_noticed():
    noticed = (
        "[rank0]: Traceback (most recent call last):\n"
        '[rank0]:   File "train.py", line 4, in <module>\n[rank0]:     dist.barrier()\n'
        "[rank0]: RuntimeError: [pair.cc:553] Connection closed by peer [127.0.0.1]:6019. This is\n"
    )
    assert [cause.code for cause in explain_text(noticed, strict=True).causes] == ["RK-DIST-15"]
    report = explain_text(noticed + child_failed("-9"), strict=True)
    assert [cause.code for cause in report.causes] == ["RK-DIST-16"]


def test_reports_inside_reports_end_soon():
    unit = "Traceback (most recent call last):\na.ChildFailedError:\nRoot Cause\n"
    begin = time.process_time()
    explain_text(unit * 3_000, strict=True)
    assert time.process_time() - begin < 2


def test_an_error_that_nobody_knows_stays_unknown_and_the_launcher_is_quoted_beside_it():
    own = (
        '[rank5]: Traceback (most recent call last):\n[rank5]:   File "train.py", line 4, in <module>\n'
        "[rank5]:     shard()\n[rank5]: LookupError: no shard\n"
    )
    report = explain_text(own + child_failed("1"), strict=True)
    assert [event.raised for event in report.unknown] == ["LookupError"]
    assert [cause.code for cause in report.causes] == ["RK-DIST-16"]


def test_a_warning_in_front_is_not_the_cause_of_a_killed_rank():
    warning = "train.py:3: UserWarning: The given NumPy array is not writable, and PyTorch\n"
    report = explain_text(warning + child_failed("-9"), strict=True)
    assert report.causes[0].code == "RK-DIST-16"


@pytest.mark.parametrize(("code", "name"), [(-9, "SIGKILL"), (137, "SIGKILL"), (1, "exit code 1"), (-42, "signal 42")])
def test_exit_codes_below_zero_and_above_128_are_signals(code, name):
    assert code_said(code)[0] == name


def test_times_are_said_as_people_say_them():
    assert [seconds_said(text) for text in ("1500", "600000", "7200000", "")] == ["1.5 s", "10 min", "2.0 h", ""]


WATCHDOG = (
    "[rank3]:[E1120 10:00:00.1 ProcessGroupNCCL.cpp:632] [Rank 3] Watchdog caught collective operation timeout:"
    " WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, NumelIn=466119168, NumelOut=466119168, Timeout(ms)=600000)"
    " ran for 600060 milliseconds before timing out."
)


def test_the_watchdog_is_told_with_its_rank_call_and_time():
    report = explain_text(WATCHDOG, strict=True)
    assert report.causes[0].what == "rank 3 waited 10 min in all_reduce (call 1580) for another rank"


def test_a_real_error_of_another_rank_comes_in_place_of_the_watchdog():
    real = (
        '[rank1]: Traceback (most recent call last):\n[rank1]:   File "train.py", line 4, in step\n'
        "[rank1]:     loss = F.cross_entropy(x, y)\n[rank1]: IndexError: Target 10 is out of bounds.\n"
    )
    report = explain_text(f"{real}{WATCHDOG}\n", strict=True)
    assert [(found.causes[0].code, found.ranks) for found in report.explained] == [("RK-LOSS-01", (1,))]


def test_a_barrier_under_an_if_of_the_rank_is_quoted():
    text = "RuntimeError: [unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation to complete"
    (cause,) = told(text, "if rank == 0: dist.barrier()")
    assert cause.what == "a rank waited 30 min in barrier for another rank"
    assert cause.why.endswith("the line stands under if rank == 0:")


def test_two_calls_that_do_not_fit_are_both_named():
    (cause,) = told(
        "RuntimeError: Detected mismatch between collectives on ranks. Rank 0 is running collective:"
        " CollectiveFingerPrint(SequenceNumber=7, OpType=ALLREDUCE, TensorShape=[2]), but Rank 1 is running collective:"
        " CollectiveFingerPrint(SequenceNumber=7, OpType=BROADCAST, TensorShape=[2])."
    )
    assert cause.what == "rank 0 calls ALLREDUCE, rank 1 calls BROADCAST at the same place"


def test_how_many_came_and_who_could_not_be_reached():
    (cause,) = told("DistStoreError: Timed out after 601 seconds waiting for clients. 6/8 clients joined.")
    assert cause.what == "6 of 8 processes came together"
    (cause,) = told("DistStoreError: Timed out after 601 seconds waiting for clients. 9/8 clients joined.")
    assert "came twice" in cause.why
    (cause,) = told(
        "DistNetworkError: The client socket has timed out after 60000ms while trying to connect to (node0, 29500)."
    )
    assert cause.what == "node0:29500 could not be reached in 60 s"
    assert cause.fix[0].startswith("getent hosts node0")


def test_a_server_of_the_users_own_is_no_rendezvous():
    text = "OSError: [Errno 98] Address already in use"
    assert told(text, "server.bind(('', 8000))", library="/usr/lib/python3.11/socketserver.py", function="bind") == []
    (cause,) = told(text, "dist.init_process_group()", library="site-packages/torch/distributed/distributed_c10d.py")
    assert cause.code == "RK-DIST-04"


def test_numbers_and_names_of_the_users_own_are_left_alone():
    assert told("ValueError: int() base must be >= 2 and <= 36, or 0", "int(text, base)") == []
    assert told("NameError: name 'args' is not defined", "run(args)") == []
    assert told("KeyError: 'lr'", "settings['lr']") == []
    assert told("RuntimeError: Connection closed by peer", "client.get()") == []
    assert told("subprocess.CalledProcessError: Command '['false']' returned non-zero exit status 1.") == []


def test_the_parenthesis_is_put_right_in_the_users_own_line():
    (cause,) = told(
        "ValueError: int() base must be >= 2 and <= 36, or 0", 'local_rank = int(os.getenv("LOCAL_RANK"), -1)'
    )
    assert cause.fix == ('int(os.getenv("LOCAL_RANK", -1))',)


def test_the_variable_of_the_wrapped_model_is_named():
    (cause,) = told(
        "AttributeError: 'DistributedDataParallel' object has no attribute 'fc'", "loss = net.fc.weight.sum()"
    )
    assert cause.fix[0].startswith("net.module.fc ")


def test_a_missing_variable_is_told_with_the_others_that_are_missing(tmp_path: Path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    ran = run_example(entry("ddp_env_missing").EXAMPLE, tmp_path)
    cause = explain_events(ran.events, strict=True).causes[0]
    assert cause.what == "RANK is not set; neither are WORLD_SIZE, MASTER_ADDR, MASTER_PORT"
    monkeypatch.setenv("SLURM_PROCID", "3")
    cause = explain_events(ran.events, strict=True).causes[0]
    assert "SLURM_PROCID" in cause.fix[0]


@pytest.mark.skipif(torch.distributed.is_nccl_available(), reason="this torch has NCCL")
def test_a_build_without_nccl_says_which_build_it_is(tmp_path: Path):
    ran = run_example(entry("ddp_nccl_not_built").EXAMPLE, tmp_path)
    cause = explain_events(ran.events, strict=True).causes[0]
    assert cause.code == "RK-DIST-12"
    assert cause.what.startswith(f"torch {torch.__version__} on ")
    assert not run_example(entry("ddp_nccl_not_built").MENDED, tmp_path).traceback


def test_parameters_without_gradient_are_named_where_torch_names_them():
    text = (
        "RuntimeError: Expected to have finished reduction in the prior iteration before starting a new one.\n"
        "Parameters which did not receive grad for rank 0: auxiliary.bias, auxiliary.weight\n"
        "Parameter indices which did not receive grad for rank 0: 2 3"
    )
    causes = told(text.replace("Parameter indices which did not receive grad for rank 0: 2 3", ""))
    assert causes[0].what == "2 parameters got no gradient in the last step: auxiliary.bias, auxiliary.weight"
    assert causes[0].fix[0].startswith("model.auxiliary.requires_grad_(False)")


def test_the_process_that_mp_spawn_quotes_is_named_with_the_users_line(tmp_path: Path):
    ran = run_example(entry("dist_process_raised").EXAMPLE, tmp_path)
    cause = explain_events(ran.events, strict=True).causes[0]
    assert cause.what == "process 2 failed with LookupError: no shard for rank 2"
    assert cause.where.endswith("example.py:8")
