"""FSDP2 around the models of a run: each process keeps a part of every weight, gradient and optimizer state.

*What is gathered together.* torch's `fully_shard` gathers the weights of one module at a time, just before it computes.
`blocks_of` chooses these modules: the members of each `ModuleList` and `Sequential` that are large enough to be worth a
message of their own, the outermost ones; everything else goes with the model itself. A weight that two modules share
stays in one group with both.

*What is the same everywhere.* As under DDP: rank 0's weights at the start, and rank 0's running statistics (BatchNorm)
at every forward pass in training. torch does neither. Each block is sent around before it is cut. What lies on the
meta device is made block by block, by `reset_parameters` with generators keyed by the names of modules: no process ever
holds more than its parts and one block, and the weights do not depend on the number of processes.

*Evaluations.* Every pass gathers weights from all processes, so all have to make the same number of them; a process
whose own share of the samples has a batch less would leave the others waiting for ever. `same_passes` has each say when
it begins a pass, and those that are done already take part in what the others gather.

*Optimizers.* Cutting replaces the parameters by others. An optimizer that was made before is pointed to the new ones,
with what state it has cut alike; one that rekindle has not seen is refused when it steps, since it would train nothing.

Law: bits depend on the seed, the data and the number of processes only, and each parameter is saved by the process that
has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rekindle.errors import ConfigError, RunError
from rekindle.parallel import ddp

if TYPE_CHECKING:
    from rekindle.parallel.ties import Ties
    from rekindle.store.commit import Writer

__all__ = [
    "SMALLEST_BLOCK",
    "Repointed",
    "agree_on_snapshot",
    "blocks_of",
    "follow_statistics",
    "is_sharded_module",
    "make_values",
    "own_files",
    "same_passes",
    "set_reduces",
    "shard",
    "show_parts",
    "sync_statistics",
    "weigh_outputs",
]

SMALLEST_BLOCK = 100_000
_SETTINGS = (
    "blocks",
    "mesh",
    "mp_policy",
    "reshard_after_forward",
    "offload_policy",
    "ignored_params",
    "shard_placement_fn",
)
_LAYOUT, _PASS = "saving: the parts", "run.evaluating"


def is_sharded_module(value: object) -> bool:
    """Tell whether torch's `fully_shard` was called on a module, which then has a class of torch's making."""
    return isinstance(value, nn.Module) and any(base.__name__ == "FSDPModule" for base in type(value).__bases__)


def show_parts(module: nn.Module) -> None:
    """Have a sharded module's parameters be the parts: after a pass without gradients some are gathered still."""
    for inner in module.modules():
        if is_sharded_module(inner):
            inner.reshard()  # type: ignore[operator] # torch made it a class that has it


def shard(
    model: nn.Module,
    device: torch.device,
    settings: Mapping[str, Any],
    *,
    half: torch.dtype | None = None,
    seed_for: Callable[[int], object],
    restored: bool = False,
) -> None:
    """Cut a model's weights in place, each process keeping its part; every process gives the same model.

    Args:
        model: anywhere, the meta device included.
        device: this process's.
        settings: ``blocks`` (modules, their names, or classes of modules to gather one by one; none for the model as
            one; not given, `blocks_of`), and any of `fully_shard`'s: ``mesh``, ``mp_policy``,
            ``reshard_after_forward``, ``offload_policy``, ``ignored_params``, ``shard_placement_fn``.
        half: what to compute in, where not in the weights' own type; gradients are added up in float32 then.
        seed_for: seeds all generators for a number, which stands for the name of a module.
        restored: whether a snapshot is put into the model afterwards, so that its values now do not matter.

    Raises:
        ConfigError: a setting that cannot be meant, or a weight shared by two blocks.
        RunError: a module on the meta device that does not say how it begins.
    """
    unknown = [name for name in settings if name not in _SETTINGS]
    if unknown:
        raise ConfigError(f"fsdp={{{unknown[0]!r}: ...}}: no such setting", why=f"there are {', '.join(_SETTINGS)}")
    from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415 - half a second, and only used here
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # noqa: PLC0415 - as above

    given = {name: value for name, value in settings.items() if name != "blocks"}
    if "mesh" not in given:
        given["mesh"] = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    if half is not None and "mp_policy" not in given:
        given["mp_policy"] = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    ignored = set(map(id, given.get("ignored_params") or ()))
    blocks = _chosen(model, settings["blocks"]) if "blocks" in settings else blocks_of(model)
    if half is not None and "mp_policy" not in settings:
        # Running statistics stay float32, and the kernels want the weights beside them to be of their type.
        whole = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        for module in _with_statistics(model):
            if next(module.parameters(recurse=False), None) is not None:
                _make_ready(module, model, device, seed_for, restored=restored)
                fully_shard(module, **{**given, "mp_policy": whole, "reshard_after_forward": False})
    for module in blocks:
        _make_ready(module, model, device, seed_for, restored=restored)
        fully_shard(module, **given)
    _make_ready(model, model, device, seed_for, restored=restored)
    fully_shard(model, **given)
    if restored and any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        model.to_empty(device=device)
    for tensor in [p for p in model.parameters() if id(p) in ignored]:
        tensor.data = tensor.data.to(device)
    follow_statistics(model)


