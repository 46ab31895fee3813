"""`scan` calls ordinary files clean, and nothing that torch itself refuses to import; it runs nothing."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import attacks
import pytest
import torch
import zoo
from torch import nn

from rekindle.finding import Severity
from rekindle.verbs.scan import VERDICTS, scan, worst_verdict

GOLDEN = Path(__file__).parent.parent / "golden"


def codes(found) -> set[str]:
    return {finding.code for finding in found.findings}


def ordinary(names: tuple[str, ...]) -> dict[str, object]:
    """A checkpoint of every layout and kind, without objects of a user's class."""
    whole = zoo.complete(names)
    whole["nested"] = whole["nested"][:2]
    return whole


def test_ordinary_checkpoints_of_every_dtype_and_container_are_clean(tmp_path):
    from safetensors.torch import save_file

    with zoo.quiet():
        every = (*zoo.FLOATS, *zoo.INTEGERS, *zoo.COMPLEX, *zoo.EIGHT_BITS)
        torch.save(ordinary(every), tmp_path / "zip.pt")
        torch.save(ordinary(zoo.TYPED), tmp_path / "stream.pt", _use_new_zipfile_serialization=False)
        for protocol in (3, 4, 5):
            torch.save(ordinary(every), tmp_path / f"zip{protocol}.pt", pickle_protocol=protocol)
        for name in every:
            torch.save({"w": zoo.of_dtype(name)}, tmp_path / f"{name}.pt")
    save_file({"w": torch.ones(3)}, tmp_path / "w.safetensors")
    torch.save(zoo.Net().state_dict(), tmp_path / "state_dict.pt")
    net = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pt")
    found = scan(tmp_path)
    assert len(found.files) == len(list(tmp_path.iterdir()))
    assert {file.path: file.findings for file in found.files if file.verdict != "clean"} == {}
    assert found.verdict == "clean"


CLEAN = (
    "readers/zip-state-dict.pt",
    "readers/zip-strided.pt",
    "readers/zip-protocol-4.pt",
    "readers/stream-state-dict.pt",
    "readers/stream-protocol-4.pt",
    "readers/safetensors.pt",
    "torch_tar/views.tar",
    "distcp/sharded",
    "distcp/mixed",
    "distcp/hub",
    "deepspeed/universal",
    "torch_export/program.pt2",
)


@pytest.mark.parametrize("path", CLEAN)
def test_files_of_other_containers_are_clean(path):
    found = scan(GOLDEN / path)
    assert found.verdict == "clean", found


@pytest.mark.parametrize("path", ["torchscript/scripted.pt", "torchscript/traced.pt", "torchscript/of_1_0.pt"])
def test_torchscript_is_a_notice(path):
    found = scan(GOLDEN / path)
    assert (found.format, found.verdict) == ("torchscript", "notice")
    assert "RK-SCAN-14" in codes(found)


def test_source_code_in_a_package_is_a_notice():
    assert scan(GOLDEN / "torch_package/package.pt").verdict == "notice"


class Mine:
    """A user's class."""


class Dict(dict):
    """A user's dict."""


def refused() -> dict[str, object]:
    return {
        "object": Mine(),
        "dict": Dict(a=1),
        "module": nn.Linear(2, 2),
        "sequential": nn.Sequential(nn.Linear(1, 1)),
        "namespace": argparse.Namespace(lr=0.1),
        "path": Path("/somewhere"),
        "defaultdict": collections.defaultdict(list, a=[1]),
        "deque": collections.deque([1]),
        "function": torch.relu,  # torch pickles it as getattr(module.class, "relu")
        "builtin": len,
        "class": Mine,
        "frozenset": frozenset({1}),
        "slice": slice(1, 2),
        "array": torch.ones(2).numpy(),
        "scalar": torch.ones(2).numpy()[0],
        "optimizer": torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1),
        "call": attacks.Call(os.getcwd),
        "danger": attacks.Call(os.system, attacks.COMMAND),
        "evaluation": attacks.Call(eval, "1 + 1"),
    }


