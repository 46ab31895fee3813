"""What a run does as one of several processes, gathered where `rekindle.run.loop` can ask for it.

One process, no `Company`: everything here is about the others. Rank 0 opens the folder, writes and speaks; the others
open what it found. All of them walk over the same epochs and batches, so what follows from counting needs no word
between them; what does not (a signal, a value of another process) goes over the ties.

Law: a run of one process never comes here; a step of a run of many adds nothing to what DDP itself sends.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rekindle import errors
from rekindle.errors import ConfigError, RekindleError, RunError
from rekindle.parallel import ddp, fsdp
from rekindle.parallel.ranks import Ranks
from rekindle.parallel.ties import Ties

__all__ = ["Company", "FollowedLock", "How", "combine"]

# Those of `rekindle.run.signals`, which this package may not import.
REQUEUE_CODE, CTRL_C_CODE = 75, 130

How = Literal["mean", "sum", "min", "max"]


class FollowedLock:
    """Stands for the lock of a run's folder in the processes that do not hold it: rank 0 does, for all.

    Args:
        path: the run's folder.
    """

    held = True

    def __init__(self, path: str) -> None:
        """Take nothing."""
        self.path = path

    def require(self) -> None:
        """Do nothing: nothing is written here."""

    def release(self) -> None:
        """Do nothing: nothing is held."""


class Company:
    """This process among the others of its run.

    Args:
        ranks: who it is.
        ties: to the others.

    Attributes:
        models: those wrapped by `wrap`.
        sharded: those of which each process has a part.
    """

    def __init__(self, ranks: Ranks, ties: Ties) -> None:
        """Wrap nothing yet."""
        self.ranks = ranks
        self.ties = ties
        self.models: list[nn.Module] = []
        self._weights = ddp.SampleWeights()
        self._passes = 0
        self.sharded: list[nn.Module] = []
        self._weighed: list[Any] = []
        self._weight = 1.0

    # ---- opening the folder

    def agree_on(self, settings: Mapping[str, Any]) -> None:
        """Make sure that every process has the same settings.

        Raises:
            ConfigError: they differ; named with both values.
        """
        everywhere = self.ties.gather("Run(...)", dict(settings))
        for rank, theirs in enumerate(everywhere):
            for name, value in everywhere[0].items():
                if theirs.get(name) != value:
                    raise ConfigError(
                        f"{name} is {value!r} on rank 0 and {theirs.get(name)!r} on rank {rank}",
                        why="the processes of a run are one run: the same script with the same settings",
                        do=f"give {name} the same value everywhere",
                    )

    def lead(self, word: Mapping[str, Any]) -> None:
        """Rank 0: tell the others what was found in the folder."""
        self.ties.gather("opening the run", dict(word))

    def lead_astray(self, error: BaseException) -> None:
        """Rank 0: tell the others that the run cannot be opened, so that they end with the same words."""
        told = {"class": type(error).__name__, "what": str(error), "why": "", "do": ""}
        if isinstance(error, RekindleError):
            told |= {"what": error.what, "why": error.why, "do": error.do}
        with contextlib.suppress(RunError):
            self.ties.gather("opening the run", {"error": told})

    def follow(self) -> dict[str, Any]:
        """Return what rank 0 found in the folder.

        Raises:
            RekindleError: rank 0 could not open it; of the same class, with the same words.
        """
        word: dict[str, Any] = self.ties.gather("opening the run", None)[0]
        told = word.get("error")
        if told is None:
            return word
        kind = getattr(errors, told["class"], RunError)
        if not (isinstance(kind, type) and issubclass(kind, RekindleError)):
            kind = RunError
        raise kind(told["what"], why=told["why"], do=told["do"])

    # ---- models and batches

    def wrap(self, model: nn.Module, device: torch.device, settings: Mapping[str, Any]) -> nn.Module:
        """Return the model as all processes train it together; see `rekindle.parallel.ddp.wrap`."""
        if fsdp.is_sharded_module(model):
            return model
        ready = ddp.wrap(model, device, settings)
        if ready is model:
            return self.same(model)
        self.models.append(ready)
        self._weights.models.append(ready)
        return ready

    def adopt(self, model: DistributedDataParallel) -> None:
        """Take in a model that the script has wrapped itself."""
        if not any(known is model for known in self.models):
            ddp.take_in(model)
            self.models.append(model)
            self._weights.models.append(model)

    def same(self, model: nn.Module) -> nn.Module:
        """Give every process rank 0's parameters and buffers of a model that is not trained."""
        ddp.broadcast([*(p.data for p in model.parameters()), *model.buffers()])
        return model

    def begin_batch(self, weight: float, *, closes: bool) -> None:
        """Set up what the next passes do.

        Args:
            weight: this process's samples, times the processes, over the samples of all.
            closes: whether this batch is the last of its accumulation window, so that gradients are reduced.
        """
        self._passes = 0
        self._weights.set(weight)
        if self.sharded:
            self._weigh_sharded(weight)
            for model in self.sharded:
                fsdp.set_reduces(model, reduces=closes)
        for model in self.models:
            model.require_backward_grad_sync = closes  # type: ignore[assignment] # what DDP.no_sync() sets

    def require_averaged(self) -> None:
        """Make sure that all that is trained is trained together.

        Raises:
            ConfigError: something was thawed, or put into a model, after it was wrapped.
        """
        ddp.require_averaged(p for model in self.models for p in model.parameters() if p.requires_grad)

    def begin_backward(self) -> None:
        """Note that a backward pass begins; a second one in a batch is reduced as well."""
        self._passes += 1
        if self._passes > 1:
            ddp.prepare_again(self.models)

    def same_tensors(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every process rank 0's values, in place."""
        ddp.broadcast(tensors)

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every process the mean of each tensor over the processes, in place."""
        ddp.average(tensors)

    def end_loop(self) -> None:
        """Have all processes go on with the same buffers, and single batches again."""
        self._weights.set(1.0)
        self._weigh_sharded(1.0)
        ddp.sync_buffers(self.models)
        fsdp.sync_statistics(self.sharded)

    def _weigh_sharded(self, weight: float) -> None:
        if weight == self._weight:
            return
        self._weight = weight
        for hook in self._weighed:
            hook.remove()
        self._weighed = [] if weight == 1.0 else [fsdp.weigh_outputs(model, weight) for model in self.sharded]

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Keep DDP from sending buffers around: some processes may evaluate more than others, or one alone."""
        before = [(model, model.require_forward_param_sync) for model in self._wrapped()]
        for model, _ in before:
            model.require_forward_param_sync = False
        try:
            with fsdp.same_passes(self.sharded, self.ties):
                yield
        finally:
            for model, value in before:
                model.require_forward_param_sync = value
            for sharded in self.sharded:  # torch keeps what a pass without gradients gathered last
                fsdp.show_parts(sharded)

    def _wrapped(self) -> list[DistributedDataParallel]:
        return [model for model in self.models if isinstance(model, DistributedDataParallel)]

    def tell_failure(self, error: BaseException) -> None:
        """Tell the others that this process ends because of an error, and which one."""
        if isinstance(error, SystemExit) and error.code in {None, 0, REQUEUE_CODE, CTRL_C_CODE}:
            return
        text = str(error).strip().splitlines()
        self.ties.fail(f"{type(error).__name__}: {text[0]}"[:300] if text else type(error).__name__)

    # ---- values

    def logged(self, step: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what all processes log together: the mean of each real number, everything else as on rank 0.

        Raises:
            RunError: they log different things, or not all of them do.
        """
        given = {name: value.item() if _is_one_number(value) else value for name, value in values.items()}
        sent = {name: value for name, value in given.items() if isinstance(value, float)}
        everywhere = self.ties.gather("run.log", [step, sorted(values), sent])
        for rank, (their_step, names, _) in enumerate(everywhere):
            if (their_step, names) != (everywhere[0][0], everywhere[0][1]):
                raise RunError(
                    f"run.log: rank {rank} logs {', '.join(names)} after step {their_step:,}, and rank 0 "
                    f"{', '.join(everywhere[0][1])} after step {everywhere[0][0]:,}",
                    why="numbers are averaged over the ranks, so every rank has to log the same names at the same step",
                    do="call run.log on every rank, not inside `if run.is_main:`",
                )
        theirs = [words[2] for words in everywhere]
        means = {name: _mean([words[name] for words in theirs if name in words]) for name in theirs[0]}
        return {**given, **means}

    def reduce(self, value: Any, how: How, weight: float | None) -> Any:
        """Return one value of all processes; see `rekindle.Run.reduce`."""
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            return self._reduce_tensor(value, how, weight)
        number = value.item() if isinstance(value, torch.Tensor) else value
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise TypeError(f"run.reduce takes a number or a tensor, not {type(value).__name__}")
        everywhere = self.ties.gather("run.reduce", [how, number, weight])
        if any(words[0] != how for words in everywhere):
            raise RunError(f"run.reduce: {how!r} here, and {[words[0] for words in everywhere]} by rank")
        numbers = [words[1] for words in everywhere]
        weights = [1.0 if words[2] is None else float(words[2]) for words in everywhere]
        result = combine(numbers, how, weights)
        return torch.tensor(result, dtype=value.dtype) if isinstance(value, torch.Tensor) else result

    def _reduce_tensor(self, value: torch.Tensor, how: How, weight: float | None) -> torch.Tensor:
        import torch.distributed as dist  # noqa: PLC0415 - only where there are many processes

        kinds = {"mean": dist.ReduceOp.SUM, "sum": dist.ReduceOp.SUM}
        kinds |= {"min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}
        whole = value.detach().clone(memory_format=torch.contiguous_format)
        if how == "mean":
            whole = whole * (1.0 if weight is None else weight)
        dist.all_reduce(whole, kinds[how])
        if how == "mean":
            total = self.ranks.world_size if weight is None else self.reduce(float(weight), "sum", None)
            whole = whole / total
        return whole


def combine(numbers: list[float], how: How, weights: list[float]) -> float:
    """Return the mean, sum, least or greatest of numbers, added in their order.

    Raises:
        ValueError: no such way.
    """
    match how:
        case "mean":
            total = sum(weights)
            return sum(n * w for n, w in zip(numbers, weights, strict=True)) / total if total else math.nan
        case "sum":
            return sum(numbers)
        case "min":
            return min(numbers)
        case "max":
            return max(numbers)
        case _:
            raise ValueError(f'how={how!r} is not "mean", "sum", "min" or "max"')


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def _is_one_number(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex()
