"""Sharded training in real processes: killed, resumed on as many and on others, and read back without any of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lives import Nursery
from ranks_job import Outcome, begin, dealt, end, environment, free_port, live
from sharded_job import KINDS, Net, some
from torch import nn

import crash
import rekindle as rk
from rekindle.errors import ConfigError, RunError, SnapshotDamaged
from rekindle.parallel import fsdp
from rekindle.run.snapshot import restore
from rekindle.store.layout import list_snapshots
from rekindle.store.manifest import FileFacts, encode_manifest, read_manifest, verify

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forked")


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    found = Nursery("torch.distributed.fsdp", "torch.distributed.tensor", "sharded_job")
    yield found
    found.close()


def lives_on(nursery: Nursery, ranks: int, base: Path, **config: Any) -> Outcome:
    return live(nursery, ranks, base, job="sharded_job", **config)


def newest(base: Path) -> str:
    return list_snapshots(str(base / "run"))[0].path


def bits(base: Path) -> Mapping[str, str]:
    """Return the digest of every tensor of the newest snapshot, of weights, optimizer, buffers and averages."""
    found = rk.inspect(newest(base), digest=True)
    assert not found.findings
    assert len(found.digests) > 30
    return found.digests


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """2, 3 and 4 ranks, never stopped."""
    found = {}
    for ranks in (2, 3, 4):
        found[ranks] = tmp_path_factory.mktemp(f"undisturbed-{ranks}")
        outcome = lives_on(nursery, ranks, found[ranks])
        assert outcome.codes == [0] * ranks, outcome.output
        assert outcome.output == ""
    return found


def test_each_process_has_and_writes_its_part(nursery, undisturbed, tmp_path):
    outcome = lives_on(nursery, 3, tmp_path, save_every="1 epoch")
    sizes = [sum(torch.Size(part).numel() for part in result["parts"]) for result in outcome.results]
    whole = sum(tensor.numel() for tensor in rk.load(newest(tmp_path))["model"].values())
    assert all(size < whole / 2 for size in sizes)
    names = sorted(os.listdir(newest(tmp_path)))
    assert [name for name in names if name.startswith("model")] == [
        "model.rank-00000-of-00003.safetensors",
        "model.rank-00001-of-00003.safetensors",
        "model.rank-00002-of-00003.safetensors",
        "model.safetensors",  # what is not cut: buffers
        "model.shards.json",
    ]
    assert verify(newest(tmp_path)) is None


@pytest.mark.parametrize(("ranks", "deaths"), [(2, [[1, 7]]), (3, [[2, 7], [0, 8]]), (4, [[3, 7]])])
def test_a_killed_rank_costs_no_bit(nursery, undisturbed, tmp_path, ranks, deaths):
    for rank, step in deaths:
        died = lives_on(nursery, ranks, tmp_path, die_at=[rank, step])
        assert died.codes[rank] == -signal.SIGKILL
        assert all(code == 1 for number, code in enumerate(died.codes) if number != rank), died.output
    again = lives_on(nursery, ranks, tmp_path)
    assert again.codes == [0] * ranks, again.output
    assert "goes on after step" in again.output
    assert bits(tmp_path) == bits(undisturbed[ranks])
    logged = [(base / "run" / "metrics.jsonl").read_text() for base in (tmp_path, undisturbed[ranks])]
    assert logged[0] == logged[1]


def test_all_ranks_are_killed_at_once_and_go_on_with_the_same_bits(nursery, undisturbed, tmp_path):
    pids = begin(nursery, 3, tmp_path, job="sharded_job", sleep=0.05)
    until = time.monotonic() + 30
    while not list_snapshots(str(tmp_path / "run")) and time.monotonic() < until:
        time.sleep(0.01)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert end(nursery, tmp_path, pids).codes == [-signal.SIGKILL] * 3
    again = lives_on(nursery, 3, tmp_path)
    assert "goes on after step" in again.output
    assert bits(tmp_path) == bits(undisturbed[3])


@pytest.mark.parametrize(("before", "now"), [(3, 1), (3, 2), (3, 4), (2, 3), (4, 2), (4, 1)])
def test_any_number_of_processes_takes_up_the_same_state(nursery, undisturbed, tmp_path, before, now):
    """Restored and saved again at once: every tensor of every type, optimizer state of 0 dimensions included."""
    outcome = lives_on(nursery, now, tmp_path, resume=newest(undisturbed[before]), resave=True)
    assert outcome.codes == [0] * now, outcome.output
    assert bits(tmp_path) == bits(undisturbed[before])


def test_sharded_plain_and_ddp_runs_take_up_each_others_snapshots(nursery, tmp_path):
    """With the types that DDP knows."""
    sharded, ddp, plain, back = (tmp_path / name for name in ("sharded", "ddp", "plain", "back"))
    assert lives_on(nursery, 3, sharded, for_ddp=True, epochs=1).codes == [0] * 3
    chain = [(ddp, 2, {"shard": ""}), (plain, 1, {"shard": ""}), (back, 2, {})]
    source = sharded
    for base, ranks, config in chain:
        outcome = lives_on(nursery, ranks, base, for_ddp=True, resave=True, resume=newest(source), **config)
        assert outcome.codes == [0] * ranks, outcome.output
        assert bits(base) == bits(sharded)
        source = base
    assert os.path.exists(os.path.join(newest(back), "model.shards.json"))
    assert not os.path.exists(os.path.join(newest(plain), "model.shards.json"))


def test_on_another_number_of_processes_every_sample_still_comes_once(nursery, tmp_path):
    died = lives_on(nursery, 3, tmp_path, die_at=[1, 7], all_of=12, epochs=2)
    assert died.codes[1] == -signal.SIGKILL
    saved = list_snapshots(str(tmp_path / "run"))[0].step
    assert saved in {3, 6}
    for path in tmp_path.glob("dealt-*"):  # what came after the snapshot comes again
        kept = [line for line in path.read_text().splitlines() if int(line.split()[2]) < saved]
        path.write_text("".join(f"{line}\n" for line in kept))
    again = lives_on(nursery, 2, tmp_path, all_of=12, epochs=2)
    assert again.codes == [0, 0], again.output
    assert "the run was on 3 processes, and is on 2 now" in again.output
    count = Counter((epoch, index) for epoch, index, _ in dealt(tmp_path, 3))
    assert count == Counter((epoch, index) for epoch in (0, 1) for index in range(50))


def test_plain_weights_come_out_without_torch_and_without_processes(undisturbed, tmp_path):
    target = tmp_path / "model.safetensors"
    script = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "from rekindle.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    for command in (["verify"], ["inspect", "--digest"], ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *command, str(undisturbed[4] / "run")],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    # complex128 is no type of safetensors.
    drop = ["--drop", "*complex128"]
    done = subprocess.run(
        [sys.executable, "-c", script, "convert", str(undisturbed[4] / "run"), str(target), *drop],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = rk.load(target)
    there = rk.load(newest(undisturbed[4]))["model"]
    assert len(found) == len(there) - 2
    for kind in KINDS:
        name = str(kind).removeprefix("torch.")
        for key, shape in ((f"frozen.a_{name}", (5, 3)), (f"of_{name}", (3,))):
            for where in (found, there) if kind != torch.complex128 else (there,):
                value = where[key]
                assert value.dtype == kind
                assert value.view(-1).tolist() == some(kind, *shape).view(-1).tolist(), key
    assert found["into.weight"].equal(found["back.weight"])
    steps = [state["step"] for state in rk.load(newest(undisturbed[4]))["optimizer"]["state"].values()]
    assert {float(step) for step in steps} == {8.0}, "AdamW's step, a tensor of 0 dimensions"
    assert all(step.dim() == 0 for step in steps)


def test_a_part_that_is_missing_or_changed_is_noticed(nursery, undisturbed, tmp_path):
    lives_on(nursery, 2, tmp_path, epochs=1, keep_last=None)
    part = Path(newest(tmp_path)) / "model.rank-00001-of-00002.safetensors"
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    findings = rk.inspect(newest(tmp_path)).findings
    assert [finding.name for finding in findings] == ["damaged-snapshot"]
    assert part.name in findings[0].what
    again = lives_on(nursery, 2, tmp_path, epochs=1)
    assert again.codes == [0, 0]
    assert "goes on after step 6" in again.output, "the one before is taken"


def test_parts_that_do_not_cover_a_tensor_are_an_error_even_where_every_digest_holds(undisturbed, tmp_path):
    """As somebody could write it on purpose."""
    snapshot = tmp_path / "run" / "snapshots" / os.path.basename(newest(undisturbed[3]))
    shutil.copytree(newest(undisturbed[3]), snapshot)
    manifest = read_manifest(str(snapshot))
    for change, reason in (("drop", "its pieces have 36 of 54 elements"), ("double", "more than the 54 of the whole")):
        body = json.loads(Path(newest(undisturbed[3]), "model.shards.json").read_text())
        parts = body["tensors"]["into.weight"]["parts"]
        parts[:] = parts[:2] if change == "drop" else [*parts, parts[0]]
        data = json.dumps(body).encode()
        (snapshot / "model.shards.json").write_bytes(data)
        files = {**manifest.files, "model.shards.json": FileFacts(len(data), (hashlib.sha256(data).hexdigest(),))}
        (snapshot / "manifest.json").write_bytes(encode_manifest(manifest.step, files, manifest.facts))
        assert verify(str(snapshot)) is None
        findings = rk.inspect(snapshot).findings
        assert [(finding.name, reason in finding.what) for finding in findings] == [("incomplete-tensor", True)]
        with pytest.raises(SnapshotDamaged, match=reason):
            restore(str(snapshot), {"model": Net()})


def test_sharded_training_is_ddp_but_for_rounding(nursery, tmp_path):
    """Uneven last batches, clipping, accumulation, BatchNorm's statistics: all as DDP has them."""
    found, losses = [], []
    for shard in ("fsdp", ""):
        base = tmp_path / (shard or "ddp")
        outcome = lives_on(nursery, 3, base, shard=shard, for_ddp=True, save_every="1 epoch", batch=2, accumulate=2)
        assert outcome.codes == [0] * 3, outcome.output
        found.append(rk.load(newest(base))["model"])
        losses.append([result["losses"] for result in outcome.results])
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-3, atol=1e-4)
    for key, value in found[0].items():
        if key.endswith(("up.bias", "running_mean")):
            continue  # BatchNorm takes it out again, so its gradient is rounding alone, which AdamW makes large
        torch.testing.assert_close(value, found[1][key], rtol=2e-3, atol=2e-4, msg=key)
    assert not found[0]["into.weight"].equal(Net(kinds=()).into.weight)


