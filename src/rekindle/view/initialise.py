"""Initialisation by layer type, with a report of what was initialised and what was not.

Rules, after the papers they are named for: *kaiming* (He et al. 2015, "Delving Deep into Rectifiers") keeps the
variance through ReLUs, *xavier* (Glorot and Bengio 2010) through tanh and attention, *trunc_normal* is a normal of a
fixed width cut at two of it (vision transformers), *orthogonal* (Saxe et al. 2013). Biases and the constants of norms
are not random. Values are drawn on the CPU in float32 and then copied, so that they are the same on every device and
in every precision.

Law: a parameter that no rule is for stays exactly as it was, and the report names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from rekindle.errors import ConfigError
from rekindle.keys import canonical_key
from rekindle.tune.named import NORMS, picked_keys

__all__ = ["Initialised", "initialise"]

Weights: TypeAlias = Literal["kaiming", "xavier", "trunc_normal", "normal", "orthogonal"]
Fill: TypeAlias = "Callable[[torch.Tensor, torch.Generator | None], object]"

_NAMES = ("kaiming", "xavier", "trunc_normal", "normal", "orthogonal")
_PRODUCTS = (
    nn.modules.conv._ConvNd,  # noqa: SLF001 - the base of every convolution; torch has no public one
    nn.Linear,
    nn.Bilinear,
)


@dataclass(frozen=True, slots=True)
class Initialised:
    """What was initialised; `str` of it is a table.

    Attributes:
        done: key -> how, of what has new values; running statistics of norms too.
        left: key -> why it was left as it was.
    """

    done: Mapping[str, str]
    left: Mapping[str, str]

    def __str__(self) -> str:
        """Return the table."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        whole = len(self.done) + len(self.left)
        yield f"{len(self.done):,} of {whole:,} tensors initialised"
        ways: dict[str, list[str]] = {}
        for key, how in self.done.items():
            ways.setdefault(how, []).append(key)
        for key, why in self.left.items():
            ways.setdefault(f"left: {why}", []).append(key)
        for how, keys in ways.items():
            shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
            yield f"  {len(keys):>4,}  {how}: {shown}"


def initialise(
    model: nn.Module,
    weights: Weights = "kaiming",
    *,
    nonlinearity: str = "relu",
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    std: float = 0.02,
    bias: float = 0.0,
    only: str | Sequence[str] = (),
    but: str | Sequence[str] = (),
    frozen: bool = False,
    rules: Mapping[type[nn.Module], Callable[[nn.Module], object]] | None = None,
    seed: int | None = None,
) -> Initialised:
    """Give the layers of a model new first values, each type its own; print what comes back.

    Convolutions and linear layers get `weights`, embeddings a normal of width `std` (with a row of zeros for padding),
    attention *xavier*, recurrent layers *xavier* for inputs and orthogonal for states, norms weight 1, bias 0 and fresh
    statistics, and all biases `bias`.

    Args:
        model: changed in place; may be wrapped.
        weights: the rule for weights of products.
        nonlinearity: what follows a layer, for the gain of *kaiming*, *xavier* and *orthogonal*, as of
            `torch.nn.init.calculate_gain`; *xavier* with "relu" takes a gain of 1.
        mode: for *kaiming*: keep the variance of the forward (``fan_in``) or of the backward pass (``fan_out``).
        std: width of *normal* and *trunc_normal*.
        bias: of every layer but norms.
        only: initialise what these fit: whole keys with ``*``, or names of modules; everything by default.
        but: of that, leave out what these fit.
        frozen: also initialise parameters without gradients.
        rules: type of module -> a function of yours that initialises one; goes before ours, also for subclasses.
        seed: makes the values of a parameter a function of (seed, key), whatever else is in the model, and leaves
            torch's generator as it is. None draws from torch's generator.

    Raises:
        ConfigError: no such rule or nonlinearity, or a pattern fits nothing. Nothing was changed.

    Example:
        print(rk.initialise(model, "kaiming", seed=0))
    """
    if weights not in _NAMES:
        raise ConfigError(f"initialise: there is no rule {weights!r}", why=f"there are: {', '.join(_NAMES)}")
    try:
        gain = nn.init.calculate_gain(nonlinearity)  # type: ignore[arg-type] # torch checks the text
    except ValueError as error:
        raise ConfigError(f"initialise: {str(error).lower()}", do='such as nonlinearity="relu"') from None
    chosen = set(picked_keys(model, only or "*", but)) if only or but else None
    work = _Work(_filling(weights, nonlinearity, mode, std, gain), std, bias, chosen, frozen, seed)
    with torch.no_grad():
        work.whole(model, rules or {})
    return Initialised(work.done, work.left)


def _filling(weights: str, nonlinearity: Any, mode: Any, std: float, gain: float) -> Fill:
    def fill(values: torch.Tensor, generator: torch.Generator | None) -> None:
        match weights:
            case "kaiming":
                nn.init.kaiming_normal_(values, mode=mode, nonlinearity=nonlinearity, generator=generator)
            case "xavier":
                nn.init.xavier_uniform_(values, 1.0 if nonlinearity == "relu" else gain, generator=generator)
            case "trunc_normal":
                nn.init.trunc_normal_(values, std=std, a=-2 * std, b=2 * std, generator=generator)
            case "normal":
                nn.init.normal_(values, std=std, generator=generator)
            case _:
                nn.init.orthogonal_(values, gain, generator=generator)

    fill.__name__ = weights
    return fill


def _named(name: str, fill: Fill) -> Fill:
    fill.__name__ = name
    return fill


