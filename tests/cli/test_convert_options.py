"""The options of `rekindle convert`, as they are typed."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from runs_on_disk import make_run
from safetensors.torch import load_file

import rekindle as rk


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    saved = {"model": {f"module.{key}": tensor for key, tensor in state.items()}, "epoch": 3}
    torch.save(saved, tmp_path / "a.pth")
    return state


def test_all_options_at_once(cli, checkpoint, tmp_path):
    words = ["--take", "model", "--strip", "module", "--drop", "*.num_batches_tracked", "--rename", "1.=norm.", "--add"]
    done = cli(
        "convert", "a.pth", "b.safetensors", *words, "net", "--rename", "/^0/fc/", "--dtype", "float16", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    found = load_file(tmp_path / "b.safetensors")
    assert torch.equal(found["net.fc.weight"], checkpoint["0.weight"].half())
    assert torch.equal(found["net.norm.running_var"], checkpoint["1.running_var"].half())
    assert len(found) == 6
    assert (report["lost"], report["verified"], report["files"]) == ([], True, ["b.safetensors"])
    assert [finding["code"] for finding in report["findings"]] == ["RK-CONV-10", "RK-CONV-11", "RK-CONV-13"]


def test_shards_and_values_are_named_and_the_next_command_works(cli, checkpoint, tmp_path):
    done = cli("convert", "a.pth", "m.safetensors", "--shard", "40", "--values")
    assert done.returncode == 0, done.stderr
    assert "m-00001-of-00003.safetensors" in done.stdout
    assert json.loads((tmp_path / "m.safetensors.values.json").read_text()) == {"epoch": 3}
    command = done.stdout.splitlines()[-1].removeprefix("next: rekindle ").split()
    assert command == ["inspect", "m.safetensors.index.json"]
    assert cli(*command).returncode == 0


def test_legacy_is_the_stream_of_old_torch(cli, checkpoint, tmp_path):
    assert cli("convert", "a.pth", "b.pth", "--legacy", "--slim", "--no-verify").returncode == 0
    assert (tmp_path / "b.pth").read_bytes()[:2] == b"\x80\x02"
    assert torch.load(tmp_path / "b.pth", weights_only=True)["epoch"] == 3
    done = cli("convert", "a.pth", "c.pth", "--legacy", "--to", "safetensors")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--legacy and --to safetensors name two containers" in done.stderr


def test_in_place_needs_force(cli, checkpoint, tmp_path):
    done = cli("convert", "a.pth", "a.pth", "--data-only")
    assert (done.returncode, done.stdout) == (2, "")
    assert cli("convert", "a.pth", "a.pth", "--data-only", "--force").returncode == 0
    assert torch.load(tmp_path / "a.pth", weights_only=True)["epoch"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rename", "module.0.weight=module.0.bias", "--take", "model"], "would both be called module.0.bias"),
        (["--only", "zzz"], "nothing is left to write"),
        (["--take", "modle"], "closest: model"),
        (["--dtype", "int8"], "'int8' is not a type that convert casts to"),
        (["--shard", "many"], "'many' is not a size"),
        (["--rename", "x"], "'x' does not say what to rename"),
    ],
)
def test_wishes_that_cannot_be_fulfilled_are_three_lines_and_exit_code_2(cli, checkpoint, tmp_path, words, message):
    done = cli("convert", "a.pth", "b.pth", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "  do " in done.stderr
    assert not (tmp_path / "b.pth").exists()


def run_python(code, words, tmp_path):
    return subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)


def test_numpy_is_only_for_casts_and_torch_for_nothing(checkpoint, tmp_path):
    code = (
        "import sys; from rekindle.cli import main; assert main(sys.argv[1:]) == 0; "
        "sys.exit('torch' in sys.modules or ('numpy' in sys.modules) != ('--dtype' in sys.argv))"
    )
    words = ["convert", "a.pth", "b.safetensors", "--force", "--take", "model", "--strip", "module", "--shard", "1GB"]
    assert run_python(code, words, tmp_path).returncode == 0
    assert run_python(code, [*words, "--dtype", "bfloat16"], tmp_path).returncode == 0


def test_without_numpy_a_cast_is_refused_with_the_way_out(checkpoint, tmp_path):
    code = "import sys; sys.modules['numpy'] = None; from rekindle.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run_python(code, ["convert", "a.pth", "b.pth", "--dtype", "float16"], tmp_path)
    assert done.returncode == 2
    assert "casting to float16 needs NumPy, which is not installed" in done.stderr
    assert not (tmp_path / "b.pth").exists()


def test_best_is_the_snapshot_that_the_run_kept_for_its_metric(cli, tmp_path):
    weight = torch.nn.Parameter(torch.zeros(1))
    model = torch.nn.ParameterList([weight])
    with rk.Run(tmp_path / "run", seed=0, save_every="1 epoch", keep_best="score", tensorboard=False) as run:
        run.track(model=model)
        for epoch in run.epochs(4):
            weight.data.fill_(float(epoch))
            run.step()
            run.log(score=[1.0, 5.0, 2.0, 3.0][epoch])
    assert cli("convert", "run", "newest.safetensors").returncode == 0
    assert cli("convert", "run", "best.safetensors", "--best").returncode == 0
    assert load_file(tmp_path / "newest.safetensors")["0"].item() == 3.0
    assert load_file(tmp_path / "best.safetensors")["0"].item() == 1.0

    shutil.rmtree(tmp_path / "run" / "snapshots" / "step-00000002")
    done = cli("convert", "run", "again.safetensors", "--best")
    assert (done.returncode, (tmp_path / "again.safetensors").exists()) == (2, False)
    assert "is gone" in done.stderr


def test_best_of_what_knows_of_none_says_why(cli, checkpoint, tmp_path):
    make_run(tmp_path / "plain", steps=[1, 2])
    done = cli("convert", "plain", "b.pth", "--best")
    assert done.returncode == 2
    assert "it knows of no best snapshot" in done.stderr
    assert "keep_best='accuracy'" in done.stderr
    done = cli("convert", "a.pth", "b.pth", "--best")
    assert done.returncode == 2
    assert "a.pth: --best is for the folder of a run" in done.stderr
