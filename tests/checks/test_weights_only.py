"""The verdict about `weights_only=True` is torch's own, on every kind of file: same refusals, numbers and cures."""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import fractions
import json
import pathlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from torch import nn

from rekindle.checks import Case
from rekindle.checks._allowing import allowing_line
from rekindle.checks._weights_only import AFTER_IMPORT, allowed_globals
from rekindle.formats import open_path

GOLDEN = Path(__file__).parent.parent / "golden"


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)


class Listed(list):
    pass


def objects() -> dict[str, object]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    marked = torch.ones(2)
    marked.note = "kept"
    return {
        "state dict": net.state_dict(),
        "parameters": dict(net.named_parameters()),
        "optimizer": torch.optim.Adam(net.parameters()).state_dict(),
        "strided": zoo.strided(),
        "dtypes": {name: zoo.of_dtype(name) for name in (*zoo.FLOATS, *zoo.INTEGERS, *zoo.COMPLEX, *zoo.EIGHT_BITS)},
        "values": [
            1,
            -1,
            2**40,
            2**300,
            2.5,
            3 + 4j,
            None,
            True,
            "Zürich",
            b"bytes",
            {1, 2},
            bytearray(b"x"),
            (1, [2]),
        ],
        "constants": [torch.float16, torch.Size([2]), torch.device("cpu"), torch.sparse_csr, torch.per_tensor_affine],
        "counter": collections.Counter("abca"),
        "marked tensor": marked,
        "sparse": torch.eye(3).to_sparse(),
        "tuple of one": (torch.ones(1),),
        "defaultdict": collections.defaultdict(int, a=1),
        "frozenset": frozenset((1, 2)),
        "range": {"r": range(3)},
        "numpy scalar": {"acc": np.float64(0.5), "step": np.int64(3)},
        "numpy array": np.arange(6.0).reshape(2, 3),
        "numpy bools": np.array([True, False]),
        "namespace": {"args": argparse.Namespace(lr=0.1), "w": torch.ones(1)},
        "path": pathlib.PurePosixPath("a/b"),
        "date": dt.date(2020, 1, 2),
        "fraction": fractions.Fraction(1, 3),
        "list subclass": Listed([1, 2]),
        "ordered subclass": zoo.Odict(a=torch.ones(1)),
        "a whole module": Mine(),
        "a module of torch": net,
        "function": {"f": torch.relu, "g": len},
    }


