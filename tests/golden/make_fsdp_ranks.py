"""Make the folders in fsdp_ranks/: what FSDP leaves when every rank saves its own state dict; real processes, gloo.

    two           FSDP2 over 2 ranks, model and optimizer, sizes that do not divide
    three         FSDP2 over 3 ranks, with ranks that have nothing of some tensors
    replicas      FSDP2 over a mesh of 2 x 2 ranks that replicates along one axis (HSDP)
    tensor        FSDP2 over tensor parallelism, 2 x 2 ranks: parts that are cut twice (_StridedShard)
    strided       one tensor cut by hand into parts of several runs each, 2 x 2 ranks
    older         FSDP 1 with StateDictType.SHARDED_STATE_DICT: ShardedTensor, 3 ranks
    flat          FSDP 1 with StateDictType.LOCAL_STATE_DICT: flat parameters, 2 ranks

What is expected comes from torch: `full_tensor()`, and for FSDP 1 the full state dict.

    python tests/golden/make_fsdp_ranks.py
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor.placement_types import Placement, _StridedShard

FOLDER = Path(__file__).parent / "fsdp_ranks"


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2))


def wholes(value: object, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return key -> whole tensor; asks the other ranks for their parts."""
    if isinstance(value, DTensor):
        return {prefix[:-1]: value.full_tensor()}
    if isinstance(value, torch.Tensor):
        return {prefix[:-1]: value}
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {key: leaf for name, part in parts for key, leaf in wholes(part, f"{prefix}{name}.").items()}


def facts(values: dict[str, torch.Tensor]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        digest = hashlib.sha256(data).hexdigest()
        found[key] = {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), "digest": digest}
    return found


def save(name: str, kind: str, state: object, expected: dict[str, torch.Tensor]) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / f"{kind}_world_size_{world}_rank_{rank}.pt")
    if rank == 0:
        path = FOLDER / f"{name}.{kind}.expected"
        path.write_text(json.dumps(facts(expected)))
    dist.barrier()


def trained(mesh: DeviceMesh) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    from torch.distributed.fsdp import fully_shard

    net = network()
    fully_shard(net, mesh=mesh)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.arange(12.0).reshape(4, 3)).sum().backward()
    optimizer.step()
    return net, optimizer


def two(rank: int) -> None:
    net, optimizer = trained(init_device_mesh("cpu", (2,)))
    save("two", "model", net.state_dict(), wholes(net.state_dict()))
    save("two", "optim", optimizer.state_dict(), wholes(optimizer.state_dict()))
    torch.save(
        {"rng": torch.tensor([rank, 7]), "epoch": 3}, FOLDER / "two" / f"extra_state_world_size_2_rank_{rank}.pt"
    )
    flat(rank)


def three(rank: int) -> None:
    net, _ = trained(init_device_mesh("cpu", (3,)))
    save("three", "model", net.state_dict(), wholes(net.state_dict()))
    older(rank)


def four(rank: int) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    net, _ = trained(mesh)
    save("replicas", "model", net.state_dict(), wholes(net.state_dict()))

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.Linear(10, 7))
    parallelize_module(net, mesh["tp"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    fully_shard(net, mesh=mesh["dp"])
    save("tensor", "model", net.state_dict(), wholes(net.state_dict()))

    tall, wide = torch.arange(26.0).reshape(13, 2), torch.arange(60, dtype=torch.int32).reshape(3, 20)
    state = {
        "tall": cut(tall, mesh, [_StridedShard(0, split_factor=3), Replicate()]),
        "wide": cut(wide, mesh, [Replicate(), _StridedShard(1, split_factor=2)]),
    }
    expected = wholes(state)
    assert torch.equal(expected["tall"], tall)
    assert torch.equal(expected["wide"], wide)
    save("strided", "model", state, expected)


def cut(whole: torch.Tensor, mesh: DeviceMesh, placements: list[Placement]) -> DTensor:
    everywhere = distribute_tensor(whole, mesh, [Replicate()] * mesh.ndim)
    return everywhere.redistribute(placements=placements)


def of_fsdp1(name: str, kind: str) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType

    net = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=True)
    with FullyShardedDataParallel.state_dict_type(net, StateDictType.FULL_STATE_DICT):
        expected = wholes(dict(net.state_dict()))
    with FullyShardedDataParallel.state_dict_type(net, StateDictType[kind]):
        save(name, "model", net.state_dict(), expected)


def older(rank: int) -> None:
    of_fsdp1("older", "SHARDED_STATE_DICT")


def flat(rank: int) -> None:
    of_fsdp1("flat", "LOCAL_STATE_DICT")


def one_rank(rank: int, world: int, port: int, work: Callable[[int], None]) -> None:
    warnings.simplefilter("ignore")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world))
    dist.init_process_group("gloo")
    try:
        work(rank)
    except BaseException:  # noqa: BLE001 - shown, and the end of this process
        traceback.print_exc()
        os._exit(1)
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort a process that ends in the ordinary way


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    for world, work in ((2, two), (3, three), (4, four)):
        mp.spawn(one_rank, (world, free_port(), work), nprocs=world)
    expected: dict[str, dict[str, object]] = {}
    for path in sorted(FOLDER.glob("*.expected")):
        name, kind = path.stem.split(".")
        expected.setdefault(name, {})[kind] = json.loads(path.read_text())
        path.unlink()
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file():
            print(path.relative_to(FOLDER), path.stat().st_size)


if __name__ == "__main__":
    main()