@pytest.mark.parametrize("name", list(refused()))
@pytest.mark.parametrize("container", [True, False])
def test_what_torch_refuses_to_load_is_never_clean(tmp_path, name, container):
    path = tmp_path / "file.pt"
    torch.save({"weights": torch.ones(2), "x": refused()[name]}, path, _use_new_zipfile_serialization=container)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    found = scan(path)
    assert found.verdict in {"notice", "dangerous"}
    expected = "dangerous" if name in {"danger", "evaluation", "call"} else "notice"
    assert found.verdict == expected, found


PROGRAMS = {
    "items set on a tensor class": b"\x80\x02ctorch\nTensor\nK\x00K\x01s.",
    "items set on a size": b"\x80\x02ctorch\nSize\n(K\x02tR(K\x00K\x01u.",
    "appends to a size": b"\x80\x02ctorch\nSize\n(K\x02tRK\x01a.",
    "state of a size": b"\x80\x02ctorch\nSize\n(K\x02tR}b.",
    "state of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor\n}b.",
    "call of a result": b"\x80\x02ctorch\nSize\n(K\x02tR)R.",
    "call of a list": b"\x80\x02]K\x01\x85R.",
    "codec by name": b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
    "codec of a bytearray": b"\x80\x02cbuiltins\nbytearray\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
    "extension": b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_odd_uses_of_harmless_names_are_never_clean(tmp_path, name):
    (tmp_path / "file.pt").write_bytes(attacks.torch_zip(PROGRAMS[name]))
    assert scan(tmp_path / "file.pt").verdict != "clean"


def test_a_danger_outranks_all_else_and_what_nobody_saw_outranks_the_unknown(tmp_path):
    path = tmp_path / "file"
    broken, unknown = b"\x80\x02\x00", b"\x80\x02cmine\nNet\n)R."
    path.write_bytes(unknown)
    assert scan(path).verdict == "notice"
    path.write_bytes(unknown + broken)
    assert scan(path).verdict == "not-analysed"
    path.write_bytes(unknown + attacks.evil() + broken)
    found = scan(path)
    assert found.verdict == "dangerous"
    assert [finding.severity for finding in found.findings] == sorted(
        (finding.severity for finding in found.findings), key=lambda severity: severity.rank
    )
    assert worst_verdict(reversed(VERDICTS)) == "dangerous"
    assert worst_verdict([]) == "clean"


def test_the_words_name_the_call_its_arguments_and_its_byte(tmp_path):
    path = tmp_path / "file.pkl"
    data = attacks.reduce_of("os", "system", attacks.ONE)
    path.write_bytes(data)
    (finding,) = scan(path).findings
    assert finding.what == "imports os.system and calls it: os.system('touch marker-of-an-attack')"
    assert finding.why == "it runs commands of the operating system"
    assert finding.where.offset == len(data) - 2  # REDUCE
    assert finding.severity is Severity.DANGER


def test_many_findings_are_bounded_but_no_danger_is_lost(tmp_path):
    path = tmp_path / "file.pkl"
    names = b"".join(b"cmine\nname%d\n0" % number for number in range(5000))
    path.write_bytes(b"\x80\x02" + names + b"cos\nsystem\n.")
    found = scan(path)
    assert found.verdict == "dangerous"
    assert len(found.findings) < 1100


def test_an_empty_file_and_a_text_are_no_model(tmp_path):
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html></html>")
    for name in ("empty.pt", "page.pt"):
        found = scan(tmp_path / name)
        assert (found.verdict, codes(found)) == ("not-analysed", {"RK-SCAN-18"})
    assert scan(tmp_path / "page.pt", only_models=True).verdict == "clean"


def test_in_a_folder_texts_are_passed_over_but_not_programs_that_look_like_one(tmp_path):
    (tmp_path / "LICENSE").write_text("Copyright (c) somebody\nAll rights reserved\n")
    (tmp_path / "config.json").write_text('{"hidden": 3}')
    torch.save({"w": torch.ones(1)}, tmp_path / "model.pt")
    found = scan(tmp_path)
    assert (found.verdict, found.passed_over, len(found.files)) == ("clean", 2, 1)
    (tmp_path / "notes.txt").write_bytes(b"cos\nsystem\n(S'touch marker'\ntR.")
    assert scan(tmp_path).verdict == "dangerous"


def test_a_folder_is_searched_to_its_leaves_and_links_out_of_it_are_not_followed(tmp_path):
    inside = tmp_path / "inside"
    (inside / "a" / "b").mkdir(parents=True)
    (tmp_path / "evil.pkl").write_bytes(attacks.evil())
    (inside / "a" / "b" / "deep.bin").write_bytes(attacks.GOOD)
    (inside / "same.bin").symlink_to(inside / "a" / "b" / "deep.bin")
    assert scan(inside).verdict == "clean"
    (inside / "out.bin").symlink_to(tmp_path / "evil.pkl")
    found = scan(inside)
    assert found.verdict == "not-analysed"
    assert [codes(file) for file in found.files if file.verdict != "clean"] == [{"RK-SCAN-20"}]
    (inside / "a" / "evil.bin").write_bytes(attacks.evil())
    assert scan(inside).verdict == "dangerous"


def test_a_pipe_in_a_folder_does_not_stop_a_scan(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "evil").write_bytes(attacks.evil())
    found = scan(tmp_path)
    assert found.verdict == "dangerous"
    assert len(found.files) == 2


def test_a_missing_path_is_an_error_of_the_call(tmp_path):
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "missing")


