"""convert: between containers, nothing lost in silence, nothing changed on the way."""

import os
import pickle
import resource
import subprocess
import sys
import zipfile

import pytest
import torch
from alike import assert_alike, bits
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from zoo import FLOATS, INTEGERS, TYPED, Net, complete, of_dtype, quiet

from rekindle.errors import CannotWrite, NotAModel, UnreadableFile
from rekindle.verbs.convert import CONTAINERS, container_for, convert
from rekindle.verbs.inspect import inspect


def state(names=("float32", "bfloat16", "int64", "bool", "uint8")):
    found = {name: of_dtype(name) for name in names}
    return {**found, "scalar": torch.tensor(2.5), "empty": torch.empty(0, 3), "t": torch.randn(3, 4).t()}


def facts(path):
    """Return what identifies the tensors of a file: key, dtype, shape and the digest of its elements."""
    found = inspect(path, digest=True)
    return {entry.key: (entry.dtype, entry.shape, found.digests[entry.key]) for entry in found.table}


def make(path, obj, container):
    if container == "safetensors":
        save_file({key: tensor.contiguous() for key, tensor in obj.items()}, path)
    else:
        torch.save(obj, path, _use_new_zipfile_serialization=container == "torch-zip")


@pytest.mark.parametrize("target", CONTAINERS)
@pytest.mark.parametrize("source", CONTAINERS)
def test_between_all_containers_every_digest_stays(tmp_path, source, target):
    make(tmp_path / "a", state(), source)
    done = convert(tmp_path / "a", tmp_path / "b", to=target)
    assert done.lost == ()
    assert {row.key for row in done.written} == set(state())
    assert inspect(tmp_path / "b").format == target
    assert facts(tmp_path / "b") == facts(tmp_path / "a")
    found = load_file(tmp_path / "b") if target == "safetensors" else torch.load(tmp_path / "b", weights_only=True)
    assert {key: bits(tensor) for key, tensor in found.items()} == {
        key: bits(tensor) for key, tensor in inspect_with_torch(tmp_path / "a", source).items()
    }


def inspect_with_torch(path, container):
    return load_file(path) if container == "safetensors" else torch.load(path, weights_only=True)


@pytest.mark.parametrize("target", ["torch-zip", "torch-stream"])
@pytest.mark.parametrize("source", ["torch-zip", "torch-stream"])
def test_between_torchs_containers_the_whole_object_stays(tmp_path, source, target):
    obj = dict(complete(TYPED))
    obj["nested"] = obj["nested"][:2]
    obj["numbers"] = [value for value in obj["numbers"] if not isinstance(value, torch.Size)]
    with quiet():
        make(tmp_path / "a", obj, source)
        done = convert(tmp_path / "a", tmp_path / "b", to=target)
        assert done.lost == ()
        for weights_only in (True, False):
            assert_alike(obj, torch.load(tmp_path / "b", weights_only=weights_only))


