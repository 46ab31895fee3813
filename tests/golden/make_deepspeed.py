"""Make the folders in deepspeed/: ZeRO 1 to 3 and a universal checkpoint, laid out as DeepSpeed 0.16 writes them.

DeepSpeed is not needed: the layout is built from weights that are known beforehand, with `torch.save`, after its
`zero_to_fp32.py`. One class of DeepSpeed's is in the files by name, as in real ones.

    python tests/golden/make_deepspeed.py
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import types
from collections import OrderedDict
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "deepspeed"

# Two parameter groups: weights and biases, as optimizers with weight decay have them.
GROUPS = [
    OrderedDict(
        [
            ("embed.weight", torch.arange(35.0).reshape(7, 5) / 8),
            ("block.weight", -torch.arange(15.0).reshape(5, 3)),
        ]
    ),
    OrderedDict([("block.bias", torch.tensor([0.5, 1.5, -2.0])), ("scale", torch.tensor(3.25))]),
]
FROZEN = OrderedDict([("stem.weight", torch.arange(10.0).reshape(2, 5) + 100)])
BUFFERS = OrderedDict([("norm.running_mean", torch.tensor([1.0, 2.0])), ("norm.count", torch.tensor(12))])
SHARED = OrderedDict([("head.weight", "embed.weight")])


def loss_scaler() -> object:
    """Return an object of a class that is in DeepSpeed only."""
    module = types.ModuleType("deepspeed.runtime.fp16.loss_scaler")
    kind = type("LossScaler", (), {"__module__": module.__name__})
    module.LossScaler = kind
    for name in ("deepspeed", "deepspeed.runtime", "deepspeed.runtime.fp16"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules[module.__name__] = module
    made = kind()
    made.cur_scale = 1.0
    return made


def flat(group: OrderedDict[str, torch.Tensor], shift: float, align: int) -> torch.Tensor:
    """Return all parameters of a group in one row, padded; `shift` tells weights and moments apart."""
    row = torch.cat([value.reshape(-1) + shift if shift else value.reshape(-1) for value in group.values()])
    return torch.cat([row, torch.zeros(-len(row) % align)])


def pieces(value: torch.Tensor, world: int) -> list[torch.Tensor]:
    """Return equal pieces of one parameter, the last one padded."""
    row = value.reshape(-1)
    size = math.ceil(len(row) / world)
    return list(torch.cat([row, torch.zeros(size * world - len(row))]).split(size))


def model_file(**extra: object) -> dict[str, object]:
    trainable = OrderedDict((key, value.to(torch.bfloat16)) for group in GROUPS for key, value in group.items())
    return {
        "module": OrderedDict([*trainable.items(), *BUFFERS.items()]),
        "buffer_names": list(BUFFERS),
        "optimizer": None,
        "param_shapes": [OrderedDict((key, value.shape) for key, value in group.items()) for group in GROUPS],
        "frozen_param_shapes": OrderedDict((key, value.shape) for key, value in FROZEN.items()),
        "frozen_param_fragments": FROZEN,
        "shared_params": SHARED,
        "lr_scheduler": {"last_epoch": 4},
        "global_steps": 40,
        "dp_world_size": 2,
        "mp_world_size": 1,
        "ds_version": "0.16.4",
        **extra,
    }


def stage2(folder: Path, stage: int, world: int) -> None:
    """Write a folder of stage 1 or 2: each rank has a partition of every group's row."""
    folder.mkdir(parents=True)
    torch.save(model_file(dp_world_size=world), folder / "mp_rank_00_model_states.pt")
    rows = [[flat(group, shift, 2 * world).chunk(world) for group in GROUPS] for shift in (0.0, 0.25, 0.5)]
    for rank in range(world):
        weights, average, squares = ([row[rank].clone() for row in kind] for kind in rows)
        state = {
            index: {"step": torch.tensor(40.0), "exp_avg": average[index], "exp_avg_sq": squares[index]}
            for index in range(len(GROUPS))
        }
        optimizer = {
            "loss_scaler": loss_scaler(),
            "zero_stage": stage,
            "partition_count": [world] * len(GROUPS),
            "single_partition_of_fp32_groups": weights,
            "base_optimizer_state": {"state": state, "param_groups": [{"lr": 0.1, "params": [0]}]},
        }
        torch.save(
            {"optimizer_state_dict": optimizer, "ds_version": "0.16.4"},
            folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
        )


def stage3(folder: Path, world: int) -> None:
    """Write a folder of stage 3: each rank has a piece of every parameter, in sub-groups of its own."""
    folder.mkdir(parents=True)
    for rank in range(world):
        fragments = OrderedDict((key, pieces(value, world)[rank].clone()) for key, value in FROZEN.items())
        torch.save(
            model_file(frozen_param_fragments=fragments, dp_world_size=world) | {"module": OrderedDict(BUFFERS)},
            folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt",
        )
        subgroups = [torch.cat([pieces(value, world)[rank] for value in group.values()]) for group in GROUPS]
        moments = {
            index: {"step": torch.tensor(40.0), "exp_avg": row + 0.25, "exp_avg_sq": row + 0.5}
            for index, row in enumerate(subgroups)
        }
        optimizer = {
            "loss_scaler": loss_scaler(),
            "zero_stage": 3,
            "partition_count": world,
            "fp32_flat_groups": subgroups,
            "base_optimizer_state": {"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]},
        }
        torch.save(
            {"optimizer_state_dict": optimizer, "ds_version": "0.16.4"},
            folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
        )


def universal(folder: Path) -> None:
    """Write a universal checkpoint: a folder per parameter, a file per tensor."""
    for group in GROUPS:
        for key, value in group.items():
            place = folder / "zero" / key
            place.mkdir(parents=True)
            torch.save({"param": value, "cat_dim": 0}, place / "fp32.pt")
            torch.save(value + 0.25, place / "exp_avg.pt")  # as plain as older versions wrote them
            torch.save({"param": value + 0.5}, place / "exp_avg_sq.pt")
    torch.save(model_file(), folder / "mp_rank_00_model_states.pt")


def facts() -> dict[str, object]:
    """Return what every folder holds."""
    weights = OrderedDict(BUFFERS)
    weights.update(FROZEN)
    for group in GROUPS:
        weights.update(group)
    weights["head.weight"] = weights["embed.weight"]
    values = {f"module.{key}": value for key, value in weights.items()}
    for group in GROUPS:
        for key, value in group.items():
            values[f"optimizer.state.{key}.exp_avg"] = value + 0.25
            values[f"optimizer.state.{key}.exp_avg_sq"] = value + 0.5
    return {
        key: {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "digest": hashlib.sha256(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest(),
        }
        for key, value in values.items()
    }


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    stage2(FOLDER / "zero1" / "global_step40", 1, 3)
    (FOLDER / "zero1" / "latest").write_text("global_step40")
    stage2(FOLDER / "zero2", 2, 2)
    stage3(FOLDER / "zero3", 3)
    universal(FOLDER / "universal")
    (FOLDER / "expected.json").write_text(json.dumps(facts(), indent=1) + "\n")
    print(sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()))


if __name__ == "__main__":
    main()
