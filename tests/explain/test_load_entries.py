"""Reading and writing checkpoints: the right key, size, file and command, from each wording and from live frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from explaining import run_example

from rekindle.explain.catalogue._state_dicts import fault_of, refused_of
from rekindle.explain.event import Event, Frame, event_of
from rekindle.explain.hooks import explain_exception
from rekindle.explain.match import causes_of
from rekindle.explain.report import explain_events

TORCH = "lib/python3.11/site-packages/torch/serialization.py"


def told(text: str, *codes: str, reader: bool = False):
    """What is said of a message that was raised by these lines of the user's, inside torch's reader if so."""
    frames = [Frame("train.py", 3 + n, "main", code) for n, code in enumerate(codes)]
    frames += [Frame(TORCH, 1500, "load", "return _load(...)", is_users=False)] if reader else []
    event = event_of(text)
    causes = causes_of(Event(event.raised, event.message, tuple(frames)), strict=True)
    return [cause for cause in causes if cause.code.startswith("RK-LOAD")]  # others may have more to say


def refused(missing: str = "", unexpected: str = "", *sizes: str) -> str:
    lines = ["RuntimeError: Error(s) in loading state_dict for Net:"]
    lines += [f"\tMissing key(s) in state_dict: {missing}. "] if missing else []
    lines += [f"\tUnexpected key(s) in state_dict: {unexpected}. "] if unexpected else []
    return "\n".join([*lines, *(f"\t{size}" for size in sizes)])


def size(key: str, file: str, model: str) -> str:
    return (
        f"size mismatch for {key}: copying a param with shape torch.Size([{file}]) from checkpoint,"
        f" the shape in current model is torch.Size([{model}])."
    )


STATE_DICTS = [
    ('"fc.weight"', '"module.fc.weight"', "RK-LOAD-07", "'module.'", "--strip module."),
    (
        '"module.fc.weight"',
        '"fc.weight"',
        "RK-LOAD-07",
        "module.fc.weight is wanted",
        "model.module.load_state_dict(state)",
    ),
    (
        '"fc.weight"',
        '"_fsdp_wrapped_module.fc.weight"',
        "RK-LOAD-07",
        "'_fsdp_wrapped_module.'",
        "rekindle doctor FILE --fix",
    ),
    ('"fc.weight"', '"_orig_mod.fc.weight"', "RK-LOAD-08", "'_orig_mod.'", '(state, "_orig_mod.")'),
    ('"fc.weight"', '"module._orig_mod.fc.weight"', "RK-LOAD-08", "'_orig_mod.'", '(state, "module._orig_mod.")'),
    (
        '"_orig_mod.fc.weight"',
        '"fc.weight"',
        "RK-LOAD-08",
        "the model is compiled",
        "model._orig_mod.load_state_dict(state)",
    ),
    ('"fc.weight"', '"epoch", "model", "optimizer"', "RK-LOAD-35", "under 'model'", 'checkpoint["model"]'),
    ('"fc.weight"', '"net.fc.weight"', "RK-LOAD-37", "'net.'", 'key.removeprefix("net.")'),
    ('"net.fc.weight"', '"fc.weight"', "RK-LOAD-37", "net.fc.weight is wanted", "model.net.load_state_dict(state)"),
    ('"head.weight"', '"heads.weight"', "RK-LOAD-09", "1 key missing", 'state.pop("heads.weight")'),
]


@pytest.mark.parametrize(("missing", "unexpected", "code", "what", "fix"), STATE_DICTS)
def test_keys_that_do_not_fit_are_told_apart_by_what_they_have_in_common(missing, unexpected, code, what, fix):
    causes = told(refused(missing, unexpected))
    assert [cause.code for cause in causes] == [code]
    assert what in causes[0].what
    assert any(fix in line for line in causes[0].fix), causes[0].fix


def test_a_head_for_other_classes_is_named_with_both_numbers():
    text = refused("", "", size("fc.weight", "1000, 512", "10, 512"), size("fc.bias", "1000", "10"))
    (cause,) = told(text, 'model.load_state_dict(torch.load("resnet.pth"))')
    assert cause.what == "fc.weight is [1000, 512] in the file and [10, 512] in the model"
    assert "the head fc differs: the file was trained with 1000 outputs, the model has 10" in cause.why
    assert cause.fix[0].endswith("model.fc = nn.Linear(512, 10)")
    assert cause.fix[2].startswith("rekindle convert resnet.pth resnet.body.pth --drop 'fc.*'")


def test_a_first_convolution_and_a_vocabulary_are_not_called_a_head():
    (conv,) = told(refused("", "", size("conv1.weight", "64, 3, 7, 7", "64, 1, 7, 7")))
    assert "takes 1 channels here and took 3 in the file" in conv.why
    (rows,) = told(refused("", "", size("embed.weight", "30522, 768", "30525, 768")))
    assert "30522 rows" in rows.why


def test_missing_keys_and_other_sizes_are_two_causes():
    causes = told(refused('"fc2.weight"', "", size("fc.weight", "4, 2", "3, 2")))
    assert [(cause.code, cause.likelihood) for cause in causes] == [("RK-LOAD-09", "likely"), ("RK-LOAD-10", "likely")]


def test_a_wrapper_hides_nothing_when_only_some_keys_have_its_name():
    event = event_of(refused('"a.weight", "b.weight", "c.weight"', '"module.x", "y.weight", "z.weight"'))
    assert fault_of(refused_of(event)) == "other"


@pytest.mark.parametrize(
    ("name", "dangerous"),
    [("posix.system", True), ("builtins.eval", True), ("__main__.Net", False), ("argparse.Namespace", False)],
)
def test_a_dangerous_name_is_never_offered_to_be_allowed(name, dangerous):
    (cause,) = told(
        f"_pickle.UnpicklingError: Weights only load failed. Unsupported global: GLOBAL {name} was not an allowed"
    )
    assert name in cause.what
    said = "\n".join(cause.fix)
    assert ("weights_only=False" in said) is not dangerous
    assert ("add_safe_globals" in said) is not dangerous
    assert cause.fix[0].startswith("rekindle scan" if dangerous else "rekindle convert")


def test_the_name_of_the_file_comes_from_the_users_line():
    (cause,) = told(
        "UnpicklingError: invalid load key, '<'.",
        'state = torch.load("models/net v2.pth", map_location="cpu")',
        reader=True,
    )
    assert cause.what == "models/net v2.pth is a web page, not a checkpoint"
    assert cause.fix[0].startswith("rekindle doctor 'models/net v2.pth'")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("UnpicklingError: invalid load key, '<'.", "RK-LOAD-17"),
        ("UnpicklingError: Weights only load failed. WeightsUnpickler error: \n\nUnsupported operand 60", "RK-LOAD-17"),
        ("UnpicklingError: WeightsUnpickler error: \n\nUnsupported operand 118", "RK-LOAD-18"),
        (
            "SafetensorError: Error while deserializing header: incomplete metadata, file not fully covered",
            "RK-LOAD-16",
        ),
        ("SafetensorError: Error while deserializing header: header too small", "RK-LOAD-19"),
        ("SafetensorError: Error while deserializing header: HeaderTooLarge", "RK-LOAD-33"),
        ("RuntimeError: unexpected EOF, expected 20176 more bytes. The file might be corrupted.", "RK-LOAD-16"),
        ("RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598", "RK-LOAD-32"),
        ("ModuleNotFoundError: No module named 'numpy._core'", "RK-LOAD-15"),
    ],
)
def test_what_a_file_really_is_follows_from_the_first_byte_torch_refused(text, code):
    assert [cause.code for cause in told(text)] == [code]


@pytest.mark.parametrize(
    ("text", "code", "what"),
    [
        (
            "UnpicklingError: WeightsUnpickler error: \n\nUnsupported operand 149",
            "RK-LOAD-40",
            "a pickle of protocol 4 or 5",
        ),
        ("UnpicklingError: WeightsUnpickler error: \n\nUnsupported operand 31", "RK-LOAD-39", "a gzip archive"),
        ("UnpicklingError: WeightsUnpickler error: \n\nUnsupported operand 72", "RK-LOAD-39", "HDF5"),
        ("UnpicklingError: WeightsUnpickler error: \n\nUnsupported operand 8", "RK-LOAD-39", "refused at byte 0x08"),
        ("RuntimeError: Invalid magic number; corrupt file?", "RK-LOAD-39", "not one that torch.save wrote"),
    ],
)
def test_other_kinds_of_file_are_named_as_far_as_their_first_byte_tells(text, code, what):
    (cause,) = told(text)
    assert cause.code == code
    assert what in cause.what


def test_a_load_key_of_plain_pickle_is_left_to_its_user():
    assert told("UnpicklingError: invalid load key, 'H'.", "rows = pickle.load(file)") == []


ORDINARY = [
    ("KeyError: 'labels'", "loss = criterion(model(batch['images']), batch['labels'])"),
    ("KeyError: 'epoch'", "print(config['epoch'])"),
    ("FileNotFoundError: [Errno 2] No such file or directory: 'notes.txt'", "open('notes.txt')"),
    ("ModuleNotFoundError: No module named 'yaml'", "import yaml"),
    ("EOFError: Ran out of input", "rows = pickle.load(file)"),
    ("OSError: [Errno 28] No space left on device", "open('log.txt', 'a').write(line)"),
    (
        "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xe4 in position 0: invalid continuation byte",
        "text = open('a').read()",
    ),
    ("AttributeError: 'dict' object has no attribute 'to'", "batch = batch.to(device)"),
    ("AttributeError: 'dict' object has no attribute 'train'", "lr = config.train['lr']"),
    ("TypeError: 'dict' object is not callable", "value = table(3)"),
    ("TypeError: cannot pickle '_thread.lock' object", "pool.map(work, jobs)"),
    ("OSError: [Errno 22] Invalid argument", "os.lseek(handle, -1, 0)"),
]


@pytest.mark.parametrize(("text", "code"), ORDINARY)
def test_the_same_errors_of_ordinary_python_are_left_alone(text, code):
    assert told(text, code) == []


@pytest.mark.parametrize(
    ("text", "codes", "reader", "code"),
    [
        (
            "KeyError: 'optimizer_state_dict'",
            ["optimizer.load_state_dict(ckpt['optimizer_state_dict'])"],
            False,
            "RK-LOAD-12",
        ),
        ("KeyError: 'net'", ["net.load_state_dict(checkpoint['net'])"], False, "RK-LOAD-12"),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: 'best.pt'",
            ["torch.load('best.pt')"],
            True,
            "RK-LOAD-27",
        ),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: 'runs/1/best.pt'",
            ["torch.save(state, 'runs/1/best.pt')"],
            False,
            "RK-LOAD-30",
        ),
        (
            "ModuleNotFoundError: No module named 'models'",
            ["torch.load('yolo.pt', weights_only=False)"],
            True,
            "RK-LOAD-14",
        ),
        ("OSError: [Errno 28] No space left on device", ["torch.save(state, path)"], False, "RK-LOAD-32"),
        ("AttributeError: 'dict' object has no attribute 'eval'", ["model.eval()"], False, "RK-LOAD-11"),
        ("AttributeError: 'dict' object has no attribute 'cuda'", ["model = checkpoint.cuda()"], False, "RK-LOAD-11"),
    ],
)
def test_on_a_line_that_reads_or_writes_a_checkpoint_they_are_explained(text, codes, reader, code):
    assert [cause.code for cause in told(text, *codes, reader=reader)] == [code]


LIVE = [
    (
        "buffer = io.BytesIO()\ntorch.save({'w': torch.zeros(2)}, buffer)\ntorch.load(buffer)",
        "RK-LOAD-19",
        "torch.load was given a buffer that stands at its end",
        "buffer.seek(0)",
    ),
    (
        "checkpoint = {'model_state_dict': {}, 'optimizer_stat_dict': {}}\ncheckpoint['optimizer_state_dict']",
        "RK-LOAD-12",
        "the checkpoint has no entry 'optimizer_state_dict'; it has model_state_dict, optimizer_stat_dict",
        'checkpoint["optimizer_stat_dict"]   # the nearest key that is there',
    ),
    (
        "torch.save({'w': torch.zeros(2)}, 'best.pth')\nPATH = 'best' + '.pt'\ntorch.load(PATH)",
        "RK-LOAD-27",
        "there is no best.pt in ",
        "torch.load('best.pth')   # near names: best.pth",
    ),
    (
        "state = {'model_state_dict': {'w': torch.zeros(2)}}\nstate.eval()",
        "RK-LOAD-11",
        ".eval() was asked of a dictionary (state), not of a model",
        'model.load_state_dict(state["model_state_dict"])',
    ),
    (
        (
            "torch.save(torch.nn.Linear(2, 2), 'whole.pt')\n"
            "torch.nn.Linear(2, 2).load_state_dict(torch.load('whole.pt', weights_only=False))"
        ),
        "RK-LOAD-11",
        "load_state_dict was given an object of the class Linear, not a state dict",
        "model.load_state_dict(saved.state_dict())",
    ),
]


@pytest.mark.parametrize(("source", "code", "what", "fix"), LIVE, ids=[code for _, code, *_ in LIVE])
def test_live_facts_name_the_file_the_keys_and_the_nearest_of_them(
    source, code, what, fix, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    ran = run_example(f"import io\nimport torch\n{source}\n", tmp_path)
    cause = explain_events(ran.events, strict=True).causes[0]
    assert cause.code == code
    assert cause.what.startswith(what)
    assert any(line.startswith(fix) or fix in line for line in cause.fix), cause.fix


def test_an_empty_file_and_a_cut_one_are_told_apart_by_their_size(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.zeros(1000)}, "whole.pt", _use_new_zipfile_serialization=False)
    said = {}
    for name, kept in (("empty.pt", 0), ("cut.pt", 100)):
        Path(name).write_bytes(Path("whole.pt").read_bytes()[:kept])
        ran = run_example(f"import torch\ntorch.load('{name}')\n", tmp_path)
        said[name] = [cause.code for cause in explain_events(ran.events, strict=True).causes]
    assert said == {"empty.pt": ["RK-LOAD-19"], "cut.pt": ["RK-LOAD-16"]}


@pytest.mark.parametrize("first", ["argparse.Namespace(a=1)", "np.float64(0.5)"])
def test_a_danger_deeper_in_the_file_is_seen_although_torch_stopped_at_a_harmless_name(
    first, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    source = (
        "import argparse, os\nimport numpy as np\nimport torch\nclass Evil:\n"
        "    def __reduce__(self):\n        return os.system, ('true',)\n"
        f"torch.save({{'first': {first}, 'then': Evil()}}, 'evil.pt')\ntorch.load('evil.pt')\n"
    )
    cause = explain_events(run_example(source, tmp_path).events, strict=True).causes[0]
    assert cause.code == "RK-LOAD-01"
    assert cause.what.startswith("the file would run code while it loads")
    assert "system('true')" in cause.what
    assert cause.fix == ("rekindle scan evil.pt   # what it would import and call, without loading it",)


def test_live_the_doctor_is_asked_what_the_file_really_is_and_only_commands_that_help_are_offered(
    tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    save = "import torch\ntorch.save({'a': torch.zeros(9), 'b': torch.zeros(100000)}, 'cut.pt')\n"
    cut = f"{save}with open('cut.pt', 'rb+') as file:\n    file.truncate(9000)\n"
    cause = explain_events(run_example(f"{cut}torch.load('cut.pt')\n", tmp_path).events, strict=True).causes[0]
    assert "rekindle doctor finds: the archive ends before its directory; found 9,000 bytes" in cause.why
    assert cause.fix[0] == "rekindle salvage cut.pt -o cut.rescued.safetensors"
    page = "import torch\nwith open('page.pt', 'w') as file:\n    file.write(' <html>')\n"
    cause = explain_events(run_example(f"{page}torch.load('page.pt')\n", tmp_path).events, strict=True).causes[0]
    assert cause.what == "page.pt is a web page, not a checkpoint (7 bytes)"
    assert cause.why.endswith("[RK-FILE-03]")


def test_settings_with_keys_of_a_checkpoint_are_no_checkpoint():
    cfg = {"model": {"name": "r18"}, "epoch": 3}
    with pytest.raises(KeyError) as caught:
        cfg["optimizer"]
    assert explain_exception(caught.value).causes == ()
    checkpoint = {"model": {"name": "r18"}, "epoch": 3}
    with pytest.raises(KeyError) as caught:
        checkpoint["optimizer"]
    assert [cause.code for cause in explain_exception(caught.value).causes] == ["RK-LOAD-12"]


def test_the_name_of_a_file_is_not_a_key_of_what_is_saved():
    text = "RuntimeError: [enforce fail at inline_container.cc:747] . open file failed with strerror: Is a directory"
    event = event_of(text)
    frame = Frame("train.py", 3, "main", 'torch.save({"weights": 1}, "out")')
    [cause] = causes_of(replace(event, frames=(frame,)), strict=True)
    assert cause.code == "RK-LOAD-45"
    assert "weights" not in cause.what