WATCH = """
import json, sys
from rekindle.verbs.scan import scan
def round():
    return [scan(path).verdict for path in sys.argv[1:]]
round()
seen = []
def hook(event, args):
    if recording:
        seen.append([event, str(args[0]) if args else ""])
recording = False
sys.addaudithook(hook)
recording = True
verdicts = round()
recording = False
loaded = [name for name in ("torch", "numpy", "pickle", "subprocess") if name in sys.modules]
print(json.dumps([verdicts, seen, loaded]))
"""


def watched(*paths: Path) -> tuple[list[str], list[list[str]], list[str]]:
    done = subprocess.run([sys.executable, "-c", WATCH, *map(str, paths)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_scanning_attacks_imports_and_runs_nothing(tmp_path):
    paths = [*attacks.write_all(tmp_path, {**attacks.programs(), **attacks.containers()}).values()]
    before = sorted(os.listdir(tmp_path))
    verdicts, seen, loaded = watched(*paths)
    assert set(verdicts) == {"dangerous"}
    opened = {name for event, name in seen if event == "open"}
    assert opened == set(map(str, paths))
    # Imports inside functions are looked up again; all of them are modules of ours or of the standard library's tables.
    others = {event for event, _ in seen} - {"open", "import", "object.__getattr__", "builtins.id"}
    assert others == set(), seen
    assert loaded == []
    assert sorted(os.listdir(tmp_path)) == before


def test_an_array_from_numpy_is_clean_and_one_of_objects_is_not(tmp_path):
    import numpy as np

    np.savez(tmp_path / "numbers.npz", a=np.ones(3), b=np.arange(4))
    np.savez(tmp_path / "objects.npz", a=np.array([1, {}], dtype=object))
    np.save(tmp_path / "names.npy", np.array(["a", "bc"]))
    assert scan(tmp_path / "numbers.npz").verdict == "clean"
    assert scan(tmp_path / "names.npy").verdict == "clean"
    assert scan(tmp_path / "objects.npz").verdict == "notice"


@pytest.mark.parametrize(
    ("protocol", "opcode"), [(0, "DICT"), (1, None), (2, None), (3, None), (4, "FRAME"), (5, "FRAME")]
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_opcodes_that_torch_refuses_are_said_of_a_clean_file(tmp_path, protocol, opcode):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(3), "epoch": 3}, path, pickle_protocol=protocol)
    found = scan(path)
    assert found.verdict == "clean"
    try:
        torch.load(path, weights_only=True)
        refused = False
    except pickle.UnpicklingError:
        refused = True
    assert [finding.code for finding in found.findings] == ["RK-SCAN-22"] * refused
    if refused:
        (said,) = found.findings
        assert said.severity is Severity.NOTE
        assert said.what.startswith("torch.load(weights_only=True) stops at the opcode ")
        assert opcode is None or said.what.endswith(opcode)
