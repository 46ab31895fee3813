"""A run of several real processes: killed, told to leave, resumed on as many and on others."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ranks_job
import torch
from collectives_job import Looks
from lives import Nursery
from ranks_job import Outcome, begin, dealt, end, environment, free_port, live

import rekindle as rk
from rekindle.parallel.shares import share_of
from rekindle.store.layout import list_snapshots
from rekindle.store.manifest import verify

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forked")


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    found = Nursery()
    yield found
    found.close()


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, float], Outcome]:
    """3 ranks with the default buckets, and 4 with small ones, never stopped."""
    found = {}
    for ranks, bucket_mb in ((3, 25), (4, 0.003)):
        base = tmp_path_factory.mktemp(f"undisturbed-{ranks}")
        found[ranks, bucket_mb] = live(nursery, ranks, base, bucket_mb=bucket_mb)
    return found


def everything(outcome: Outcome) -> list[object]:
    return [outcome.bits, outcome.results[0]["metrics"], outcome.results[0]["rates"]]


def test_all_ranks_have_the_same_weights_and_only_rank_0_speaks(undisturbed):
    for (ranks, _), outcome in undisturbed.items():
        assert outcome.codes == [0] * ranks, outcome.output
        assert len(outcome.results) == ranks
        assert len(outcome.bits) == 1
        assert outcome.output == ""


def test_what_is_logged_is_the_mean_over_the_ranks(undisturbed):
    lines = undisturbed[3, 25].results[0]["metrics"].splitlines()
    assert len(lines) == 4, "every line once, not once per rank"
    assert '"text": "a"' in lines[0]


@pytest.mark.parametrize(
    ("ranks", "bucket_mb", "deaths"), [(3, 25, [[0, 4], [2, 8]]), (4, 0.003, [[3, 5], [1, 7]])], ids=["3", "4"]
)
def test_a_rank_is_killed_and_the_same_command_ends_with_the_same_bits(
    nursery, undisturbed, tmp_path, ranks, bucket_mb, deaths
):
    """Two-term sums commute, so two ranks would show nothing; small buckets are laid out anew after the first step."""
    for rank, step in deaths:
        began = time.monotonic()
        died = live(nursery, ranks, tmp_path, bucket_mb=bucket_mb, die_at=[rank, step])
        assert time.monotonic() - began < 15, "the others end within seconds"
        if rank or step < 8:
            assert died.codes[rank] == -signal.SIGKILL
            assert [code for number, code in enumerate(died.codes) if number != rank] == [1] * (ranks - 1)
            assert f"rank {rank} of {ranks} is gone: it ended without a word" in died.output
    again = live(nursery, ranks, tmp_path, bucket_mb=bucket_mb)
    assert again.codes == [0] * ranks, again.output
    assert everything(again) == everything(undisturbed[ranks, bucket_mb])


@pytest.mark.parametrize(
    "settings",
    [{"own_ddp": True, "by_hand": True}, {"accumulate": 2, "workers": 1}],
    ids=["a model wrapped by the script", "accumulation and workers"],
)
def test_other_ways_to_write_the_loop_are_exact_too(nursery, tmp_path, settings):
    """Nothing of `prepare`, `backward` and `update` in the one; windows and worker processes in the other."""
    whole = live(nursery, 3, folder(tmp_path, "whole"), epochs=3, **settings)
    assert whole.codes == [0, 0, 0], whole.output
    died = live(nursery, 3, folder(tmp_path, "killed"), epochs=3, die_at=[1, 4], **settings)
    assert died.codes == [1, -signal.SIGKILL, 1]
    again = live(nursery, 3, tmp_path / "killed", epochs=3, **settings)
    assert again.codes == [0, 0, 0], again.output
    assert everything(again) == everything(whole)


def test_all_are_killed_at_once_and_go_on_with_the_same_bits(nursery, undisturbed, tmp_path):
    pids = begin(nursery, 3, tmp_path, sleep=0.05)
    while not list_snapshots(str(tmp_path / "run")):
        time.sleep(0.01)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert end(nursery, tmp_path, pids).codes == [-signal.SIGKILL] * 3
    again = live(nursery, 3, tmp_path)
    assert "goes on after step" in again.output
    assert everything(again) == everything(undisturbed[3, 25])


@pytest.mark.parametrize("told", ["one", "all"])
def test_a_signal_to_one_rank_or_all_has_all_save_once_and_leave_together(nursery, undisturbed, tmp_path, told):
    pids = begin(nursery, 3, tmp_path, save_every=None, sleep=0.05)
    while len(dealt(tmp_path, 3)) < 20:
        time.sleep(0.005)
    for pid in pids if told == "all" else pids[2:]:
        os.kill(pid, signal.SIGTERM)
    left = end(nursery, tmp_path, pids)
    assert left.codes == [75] * 3, left.output
    assert left.output.count("saved after step") == 1
    assert len(list_snapshots(str(tmp_path / "run"))) == 1
    again = live(nursery, 3, tmp_path, save_every=None)
    assert everything(again) == everything(undisturbed[3, 25])
    assert not [pair for pair, times in Counter((e, i) for e, i, _ in dealt(tmp_path, 3)).items() if times != 1]


def test_every_sample_comes_once_an_epoch_on_any_number_of_ranks_also_when_it_changes(nursery, tmp_path):
    """50 samples on 3 ranks of 4, then on 2, then on 1: the last batches are short, and nothing is repeated."""
    first = live(nursery, 3, tmp_path, save_every="2 steps", die_at=[1, 2])
    assert first.codes.count(1) == 2, first.output
    second = live(nursery, 2, tmp_path, save_every="1 step", epochs=1, signal_at=[1, 4])
    assert second.codes == [75, 75], second.output
    assert "the run was on 3 processes, and is on 2 now: every sample still comes once" in second.output
    last = live(nursery, 1, tmp_path)
    assert last.codes == [0], last.output
    seen = dealt(tmp_path, 3)
    assert {(epoch, index) for epoch, index, _ in seen} == {(e, i) for e in range(2) for i in range(50)}
    # What was dealt out in a life that died after its last snapshot was dealt out again; everything else came once.
    again = [pair for pair, times in Counter((e, i) for e, i, _ in seen).items() if times > 1]
    assert all(epoch == 0 for epoch, _ in again)
    assert len(again) <= 12


def test_uneven_batches_give_the_mean_over_all_samples(nursery, tmp_path):
    """Without batch norm and on one batch of 7 samples, 3 ranks do what one process does, up to the order of sums."""
    results = {}
    for ranks in (1, 3):
        base = tmp_path / str(ranks)
        base.mkdir()
        outcome = live(nursery, ranks, base, samples=7, epochs=3, norm=False, dropout=0.0, by_hand=True, all_of=5)
        assert outcome.codes == [0] * ranks, outcome.output
        results[ranks] = outcome.results[0]["error"]
    assert results[1] == pytest.approx(results[3], rel=1e-5)


def test_the_learning_rate_follows_the_number_of_ranks_on_request(nursery, undisturbed, tmp_path):
    plain = undisturbed[3, 25].results[0]["rates"]
    scaled = live(nursery, 3, tmp_path, lr_rule="linear", epochs=1)
    assert "lr_rule: learning rates times 3" in scaled.output
    again = live(nursery, 1, tmp_path, lr_rule="linear", batch=12)
    assert "learning rates times 0.3333" in again.output
    assert again.results[0]["rates"] == pytest.approx(plain)


def test_elastic_bits_are_the_same_on_1_2_and_4_ranks_also_when_that_changes_on_the_way(nursery, tmp_path):
    """Batch norm, dropout and a last batch that does not fill its shards; the run changes its size inside an epoch."""
    bits = {}
    for ranks in (1, 2, 4):
        outcome = live(nursery, ranks, folder(tmp_path, ranks), elastic="bits", all_of=16)
        assert outcome.codes == [0] * ranks, outcome.output
        assert len(outcome.bits) == 1
        bits[ranks] = outcome.bits
    assert bits[1] == bits[2] == bits[4]

    moved = folder(tmp_path, "moved")
    died = live(nursery, 4, moved, elastic="bits", save_every="1 step", die_at=[3, 3], all_of=16)
    assert died.codes[3] == -signal.SIGKILL
    left = live(nursery, 1, moved, elastic="bits", signal_at=[0, 6], all_of=16)
    assert left.codes == [75], left.output
    assert "the bits are the same" in left.output
    last = live(nursery, 2, moved, elastic="bits", all_of=16)
    assert last.codes == [0, 0], last.output
    assert last.bits == bits[1]


@pytest.mark.parametrize("save_every", ["3 steps", "0.1 seconds"])
def test_all_ranks_write_a_share_of_each_snapshot_and_a_death_loses_none_of_the_earlier_ones(
    nursery, undisturbed, tmp_path, save_every
):
    died = live(nursery, 3, tmp_path, save_by="all", save_every=save_every, sleep=0.05, die_at=[1, 8])
    assert died.codes == [1, -signal.SIGKILL, 1], died.output
    found = list_snapshots(str(tmp_path / "run"))
    assert found
    assert all(verify(snapshot.path) is None for snapshot in found)
    again = live(nursery, 3, tmp_path, save_by="all", save_every=save_every)
    assert again.codes == [0, 0, 0], again.output
    assert f"goes on after step {found[0].step}" in again.output
    assert everything(again) == everything(undisturbed[3, 25])


def test_a_share_that_cannot_be_written_ends_the_attempt_everywhere(nursery, tmp_path):
    assert live(nursery, 2, tmp_path, save_by="all", epochs=1).codes == [0, 0]
    before = [snapshot.step for snapshot in list_snapshots(str(tmp_path / "run"))]
    full = live(nursery, 2, tmp_path, save_by="all", full_disk=1)
    assert full.codes == [1, 1]
    assert "could not be written: rank 1: OSError: [Errno 28] No space left on device" in full.output
    assert [snapshot.step for snapshot in list_snapshots(str(tmp_path / "run"))] == before
    assert not list((tmp_path / "run" / "snapshots").glob(".tmp*"))
    assert live(nursery, 2, tmp_path, save_by="all").codes == [0, 0]


def test_every_file_is_in_one_share_and_what_rank_0_says_of_the_run_is_in_its_own():
    files = dict.fromkeys(["model.safetensors", "optimizer.safetensors", "state.safetensors", "state.json"], print)
    shares = [share_of(files, rank, 2) for rank in range(2)]
    assert [list(share) for share in shares] == [
        ["model.safetensors", "state.safetensors", "state.json"],
        ["optimizer.safetensors"],
    ]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_sends_nothing_but_what_ddp_itself_sends(nursery, tmp_path, accumulate):
    """Inside an accumulation window not even that: gradients are reduced once per update."""
    outcome = live(nursery, 2, tmp_path, job="collectives_job", accumulate=accumulate)
    assert outcome.codes == [0, 0], outcome.output
    for result in outcome.results:
        usual = result["bare"][-1]
        assert usual > 0, "the counter counts"
        buffers = usual - 1  # broadcasts before the forward pass, and one reduction of all gradients
        wanted = [buffers * (number % accumulate == 0) + (number % accumulate == accumulate - 1) for number in range(6)]
        assert result["ours"] == wanted
        assert result["messages"] == 0
    # One at the loss, which on a processor costs nothing. Rank 0 also watches for mistakes, at the moments below.
    assert outcome.results[1]["looks"] == [1] * 6


def test_a_step_waits_for_no_device(tmp_path):
    """A meta tensor has no values, so whatever looks at one, and would wait for a GPU, is an error here.

    Only the watch for mistakes looks, at a few of the first thousand updates.
    """
    looked: dict[int, int] = {}
    with pytest.raises(Enough):
        train_without_values(str(tmp_path / "run"), looked)
    assert len(looked) == 251
    assert {step for step, count in looked.items() if count} <= {1, 2, 3, 4, 8, 16, 32, 64, 128}
    assert any(looked.values()), "the counter counts"


class Enough(Exception):
    """Ends a training without its last save, which would have to look."""


def train_without_values(path: str, looked: dict[int, int]) -> None:
    """Train on meta tensors, and note how often a step asked for a value."""
    with rk.Run(path, seed=0, save_every=None, precision="bf16", progress=False) as run:
        model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout()).to("meta")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        scheduler = rk.schedule(optimizer, "cosine", warmup=4, total=300)
        run.track(model=model, optimizer=optimizer, scheduler=scheduler, average=rk.average(model, decay=0.9))
        for _ in run.epochs(1):
            for number in run.batches(range(300)):
                with Looks() as looking, run.autocast():
                    run.backward(model(torch.randn(4, 6, device="meta")).square().mean())
                    run.update(clip_norm=1.0)
                    run.step()
                looked[run.steps_done] = looking.count
                if number == 250:
                    raise Enough


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_raises_is_named_with_its_error(nursery, tmp_path, rank):
    outcome = live(nursery, 3, tmp_path, raise_at=[rank, 4])
    assert outcome.codes == [1, 1, 1]
    words = f"rank {rank} of 3 is gone: ValueError: the data of this rank are broken; the other ranks end now, and the "
    assert words in outcome.output
    assert list_snapshots(str(tmp_path / "run"))[0].step == 3


def test_a_rank_that_leaves_in_the_middle_is_named_although_it_says_that_all_is_well(nursery, tmp_path):
    outcome = live(nursery, 2, tmp_path, leave_at=[1, 4])
    assert outcome.codes == [1, 0]
    assert "rank 1 of 2 ended in the middle of its run; the other ranks end now" in outcome.output


def test_a_rank_that_hangs_is_named_with_the_place_where_it_is_and_all_end(nursery, undisturbed, tmp_path):
    outcome = live(nursery, 3, tmp_path, hang_at=[1, 4], timeout_s=2)
    assert outcome.codes == [1, 1, 1]
    told = re.search(r"rank 1 of 3 hangs in ranks_job\.py, line (\d+), in main, after step 4; the", outcome.output)
    assert told is not None, outcome.output
    line = Path(ranks_job.__file__).read_text().splitlines()[int(told[1]) - 1]
    assert line.strip() in {'while config.get("hang_at") == [run.rank, run.steps_done]:', "time.sleep(0.1)"}
    again = live(nursery, 3, tmp_path)
    assert everything(again) == everything(undisturbed[3, 25])


LAUNCHERS = {
    "rekindle launch": ["-m", "rekindle", "launch", "--procs", "2", "--restarts", "1"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"],
}


@pytest.mark.parametrize("launcher", ["rekindle launch", pytest.param("torchrun", marks=pytest.mark.soak)])
def test_a_launcher_starts_all_ranks_again_and_they_end_with_the_same_bits(nursery, tmp_path, launcher):
    whole = live(nursery, 2, folder(tmp_path, "whole"))
    base = folder(tmp_path, "killed")
    (base / "train.py").write_text(ranks_job.SCRIPT)
    config = json.dumps({"folder": str(base / "run"), "out": str(base), "die_at": [1, 8]})
    with open(base / "output", "wb") as output:
        words = [sys.executable, *LAUNCHERS[launcher], str(base / "train.py"), config]
        code = subprocess.run(words, stdout=output, stderr=output, timeout=120).returncode
    again = Outcome(base, [code] * 2)
    assert again.codes == [0, 0], again.output
    assert "goes on after step" in again.output
    assert everything(again) == everything(whole)


@pytest.mark.soak
def test_a_machine_that_joins_in_the_middle_takes_part_and_every_sample_comes_once(tmp_path):
    """torch's launcher asks the ranks to leave, and starts more of them; they save, and share out what is left."""
    (tmp_path / "train.py").write_text(ranks_job.SCRIPT)
    config = {"folder": str(tmp_path / "run"), "out": str(tmp_path), "all_of": 12, "epochs": 16, "sleep": 0.3}
    words = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=2"]
    words += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=one"]
    # Without the variable no agent of torch 2.13 gets beyond the meeting, whatever the script is.
    variables = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    running = []
    with open(tmp_path / "output", "wb") as output:
        try:
            for first in (True, False):
                which = f"--rdzv-conf=last_call_timeout=1,is_host={int(first)}"
                command = [*words, which, str(tmp_path / "train.py"), json.dumps(config)]
                running.append(subprocess.Popen(command, env=variables, stdout=output, stderr=output))
                until = time.monotonic() + 60
                while first and not dealt(tmp_path, 1):
                    assert time.monotonic() < until, "the first machine does not train"
                    time.sleep(0.1)
            codes = [process.wait(120) for process in running]
        finally:
            for process in running:
                process.terminate()
                process.wait(60)
    outcome = Outcome(tmp_path, codes)
    assert outcome.codes == [0, 0], outcome.output
    assert "the run was on 1 process, and is on 2 now: every sample still comes once" in outcome.output
    assert len(outcome.bits) == 1
    seen = Counter((epoch, index) for epoch, index, _ in dealt(tmp_path, 2))
    assert seen == Counter((epoch, index) for epoch in range(16) for index in range(50))


