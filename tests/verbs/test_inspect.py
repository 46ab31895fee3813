"""`inspect`: one value for every file, digests that torch agrees with, and bounds on what reading costs."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import attacks
import pytest
import torch
import zoo

import rekindle
from rekindle.finding import Severity
from rekindle.formats import open_path
from rekindle.verbs.doctor import doctor
from rekindle.verbs.inspect import inspect
from rekindle.verbs.scan import find_dangers


def test_a_checkpoint_is_listed_with_its_values(tmp_path: Path):
    path = tmp_path / "model.pth"
    torch.save({"model": {"w": torch.ones(2, 3)}, "epoch": 3}, path)
    found = rekindle.inspect(path)
    assert (found.path, found.format, found.kind) == (str(path), "torch-zip", "checkpoint")
    assert found.size_bytes == path.stat().st_size
    assert [entry.key for entry in found.table] == ["model.w"]
    assert found.values == {"epoch": 3}
    assert found.digests == {}
    assert found.listed


@pytest.mark.parametrize("new", [True, False])
def test_digests_are_those_of_torch_s_own_bytes(tmp_path: Path, new: bool):
    path = tmp_path / "all.pt"
    with zoo.quiet():
        torch.save(zoo.complete(zoo.TYPED), path, _use_new_zipfile_serialization=new)
        wanted = {row["key"]: row["digest"] for row in zoo.rows(zoo.load(path))}
    assert inspect(path, digest=True).digests == wanted


def test_digests_do_not_depend_on_the_container_or_the_layout(tmp_path: Path):
    from safetensors.torch import save_file

    image = torch.randn(2, 3, 8, 8)
    torch.save({"x": image.to(memory_format=torch.channels_last)}, tmp_path / "a.pt")
    torch.save({"x": image.transpose(0, 1).contiguous().transpose(0, 1)}, tmp_path / "b.pt")
    save_file({"x": image}, tmp_path / "c.safetensors")
    digests = {inspect(tmp_path / name, digest=True).digests["x"] for name in ("a.pt", "b.pt", "c.safetensors")}
    assert digests == {hashlib.sha256(image.numpy().tobytes()).hexdigest()}


def test_progress_is_told_after_each_digest(tmp_path: Path):
    torch.save([torch.ones(index + 1) for index in range(3)], tmp_path / "x.pt")
    told: list[tuple[int, int]] = []
    inspect(tmp_path / "x.pt", digest=True, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("count", [2**26, 2**40])
def test_a_few_bytes_repeated_to_gigabytes_are_not_read(tmp_path: Path, count: int):
    torch.save({"x": torch.ones(1).expand(count)}, tmp_path / "x.pt")
    found = inspect(tmp_path / "x.pt", digest=True)
    assert found.digests == {}
    assert [finding.code for finding in found.findings] == ["RK-FILE-37"]


def test_a_tensor_without_bytes_has_no_digest_and_the_others_have(tmp_path: Path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.ones(4), "b": torch.ones(100)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-20])
    found = inspect(path, digest=True)
    assert len(found.digests) == 1
    assert found.listed


def test_meta_tensors_have_no_bytes_and_that_is_no_fault(tmp_path: Path):
    torch.save({"a": torch.empty(3, device="meta"), "b": torch.ones(1)}, tmp_path / "m.pt")
    found = inspect(tmp_path / "m.pt", digest=True)
    assert list(found.digests) == ["b"]
    assert found.table["a"].storage.data is None
    assert not [finding for finding in found.findings if finding.severity.value == "error"]


def test_an_impostor_is_a_value_too(tmp_path: Path):
    (tmp_path / "model.pth").write_bytes(b"<html>")
    found = inspect(tmp_path / "model.pth")
    assert not found.listed
    assert found.findings[0].code == "RK-FILE-03"


def test_the_file_is_closed_afterwards(tmp_path: Path):
    import os

    torch.save([torch.ones(1)], tmp_path / "x.pt")
    before = len(os.listdir("/proc/self/fd"))
    inspect(tmp_path / "x.pt", digest=True)
    (tmp_path / "y").write_bytes(b"")
    inspect(tmp_path / "y")
    with open_path(tmp_path / "x.pt"):
        assert len(os.listdir("/proc/self/fd")) == before + 1
    assert len(os.listdir("/proc/self/fd")) == before


class Call:
    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("kind", ["zip", "stream", "pickle"])
def test_a_file_that_would_run_a_command_is_a_danger_with_the_way_to_scan_it(tmp_path: Path, cli, kind: str):
    import os
    import pickle

    path = tmp_path / "evil.pth"
    value = {"w": 1, "x": Call(os.system, "true"), "y": Call(eval, "1")}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=kind == "zip")
    first = inspect(path).findings[0]
    assert (first.code, first.severity.value) == ("RK-SCAN-01", "danger")
    assert first.what == "imports posix.system and calls it: posix.system('true')"
    assert any("eval" in finding.what for finding in inspect(path).findings[1:])
    assert first.why == "it runs commands of the operating system"
    assert f"rekindle scan {path} " in first.do
    assert cli("inspect", str(path)).returncode == 1


GOLDEN = Path(__file__).parent.parent / "golden"


def with_danger(source: Path, target: Path, member: str) -> Path:
    """A copy of an archive in which one member would run a command."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, attacks.evil() if name.endswith(member) else old.read(name))
    return target