def test_one_full_disk_fails_the_save_everywhere_and_touches_nothing(nursery, tmp_path):
    assert lives_on(nursery, 2, tmp_path, epochs=1).codes == [0, 0]
    before = {listed.path: verify(listed.path) for listed in list_snapshots(str(tmp_path / "run"))}
    outcome = lives_on(nursery, 2, tmp_path, epochs=2, full_disk=1)
    assert 0 not in outcome.codes
    assert "No space left on device" in outcome.output
    assert {listed.path: verify(listed.path) for listed in list_snapshots(str(tmp_path / "run"))} == before
    assert set(before.values()) == {None}


def test_a_signal_has_all_save_their_parts_and_leave_together(nursery, undisturbed, tmp_path):
    outcome = lives_on(nursery, 3, tmp_path, signal_at=[2, 5])
    assert outcome.codes == [75] * 3, outcome.output
    assert lives_on(nursery, 3, tmp_path).codes == [0] * 3
    assert bits(tmp_path) == bits(undisturbed[3])


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16", "ema": True},
        {"accumulate": 2, "norm": False},
        {"mp_policy": "float16", "norm": False},
        pytest.param({"compile": True}, marks=pytest.mark.soak),
    ],
    ids=["bf16 and averaged weights", "accumulation", "a policy of half precision", "compiled"],
)
def test_other_ways_to_train_are_exact_too(nursery, tmp_path, settings):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    outcome = lives_on(nursery, 3, whole, for_ddp=True, epochs=3, **settings)
    assert outcome.codes == [0] * 3, outcome.output
    assert lives_on(nursery, 3, killed, for_ddp=True, epochs=3, die_at=[1, 8], **settings).codes[1] == -signal.SIGKILL
    again = lives_on(nursery, 3, killed, for_ddp=True, epochs=3, **settings)
    assert "goes on after step" in again.output
    assert bits(killed) == bits(whole)