def blocks_of(model: nn.Module, smallest: int = SMALLEST_BLOCK) -> list[nn.Module]:
    """Return the modules whose weights are gathered one by one, in the order of the model.

    Args:
        model: not changed.
        smallest: parameters that a block has at least.
    """
    found: list[nn.Module] = []
    _collect_blocks(model, smallest, found)
    return [module for module in found if not _shares_outside(module, model)]


def _collect_blocks(module: nn.Module, smallest: int, found: list[nn.Module]) -> None:
    members = isinstance(module, (nn.ModuleList, nn.Sequential))
    for child in module.children():
        large = sum(p.numel() for p in child.parameters()) >= smallest
        if members and large and not isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            found.append(child)
        elif large:
            _collect_blocks(child, smallest, found)


def _shares_outside(module: nn.Module, model: nn.Module) -> bool:
    """Tell whether a weight of a module is used outside of it as well."""
    mine = {id(inner) for inner in module.modules()}
    own = {id(p) for p in module.parameters()}
    others = (inner for inner in model.modules() if id(inner) not in mine)
    return any(id(p) in own for inner in others for p in inner.parameters(recurse=False))


def _chosen(model: nn.Module, wanted: Any) -> list[nn.Module]:
    """Return the modules that the script names, the inner ones first, as `fully_shard` wants them."""
    named = dict(model.named_modules())
    chosen: dict[int, nn.Module] = {}
    for item in wanted if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]:
        if isinstance(item, str) and item in named:
            matches = [named[item]]
        elif isinstance(item, nn.Module):
            matches = [inner for inner in named.values() if inner is item]
        elif isinstance(item, type) and issubclass(item, nn.Module):
            matches = [inner for inner in named.values() if isinstance(inner, item)]
        else:
            matches = []
        if not matches:
            shown = item.__name__ if isinstance(item, type) else repr(item)[:80]
            raise ConfigError(
                f"fsdp={{'blocks': ...}}: the model has no module {shown}",
                why="blocks are modules of the model, their names, or their classes",
                do='run.prepare(model, optimizer, shard="fsdp", fsdp={"blocks": [Block]})',
            )
        chosen |= {id(inner): inner for inner in matches if inner is not model}
    for inner in chosen.values():
        if _shares_outside(inner, model):
            name = next(name for name, module in named.items() if module is inner)
            raise ConfigError(
                f"fsdp={{'blocks': ...}}: {name} shares a weight with a module outside of it",
                why="a weight can be gathered with one block only",
                do="leave it out of the blocks, so that both are gathered with the model",
            )
    # `modules` gives outer before inner.
    return [inner for inner in reversed(list(named.values())) if id(inner) in chosen]


def _make_ready(
    block: nn.Module, model: nn.Module, device: torch.device, seed_for: Callable[[int], object], *, restored: bool
) -> None:
    """Have what is not cut yet of a block hold rank 0's values; nothing where a snapshot follows."""
    if restored:
        return
    make_values(block, model, device, seed_for)
    ddp.broadcast([*(p.data for p in block.parameters() if not _is_cut(p)), *block.buffers()])


def _is_cut(parameter: torch.Tensor) -> bool:
    return hasattr(parameter, "device_mesh")