def test_another_job_in_the_same_folder_is_refused_on_all_ranks_and_the_first_goes_on(nursery, tmp_path):
    first = begin(nursery, 2, tmp_path, sleep=0.1)
    while not dealt(tmp_path, 2):
        time.sleep(0.01)
    other = folder(tmp_path, "other")
    second = live(nursery, 2, other, folder=str(tmp_path / "run"))
    assert second.codes == [1, 1]
    assert second.output.count("RunLocked") >= 2
    assert end(nursery, tmp_path, first).codes == [0, 0]


def test_ranks_with_other_settings_are_named(nursery, tmp_path):
    port = free_port()
    pids = [
        nursery.start(
            {"job": "ranks_job", "folder": str(tmp_path / "run"), "out": str(tmp_path), "accumulate": 1 + rank},
            **environment(rank, 2, port),
        )
        for rank in range(2)
    ]
    outcome = end(nursery, tmp_path, pids)
    assert outcome.codes == [1, 1]
    assert "accumulate is 1 on rank 0 and 2 on rank 1" in outcome.output


def test_a_missing_rank_is_named(nursery, tmp_path):
    config = {"job": "ranks_job", "folder": str(tmp_path / "run"), "out": str(tmp_path), "timeout_s": 2}
    port = free_port()
    outcome = end(nursery, tmp_path, [nursery.start(config, **environment(rank, 3, port)) for rank in (0, 2)])
    assert outcome.codes == [1, 1]
    assert "rank 1 of 3 did not come within 2 s" in outcome.output
    assert not (tmp_path / "run").exists(), "nothing was touched"