def test_weights_that_begin_on_the_meta_device_do_not_depend_on_the_number_of_processes(nursery, tmp_path):
    found = []
    for ranks in (1, 2, 3):
        base = tmp_path / str(ranks)
        outcome = lives_on(nursery, ranks, base, meta=True, frozen=False, resave=True)
        assert outcome.codes == [0] * ranks, outcome.output
        found.append(bits(base))
    assert found[0] == found[1] == found[2]
    weights = rk.load(newest(tmp_path / "3"))["model"]
    assert weights["into.weight"].std() > 0.05
    assert not weights["blocks.0.up.weight"].equal(weights["blocks.1.up.weight"])
    died = lives_on(nursery, 2, tmp_path / "killed", meta=True, frozen=False, die_at=[0, 7])
    assert died.codes[0] == -signal.SIGKILL
    assert lives_on(nursery, 2, tmp_path / "killed", meta=True, frozen=False).codes == [0, 0]
    assert lives_on(nursery, 2, tmp_path / "whole", meta=True, frozen=False).codes == [0, 0]
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")


def test_weights_averages_optimizer_and_schedule_go_from_3_to_2_to_4_processes_unchanged(nursery, tmp_path):
    assert lives_on(nursery, 3, tmp_path / "3", ema=True, for_ddp=True, epochs=1).codes == [0] * 3
    source = tmp_path / "3"
    for ranks in (2, 4):
        base = tmp_path / str(ranks)
        outcome = lives_on(nursery, ranks, base, ema=True, for_ddp=True, resave=True, resume=newest(source))
        assert outcome.codes == [0] * ranks, outcome.output
        assert bits(base) == bits(source)
        schedules = [rk.load(newest(each))["scheduler"] for each in (base, source)]
        assert schedules[0] == schedules[1]
        source = base
    assert any(key.startswith("average") for key in bits(source))


