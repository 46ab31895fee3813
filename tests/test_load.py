"""load: the object that was saved, without its code and without copying its tensors."""

import collections
import os
import pickle
import subprocess
import sys

import pytest
import torch
from alike import assert_alike
from safetensors.torch import save_file
from zoo import TYPED, Net, complete, of_dtype, quiet

from rekindle.errors import ConfigError, NotAModel, UnreadableFile
from rekindle.load import load
from rekindle.save import save
from rekindle.tree import Record


def ordinary(names=None):
    """Return the zoo without what comes back as something else: a subclass of dict, a torch.Size."""
    found = dict(complete(names) if names else complete())
    found["nested"] = found["nested"][:2]
    found["numbers"] = [value for value in found["numbers"] if not isinstance(value, torch.Size)]
    return found


@pytest.mark.parametrize("mmap", [True, False])
def test_a_torch_archive_comes_back_as_torch_saved_it(tmp_path, mmap):
    obj = ordinary()
    with quiet():
        torch.save(obj, tmp_path / "a.pth")
        assert_alike(obj, load(tmp_path / "a.pth", mmap=mmap))


@pytest.mark.parametrize("mmap", [True, False])
def test_an_old_stream_comes_back_as_torch_saved_it(tmp_path, mmap):
    obj = ordinary(TYPED)
    with quiet():
        torch.save(obj, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
        assert_alike(obj, load(tmp_path / "a.pth", mmap=mmap))


def test_safetensors_come_back_as_a_dict(tmp_path):
    obj = {name: of_dtype(name) for name in ("float32", "bfloat16", "int64", "bool", "float8_e4m3fn")}
    obj |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 3)}
    save_file(obj, tmp_path / "a.safetensors")
    found = load(tmp_path / "a.safetensors")
    assert set(found) == set(obj)
    assert_alike({key: found[key] for key in obj}, obj)


def test_a_whole_module_comes_as_its_state_dict_without_its_class(tmp_path):
    net = Net()
    torch.save(net, tmp_path / "net.pth")
    found = load(tmp_path / "net.pth")
    assert type(found) is collections.OrderedDict
    assert list(found) == list(net.state_dict())
    assert all(torch.equal(found[key], value) for key, value in net.state_dict().items())
    assert found["tied.weight"] is found["blocks.0.weight"]


def test_what_needs_code_stays_inert(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch hacked",)

    torch.save({"evil": Evil(), "w": torch.ones(2)}, tmp_path / "evil.pth")
    found = load(tmp_path / "evil.pth")
    assert isinstance(found["evil"], Record)
    assert found["evil"].args == ("touch hacked",)
    assert found["w"].tolist() == [1, 1]
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("value", [collections.defaultdict(list, a=[1]), collections.Counter("aab")], ids=repr)
def test_the_kinds_of_dict_come_back(tmp_path, value):
    torch.save({"d": value}, tmp_path / "a.pth")
    found = load(tmp_path / "a.pth")["d"]
    assert_alike(value, found)
    assert getattr(found, "default_factory", None) == getattr(value, "default_factory", None)


def test_objects_inside_themselves_come_back(tmp_path):
    cycle = [1]
    cycle.append((cycle, {"again": cycle}))
    torch.save(cycle, tmp_path / "a.pth")
    found = load(tmp_path / "a.pth")
    assert found[1][0] is found
    assert found[1][1]["again"] is found


def test_a_tensor_keeps_what_was_set_on_it(tmp_path):
    tensor = torch.nn.Parameter(torch.ones(2))
    tensor.tag = {"owner": "me"}
    torch.save([tensor], tmp_path / "a.pth")
    (found,) = load(tmp_path / "a.pth")
    assert found.tag == {"owner": "me"}


def test_an_array_comes_as_a_tensor(tmp_path):
    import numpy as np

    with (tmp_path / "a.pkl").open("wb") as out:
        pickle.dump({"x": np.arange(6, dtype=np.int32).reshape(2, 3), "n": np.float64(1.5)}, out)
    found = load(tmp_path / "a.pkl")
    assert_alike({"x": torch.arange(6, dtype=torch.int32).reshape(2, 3), "n": 1.5}, found)


def test_mapped_tensors_may_be_written_to_and_the_file_stays(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(100_000), "v": torch.ones(3)}, path)
    before = path.read_bytes()
    found = load(path)
    found["w"].add_(5)
    found["v"].requires_grad_().sum().backward()
    assert found["w"].sum() == 500_000
    assert path.read_bytes() == before