def test_a_port_in_use_is_said_with_a_free_one(nursery, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = {"job": "ranks_job", "folder": str(tmp_path / "run"), "out": str(tmp_path), "timeout_s": 3}
        port = taken.getsockname()[1]
        outcome = end(nursery, tmp_path, [nursery.start(config, **environment(0, 2, port))])
    assert outcome.codes == [1]
    assert f"127.0.0.1:{port} is in use, so rank 0 cannot be met there" in outcome.output
    assert "MASTER_PORT=" in outcome.output


def folder(base: Path, name: object) -> Path:
    found = base / str(name)
    found.mkdir()
    return found


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(12))
def test_any_rank_or_all_killed_at_any_moment_end_with_the_same_bits(nursery, tmp_path, seed):
    """Three lives that end at random moments, in starting, training, saving or ending; the fourth is left alone."""
    dice = random.Random(seed)
    ranks = dice.choice([3, 4])
    config = {
        "bucket_mb": dice.choice([0.003, 25]),
        "save_by": dice.choice(["one", "all"]),
        "save_every": "2 steps",
        "sleep": 0.02,
    }
    whole = live(nursery, ranks, folder(tmp_path, "whole"), **config)
    base = folder(tmp_path, "killed")
    for _ in range(3):
        pids = begin(nursery, ranks, base, **config)
        time.sleep(dice.uniform(0.0, 1.2))
        for pid in pids if dice.random() < 0.4 else [dice.choice(pids)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        codes = end(nursery, base, pids).codes
        assert set(codes) <= {0, 1, -signal.SIGKILL}
    again = live(nursery, ranks, base, **config)
    assert again.codes == [0] * ranks, again.output
    assert everything(again) == everything(whole)
