"""Files of ranks: the classes that describe parts of tensors are known, in the one form in which torch writes them."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rekindle.limits import DEFAULT_LIMITS
from rekindle.scanning.names import PARTS
from rekindle.scanning.programs import report_program
from rekindle.scanning.report import Report, View
from rekindle.scanning.trace import trace
from rekindle.source import MemorySource
from rekindle.verbs.scan import scan

GOLDEN = Path(__file__).parent.parent / "golden" / "fsdp_ranks"
FILES = sorted(
    path for name in ("two", "three", "replicas", "tensor", "strided") for path in GOLDEN.glob(f"{name}/*.pt")
)

MESH = b"ctorch.distributed.device_mesh\nDeviceMesh\n"
SHARD = b"ctorch.distributed.tensor.placement_types\nShard\n"
META = b"ctorch.distributed.tensor._dtensor_spec\nTensorMeta\n"
DTENSOR = b"ctorch.distributed.tensor\nDTensor\n"
REBUILD = b"ctorch._tensor\n_rebuild_from_type_v2\n"
WRAPPER = b"ctorch._utils\n_rebuild_wrapper_subclass\n"
TEXT = b"X\x01\x00\x00\x00a"
SPECIAL = b"X\x09\x00\x00\x00__class__"


def codes_of(program: bytes) -> list[str]:
    program = b"\x80\x02" + program + b"."
    report = Report(DEFAULT_LIMITS)
    found = trace(program, 0, DEFAULT_LIMITS)
    assert not found.problem
    report_program(found, View(MemorySource(program, "x")), 0, report)
    return sorted({finding.code for finding in report.findings})


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_torch_saves_of_a_rank_is_clean_and_one_note_says_what_it_is(path: Path):
    found = scan(path)
    assert found.verdict == "clean"
    codes = [finding.code for finding in found.findings]
    assert codes == ([] if "extra_state" in path.name else ["RK-SCAN-23"])


def test_the_folders_are_there():
    assert len(FILES) >= 18


TORCH = """
import json, sys, torch, torch.distributed.tensor
torch.load(sys.argv[1], weights_only=True)
names = [each for each in torch.serialization.get_safe_globals() if not isinstance(each, tuple)]
print(json.dumps([f"{each.__module__}.{each.__qualname__}" for each in names]))
"""


def test_torch_takes_these_classes_itself_as_the_note_says():
    path = GOLDEN / "two" / "model_world_size_2_rank_0.pt"
    (note,) = scan(path).findings
    assert "torch.load(weights_only=True) takes them after `import torch.distributed.tensor`" in note.why
    # In a process of its own: the import changes what torch takes from then on.
    done = subprocess.run(
        [sys.executable, "-c", TORCH, str(path)], check=True, capture_output=True, text=True, timeout=120
    )
    assert {".".join(pair) for pair in PARTS} <= set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "program",
    [
        MESH + b")\x81",
        MESH + b")\x81}" + TEXT + b"K\x01sb",
        SHARD + b")\x81N" + b"b",
        META + b"K\x01K\x02\x86\x81",
        DTENSOR,
        REBUILD + b"(" + WRAPPER + DTENSOR + b"(" + DTENSOR + b"K\x01t}tR",
    ],
    ids=["made empty", "with attributes", "without", "a tuple", "named only", "a wrapper"],
)
def test_the_form_in_which_torch_writes_them_is_known(program: bytes):
    assert codes_of(program) == ["RK-SCAN-23"]


@pytest.mark.parametrize(
    "program",
    [
        MESH + b")R",
        MESH + b"(" + TEXT + b"t\x81",
        MESH + b")}\x92",
        b"(" + MESH + b"o",
        b"(itorch.distributed.device_mesh\nDeviceMesh\n",
        MESH + b")\x81}" + SPECIAL + MESH + b"sb",
        MESH + b")\x81}" + SPECIAL + b"K\x01sb}b",
        MESH + b")\x81N}" + SPECIAL + b"K\x01s\x86b",
        MESH + b")\x81" + TEXT + b"K\x01s",
        MESH + b")\x81K\x01a",
        MESH + b")\x81(K\x01e",
        REBUILD + b"(" + MESH + MESH + b")}tR",
        REBUILD + b"(" + WRAPPER + MESH + b"(" + DTENSOR + b"t}tR",
        REBUILD + b"(" + WRAPPER + DTENSOR + b"(" + MESH + b"t}tR",
        REBUILD + b"(" + WRAPPER + DTENSOR + b"(" + DTENSOR + b"t}" + TEXT + MESH + b"stR",
        DTENSOR + b")\x81",
        SHARD + b")\x81}" + TEXT + b"]" + MESH + b"asb",
        SHARD + b")\x81}" + TEXT + b"]q\x01sb0h\x01" + MESH + b"a",
    ],
)
def test_any_other_use_is_an_import_like_any_other(program: bytes):
    codes = codes_of(program)
    assert "RK-SCAN-02" in codes
    assert "RK-SCAN-23" not in codes


def test_another_name_in_such_a_file_is_reported_as_ever(tmp_path: Path):
    path = GOLDEN / "two" / "model_world_size_2_rank_0.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "evil.pt", "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                data = data[:-1] + b"0cos\nsystem\n" + TEXT + b"\x85R."
            target.writestr(name, data)
    found = scan(tmp_path / "evil.pt")
    assert found.verdict == "dangerous"
    assert found.findings[0].code == "RK-SCAN-01"
