"""Speed against exactness: threads, TF32, cudnn's search, deterministic algorithms; one word each, with advice.

torch has several switches for each of these, in several places, some of which must agree. Here each is one setting, and
what all of them are now can be asked.

Law: what is not named is not touched.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

from rekindle.errors import ConfigError

__all__ = ["Tuning", "cores_for_this_process", "torch_settings", "use_deterministic_algorithms"]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the settings are now; prints as a table with advice.

    Attributes:
        threads: of one operation on the CPU.
        cores: that this process may use, its share where several ranks run on the machine.
        tf32: whether float32 products on the GPU may drop 13 bits of each factor.
        cudnn_benchmark: whether cudnn tries its algorithms for each new input size and takes the fastest.
        deterministic: whether only algorithms are used that give the same bits every time.
        advice: one line for each setting that costs speed or exactness as it is; may be empty.
    """

    threads: int
    cores: int
    tf32: bool
    cudnn_benchmark: bool
    deterministic: bool
    advice: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the table."""
        lines = [
            f"threads          {self.threads} of {self.cores} cores",
            f"tf32             {_on(self.tf32)}",
            f"cudnn_benchmark  {_on(self.cudnn_benchmark)}",
            f"deterministic    {_on(self.deterministic)}",
            *(f"  advice  {line}" for line in self.advice),
        ]
        return "\n".join(lines)


def torch_settings(
    *,
    threads: int | Literal["auto"] | None = None,
    tf32: bool | None = None,
    cudnn_benchmark: bool | None = None,
    deterministic: bool | None = None,
) -> Tuning:
    """Change what is named, and return what all settings are now, with advice.

    Args:
        threads: of one operation on the CPU; ``"auto"`` for this process's share of the cores. Sums depend on it.
        tf32: let float32 products on the GPU use 10 bits of mantissa instead of 23: several times faster on cards since
            2020, good for most networks, not for solvers and statistics.
        cudnn_benchmark: have cudnn try its algorithms: faster where input sizes are always the same, slower where they
            vary, and another choice (so other bits) in the next process.
        deterministic: use only algorithms that give the same bits every time, and refuse operations that have none.

    Raises:
        ConfigError: a value, or a pair of values, that cannot be meant.

    Example:
        print(rk.torch_settings(threads="auto", cudnn_benchmark=True))
    """
    for name, flag in (("tf32", tf32), ("cudnn_benchmark", cudnn_benchmark), ("deterministic", deterministic)):
        if flag is not None and not isinstance(flag, bool):
            raise ConfigError(f"{name}={flag!r} is neither True nor False")
    if cudnn_benchmark and (deterministic or (deterministic is None and _is_deterministic())):
        raise ConfigError(
            "cudnn_benchmark=True and deterministic=True cannot both hold",
            why="the search takes whatever was fastest this time, which may be another algorithm the next time",
            do="for the same bits: rk.torch_settings(deterministic=True); "
            "for speed: rk.torch_settings(deterministic=False, cudnn_benchmark=True)",
        )
    if threads is not None:
        torch.set_num_threads(_threads(threads))
    if tf32 is not None:
        _set_tf32(on=tf32)
    if deterministic is not None:
        use_deterministic_algorithms(on=deterministic)
    if cudnn_benchmark is not None:
        torch.backends.cudnn.benchmark = cudnn_benchmark
    return _now()


def use_deterministic_algorithms(*, on: bool = True) -> None:
    """Have torch use algorithms only that give the same bits every time, or let it use all again."""
    if on:
        # Read when cuBLAS starts; without it torch refuses deterministic products of matrices on a GPU.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(on)


def cores_for_this_process() -> int:
    """Return how many cores this process may use: what it is bound to, divided by the ranks on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, cores // (int(ranks) if ranks.isascii() and ranks.isdigit() and int(ranks) else 1))


def _threads(wanted: int | str) -> int:
    if wanted == "auto":
        return cores_for_this_process()
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise ConfigError(f"threads={wanted!r} is no number of threads", do='a whole number from 1, or "auto"')
    return wanted


def _set_tf32(*, on: bool) -> None:
    # One switch for products, one for convolutions; the first is also what `rekindle.run.environment` records.
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on


def _is_deterministic() -> bool:
    return torch.are_deterministic_algorithms_enabled()


def _now() -> Tuning:
    threads, cores = torch.get_num_threads(), cores_for_this_process()
    tf32 = torch.get_float32_matmul_precision() != "highest"
    benchmark, deterministic = bool(torch.backends.cudnn.benchmark), _is_deterministic()
    # Asking whether there is one would start CUDA.
    gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call] # torch leaves it untyped
    advice = []
    if threads > cores:
        advice.append(f"{threads} threads share {cores} cores and wait for each other: threads={cores}")
    elif threads < cores and cores > 1:
        advice.append(f'large models on the CPU gain from all {cores} cores: threads="auto"; small ones do not')
    if gpu and not tf32 and torch.cuda.get_device_capability()[0] >= 8:
        advice.append("this card multiplies float32 several times faster with tf32=True, at 10 bits of mantissa")
    if gpu and not benchmark and not deterministic:
        advice.append("convolutions on inputs of one size gain from cudnn_benchmark=True; inputs of varying sizes lose")
    if gpu and benchmark:
        advice.append("the same bits in the next process need deterministic=True instead of cudnn_benchmark")
    return Tuning(threads, cores, tf32, benchmark, deterministic, tuple(advice))


def _on(flag: bool) -> str:
    return "on" if flag else "off"