def test_a_large_frozen_part_is_written_once_and_outlives_the_snapshot_that_it_was_written_with(nursery, tmp_path):
    outcome = lives_on(nursery, 2, tmp_path, backbone=True, save_every="2 steps", keep_last=2)
    assert outcome.codes == [0, 0], outcome.output
    snapshots = list_snapshots(str(tmp_path / "run"))
    assert len(snapshots) == 2
    for rank in (0, 1):
        name = f"model-00002-of-00002.rank-{rank:05d}-of-00002.safetensors"
        assert len({os.stat(os.path.join(each.path, name)).st_ino for each in snapshots}) == 1
    assert [verify(each.path) for each in snapshots] == [None, None]
    rk.convert(tmp_path / "run", tmp_path / "model.safetensors", drop=["*complex128"])
    assert rk.load(tmp_path / "model.safetensors")["backbone"].equal(torch.full((700, 401), 0.5))


def test_a_process_killed_while_it_writes_its_part_costs_no_bit(nursery, undisturbed, tmp_path):
    """At file calls of the first save, of a later one, and while rank 0 puts the manifest over all."""
    for rank, nth in ((1, 3), (0, 14), (1, 9), (0, 40)):
        port = free_port()
        config = {"job": "sharded_job", "folder": str(tmp_path / "run"), "out": str(tmp_path)}
        plan = crash.Plan(str(tmp_path / "run"), nth=nth, mode="before").environment()
        pids = [
            nursery.start(config, **environment(number, 2, port), **(plan if number == rank else {}))
            for number in (0, 1)
        ]
        died = end(nursery, tmp_path, pids)
        assert died.codes[rank] == -signal.SIGKILL, (rank, nth, died.output)
        assert [verify(each.path) for each in list_snapshots(str(tmp_path / "run"))].count(None) == len(
            list_snapshots(str(tmp_path / "run"))
        )
    again = lives_on(nursery, 2, tmp_path)
    assert again.codes == [0, 0], again.output
    assert bits(tmp_path) == bits(undisturbed[2])
    assert not [name for name in os.listdir(tmp_path / "run" / "snapshots") if not name.startswith("step-")]