def dangerous_files(folder: Path) -> dict[str, Path]:
    """Files and folders of containers whose readers keep no names, each with a dangerous program somewhere."""
    found = {
        "TorchScript": with_danger(GOLDEN / "torchscript/scripted.pt", folder / "script.pt", "/data.pkl"),
        "constants of TorchScript": with_danger(GOLDEN / "torchscript/scripted.pt", folder / "c.pt", "constants.pkl"),
        "torch.package": with_danger(GOLDEN / "torch_package/package.pt", folder / "package.pt", "module.pkl"),
        "torch.export": with_danger(GOLDEN / "torch_export/program.pt2", folder / "p.pt2", "sample_inputs/model.pt"),
        "a stream in a pickle": folder / "nested.pt",
        "a checkpoint folder": folder / "distcp",
        "a folder of DeepSpeed": folder / "zero1",
    }
    inner = attacks.stream(attacks.evil())
    call = attacks.reduce_of("torch.storage", "_load_from_bytes", b"B" + len(inner).to_bytes(4, "little") + inner)
    found["a stream in a pickle"].write_bytes(attacks.torch_zip(call))
    shutil.copytree(GOLDEN / "distcp/sharded", folder / "distcp")
    (folder / "distcp/.metadata").write_bytes(attacks.evil())
    shutil.copytree(GOLDEN / "deepspeed/zero1", folder / "zero1")
    part = min((folder / "zero1").rglob("*.pt"))
    with_danger(part, folder / "x", "data.pkl").replace(part)
    return found


def test_inspect_and_doctor_give_the_danger_that_scan_gives_in_every_container(tmp_path: Path):
    for name, path in dangerous_files(tmp_path).items():
        wanted = [finding for finding in find_dangers(str(path)) if finding.severity is Severity.DANGER]
        assert wanted, name
        assert "os.system" in wanted[0].what or "posix.system" in wanted[0].what, name
        for findings in (inspect(path).findings, doctor(path).findings):
            shown = [finding for finding in findings if finding.severity is Severity.DANGER]
            assert [(found.what, found.where) for found in shown] == [(one.what, one.where) for one in wanted], name


def test_whole_files_of_these_containers_alarm_nobody():
    for path in (
        *("torchscript/scripted.pt", "torch_package/package.pt", "torch_export/program.pt2", "torch_tar/views.tar"),
        *("distcp/sharded", "deepspeed/zero3"),
    ):
        assert find_dangers(str(GOLDEN / path)) == []
        assert not any(finding.severity is Severity.DANGER for finding in inspect(GOLDEN / path).findings)


def test_an_ordinary_checkpoint_neither_alarms_nor_costs_the_table_of_names(tmp_path: Path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    path = tmp_path / "model.pth"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    code = (
        "import sys; from rekindle.verbs.inspect import inspect; found = inspect(sys.argv[1]); "
        "print(len(found.findings), 'rekindle.scanning.names' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]
