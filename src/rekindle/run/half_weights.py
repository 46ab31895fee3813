"""Weights in half precision: models are cast where they are prepared, and optimizers get float32 copies to step.

`cast` makes a model's weights half, in place, and has its inputs cast to that type and its outputs to float32, so that
the loop's own lines stay as they are. With *master weights*, BatchNorm stays float32, and each half parameter of an
optimizer is replaced in its groups by a float32 copy. A step takes the gradients from the model to the copies, steps
those, and writes them back rounded. The copies are the training's true weights: a snapshot holds them beside the model.

Law: at every boundary a half weight is its master's value, rounded; where the script has loaded other weights into the
model since, these go before the copy.

The recipe is that of Micikevicius et al., "Mixed precision training" (2018), section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map_only

from rekindle.devices.move import mapped
from rekindle.errors import ConfigError

__all__ = ["HalfWeights", "without_casts"]


class HalfWeights:
    """Casts models, and holds the master weights of their parameters.

    Args:
        dtype: float16 or bfloat16.
        masters: keep BatchNorm in float32, and have optimizers step float32 copies.

    Attributes:
        any_model: whether a model was cast.
    """

    def __init__(self, dtype: torch.dtype, masters: bool) -> None:
        """Hold nothing yet."""
        self.dtype = dtype
        self._masters = masters
        self.any_model = False
        self._exact: dict[
            torch.Tensor, torch.Tensor
        ] = {}  # half parameter -> its float32 values, until it has a master
        self._master_of: dict[torch.Tensor, nn.Parameter] = {}

    def cast(self, model: nn.Module) -> None:
        """Make a model's weights half, in place; parameters stay the objects they are.

        Args:
            model: on its device already. Float32 and float64 parameters and buffers are cast.
        """
        self.any_model = True
        for module in model.modules():
            if self._masters and isinstance(module, _BatchNorm):
                continue
            for parameter in module.parameters(recurse=False):
                if parameter.dtype in {torch.float32, torch.float64}:
                    if self._masters:
                        self._exact[parameter] = parameter.detach().float()
                    parameter.data = parameter.data.to(self.dtype)
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.dtype in {torch.float32, torch.float64}:
                    module._buffers[name] = buffer.to(self.dtype)  # noqa: SLF001 - as torch's own Module._apply does
        model.register_forward_pre_hook(_CastInputs(self.dtype), with_kwargs=True)
        model.register_forward_hook(_cast_outputs)

    def adopt(self, optimizer: torch.optim.Optimizer, names: Mapping[int, Sequence[str]]) -> dict[str, torch.Tensor]:
        """Have an optimizer step master weights; return them by the names of their parameters.

        Args:
            optimizer: over parameters of models that were cast, or others, which stay.
            names: id of a parameter -> its names.

        Raises:
            ConfigError: the optimizer computes gradients itself.
        """
        if not self._masters:
            return {}
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ConfigError(
                "precision O2 cannot step torch.optim.LBFGS",
                why="it goes backward several times inside one step, where the float32 weights get no gradients",
                do='Run(..., precision="bf16"), or another optimizer',
            )
        before = {
            id(p): (number, at) for number, g in enumerate(optimizer.param_groups) for at, p in enumerate(g["params"])
        }
        found: dict[str, torch.Tensor] = {}
        for parameter in self._replace(optimizer):
            number, at = before[id(parameter)]
            name = names.get(id(parameter), (f"group{number}.param{at}",))[0]
            found[name] = self._master_of[parameter]
        optimizer.register_step_pre_hook(lambda stepped, *_: self.take_gradients(stepped))
        optimizer.register_step_post_hook(lambda stepped, *_: self._write_back(stepped))
        return found

    def take_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Move the gradients of half parameters to the masters that this optimizer steps."""
        if not self._masters:
            return
        self._replace(optimizer)  # a group that was added since
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for parameter, master in self._master_of.items():
            if parameter.grad is None or id(master) not in mine:
                continue
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    def hold_gradients(self) -> bool:
        """Tell whether gradients lie in half parameters that an optimizer has masters of."""
        return any(parameter.grad is not None for parameter in self._master_of)

    def begin(self) -> int:
        """Take over weights that were loaded into the models since they were cast; return how many tensors.

        What optimizers did not ask for until now is forgotten.
        """
        self._exact.clear()
        changed = 0
        with torch.no_grad():
            for parameter, master in self._master_of.items():
                if not torch.equal(master.to(parameter.dtype), parameter):
                    master.copy_(parameter)
                    changed += 1
        return changed

    def _replace(self, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
        """Put masters in the place of half parameters; return the parameters."""
        replaced = []
        for group in optimizer.param_groups:
            for at, parameter in enumerate(group["params"]):
                if parameter.dtype != self.dtype:
                    continue
                master = self._master_of.get(parameter)
                if master is None:
                    exact = self._exact.pop(parameter, None)
                    master = nn.Parameter(parameter.detach().float() if exact is None else exact)
                    master.requires_grad_(parameter.requires_grad)
                    self._master_of[parameter] = master
                group["params"][at] = master
                if parameter in optimizer.state:
                    optimizer.state[master] = optimizer.state.pop(parameter)
                replaced.append(parameter)
        return replaced

    def _write_back(self, optimizer: torch.optim.Optimizer) -> None:
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        pairs = [(parameter, master) for parameter, master in self._master_of.items() if id(master) in mine]
        if pairs:
            with torch.no_grad():
                torch._foreach_copy_([p for p, _ in pairs], [m for _, m in pairs])


class _CastInputs:
    """Casts what goes into a model; a class, so that it can be told from the hooks of others."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __call__(self, _: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return _cast(args, self._dtype), _cast(kwargs, self._dtype)


def _cast_outputs(_model: nn.Module, _args: Any, output: Any) -> Any:
    return _cast(output, torch.float32)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast every floating-point tensor in a nested value: what torch knows how to go through, and dataclasses."""

    def cast(part: Any) -> Any:
        if not isinstance(part, torch.Tensor):
            return NotImplemented
        return part.to(dtype) if part.is_floating_point() else part

    return mapped(tree_map_only(torch.Tensor, cast, value), cast)


def without_casts(model: nn.Module) -> nn.Module:
    """Return the model with float32 weights and without the casts of `HalfWeights`, changed in place."""
    pre, post = model._forward_pre_hooks, model._forward_hooks  # noqa: SLF001 - hooks of a copy have no handle to remove them by
    for number in [number for number, hook in pre.items() if isinstance(hook, _CastInputs)]:
        del pre[number]
        model._forward_pre_hooks_with_kwargs.pop(number, None)  # noqa: SLF001 - as above
        model.float()
    for number in [number for number, hook in post.items() if hook is _cast_outputs]:
        del post[number]
    return model