# ---- evaluating, and what DDP does by itself


def test_a_process_whose_share_has_a_batch_less_takes_part_in_what_the_others_gather(nursery, undisturbed, tmp_path):
    """50 samples in batches of 8 for each of 3 processes: one of them has 3, the others 2."""
    outcome = lives_on(nursery, 3, tmp_path, share=8)
    assert outcome.codes == [0] * 3, outcome.output
    assert bits(tmp_path) == bits(undisturbed[3])


def test_a_process_with_nothing_to_evaluate_before_any_pass_is_told_so(nursery, tmp_path):
    outcome = lives_on(nursery, 2, tmp_path, evaluate_first=True, share=50)
    assert outcome.codes == [1, 1]
    assert "RunError: rank 1 has nothing to evaluate, and the others have" in outcome.output


def test_each_pass_in_training_begins_with_rank_0s_statistics_and_none_in_evaluation(nursery, tmp_path):
    outcome = lives_on(nursery, 3, tmp_path, statistics=True, dropout=0.0)
    assert outcome.codes == [0] * 3, outcome.output
    trained = [result["True"] for result in outcome.results]
    assert trained[0] == trained[1] == trained[2]
    assert max(map(abs, trained[0])) < 100, "of rank 0, and none of the others' 1000 and 2000"
    assert [result["False"][0] for result in outcome.results] == [0.0, 1000.0, 2000.0]


def test_a_scale_of_a_losss_own_is_refused(nursery, tmp_path):
    outcome = lives_on(nursery, 2, tmp_path, scaler="own", precision="fp16", fp16_here=True, for_ddp=True)
    assert outcome.codes == [1, 1]
    assert 'run.backward(loss, scaler=...) and shard="fsdp" do not go together' in outcome.output