def test_views_share_their_storage_in_the_new_file(tmp_path):
    base = torch.arange(6.0)
    torch.save({"base": base, "view": base[2:]}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.pth")
    found = torch.load(tmp_path / "b.pth")
    found["view"][0] = 100
    assert found["base"][2] == 100


def test_untied_tensors_share_nothing_and_keep_their_values(tmp_path):
    base = torch.arange(1000.0)
    torch.save({"base": base, "view": base[2:5]}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.pth", part="view", to="torch-zip")
    done = convert(tmp_path / "a.pth", tmp_path / "c.pth", untie=True)
    found = torch.load(tmp_path / "c.pth")
    assert found["view"].untyped_storage().nbytes() == 12
    assert facts(tmp_path / "c.pth") == facts(tmp_path / "a.pth")
    assert done.findings == ()


def test_a_view_that_drags_its_storage_along_is_said(tmp_path):
    torch.save({"view": torch.arange(1000.0)[2:5]}, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "b.pth")
    (finding,) = done.findings
    assert finding.what == "4,000 bytes of storage 0 go over for a view of 12"
    assert finding.do.endswith("b.pth --untie")


def test_tied_weights_are_written_under_both_keys_of_safetensors_and_said(tmp_path):
    weight = torch.randn(8, 4)
    torch.save({"in": weight, "out": weight, "head": weight[:2]}, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert {row.key for row in done.written} == {"in", "out", "head"}
    (finding,) = done.findings
    assert finding.what == "in, out, head share their bytes and are written one by one: 288 bytes instead of 128"
    found = load_file(tmp_path / "a.safetensors")
    assert torch.equal(found["in"], weight)
    assert torch.equal(found["head"], weight[:2])


def test_what_safetensors_cannot_hold_is_lost_with_its_reason(tmp_path):
    with quiet():
        obj = {
            "w": torch.ones(2),
            "z": torch.ones(2, dtype=torch.complex128),
            "q": torch.quantize_per_tensor(torch.ones(2), 0.5, 1, torch.qint8),
            "s": torch.eye(2).to_sparse(),
            "epoch": 3,
            "meta": torch.empty(2, device="meta"),
        }
        torch.save(obj, tmp_path / "a.pth")
        done = convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert [row.key for row in done.written] == ["w"]
    assert {loss.key: loss.why for loss in done.lost} == {
        "z": "safetensors has no type for complex128",
        "q": "safetensors has no type for qint8",
        "s.indices": "a part of a sparse_coo tensor; safetensors holds plain tensors only",
        "s.values": "a part of a sparse_coo tensor; safetensors holds plain tensors only",
        "meta": "it has no values (meta device)",
        "epoch": "a plain value; safetensors holds tensors only",
    }
    assert {loss.key for loss in done.lost if not loss.is_tensor} == {"epoch"}


def test_nothing_to_write_is_an_error_and_leaves_nothing(tmp_path):
    torch.save({"z": torch.ones(2, dtype=torch.complex128), "epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(CannotWrite, match="nothing in it can be written as safetensors") as caught:
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    assert "b.pth" in caught.value.do
    assert os.listdir(tmp_path) == ["a.pth"]


def test_objects_that_need_code_are_lost_and_the_rest_opens_safely(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch hacked",)

    torch.save({"evil": Evil(), "w": torch.ones(2), "list": [Evil(), 1]}, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "b.pth")
    assert {loss.key for loss in done.lost} == {"evil", "list.0"}
    found = torch.load(tmp_path / "b.pth", weights_only=True)
    assert found["list"] == [None, 1]
    assert list(found) == ["w", "list"]
    assert b"system" not in (tmp_path / "b.pth").read_bytes()
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("target", CONTAINERS)
def test_a_whole_module_becomes_its_state_dict(tmp_path, target):
    net = Net()
    torch.save(net, tmp_path / "net.pth")
    done = convert(tmp_path / "net.pth", tmp_path / "out", to=target)
    assert "module-as-state-dict" in {finding.name for finding in done.findings}
    found = load_file(tmp_path / "out") if target == "safetensors" else torch.load(tmp_path / "out")
    if target == "safetensors":
        found.pop("cache")  # a buffer that state_dict() leaves out, yet a tensor of the file
    else:
        assert [loss.key for loss in done.lost] == ["cache"]
        assert list(found) == list(net.state_dict())
    assert {key: bits(value) for key, value in found.items()} == {k: bits(v) for k, v in net.state_dict().items()}


def test_weights_under_a_wrapper_key_are_pointed_at_and_can_be_taken_alone(tmp_path):
    model = torch.nn.Linear(2, 2)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "a.ckpt")
    done = convert(tmp_path / "a.ckpt", tmp_path / "b.safetensors")
    assert set(load_file(tmp_path / "b.safetensors")) == {"state_dict.weight", "state_dict.bias"}
    (finding,) = done.findings
    assert finding.do.endswith("--part state_dict")
    done = convert(tmp_path / "a.ckpt", tmp_path / "c.safetensors", part="state_dict")
    assert done.lost == ()
    model.load_state_dict(load_file(tmp_path / "c.safetensors"))


def test_a_part_may_lie_deep_and_under_keys_with_dots(tmp_path):
    torch.save({"a": {"b.c": {"d": torch.ones(1)}}}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.pth", part="a.b.c")
    assert list(torch.load(tmp_path / "b.pth")) == ["d"]
    with pytest.raises(CannotWrite, match=r"nothing lies under the key 'a\.x'") as caught:
        convert(tmp_path / "a.pth", tmp_path / "c.pth", part="a.x")
    assert caught.value.why == "the keys under 'a' are b.c"


def test_metadata_of_safetensors_stays_or_is_lost_with_a_word(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"format": "pt", "step": "7"})
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt", "step": "7"}
    done = convert(tmp_path / "a.safetensors", tmp_path / "b.pth")
    assert [(loss.key, loss.is_tensor) for loss in done.lost] == [("__metadata__.step", False)]


def test_what_lay_on_a_gpu_opens_anywhere(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "cpu.pth")
    data = (tmp_path / "cpu.pth").read_bytes()
    assert data.count(b"X\x03\x00\x00\x00cpuq") == 1
    (tmp_path / "mps.pth").write_bytes(data.replace(b"X\x03\x00\x00\x00cpuq", b"X\x03\x00\x00\x00mpsq"))
    done = convert(tmp_path / "mps.pth", tmp_path / "out.pth")
    assert [finding.what for finding in done.findings] == ["what was saved on mps is written for the CPU"]
    assert torch.load(tmp_path / "out.pth")["w"].tolist() == [1, 1]


def test_an_old_stream_says_which_torch_it_needs(tmp_path):
    torch.save(state(FLOATS), tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "b.pth", to="torch-stream")
    (finding,) = done.findings
    assert "bfloat16 (torch 1.2)" in finding.what


def test_a_file_of_python_2s_time_comes_into_todays(tmp_path):
    raw = pickle.dumps({"lr": 0.1, "names": ["a", "b"]}, protocol=0)
    (tmp_path / "a.pkl").write_bytes(raw)
    convert(tmp_path / "a.pkl", tmp_path / "b.pth")
    assert torch.load(tmp_path / "b.pth") == {"lr": 0.1, "names": ["a", "b"]}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run with one snapshot of a model, its optimizer and a counter."""
    import rekindle as rk

    folder = tmp_path_factory.mktemp("runs") / "digits"
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters())
    with rk.Run(folder, seed=0, save_every="1 steps") as run:
        run.track(model=model, optimizer=optimizer)
        for _ in run.epochs(1):
            for batch in run.batches(run.loader(torch.utils.data.TensorDataset(torch.randn(8, 3)), batch_size=4)):
                model(batch[0]).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
                run.step()
    return folder, {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("where", ["run", "snapshot"])
@pytest.mark.parametrize("target", CONTAINERS)
def test_a_run_gives_the_weights_of_its_model_with_plain_keys(tmp_path, run_folder, where, target):
    folder, weights = run_folder
    source = folder if where == "run" else max((folder / "snapshots").iterdir())
    done = convert(source, tmp_path / "out", to=target)
    assert done.lost == ()
    (finding,) = done.findings
    assert finding.what.startswith("the weights of model are written; left out: optimizer")
    found = load_file(tmp_path / "out") if target == "safetensors" else torch.load(tmp_path / "out", weights_only=True)
    assert {key: bits(value) for key, value in found.items()} == {key: bits(value) for key, value in weights.items()}
    fresh = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    fresh.load_state_dict(found)


def test_a_run_gives_all_it_holds_when_asked(tmp_path, run_folder):
    folder, weights = run_folder
    convert(folder, tmp_path / "all.pth", everything=True)
    found = torch.load(tmp_path / "all.pth", weights_only=True)
    assert {"model", "optimizer"} <= set(found)
    assert torch.equal(found["model"]["0.weight"], weights["0.weight"])
    convert(folder, tmp_path / "part.pth", part="optimizer")
    assert torch.load(tmp_path / "part.pth").keys() == found["optimizer"].keys()


# --- what goes wrong --------------------------------------------------------------------------------------------------


def flipped(path, needle):
    data = bytearray(path.read_bytes())
    assert data.count(needle) == 1
    data[data.index(needle) + len(needle) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("target", CONTAINERS)
@pytest.mark.parametrize("key", ["whole", "view"])
def test_a_flipped_bit_in_the_source_is_noticed_on_the_way(tmp_path, target, key):
    tensor = torch.randn(1000)
    torch.save({"w": tensor if key == "whole" else tensor[3:400], "v": torch.ones(2)}, tmp_path / "a.pth")
    flipped(tmp_path / "a.pth", bits(tensor))
    assert torch.load(tmp_path / "a.pth") is not None  # torch does not look
    with pytest.raises(UnreadableFile, match="a/data/0 is damaged: its CRC-32 is") as caught:
        convert(tmp_path / "a.pth", tmp_path / "b", to=target)
    assert caught.value.code == "RK-CONV-09"
    assert os.listdir(tmp_path) == ["a.pth"]


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("source", CONTAINERS)
def test_a_source_that_was_cut_short_is_refused(tmp_path, source, kept):
    make(tmp_path / "a", {"w": torch.randn(1000)}, source)
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UnreadableFile):
        convert(tmp_path / "a", tmp_path / "b", to="torch-zip")
    assert os.listdir(tmp_path) == ["a"]


def test_a_source_that_is_no_model_is_named(tmp_path):
    (tmp_path / "a.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(NotAModel, match=r"(?i)lfs"):
        convert(tmp_path / "a.pth", tmp_path / "b.pth")


def test_a_target_that_is_there_is_left_alone_unless_forced(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"precious")
    with pytest.raises(CannotWrite, match=r"b\.pth: there is a file of this name already"):
        convert(tmp_path / "a.pth", tmp_path / "b.pth")
    assert (tmp_path / "b.pth").read_bytes() == b"precious"
    convert(tmp_path / "a.pth", tmp_path / "b.pth", force=True)
    assert torch.load(tmp_path / "b.pth")["w"].tolist() == [1, 1]


def test_a_file_may_be_converted_onto_itself(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    before = facts(path)
    with pytest.raises(CannotWrite):
        convert(path, path)
    convert(path, path, force=True)
    assert inspect(path).format == "torch-zip"
    assert facts(path) == before
    os.link(path, tmp_path / "b.pth")
    convert(path, tmp_path / "b.pth", to="safetensors", force=True)
    assert facts(tmp_path / "b.pth") == before == facts(path)


@pytest.mark.parametrize(
    ("target", "to", "message"),
    [
        ("folder", None, "is a folder"),
        ("a.foo", None, "the suffix '.foo' does not say which container to write"),
        ("noext", None, "without a suffix"),
        ("a.pth", "hdf5", "'hdf5' is not a container that rekindle writes"),
    ],
)
def test_a_target_that_makes_no_sense_is_said(tmp_path, target, to, message):
    (tmp_path / "folder").mkdir()
    torch.save({"w": torch.ones(2)}, tmp_path / "src.pth")
    with pytest.raises(CannotWrite, match=message):
        convert(tmp_path / "src.pth", tmp_path / target, to=to)
    assert sorted(os.listdir(tmp_path)) == ["folder", "src.pth"]


def test_the_suffix_names_the_container():
    found = {suffix: container_for(f"a.{suffix}") for suffix in ("pth", "PT", "bin", "ckpt", "safetensors")}
    assert found == dict.fromkeys(("pth", "PT", "bin", "ckpt"), "torch-zip") | {"safetensors": "safetensors"}


@pytest.mark.parametrize("target", CONTAINERS)
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, target):
    torch.save({"w": torch.randn(500_000)}, tmp_path / "a.pth")
    before = (tmp_path / "a.pth").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # the kernel then refuses as a full disk does
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            convert(tmp_path / "a.pth", tmp_path / "b", to=target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert any("nothing else was changed" in note for note in caught.value.__notes__)
    assert os.listdir(tmp_path) == ["a.pth"]
    assert (tmp_path / "a.pth").read_bytes() == before


def test_a_file_that_cannot_fit_is_refused_before_the_first_byte(tmp_path, monkeypatch):
    torch.save({"w": torch.randn(50_000)}, tmp_path / "a.pth")
    room = os.statvfs(tmp_path)
    small = os.statvfs_result((*room[:4], 10, *room[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: small)
    with pytest.raises(OSError, match="the new file needs 200,000 bytes, the disk has") as caught:
        convert(tmp_path / "a.pth", tmp_path / "b.pth")
    assert caught.value.errno == 28
    assert os.listdir(tmp_path) == ["a.pth"]


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
def test_an_error_at_any_call_leaves_the_old_target_and_no_litter(tmp_path, monkeypatch, name):
    torch.save({"w": torch.randn(10)}, tmp_path / "a.pth")
    real, calls = getattr(os, name), []
    number = 0
    while True:
        number += 1
        (tmp_path / "b.pth").write_bytes(b"precious")
        calls.clear()

        def failing(*args, number=number):
            calls.append(args)
            if len(calls) == number:
                raise OSError(5, "Input/output error")
            return real(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, name, failing)
            try:
                convert(tmp_path / "a.pth", tmp_path / "b.pth", force=True)
                break
            except OSError as error:
                found = error.errno
        assert found == 5
        assert sorted(os.listdir(tmp_path)) == ["a.pth", "b.pth"]
        content = (tmp_path / "b.pth").read_bytes()
        assert content == b"precious" or (name == "fsync" and zipfile.is_zipfile(tmp_path / "b.pth"))
    assert number > {"write": 10, "fsync": 2, "replace": 1}[name]


def test_a_fault_of_ours_is_noticed_before_the_file_takes_its_place(tmp_path, monkeypatch):
    from rekindle.writers import torch_zip

    torch.save({"w": torch.randn(10), "v": torch.randn(10)}, tmp_path / "a.pth")
    real = torch_zip.write_program

    def swapped(program, out):
        from dataclasses import replace

        zero, one = b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001"
        assert program.pickle.count(zero) == program.pickle.count(one) == 1
        names = program.pickle.replace(zero, b"?").replace(one, zero).replace(b"?", one)
        return real(replace(program, pickle=names), out)

    monkeypatch.setattr(torch_zip, "write_program", swapped)
    with pytest.raises(UnreadableFile, match="the bytes of w are not where they were put; it was thrown away"):
        convert(tmp_path / "a.pth", tmp_path / "b.pth")
    assert os.listdir(tmp_path) == ["a.pth"]


def test_a_source_that_is_written_to_meanwhile_is_noticed(tmp_path, monkeypatch):
    from rekindle.writers import torch_zip

    torch.save({"w": torch.randn(10)}, tmp_path / "a.pth")
    real = torch_zip.write_program

    def slow(program, out):
        yield from real(program, out)
        with (tmp_path / "a.pth").open("ab") as other:
            other.write(b"more")

    monkeypatch.setattr(torch_zip, "write_program", slow)
    with pytest.raises(UnreadableFile, match="the file changed while it was read"):
        convert(tmp_path / "a.pth", tmp_path / "b.pth")
    assert os.listdir(tmp_path) == ["a.pth"]


MEMORY = """
import sys
from rekindle.verbs.convert import convert
convert(sys.argv[1], sys.argv[2], to=sys.argv[3])
assert "torch" not in sys.modules and "numpy" not in sys.modules
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024)
"""


@pytest.mark.parametrize("target", ["torch-zip", "safetensors"])
def test_300_mb_are_converted_in_100_mb_of_memory_and_without_torch(tmp_path, target):
    big = torch.zeros(40_000_000)
    torch.save({"w": big, "t": torch.zeros(7000, 5000).t()}, tmp_path / "a.pth")
    words = [sys.executable, "-c", MEMORY, str(tmp_path / "a.pth"), str(tmp_path / "b"), target]
    assert int(subprocess.run(words, check=True, capture_output=True, text=True).stdout) < 100
    assert (tmp_path / "b").stat().st_size > 300_000_000
    for name in ("a.pth", "b"):
        (tmp_path / name).unlink()


def test_all_types_go_there_and_back(tmp_path):
    obj = {name: of_dtype(name) for name in (*FLOATS, *INTEGERS, "complex64", "float8_e5m2", "float8_e4m3fn")}
    torch.save(obj, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "c.pth", to="torch-stream")
    convert(tmp_path / "c.pth", tmp_path / "d.pth")
    found = torch.load(tmp_path / "d.pth")
    assert_alike(obj, {key: found[key] for key in obj})
