"""TorchScript code: what it calls is told, and an operator that leaves the tensors is a danger, however it is spelled.

What is called hidden here really runs: the code is given to torch's own compiler, which writes the file.
"""

from __future__ import annotations

import warnings
import zipfile

import pytest
import torch

from rekindle.finding import Severity
from rekindle.scanning.torchscript import mobile_operators, read_code
from rekindle.verbs.scan import scan


def function(body: str) -> str:
    return f"def f(x: Tensor):\n  {body}\n  return x\n"


# Each writes the file TARGET when torch runs it.
WRITES = {
    "plainly": 'torch.save(x, "TARGET")',
    "with spaces": 'torch . save (x, "TARGET")',
    "over two lines": 'torch . \\\n save(x, "TARGET")',
    "through another name": 't = torch\n  t.save(x, "TARGET")',
    "through a name for the operator": 't = torch.save\n  t(x, "TARGET")',
    "by getattr": 'getattr(torch, "save")(x, "TARGET")',
    "by getattr of another name": "t = torch\n  getattr(t, 'save')(x, \"TARGET\")",
    "in brackets": '(torch).save(x, "TARGET")',
    "behind a text with a quote": 'y = "\\"#"\n  torch.save(x, "TARGET")',
}


@pytest.mark.parametrize("how", WRITES)
def test_an_operator_that_writes_a_file_is_found_however_it_is_spelled(tmp_path, how):
    target = tmp_path / "written"
    source = function(WRITES[how].replace("TARGET", str(target)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.CompilationUnit(source).f(torch.ones(2))
    assert target.exists()  # torch does what we say that it does
    (reach, *_) = read_code(source.encode()).reaches
    assert "writes the file" in reach.reason


@pytest.mark.parametrize(
    "body",
    [  # `ops` is known to the reader of archives only, and the other operators to libraries
        'ops.aten.save(x, "a")',
        't = ops\n  t.aten.save(x, "a")',
        "y = ops.image.read_file(s)",
        "ops.image.write_file(s, x)",
        "y = torch.from_file(s, True, 3)",
        "y = rpc_sync(s, f, (x,))",
    ],
)
def test_other_spellings_and_operators_of_libraries_are_found_too(body):
    assert read_code(function(body).encode()).reaches


@pytest.mark.parametrize(
    "body",
    [
        "y = torch.add(x, x)",
        'y = "torch.save(x)"',
        "# torch.save(x)",
        "y = self.save(x)",
        'y = torch.format("save {}", x)',
        "y = torch.saved(x)",
        "y = __torch__.torch.save(x)",
    ],
)
def test_what_only_looks_like_it_is_none(body):
    assert read_code(function(body).encode()).reaches == ()


def test_operators_are_told_in_full_and_those_of_other_libraries_apart():
    code = read_code(b"def f(x):\n  return ops.torchvision.nms(torch.mul(x, x), ops.prim.NumToTensor(1), torch.mul(x))")
    assert code.operators == ("torchvision::nms", "aten::mul", "prim::NumToTensor")
    assert code.custom == ("torchvision::nms",)
    assert code.hidden is None


def test_a_module_called_torch_is_said_to_hide_names_and_is_no_danger_by_itself():
    code = read_code(b"def forward(s, x):\n    torch = s.torch\n    return (torch).forward(x, )")
    assert code.hidden is not None
    assert code.reaches == ()


class Writer(torch.nn.Module):
    def forward(self, x):
        torch.save(x, "somewhere.bin")
        return x + 1


class Adder(torch.nn.Module):
    def forward(self, x):
        return x + 1


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model in (Writer(), Adder()):
            made = torch.jit.script(model)
            made.save(str(folder / f"{type(model).__name__}.pt"))
            made._save_for_lite_interpreter(str(folder / f"{type(model).__name__}.ptl"))
    return folder


@pytest.mark.parametrize("suffix", ["pt", "ptl"])
def test_an_archive_whose_model_writes_a_file_is_dangerous_and_one_that_adds_a_notice(archives, suffix):
    found = scan(archives / f"Writer.{suffix}")
    assert found.verdict == "dangerous"
    danger = found.findings[0]
    assert (danger.code, danger.name, danger.severity) == ("RK-SCAN-21", "script-reaches-out", Severity.DANGER)
    assert danger.what == 'the model calls aten::save: torch.save(x, "somewhere.bin")'
    assert danger.where.member.startswith("Writer/code/__torch__")
    found = scan(archives / f"Adder.{suffix}")
    assert found.verdict == "notice"
    (said,) = [finding for finding in found.findings if finding.code == "RK-SCAN-14"]
    assert said.what == "TorchScript: 1 file of code that runs when the model is called; it calls aten::add"
    assert not any(finding.code == "RK-SCAN-19" for finding in found.findings)  # it is no Python


def test_the_bytecode_of_a_mobile_archive_is_looked_at_by_itself(archives, tmp_path):
    with zipfile.ZipFile(archives / "Writer.ptl") as old, zipfile.ZipFile(tmp_path / "m.ptl", "w") as new:
        for name in old.namelist():
            if not name.endswith(".py"):
                new.writestr(name, old.read(name))
        assert [reach.name for reach in mobile_operators(old.read("Writer/bytecode.pkl"))] == ["aten::save"]
    assert scan(tmp_path / "m.ptl").verdict == "dangerous"


def test_any_bytes_are_code_without_a_fault_and_without_waiting():
    for piece in (
        b'"""',
        b'"""\\',
        b'"\\"',
        b"torch.",
        b"torch . \\\n",
        b'"\\',
        b"'" * 3,
        b"# torch\n",
        b"ops.",
        b"\xff\xfe",
        b"a.b" * 9,
    ):
        read_code(piece * 20_000)
        read_code(piece * 20_000 + b"\\")