def test_a_scale_of_a_losss_own_is_refused_where_bits_are_not_to_depend_on_the_number_of_processes(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("rekindle.run.precision._NEED_GPU", ())
    settings = {"elastic": "bits", "shards": 2, "precision": "fp16", "progress": False, "tensorboard": False}
    with rk.Run(tmp_path / "run", **settings) as run:
        model = run.prepare(nn.Linear(2, 1))
        with pytest.raises(ConfigError, match='elastic="bits" do not go together'):
            run.backward(model(torch.ones(1, 2)).sum(), scaler="own")


def test_optimizers_made_before_and_after_train_alike_and_a_forgotten_one_is_refused(nursery, undisturbed, tmp_path):
    for order in ("made", "after"):
        outcome = lives_on(nursery, 2, tmp_path / order, later=order)
        assert outcome.codes == [0, 0], outcome.output
        assert bits(tmp_path / order) == bits(undisturbed[2])
    forgotten = lives_on(nursery, 2, tmp_path / "never", later="never")
    assert forgotten.codes == [1, 1]
    assert "the optimizer (AdamW) has the weights from before the model was sharded" in forgotten.output


def test_copies_of_parts_are_written_once_and_models_that_the_script_sharded_are_saved_too(nursery, tmp_path):
    """A mesh of two copies of two parts; and `fully_shard` called by hand."""
    mesh, own = tmp_path / "mesh", tmp_path / "own"
    assert lives_on(nursery, 4, mesh, mesh=[2, 2], epochs=1).codes == [0] * 4
    files = [name for name in os.listdir(newest(mesh)) if name.startswith("model.rank")]
    assert sorted(files) == ["model.rank-00000-of-00004.safetensors", "model.rank-00001-of-00004.safetensors"]
    assert lives_on(nursery, 2, own, own=True, epochs=1).codes == [0, 0]
    again = lives_on(nursery, 3, tmp_path / "again", resume=newest(mesh), resave=True)
    assert again.codes == [0] * 3, again.output
    assert bits(tmp_path / "again") == bits(mesh)
    died = lives_on(nursery, 2, tmp_path / "killed", own=True, epochs=1, die_at=[1, 6])
    assert died.codes[1] == -signal.SIGKILL
    assert lives_on(nursery, 2, tmp_path / "killed", own=True, epochs=1).codes == [0, 0]
    assert bits(tmp_path / "killed") == bits(own)


def test_the_example_runs_on_two_processes_and_its_weights_come_out(tmp_path):
    pytest.importorskip("sklearn")
    script, port = Path(__file__).parents[2] / "examples" / "sharded.py", free_port()
    lives = [
        subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", str(script), "run"],
            cwd=tmp_path,
            env={**os.environ, **environment(rank, 2, port), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [life.communicate(timeout=120)[0] for life in lives]
    assert [life.returncode for life in lives] == [0, 0], outputs
    assert outputs[1] == ""
    line = outputs[0].splitlines()[-1]
    assert line.endswith("after 48 steps on 2 processes")
    assert float(line.split()[1]) > 0.5
    rk.convert(tmp_path / "run", tmp_path / "model.safetensors")
    assert rk.load(tmp_path / "model.safetensors")["layers.2.linear2.weight"].shape == (64, 128)


# ---- in this process


def test_blocks_are_the_large_members_of_lists_and_sequences():
    layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
    model = nn.ModuleDict({"into": nn.Linear(8, 8), "layers": layers, "norms": nn.Sequential(nn.LayerNorm(8))})
    assert fsdp.blocks_of(model, smallest=20) == list(layers)
    nested = nn.Sequential(nn.Sequential(*layers), nn.Linear(8, 8))
    assert fsdp.blocks_of(nested, smallest=20) == list(nested), "the outermost ones"


def test_a_module_that_shares_a_weight_stays_with_the_model():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    assert fsdp.blocks_of(model, smallest=20) == [model[1]]


def test_settings_that_cannot_be_meant_are_named(tmp_path):
    with rk.Run(tmp_path / "run", progress=False, tensorboard=False) as run:
        model = nn.Linear(2, 2)
        with pytest.raises(ConfigError, match="shard='zero'"):
            run.prepare(model, shard="zero")
        with pytest.raises(ConfigError, match="without shard"):
            run.prepare(model, fsdp={})
    with pytest.raises(ConfigError, match="no such setting"):
        fsdp.shard(model, torch.device("cpu"), {"block": 1}, seed_for=lambda _: None)
    half = rk.Run(tmp_path / "half", progress=False, tensorboard=False, precision="O2")
    with half, pytest.raises(ConfigError, match="do not go together"):
        half.prepare(nn.Linear(2, 2), shard="fsdp")


def test_on_one_process_there_is_nothing_to_share_out(tmp_path, capfd):
    with rk.Run(tmp_path / "run", progress=False, tensorboard=False) as run:
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters())
        assert run.prepare(model, optimizer, shard="fsdp") == (model, optimizer)
        run.save()
    assert "one process, so there is nothing to share out" in capfd.readouterr().err
    assert os.path.exists(os.path.join(newest(tmp_path), "model.safetensors"))


def test_a_module_on_the_meta_device_must_say_how_it_begins():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), Bare())
    with pytest.raises(RunError, match=r"1: a Bare on the meta device does not say what it begins with"):
        fsdp.make_values(model, model, torch.device("cpu"), torch.manual_seed)


def test_the_processes_must_lay_a_snapshot_out_alike():
    class Ties:
        def __init__(self, everywhere: list[list[Any]]) -> None:
            self.everywhere = everywhere

        def gather(self, what: str, value: Any, *, timeout_s: float | None) -> list[list[Any]]:
            assert (what, value, timeout_s) == ("saving: the parts", [None, "a"], None)
            return self.everywhere

    assert fsdp.agree_on_snapshot(Ties([[None, "a"], ["model.w", "a"]]), None, "a") == "model.w"
    assert fsdp.agree_on_snapshot(Ties([[None, "a"], [None, "a"]]), None, "a") is None
    with pytest.raises(RunError, match="rank 1 would save other sharded tensors than rank 0"):
        fsdp.agree_on_snapshot(Ties([[None, "a"], [None, "b"]]), None, "a")