def test_mapped_tensors_outlive_the_name_of_their_file(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.arange(100_000.0)}, path)
    found = load(path)
    path.unlink()
    assert found["w"].sum() == sum(range(100_000))


def test_a_loaded_object_can_be_copied_pickled_and_saved_again(tmp_path):
    import copy

    torch.save({"w": torch.arange(3.0)}, tmp_path / "a.pth")
    found = load(tmp_path / "a.pth")
    assert_alike({"w": torch.arange(3.0)}, copy.deepcopy(found))
    assert_alike({"w": torch.arange(3.0)}, pickle.loads(pickle.dumps(found)))
    torch.save(found, tmp_path / "b.pth")
    assert_alike({"w": torch.arange(3.0)}, torch.load(tmp_path / "b.pth"))


def test_every_tensor_is_aligned_to_its_elements_also_in_a_stream(tmp_path):
    obj = {str(n): torch.ones(n, dtype=torch.float64) for n in range(1, 20)}
    torch.save(obj, tmp_path / "s.pth", _use_new_zipfile_serialization=False)
    save(obj, tmp_path / "z.pth")
    for name in ("s.pth", "z.pth"):
        assert all(tensor.data_ptr() % 8 == 0 for tensor in load(tmp_path / name).values())


def test_big_endian_files_are_swapped(tmp_path):
    import zipfile

    torch.save(
        {"w": torch.tensor([1.5, -2.0]), "c": torch.tensor([1 + 2j]), "b": torch.tensor([True])}, tmp_path / "a.pth"
    )
    with zipfile.ZipFile(tmp_path / "a.pth") as little, zipfile.ZipFile(tmp_path / "b.pth", "w") as big:
        for info in little.infolist():
            data = little.read(info)
            name = info.filename
            if name.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in name and len(data) > 1:
                data = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
            big.writestr(name, data)
    assert_alike(load(tmp_path / "a.pth"), load(tmp_path / "b.pth"))


def test_meta_gives_shapes_without_values(tmp_path):
    base = torch.randn(4, 6)
    torch.save({"base": base, "t": base.t()[1:], "p": torch.nn.Parameter(torch.ones(2))}, tmp_path / "a.pth")
    found = load(tmp_path / "a.pth", map_location="meta")
    assert {tensor.device.type for tensor in found.values()} == {"meta"}
    assert (found["t"].shape, found["t"].stride()) == (base.t()[1:].shape, base.t()[1:].stride())
    assert isinstance(found["p"], torch.nn.Parameter)