def make_values(block: nn.Module, model: nn.Module, device: torch.device, seed_for: Callable[[int], object]) -> None:
    """Give what lies on the meta device in a part of a model the values that it begins with.

    They are functions of the seed and of the modules' names, so it does not matter in how many processes, and in what
    order, they are made. What two modules share is as the first one begins.

    Args:
        block: the part, in place.
        model: whose names count.
        device: where to.
        seed_for: seeds all generators for a number.

    Raises:
        RunError: a module with weights of its own, and without ``reset_parameters()``.
    """
    made: dict[int, torch.Tensor] = {}
    for name, module in model.named_modules():
        if any(module is inner for inner in block.modules()) and any(_own(module, is_meta=True)):
            _make_own(module, name, device, seed_for, made)


def _own(module: nn.Module, *, is_meta: bool) -> Iterator[tuple[dict[str, Any], str, torch.Tensor]]:
    """Yield (where it is kept, name, tensor) of a module's own parameters and buffers, not those of its children."""
    for kept in (module._parameters, module._buffers):  # noqa: SLF001 - torch's public lists leave out a name that comes twice
        for name, tensor in kept.items():
            if tensor is not None and tensor.is_meta == is_meta and not _is_cut(tensor):
                yield kept, name, tensor


def _make_own(
    module: nn.Module,
    name: str,
    device: torch.device,
    seed_for: Callable[[int], object],
    made: dict[int, torch.Tensor],
) -> None:
    begin = getattr(module, "reset_parameters", None)
    if not callable(begin):
        raise RunError(
            f"{name or 'the model'}: a {type(module).__name__} on the meta device does not say what it begins with",
            why="it has weights of its own, and no reset_parameters()",
            do="give its class reset_parameters(self), which sets its own weights and buffers",
        )
    known: list[tuple[torch.Tensor, torch.Tensor]] = []
    for kept, attribute, tensor in list(_own(module, is_meta=True)):
        real = made.get(id(tensor))
        if real is None:
            real = torch.empty_like(tensor, device=device)
            if isinstance(tensor, nn.Parameter):
                real = nn.Parameter(real, requires_grad=tensor.requires_grad)
            made[id(tensor)] = real
        else:
            known.append((real, real.detach().clone()))
        kept[attribute] = real
    seed_for(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    with torch.no_grad():
        begin()
        for real, value in known:
            real.copy_(value)


# ---- optimizers


class Repointed:
    """Parameters that were replaced, for the optimizers that hold the old ones.

    Holds the old ones weakly: where nobody has them any more, there is nothing to look after. Not the new ones, since
    torch does not move a module whose weights somebody refers to weakly.
    """

    def __init__(self) -> None:
        """Know of none."""
        self._new: dict[int, tuple[weakref.ref[torch.Tensor], torch.Tensor]] = {}
        self._hook: Any = None

    def note(self, old: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor]) -> None:
        """Note what a model's parameters were before it was cut, and what they are now, by name."""
        for name, before in old.items():
            after = new[name]
            if after is not before:
                self._new[id(before)] = (weakref.ref(before), after)
        if self._hook is None and self._new:
            from torch.optim.optimizer import register_optimizer_step_pre_hook  # noqa: PLC0415 - only needed here

            alive = weakref.ref(self)

            def refuse(optimizer: torch.optim.Optimizer, *_: object) -> None:
                known = alive()
                if known is not None:
                    known.refuse(optimizer)

            self._hook = register_optimizer_step_pre_hook(refuse)

    def adopt(self, optimizer: torch.optim.Optimizer) -> None:
        """Point an optimizer to the new parameters; its state, where it has some, is cut as they are."""
        for group in optimizer.param_groups:
            for position, parameter in enumerate(group["params"]):
                new = self._after(parameter)
                if new is None:
                    continue
                group["params"][position] = new
                if parameter in optimizer.state:
                    state = optimizer.state.pop(parameter)
                    optimizer.state[new] = {key: _cut_alike(value, new) for key, value in state.items()}

    def refuse(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise if an optimizer holds parameters that are none any more.

        Raises:
            RunError: it does; what it steps is no weight of any model.
        """
        first = next((p for group in optimizer.param_groups for p in group["params"]), None)
        if first is not None and self._after(first) is not None:
            raise RunError(
                f"the optimizer ({type(optimizer).__name__}) has the weights from before the model was sharded",
                why="sharding replaces them, so its steps would change nothing",
                do='give it to run.prepare too: model, optimizer = run.prepare(model, optimizer, shard="fsdp"), '
                "or make it afterwards",
            )

    def _after(self, parameter: torch.Tensor) -> torch.Tensor | None:
        known = self._new.get(id(parameter))
        return known[1] if known is not None and known[0]() is parameter else None


def _cut_alike(value: Any, like: Any) -> Any:
    """Return a parameter's state as the parameter was cut; what has another shape stays as it is."""
    if not isinstance(value, torch.Tensor) or value.shape != like.shape or not _is_cut(like):
        return value
    from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415 - there by now

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


# ---- what DDP does by itself


def _with_statistics(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that keep running statistics."""
    for module in model.modules():
        if isinstance(getattr(module, "running_mean", None), torch.Tensor):
            yield module


def sync_statistics(models: Iterable[nn.Module]) -> None:
    """Give every process rank 0's running statistics, as DDP does with its buffers."""
    for model in models:
        buffers = [buffer for module in _with_statistics(model) for buffer in module.buffers(recurse=False)]
        by_kind: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
        for buffer in buffers:
            by_kind.setdefault((buffer.dtype, buffer.device), []).append(buffer)
        for group in by_kind.values():  # one message for each type
            flat = torch.cat([buffer.detach().reshape(-1) for buffer in group])
            ddp.broadcast([flat])
            for buffer, part in zip(group, torch.split(flat, [buffer.numel() for buffer in group]), strict=True):
                buffer.detach().copy_(part.view(buffer.shape))


def follow_statistics(model: nn.Module) -> None:
    """Have a sharded model begin each forward pass in training with rank 0's running statistics.

    From now on `same_passes` knows of its passes, too.
    """
    if any(True for _ in _with_statistics(model)):
        model.register_forward_pre_hook(_sync_before_forward)
    _watch_passes(model)


def _sync_before_forward(model: nn.Module, _: object) -> None:
    if model.training and torch.is_grad_enabled():
        with torch.no_grad():
            sync_statistics([model])


def set_reduces(model: Any, *, reduces: bool) -> None:
    """Have the next backward passes reduce gradients or, inside an accumulation window, keep them where they are."""
    model.set_requires_gradient_sync(reduces)


def weigh_outputs(model: nn.Module, weight: float) -> Any:
    """Have every gradient that enters a model from its outputs be multiplied; return what takes that back.

    The parameters themselves see gradients only once these are added up over the processes.
    """
    return model.register_forward_hook(partial(_weigh, weight))


def _weigh(weight: float, _: nn.Module, __: object, output: Any) -> Any:
    from torch.utils._pytree import tree_map  # noqa: PLC0415 - only for batches that are shared out unevenly

    def scaled(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * weight if weight else torch.zeros_like(gradient)

    def weighed(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.requires_grad:
            value.register_hook(scaled)  # type: ignore[no-untyped-call] # torch leaves it untyped
        return value

    return tree_map(weighed, output)


# ---- evaluations


class _Evaluation:
    """An evaluation in progress, whose passes all processes make together.

    Args:
        models: sharded ones, in the same order in every process.
        ties: to the others.
    """

    def __init__(self, models: Sequence[nn.Module], ties: Ties) -> None:
        self._models = models
        self._ties = ties
        # What the pass under way has gathered: name of the module, and whether it stays gathered.
        self.gathered: list[tuple[str, bool]] = []

    def begin_pass(self, model: nn.Module) -> None:
        """Say that a pass begins here."""
        number = next((at for at, known in enumerate(self._models) if known is model), None)
        if number is not None:
            self._meet(number)
            _orders[model] = self.gathered = []

    def take_part(self) -> None:
        """Return once no process makes another pass; until then gather with them what they gather."""
        while (number := self._meet(None)) is not None:
            model = self._models[number]
            order = _orders.get(model)
            if order is None:
                raise RunError(
                    f"rank {self._ties.ranks.rank} has nothing to evaluate, and the others have",
                    why="it has to gather the weights with them, and has not made a pass yet that would show how",
                    do="evaluate on the loader itself, which is the same on all processes, instead of its own_share()",
                )
            for name, stays in order:
                module = model.get_submodule(name)
                module.unshard()  # type: ignore[operator] # torch made it a class that has it
                if not stays:
                    module.reshard()  # type: ignore[operator] # as above

    def _meet(self, number: int | None) -> int | None:
        """Say which model begins a pass here, None for no more; return the one that does anywhere."""
        everywhere = self._ties.gather(_PASS, number)
        begun = {word for word in everywhere if word is not None}
        if len(begun) > 1:
            raise RunError(
                f"run.evaluating: the processes evaluate different models ({everywhere} by rank)",
                why="a sharded model computes on all processes at once",
                do="evaluate the models in the same order on every process",
            )
        return next(iter(begun), None)


_evaluation: _Evaluation | None = None
# Root of a model -> what its last pass in an evaluation gathered, in this order.
_orders: weakref.WeakKeyDictionary[nn.Module, list[tuple[str, bool]]] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def same_passes(models: Sequence[nn.Module], ties: Ties) -> Iterator[None]:
    """Have all processes make as many passes without gradients as the one that makes most; every one calls it.

    It costs a word over the ties for each pass.

    Args:
        models: the sharded ones, in the same order everywhere. With none there is nothing to do.
        ties: to the others.

    Raises:
        RunError: the processes evaluate different models, or one that never made a pass has none to make.
    """
    global _evaluation  # noqa: PLW0603 - hooks of models ask for it, and models are not to hold a run
    if not models or _evaluation is not None:
        yield
        return
    _evaluation = _Evaluation(models, ties)
    try:
        yield
        _evaluation.take_part()
    finally:
        _evaluation = None


def _watch_passes(model: nn.Module) -> None:
    # Before torch's own hooks, which gather. They stay: a compiled model may not notice that a hook came or went.
    for name, module in model.named_modules():
        part = _own_part(module)
        if part is not None:
            module.register_forward_pre_hook(partial(_note_gathering, name), prepend=True)
            module.register_forward_hook(partial(_note_staying, name, part))
    model.register_forward_pre_hook(_begin_pass, prepend=True)


def _own_part(module: nn.Module) -> str | None:
    """Return the name of a parameter that is gathered with a module, and not with one inside of it."""
    if not is_sharded_module(module):
        return None
    inner = [each for each in module.modules() if each is not module and is_sharded_module(each)]
    theirs = {id(p) for each in inner for p in each.parameters()}
    return next((name for name, p in module.named_parameters() if _is_cut(p) and id(p) not in theirs), None)


def _under_way() -> _Evaluation | None:
    return None if torch.is_grad_enabled() else _evaluation


@torch.compiler.disable  # type: ignore[untyped-decorator] # torch leaves it untyped
def _begin_pass(model: nn.Module, _: object) -> None:
    evaluation = _under_way()
    if evaluation is not None:
        evaluation.begin_pass(model)


@torch.compiler.disable  # type: ignore[untyped-decorator] # torch leaves it untyped
def _note_gathering(name: str, _: nn.Module, __: object) -> None:
    evaluation = _under_way()
    if evaluation is not None:
        evaluation.gathered.append((name, False))


@torch.compiler.disable  # type: ignore[untyped-decorator] # torch leaves it untyped
def _note_staying(name: str, part: str, module: nn.Module, _: object, __: object) -> None:
    evaluation = _under_way()
    if evaluation is not None and not _is_cut(module.get_parameter(part)):
        last = max((at for at, (known, _) in enumerate(evaluation.gathered) if known == name), default=None)
        if last is not None:
            evaluation.gathered[last] = (name, True)


# ---- snapshots


def own_files(files: Mapping[str, Writer], rank: int, world_size: int) -> dict[str, Writer]:
    """Return the files that a process writes: all that it has, which only it has."""
    del rank, world_size
    return dict(files)


def agree_on_snapshot(ties: Ties, not_finite: str | None, layout: str) -> str | None:
    """Return the first parameter that is not finite on any process, after a look that all lay the snapshot out alike.

    Args:
        ties: to the others; called by the thread that writes.
        not_finite: what was found here.
        layout: digest of what says where parts lie.

    Raises:
        RunError: the processes differ in what they would save.
    """
    everywhere = ties.gather(_LAYOUT, [not_finite, layout], timeout_s=None)
    odd = [rank for rank, words in enumerate(everywhere) if words[1] != everywhere[0][1]]
    if odd:
        raise RunError(
            f"rank {odd[0]} would save other sharded tensors than rank 0, so the snapshot was not written",
            why="a parameter has an optimizer state on some processes only, or the models differ",
            do="have every process make the same model and optimizer, and use the same parameters in each step",
        )
    return next((words[0] for words in everywhere if words[0] is not None), None)