def torch_says(path: Path) -> str:
    """Return what torch answers: empty where it loads the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.load(path, weights_only=True)
        except Exception as error:  # noqa: BLE001 - whatever it says is its answer
            return re.sub(r"\x1b\[\d+m", "", str(error)) or type(error).__name__
    return ""


def verdict_of(path: Path):
    with open_path(path) as opened:
        return Case(opened).verdict


@pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", objects())
def test_the_verdict_is_what_torch_answers(tmp_path: Path, name: str, protocol: int, stream: bool):
    path = tmp_path / "m.pth"
    value = objects()[name]
    if name == "dtypes" and stream:
        value = {key: tensor for key, tensor in value.items() if key in zoo.TYPED}
    with zoo.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not stream)
    answer, verdict = torch_says(path), verdict_of(path)
    assert verdict is not None
    assert verdict.accepted == (not answer), answer
    if verdict.refused:
        assert f"Unsupported global: GLOBAL {verdict.refused[0].removeprefix('builtins.')} was" in answer
    elif verdict.operand is not None:
        assert f"Unsupported operand {verdict.operand[0]}\n" in answer + "\n"
    elif verdict.stops:
        assert verdict.stops.split(", but got")[0] in answer


CURABLE = ["numpy scalar", "numpy array", "numpy bools", "namespace", "frozenset", "date", "a whole module", "range"]


@pytest.mark.parametrize("name", CURABLE)
def test_the_line_that_allows_what_is_refused_is_enough(tmp_path: Path, name: str):
    path = tmp_path / "m.pth"
    torch.save(objects()[name], path)
    verdict = verdict_of(path)
    assert verdict.refused
    assert verdict.can_be_allowed
    line = allowing_line(verdict.refused).replace(f"{__name__}.Mine", "Mine")
    before = torch.serialization.get_safe_globals()
    try:
        exec(line, {**globals(), "torch": torch, "numpy": np, "datetime": dt})
        assert torch_says(path) == ""
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_what_no_line_can_allow_is_known(tmp_path: Path):
    for name in ("list subclass", "defaultdict"):
        torch.save(objects()[name], tmp_path / "m.pth")
        verdict = verdict_of(tmp_path / "m.pth")
        assert verdict.refused
        assert not verdict.can_be_allowed, name


def test_names_of_numpy_1_are_allowed_together_with_their_old_path(tmp_path: Path):
    torch.save({"acc": np.float64(0.5)}, tmp_path / "new.pth")
    from archives import changed

    old = changed(
        tmp_path / "new.pth",
        tmp_path / "m.pth",
        lambda name, data: (name, data.replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")),
    )
    line = allowing_line(verdict_of(old).refused)
    assert '(numpy._core.multiarray.scalar, "numpy.core.multiarray.scalar")' in line
    before = torch.serialization.get_safe_globals()
    try:
        exec(line, {"torch": torch, "numpy": np})
        assert torch_says(old) == ""
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_what_torch_allows_once_more_of_it_is_imported_is_known_by_module():
    """In a process of its own, since what is imported stays allowed."""
    program = (
        "import torch, torch._dynamo, torch.distributed.tensor\n"
        "from torch._weights_only_unpickler import _get_allowed_globals, _get_user_allowed_globals\n"
        "from rekindle.checks._weights_only import AFTER_IMPORT, allowed_globals\n"
        "theirs = {*_get_allowed_globals(), *_get_user_allowed_globals()}\n"
        "ours = {*allowed_globals(), *AFTER_IMPORT}\n"
        "print(sorted(theirs - ours) + sorted(set(AFTER_IMPORT) - theirs))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_the_list_of_what_is_allowed_is_that_of_this_torch():
    from torch._weights_only_unpickler import _get_allowed_globals

    theirs = set(_get_allowed_globals())
    ours = set(allowed_globals())
    assert theirs - ours - set(AFTER_IMPORT) == set()
    extra = {path for path in ours - theirs if not path.startswith(("torch.nested.", "torch.distributed."))}
    assert extra == set()


# What torch allows grows with what is imported, so a torch of its own answers, that has imported nothing else.
ASK_TORCH = """
import importlib, json, sys, warnings

import torch


def says(path):
    try:
        torch.load(path, weights_only=True)
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


warnings.simplefilter("ignore")
asked = json.load(sys.stdin)
answers = {path: says(path) for path in asked}
for module in {module for modules in asked.values() for module in modules}:
    importlib.import_module(module)
print(json.dumps({path: [answer, says(path)] for path, answer in answers.items()}))
"""


def test_golden_files_of_every_age_get_the_verdict_of_torch():
    verdicts = {}
    for path in sorted(GOLDEN.rglob("*")):
        if not path.is_file() or path.suffix not in {".pth", ".pt", ".pkl", ".bin", ".ckpt"}:
            continue
        with open_path(path) as opened:
            if opened.format not in {"torch-zip", "torch-stream"}:
                continue
            verdicts[str(path)] = Case(opened).verdict
        assert verdicts[str(path)] is not None, path
    asked = json.dumps({path: verdict.imports for path, verdict in verdicts.items()})
    run = subprocess.run(
        [sys.executable, "-c", ASK_TORCH], input=asked, capture_output=True, text=True, timeout=120, check=True
    )
    answers = json.loads(run.stdout)
    for path, verdict in verdicts.items():
        before, after = answers[path]
        assert verdict.accepted == (not before), (path, before, verdict)
        if verdict.imports and not verdict.refused:
            assert after == "", (path, verdict)
    assert len(verdicts) >= 3
    assert any(verdict.imports for verdict in verdicts.values())


def test_long_programs_are_judged_by_what_they_name(tmp_path: Path, monkeypatch):
    """The quick look at long programs comes to the same as following them."""
    from rekindle.checks import _weights_only

    for name, value in objects().items():
        torch.save(value, tmp_path / "m.pth")
        followed = verdict_of(tmp_path / "m.pth")
        monkeypatch.setattr(_weights_only, "_LONG", 0)
        quick = verdict_of(tmp_path / "m.pth")
        monkeypatch.undo()
        assert quick == followed, name