def test_a_mapping_and_a_function_say_where_tensors_go(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pth")
    assert load(tmp_path / "a.pth", map_location={"cpu": "meta"})["w"].device.type == "meta"
    assert load(tmp_path / "a.pth", map_location={"cuda:0": "cpu"})["w"].device.type == "cpu"
    asked = []

    def place(storage, location):
        asked.append((storage.nbytes(), location))

    assert load(tmp_path / "a.pth", map_location=place)["w"].tolist() == [1, 1]
    assert asked == [(8, "cpu")]
    with pytest.raises(TypeError, match="map_location returned int"):
        load(tmp_path / "a.pth", map_location=lambda *_: 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device that must be missing")
def test_a_device_that_is_not_there_is_said_with_the_way_out(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pth")
    data = (tmp_path / "a.pth").read_bytes()
    assert data.count(b"cpuq") == 1
    (tmp_path / "b.pth").write_bytes(data.replace(b"X\x03\x00\x00\x00cpuq", b"X\x03\x00\x00\x00xpuq"))
    assert load(tmp_path / "b.pth")["w"].tolist() == [1, 1]
    for location in ("cuda:3", None):
        with pytest.raises(ConfigError, match="this machine has no device") as caught:
            load(tmp_path / ("a.pth" if location else "b.pth"), map_location=location)
        assert 'rk.load(..., map_location="cpu")' in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_move_to_the_gpu_and_back_with_their_sharing(tmp_path):
    base = torch.arange(6.0, device="cuda")
    save({"base": base, "view": base[2:], "t": base.reshape(2, 3).t()}, tmp_path / "a.pth")
    torch.save({"base": base, "view": base[2:]}, tmp_path / "b.pth")
    assert load(tmp_path / "a.pth")["base"].device.type == "cpu"
    for name, location in (("a.pth", "cuda"), ("b.pth", None)):
        found = load(tmp_path / name, map_location=location)
        found["view"][0] = 100
        assert found["base"][2] == 100
        assert found["base"].device.type == "cuda"


def test_an_empty_storage_and_a_scalar_are_fine(tmp_path):
    obj = [torch.empty(0), torch.empty(3, 0, 2, dtype=torch.bool), torch.tensor(7), torch.tensor(2.5).bfloat16()]
    save(obj, tmp_path / "a.pth")
    assert_alike(obj, load(tmp_path / "a.pth"))


def test_another_kind_of_file_is_named(tmp_path):
    path = tmp_path / "model.pth"
    path.write_text("<!DOCTYPE html><html>login</html>")
    with pytest.raises(NotAModel, match="web page"):
        load(path)


def test_a_missing_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.pth")


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("name", ["a.pth", "a.stream", "a.safetensors"])
def test_a_file_that_was_cut_short_is_refused(tmp_path, name, kept):
    path = tmp_path / name
    obj = {"w": torch.randn(1000), "v": torch.randn(1000)}
    if name.endswith("safetensors"):
        save_file(obj, path)
    else:
        torch.save(obj, path, _use_new_zipfile_serialization=name.endswith("pth"))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UnreadableFile):
        load(path)


def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path):
    from rekindle.source import BufferBytes
    from rekindle.tensors import Storage
    from rekindle.tree import Tensor
    from rekindle.writers import torch_zip

    storage = Storage("0", 8, BufferBytes(memoryview(bytes(8))))
    with (tmp_path / "a.pth").open("wb") as out:
        torch_zip.write_tree(Tensor(storage, "float32", 1, (2,), (1,)), out)
    with pytest.raises(UnreadableFile, match="reaches over bytes 4 to 12"):
        load(tmp_path / "a.pth")


def test_sparse_indices_outside_the_shape_are_refused(tmp_path):
    good = torch.sparse_coo_tensor(torch.tensor([[0, 1]]), torch.tensor([1.0, 2.0]), (2,), check_invariants=True)
    bad = torch.sparse_coo_tensor(torch.tensor([[0, 9]]), torch.tensor([1.0, 2.0]), (2,), check_invariants=False)
    with quiet():
        torch.save(good, tmp_path / "good.pth")
        torch.save(bad, tmp_path / "bad.pth")
        assert load(tmp_path / "good.pth").to_dense().tolist() == [1, 2]
        with pytest.raises(UnreadableFile, match="a tensor of layout sparse_coo cannot be put together"):
            load(tmp_path / "bad.pth")


MEMORY = """
import sys
from rekindle.load import load
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) // 1024
before = resident()
found = load(sys.argv[1])
assert len(found) == 10
print(resident() - before)
"""


def test_opening_300_mb_takes_no_memory(tmp_path):
    save({str(n): torch.zeros(7_500_000) for n in range(10)}, tmp_path / "a.pth")
    words = [sys.executable, "-c", MEMORY, str(tmp_path / "a.pth")]
    assert int(subprocess.run(words, check=True, capture_output=True, text=True).stdout) < 10
    (tmp_path / "a.pth").unlink()


def test_a_file_can_be_written_again_by_torch_while_its_tensors_are_in_use(tmp_path):
    """`torch.save` empties the file first: tensors mapped from it would take the process and the file with them."""
    path = tmp_path / "a.pth"
    torch.save({"module.w": torch.arange(300_000)}, path)
    code = (
        "import sys, torch, rekindle as rk\n"
        "state = rk.load(sys.argv[1])\n"
        "torch.save({key.removeprefix('module.'): value for key, value in state.items()}, sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=120)
    assert torch.equal(torch.load(path)["w"], torch.arange(300_000))