class _Work:
    """One initialisation: what is done and left so far."""

    def __init__(
        self, fill: Fill, std: float, bias: float, chosen: set[str] | None, frozen: bool, seed: int | None
    ) -> None:
        self.fill = fill
        self.std = std
        self.bias = bias
        self.chosen = chosen
        self.frozen = frozen
        self.seed = seed
        self.done: dict[str, str] = {}
        self.left: dict[str, str] = {}
        self.seen: set[int] = set()

    def whole(self, model: nn.Module, rules: Mapping[type[nn.Module], Callable[[nn.Module], object]]) -> None:
        ruled = ""
        for path, module in model.named_modules():
            name = canonical_key(f"{path}.x")[:-1] if path else ""
            rule = next((rules[kind] for kind in type(module).__mro__ if kind in rules), None)
            if rule is not None and not (ruled and name.startswith(ruled)):
                self.by_rule(name, module, rule)
                ruled = name
                continue
            if not (ruled and name.startswith(ruled)):
                self.module(name, module)

    def by_rule(self, name: str, module: nn.Module, rule: Callable[[nn.Module], object]) -> None:
        keys = {name + canonical_key(key): value for key, value in module.named_parameters()}
        if all(self.is_wanted(key, value) for key, value in keys.items()):
            rule(module)
            called = getattr(rule, "__name__", type(rule).__name__)
            self.done.update(dict.fromkeys(keys, f"your rule {called}"))
            self.seen.update(map(id, keys.values()))

    def is_wanted(self, key: str, value: torch.Tensor) -> bool:
        """Tell whether a parameter may be changed, and note why where not."""
        why = ""
        if isinstance(value, nn.parameter.UninitializedParameter):
            why = "no size before the first call"
        elif value.device.type == "meta":
            why = "on the meta device, which holds no values"
        elif self.chosen is not None and key not in self.chosen:
            why = "not asked for"
        elif not value.requires_grad and not self.frozen:
            why = "frozen"
        elif not value.dtype.is_floating_point or value.dtype.itemsize < 2:
            why = f"dtype {str(value.dtype).removeprefix('torch.')}"
        if why:
            self.left[key] = why
        return not why

    def module(self, name: str, module: nn.Module) -> None:
        for part, value in module.named_parameters(recurse=False):
            if id(value) in self.seen:
                continue
            self.seen.add(id(value))
            key = name + part
            if not self.is_wanted(key, value):
                continue
            fill = self.rule_for(module, part, value)
            if fill is None:
                self.left[key] = f"no rule for a parameter of {type(module).__name__}"
                continue
            self.put(key, value, fill)
        statistics = [part for part in ("running_mean", "running_var") if getattr(module, part, None) is not None]
        if isinstance(module, NORMS) and statistics and self.is_chosen_norm(name, module):
            module.reset_running_stats()  # type: ignore[operator] # every norm with statistics has it
            self.done.update({f"{name}{part}": "fresh statistics" for part in statistics})

    def is_chosen_norm(self, name: str, module: nn.Module) -> bool:
        keys = [f"{name}{part}" for part, _ in module.named_parameters(recurse=False)]
        return any(key in self.done for key in keys) if keys else self.chosen is None

    def rule_for(self, module: nn.Module, part: str, value: torch.Tensor) -> Fill | None:
        """Return how a parameter is filled, or None where nothing is known about it."""
        if isinstance(module, NORMS):
            number = {"weight": 1.0, "bias": 0.0}.get(part)
            return None if number is None else _constant(number)
        if isinstance(module, nn.PReLU):
            return _constant(0.25)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            return _embedding(self.std, module.padding_idx)
        if isinstance(module, nn.RNNBase):
            if "bias" in part:
                return _constant(self.bias)
            return _blocks("orthogonal" if part.startswith("weight_hh") else "xavier", _gates(module))
        if isinstance(module, nn.MultiheadAttention):
            if "bias" in part and value.dim() == 1:
                return _constant(self.bias)
            return _blocks("xavier", 3 if part == "in_proj_weight" else 1)
        if isinstance(module, _PRODUCTS):
            if part == "bias":
                return _constant(self.bias)
            return self.fill if part == "weight" and value.dim() >= 2 else None
        return None

    def put(self, key: str, value: torch.Tensor, fill: Fill) -> None:
        generator = None
        if self.seed is not None:
            digest = hashlib.blake2b(f"{self.seed}/{key}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        # Drawn wide and on the CPU: same values for every device and precision. Orthogonal needs float32 anyway.
        wide = torch.float64 if value.dtype == torch.float64 else torch.float32
        drawn = torch.empty(value.shape, dtype=wide)
        fill(drawn, generator)
        value.copy_(drawn)
        self.done[key] = getattr(fill, "__name__", "filled")


def _constant(number: float) -> Fill:
    return _named(f"constant {number:g}", lambda values, _: values.fill_(number))


def _embedding(std: float, padding: int | None) -> Fill:
    def fill(values: torch.Tensor, generator: torch.Generator | None) -> None:
        nn.init.normal_(values, std=std, generator=generator)
        if padding is not None:
            values[padding] = 0

    return _named("normal", fill)


def _blocks(rule: str, count: int) -> Fill:
    """Fill each of several matrices that lie in one on its own: the gates of an LSTM, query, key and value."""

    def fill(values: torch.Tensor, generator: torch.Generator | None) -> None:
        for block in values.chunk(count) if values.dim() == 2 else [values]:
            if rule == "orthogonal":
                nn.init.orthogonal_(block, generator=generator)
            else:
                nn.init.xavier_uniform_(block, generator=generator)

    return _named(f"{rule}, {count} blocks" if count > 1 else rule, fill)


def _gates(module: nn.RNNBase) -> int:
    return {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
