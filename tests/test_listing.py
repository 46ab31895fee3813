"""From a saved object to its tensors: keys, kinds, state dicts, and bounds on hostile shapes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import zoo
from torch import nn

from rekindle.formats import open_path
from rekindle.limits import Limits
from rekindle.listing import kind_of, state_dict_of, table_of, values_of
from rekindle.source import BufferBytes
from rekindle.tensors import Storage
from rekindle.tree import Global, Map, Module, SparseTensor, StorageRef, Tensor


def tensor(*shape: int) -> Tensor:
    size = 4
    for length in shape:
        size *= length
    stride = torch.empty(shape).stride()
    return Tensor(Storage("s", size, BufferBytes(memoryview(bytes(size)))), "float32", 0, shape, stride)


def keys(tree: object) -> list[str]:
    return [entry.key for entry in table_of(tree)[0]]  # type: ignore[arg-type] # any node


def test_keys_are_paths_and_a_lone_tensor_is_called_tensor():
    assert keys(Map([("a", [tensor(1), Map([(3, tensor(2))])]), ("b", tensor(1))])) == ["a.0", "a.1.3", "b"]
    assert keys(tensor(2)) == ["tensor"]
    assert keys([]) == []


def test_keys_that_meet_are_numbered_and_said():
    table, findings = table_of(Map([("a.b", tensor(1)), ("a", Map([("b", tensor(2))])), ("a.b#2", tensor(3))]))
    assert [entry.key for entry in table] == ["a.b", "a.b#2", "a.b#2#2"]
    assert [finding.code for finding in findings] == ["RK-FILE-26", "RK-FILE-26"]


def test_parts_of_a_sparse_tensor_have_its_layout():
    table, _ = table_of(
        Map([("s", SparseTensor("sparse_coo", (2, 2), {"indices": tensor(2, 1), "values": tensor(1)}))])
    )
    assert [(entry.key, entry.layout) for entry in table] == [("s.indices", "sparse_coo"), ("s.values", "sparse_coo")]


def test_a_storage_on_its_own_is_listed_flat():
    storage = Storage("7", 8, None)
    (entry,) = table_of([StorageRef(storage, "float32", 0, 2)])[0]
    assert (entry.key, entry.shape, entry.layout, entry.storage) == ("0", (2,), "storage", storage)


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "fits"),
    [
        (0, (4,), (1,), True),
        (1, (4,), (1,), False),
        (0, (2, 2), (2, 1), True),
        (0, (2, 2), (3, 1), False),
        (-1, (1,), (1,), False),
        (0, (2,), (-1,), False),
        (3, (5,), (0,), True),
        (2**62, (1,), (1,), False),
        (99, (0, 4), (4, 1), True),
    ],
)
def test_a_tensor_must_lie_inside_its_storage(offset: int, shape: tuple[int, ...], stride: tuple[int, ...], fits: bool):
    node = Tensor(Storage("s", 16, BufferBytes(memoryview(bytes(16)))), "float32", offset, shape, stride)
    findings = table_of([node])[1]
    assert [finding.code for finding in findings] == ([] if fits else ["RK-FILE-10"])


def test_a_value_inside_itself_is_listed_once():
    loop = Map([("w", tensor(1))])
    loop.pairs.append(("again", loop))
    assert keys(loop) == ["w"]


def test_two_to_the_hundred_paths_end_soon_and_say_so():
    node: object = [tensor(1)]
    for _ in range(100):
        node = [node, node]
    start = time.monotonic()
    _, findings = table_of(node)  # type: ignore[arg-type] # lists of lists
    assert time.monotonic() - start < 20
    assert [finding.code for finding in findings][-1] == "RK-FILE-27"


def test_sharing_that_people_do_is_listed_whole():
    shared = Map([("w", tensor(2))])
    assert keys([shared] * 1000)[-1] == "999.w"


def test_more_tensors_than_the_limit_are_cut_and_said():
    tree = Map([(str(index), [tensor(1)]) for index in range(300)])
    table, findings = table_of(tree, Limits(members=100))
    assert len(table) < 110
    assert findings[-1].code == "RK-FILE-27"


CASES = [
    ("tensor", torch.ones(2)),
    ("tensor", torch.eye(2).to_sparse()),
    ("state_dict", nn.Linear(2, 2).state_dict()),
    ("checkpoint", {"model": nn.Linear(2, 2).state_dict(), "epoch": 1}),
    ("checkpoint", {"w": torch.ones(1), "epoch": 1}),
    ("module", nn.Linear(2, 2)),
    ("object", [torch.ones(1), 2]),
    ("object", {"epoch": 1}),
    ("object", {}),
]


@pytest.mark.parametrize(("kind", "value"), CASES)
def test_kinds(tmp_path: Path, kind: str, value: object):
    torch.save(value, tmp_path / "x.pt")
    with open_path(tmp_path / "x.pt") as opened:
        assert kind_of(opened.tree, opened.table) == kind


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.layers = nn.ModuleDict({"again": self.first, "b": nn.BatchNorm1d(2)})
        self.w = nn.Parameter(torch.ones(1))
        self.register_buffer("late", torch.ones(1))


@pytest.mark.parametrize("make", [zoo.Net, Shared, lambda: nn.DataParallel(nn.Linear(2, 2)), lambda: nn.LSTM(2, 3, 2)])
@pytest.mark.parametrize("new", [True, False])
def test_a_module_s_state_dict_has_the_keys_and_order_of_torch_s(tmp_path: Path, make: object, new: bool):
    module = make()  # type: ignore[operator] # a class or a function
    path = tmp_path / "m.pt"
    torch.save(module, path, _use_new_zipfile_serialization=new)
    with open_path(path) as opened:
        state = state_dict_of(opened.tree)
    assert [key for key, _ in state.pairs] == list(module.state_dict())


def test_a_dict_is_its_own_state_dict_and_a_list_has_none():
    tree = Map([("a", tensor(1))])
    assert state_dict_of(tree) is tree
    with pytest.raises(TypeError, match="list"):
        state_dict_of([])


def test_a_module_inside_itself_has_a_state_dict():
    module = Module(Global("m", "Net"))
    module.parameters["w"] = tensor(1)
    module.modules["self"] = module
    assert [key for key, _ in state_dict_of(module).pairs] == ["w"]


def test_values_are_plain_and_the_shallow_ones_come_first():
    deep = Map([("lr", 0.1), ("betas", (0.9, 0.99)), ("params", [0, 1])])
    tree = Map([("opt", Map([("groups", [deep])])), ("epoch", 3), ("w", tensor(1)), ("name", "x"), ("long", "y" * 999)])
    values = values_of(tree)
    assert list(values) == ["epoch", "name", "opt.groups.0.lr", "opt.groups.0.betas.0", "opt.groups.0.betas.1"]
    assert len(values_of(Map([(str(index), index) for index in range(1000)]))) == 64
