"""Make the folders in deepspeed_engine/: what DeepSpeed's own engine saves, and what its own programs make of it.

Two processes on the CPU train a network with tied, frozen and uneven parameters for three steps under stage 1 and
stage 3 and save it. `ds_to_universal` makes a universal checkpoint of stage 3. `expected.json` holds the digests of
what `zero_to_fp32` gives for each, and of the moments that `ds_to_universal` put together.

Made with DeepSpeed 0.19.8 and torch 2.13 on the CPU, without compiled kernels:

    DS_ACCELERATOR=cpu python tests/golden/make_deepspeed_engine.py
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from torch import multiprocessing, nn

FOLDER = Path(__file__).parent / "deepspeed_engine"
WORLD = 2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 5)
        self.norm = nn.LayerNorm(5)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.last = nn.Linear(5, 3)
        self.tied = nn.Linear(5, 3)
        self.tied.weight = self.last.weight
        self.register_buffer("count", torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.frozen(self.norm(self.first(x)))
        return self.last(hidden) + self.tied(hidden)


def train(rank: int, port: int, stage: int, folder: str) -> None:
    """Train three steps as one of two processes, and save."""
    warnings.simplefilter("ignore")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.update(WORLD_SIZE=str(WORLD), LOCAL_SIZE=str(WORLD))
    import deepspeed

    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # it would compile a kernel
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    torch.manual_seed(0)
    net = Net()
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1]},
        {"params": [parameter for parameter in trained if parameter.ndim == 1], "weight_decay": 0.0},
    ]
    config = {
        "train_batch_size": 4 * WORLD,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": True},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    engine, *_ = deepspeed.initialize(model=net, optimizer=torch.optim.AdamW(groups, lr=0.1), config=config)
    for _ in range(3):
        loss = engine(torch.randn(4, 7).bfloat16()).float().pow(2).mean()
        engine.backward(loss)
        engine.step()
    engine.save_checkpoint(folder, tag="step3")
    torch.distributed.barrier()
    os._exit(0)  # its own end waits for what the CPU does not have


def digest(tensor: torch.Tensor) -> list[object]:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), hashlib.sha256(raw).hexdigest()]


def main() -> None:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    shutil.rmtree(FOLDER, ignore_errors=True)
    expected: dict[str, dict[str, list[object]]] = {}
    for stage in (1, 3):
        folder = FOLDER / f"zero{stage}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        multiprocessing.spawn(train, (port, stage, str(folder)), nprocs=WORLD)
        with contextlib.redirect_stdout(io.StringIO()):
            weights = get_fp32_state_dict_from_zero_checkpoint(str(folder))
        expected[folder.name] = {key: digest(value) for key, value in weights.items()}
        for script in folder.glob("*.py"):  # its own copies of zero_to_fp32
            script.unlink()
    made = FOLDER / "universal"
    command = ["-m", "deepspeed.checkpoint.ds_to_universal", "--num_extract_workers", "1", "--num_merge_workers", "1"]
    command += ["--input_folder", str(FOLDER / "zero3" / "step3"), "--output_folder", str(made / "step3")]
    subprocess.run([sys.executable, *command], check=True)
    for kind in ("exp_avg", "exp_avg_sq"):
        for file in sorted(made.glob(f"step3/zero/*/{kind}.pt")):
            key = file.parent.name
            shape = expected["zero3"][key][1]
            tensor = torch.load(file, weights_only=True).reshape(shape)
            expected.setdefault("moments", {})[f"{key}.{kind}"] = digest(tensor)
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
