"""Make the folders in distcp/: torch.distributed.checkpoint of one process, of three, and its Hugging Face writer.

Three processes with gloo on this machine; each shards the same known tensors its own way.

    python tests/golden/make_distcp.py
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp

FOLDER = Path(__file__).parent / "distcp"
RANKS = 3


def wholes() -> dict[str, torch.Tensor]:
    """Return what the sharded folders hold, as one process would have it."""
    return {
        "rows": torch.arange(28.0).reshape(7, 4),
        "columns": torch.arange(28, dtype=torch.int32).reshape(4, 7) - 9,
        "cube": torch.arange(2 * 6 * 3, dtype=torch.float64).reshape(2, 6, 3) / 7,
        "half": (torch.arange(10) / 3).to(torch.bfloat16),
        "same": torch.tensor([[1.5, -2.5]]),
        "scalar": torch.tensor(42),
    }


def mixed() -> dict[str, object]:
    """Return an object with dicts, lists and values that are no tensors, as one process saves it."""
    return {
        "model": {"a.weight": torch.arange(12.0).reshape(3, 4), "turned": torch.arange(6.0).reshape(2, 3).t()},
        "optimizer": {
            "state": [{"step": torch.tensor(3.0), "avg": torch.ones(2, 2)}, {"step": torch.tensor(4.0)}],
            "lr": 0.1,
            "betas": (0.9, 0.999),
        },
        "flags": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 3),
        "epoch": 7,
        "text": "hello",
    }


def facts(values: dict[str, torch.Tensor]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        data = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        found[key] = {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "digest": hashlib.sha256(data).hexdigest(),
        }
    return found


def flat(value: object, prefix: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {prefix[:-1]: value}
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {key: leaf for name, part in parts for key, leaf in flat(part, f"{prefix}{name}.").items()}


def sharded() -> dict[str, object]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (RANKS,))
    how = {"rows": Shard(0), "columns": Shard(1), "cube": Shard(1), "half": Shard(0), "same": Replicate()}
    return {key: distribute_tensor(value, mesh, [how[key]]) if key in how else value for key, value in wholes().items()}


def one_rank(rank: int, port: int) -> None:
    warnings.simplefilter("ignore")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(RANKS))
    dist.init_process_group("gloo")
    state = {"net": sharded(), "epoch": 3}
    dcp.save(state, checkpoint_id=FOLDER / "sharded")
    from torch.distributed.checkpoint import HuggingFaceStorageWriter

    tensors = {key: value for key, value in sharded().items() if key != "scalar"}
    dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(FOLDER / "hub"), save_distributed=True))
    damaged = {"rows": tensors["rows"], "epoch": 3, "groups": [{"lr": 0.5}]}
    dcp.save(damaged, storage_writer=HuggingFaceStorageWriter(str(FOLDER / "hub_damaged"), save_distributed=True))
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort a process that ends in the ordinary way


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    warnings.simplefilter("ignore")
    dcp.save(mixed(), checkpoint_id=FOLDER / "mixed")
    mp.spawn(one_rank, (29_517,), nprocs=RANKS)
    expected = {"mixed": facts(flat(mixed())), "sharded": facts(wholes())}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file():
            print(path.relative_to(FOLDER), path.stat().st_size)


if __name__ == "__main__":
    main()
