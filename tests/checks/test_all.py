"""Laws of all checks: found by walking, one code and one name each, silent about good files, never raising."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import random
import re
from pathlib import Path

import pytest
import torch
import zoo
from checkpoint_laws import variants
from doctoring import DEVICES, examine
from safetensors.torch import save_file
from torch import nn

from rekindle.checks import check_modules
from rekindle.errors import UnreadableFile
from rekindle.verbs.doctor import doctor

ROOT = Path(__file__).parents[2]
TESTS = Path(__file__).parent


def table_script():
    spec = importlib.util.spec_from_file_location("checks_table", ROOT / "scripts" / "checks_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4), nn.LayerNorm(4))


@pytest.mark.parametrize("check", check_modules(), ids=lambda check: check.NAME)
def test_a_check_is_whole(check):
    assert re.fullmatch(r"RK-FILE-(6[5-9]|7\d|8\d)", check.CODE)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", check.NAME)
    assert check.__name__.rpartition(".")[2].replace("_", "-") == check.NAME
    assert inspect.getdoc(check).splitlines()[0].endswith((".", ")."))
    assert isinstance(check.WHY, str)
    assert isinstance(check.DO, str)
    assert check.SINCE == "0.1"
    assert (TESTS / f"test_{check.NAME.replace('-', '_')}.py").exists()


def test_codes_and_names_are_unique_also_among_those_of_the_readers():
    checks = check_modules()
    assert len(checks) >= 20
    pairs = [(check.CODE, check.NAME) for check in checks]
    readers = table_script().reader_codes()
    codes = [code for code, _ in pairs] + list(readers)
    names = [name for _, name in pairs] + [name for names in readers.values() for name in names]
    assert len(codes) == len(set(codes))
    assert len(names) == len(set(names))
    assert all(len(names) == 1 for names in readers.values()), readers


def test_the_page_of_checks_is_as_the_code_has_it():
    assert (ROOT / "docs" / "checks.md").read_text() == table_script().page()


@pytest.mark.parametrize("values", [False, True], ids=["description", "values"])
@pytest.mark.parametrize("suffix", [".pth", ".old.pth", ".safetensors"])
def test_an_ordinary_state_dict_has_no_finding_at_all(suffix: str, values: bool):
    state = network().state_dict()
    if suffix == ".safetensors":
        save_file(state, f"m{suffix}")
    else:
        torch.save(state, f"m{suffix}", _use_new_zipfile_serialization=suffix == ".pth")
    assert examine(f"m{suffix}", values=values).findings == ()


@pytest.mark.parametrize("values", [False, True], ids=["description", "values"])
def test_an_ordinary_training_checkpoint_has_notes_only(values: bool):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save({**whole, "epoch": 3, "rng": torch.get_rng_state()}, "m.pth")
    assert {finding.severity.value for finding in examine("m.pth", values=values).findings} == {"note"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])
def test_every_kind_of_tensor_is_examined_without_an_error(stream: bool):
    torch.save(zoo.complete(zoo.TYPED), "m.pth", _use_new_zipfile_serialization=not stream)
    with zoo.quiet():
        doctor("m.pth", values=True, torch="1.0", devices=DEVICES)


def examine_bytes(data: bytes) -> None:
    """Examine bytes: a diagnosis or our one error; nothing else."""
    Path("f.pth").write_bytes(data)
    with contextlib.suppress(UnreadableFile):
        doctor("f.pth", values=True, torch="1.4", devices=DEVICES)


@pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])
def test_damaged_files_end_in_a_diagnosis(stream: bool):
    torch.save({"model": network().state_dict(), "x": Mine(), "epoch": 1}, "m.pth",
               _use_new_zipfile_serialization=not stream)  # fmt: skip
    data = Path("m.pth").read_bytes()
    for damaged in variants(data, 150, seed=stream):
        examine_bytes(damaged)
    for end in random.Random(1).sample(range(len(data)), 60):
        examine_bytes(data[:end])


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)


def golden() -> list[Path]:
    """Return the real files of every format, and the folders that are one checkpoint."""
    root = ROOT / "tests" / "golden"
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix not in {".py", ".json", ".md", ".pyc"}]
    return sorted(files + [path for path in root.glob("*/*") if path.is_dir()])


def test_real_files_of_every_format_are_examined_and_what_is_offered_works(tmp_path: Path, monkeypatch):
    paths = golden()
    assert len(paths) > 50
    for number, path in enumerate(paths):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        with contextlib.suppress(UnreadableFile):
            examine(path, values=True, torch="1.4")
