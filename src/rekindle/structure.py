"""The saved object as an indented outline; modules as PyTorch prints them.

Well-known `torch.nn` classes are shown with their settings, read from the attributes in the file: the line is the one
that ``repr`` of the live module gives. Other classes show their name. A container that was shown before is named, not
shown again, so that the outline is never longer than the file.

Facts: `extra_repr` of PyTorch 2.13 `torch/nn/modules/*.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias, cast

from rekindle.render import escape
from rekindle.tree import Global, Map, Module, Record, SetOf, SparseTensor, StorageRef, Tensor, Value, children

__all__ = ["extra_of", "structure_lines"]

_MAX_DEPTH = 100
# The way out of a module; no escaped label holds it.
_CLOSING = "\0)"


def structure_lines(tree: Value, limit: int) -> Iterator[str]:
    """Yield the outline of an object, at most `limit` lines."""
    shown: dict[int, str] = {}
    pending: list[tuple[int, str, Value, str]] = [(0, "", tree, "")]
    count = 0
    while pending:
        depth, label, node, path = pending.pop()
        indent = "  " * depth
        if label == _CLOSING:
            yield indent + ")"
            continue
        count += 1
        if count > limit or depth > _MAX_DEPTH:
            yield f"{indent}… more (--json lists all tensors)"
            return
        in_brackets = label and isinstance(node, Module)
        prefix = indent + (f"({label}): " if in_brackets else f"{label}: " if label else "")
        name, parts, closing = _describe(node)
        if parts and id(node) in shown:
            yield f"{prefix}{name} …  (same as {shown[id(node)] or 'the whole'})"
            continue
        if parts:
            shown[id(node)] = path
        yield prefix + name + ("(" if closing and parts else "")
        if closing and parts:
            pending.append((depth, _CLOSING, None, ""))
        pending.extend(
            (depth + 1, escape(key), child, f"{path}.{escape(key)}" if path else escape(key))
            for key, child in reversed(parts)
        )


def _describe(node: Value) -> tuple[str, list[tuple[str, Value]], bool]:
    """Return (one line, parts, whether the parts are put in brackets)."""
    if isinstance(node, Module):
        return _describe_module(node)
    if isinstance(node, Tensor):
        return _tensor_text(node), [], False
    if isinstance(node, SparseTensor):
        return f"{node.layout} {list(node.shape)}", children(node), False
    if isinstance(node, StorageRef):
        return f"storage of {node.numel:,} {node.dtype}", [], False
    if isinstance(node, Map):
        return f"{escape(node.type)} of {len(node.pairs):,}", children(node), False
    if isinstance(node, (list, tuple, SetOf)):
        items = node.items if isinstance(node, SetOf) else node
        kind = "set" if isinstance(node, SetOf) else type(node).__name__
        if len(items) <= 8 and all(_is_plain(item) for item in items):
            return f"{kind} ({', '.join(_plain(item) for item in items)})", [], False
        return f"{kind} of {len(items):,}", children(node), False
    if isinstance(node, Record):
        return f"object {escape(_class_of(node.function))}", children(node), False
    if isinstance(node, Global):
        return escape(node.path), [], False
    return _plain(node), [], False


def _is_plain(value: Value) -> bool:
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes))


def _plain(value: Value) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 4096:
        return f"{value.bit_length()}-bit integer"
    if isinstance(value, bytes) and len(value) > 64:
        return f"{len(value):,} bytes"
    return escape(repr(value))


def _class_of(function: Value) -> str:
    return function.path if isinstance(function, Global) else type(function).__name__


def _tensor_text(tensor: Tensor) -> str:
    kind = "Parameter" if tensor.parameter else "Tensor"
    notes = "" if tensor.storage.device == "cpu" else f" on {escape(tensor.storage.device, 40)}"
    return f"{kind} {tensor.dtype} {list(tensor.shape)}{notes}"


def _describe_module(module: Module) -> tuple[str, list[tuple[str, Value]], bool]:
    extra = extra_of(module)
    parts: list[tuple[str, Value]] = [(name, child) for name, child in module.modules.items()]
    name = escape(module.type.name)
    if extra is None:
        # A class of the user's: its own tensors are its settings.
        own = [*module.parameters.items(), *module.buffers.items()]
        parts = [*((key, child) for key, child in own if child is not None), *parts]
        return name if parts else f"{name}()", parts, True
    if parts:
        return name, parts, True
    return f"{name}({extra})", [], False


_Setting: TypeAlias = "None | bool | int | float | str | tuple[int, ...]"


class _Settings:
    """The attributes of a module in the file: missing ones and odd ones raise `KeyError`, which hides the settings."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.pairs = {key: value for key, value in module.attributes.pairs if isinstance(key, str)}

    def __getitem__(self, name: str) -> _Setting:
        value = self.pairs[name]
        if isinstance(value, tuple) and all(_is_number(part) for part in value):
            return cast("tuple[int, ...]", value)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise KeyError(name)

    def get(self, name: str, otherwise: _Setting) -> _Setting:
        return self[name] if name in self.pairs else otherwise

    @property
    def bias(self) -> bool:
        return self.module.parameters.get("bias") is not None


def extra_of(module: Module) -> str | None:
    """Return what PyTorch prints between the brackets of a well-known module; None for another class.

    The result is harmless to print, whatever the attributes in the file are.
    """
    path = module.type.path
    if not path.startswith("torch.nn.modules."):
        return None
    show = _EXTRAS.get(module.type.name)
    if show is None:
        return ""
    try:
        return escape(show(_Settings(module)))
    except (KeyError, TypeError, ValueError):
        return "…"


def _conv(s: _Settings) -> str:
    kernel = s["kernel_size"]
    ones, zeros = (1,) * len(_tuple(kernel)), (0,) * len(_tuple(kernel))
    text = f"{s['in_channels']}, {s['out_channels']}, kernel_size={kernel}, stride={s['stride']}"
    if s["padding"] != zeros:
        text += f", padding={s['padding']}"
    if s["dilation"] != ones:
        text += f", dilation={s['dilation']}"
    if s["output_padding"] != zeros:
        text += f", output_padding={s['output_padding']}"
    if s["groups"] != 1:
        text += f", groups={s['groups']}"
    if not s.bias:
        text += ", bias=False"
    mode = s.get("padding_mode", "zeros")
    return text if mode == "zeros" else f"{text}, padding_mode={mode}"


def _is_number(value: Value) -> bool:
    return value is None or isinstance(value, (bool, int, float))


def _tuple(value: _Setting) -> tuple[int, ...]:
    if not isinstance(value, tuple):
        raise TypeError("a tuple is expected")
    return value


def _max_pool(s: _Settings) -> str:
    return (
        f"kernel_size={s['kernel_size']}, stride={s['stride']}, padding={s['padding']}, "
        f"dilation={s['dilation']}, ceil_mode={s['ceil_mode']}"
    )


def _avg_pool(s: _Settings) -> str:
    return f"kernel_size={s['kernel_size']}, stride={s['stride']}, padding={s['padding']}"


def _norm(s: _Settings) -> str:
    text = f"{s['num_features']}, eps={s['eps']}, momentum={s['momentum']}, affine={s['affine']}, bias={s.bias}"
    return f"{text}, track_running_stats={s['track_running_stats']}"


def _layer_norm(s: _Settings) -> str:
    return f"{_rms_norm(s)}, bias={s.bias}"


def _rms_norm(s: _Settings) -> str:
    return f"{s['normalized_shape']}, eps={s['eps']}, elementwise_affine={s['elementwise_affine']}"


def _group_norm(s: _Settings) -> str:
    return f"{s['num_groups']}, {s['num_channels']}, eps={s['eps']}, affine={s['affine']}, bias={s.bias}"


def _embedding(s: _Settings) -> str:
    text = f"{s['num_embeddings']}, {s['embedding_dim']}"
    for name, usual in (("padding_idx", None), ("max_norm", None), ("norm_type", 2), ("scale_grad_by_freq", False)):
        if s.get(name, usual) != usual:
            text += f", {name}={s[name]}"
    return text + (", sparse=True" if s.get("sparse", False) is not False else "")


def _recurrent(s: _Settings) -> str:
    text = f"{s['input_size']}, {s['hidden_size']}"
    if s.get("proj_size", 0) != 0:
        text += f", proj_size={s['proj_size']}"
    if s["num_layers"] != 1:
        text += f", num_layers={s['num_layers']}"
    if s["bias"] is not True:
        text += f", bias={s['bias']}"
    for name, usual in (("batch_first", False), ("dropout", 0), ("bidirectional", False)):
        if s[name] != usual:
            text += f", {name}={s[name]}"
    return text


def _in_place(s: _Settings) -> str:
    return "inplace=True" if s["inplace"] else ""


def _and_in_place(*names: str) -> Callable[[_Settings], str]:
    def show(s: _Settings) -> str:
        text = ", ".join(f"{name}={s[name]}" for name in names)
        return text + (", inplace=True" if s["inplace"] else "")

    return show


def _named(*names: str) -> Callable[[_Settings], str]:
    return lambda s: ", ".join(f"{name}={s[name]}" for name in names)


def _dropout(s: _Settings) -> str:
    return f"p={s['p']}, inplace={s['inplace']}"


_EXTRAS: dict[str, Callable[[_Settings], str]] = {
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _conv),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), _conv),
    **dict.fromkeys(("MaxPool1d", "MaxPool2d", "MaxPool3d"), _max_pool),
    **dict.fromkeys(("AvgPool1d", "AvgPool2d", "AvgPool3d"), _avg_pool),
    **dict.fromkeys((f"Adaptive{kind}Pool{n}d" for kind in ("Avg", "Max") for n in (1, 2, 3)), _named("output_size")),
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"), _norm),
    **dict.fromkeys(("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"), _norm),
    "LayerNorm": _layer_norm,
    "RMSNorm": _rms_norm,
    "GroupNorm": lambda s: (
        f"{s['num_groups']}, {s['num_channels']}, eps={s['eps']}, affine={s['affine']}, bias={s.bias}"
    ),
    **dict.fromkeys(("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout"), _dropout),
    "Linear": lambda s: f"in_features={s['in_features']}, out_features={s['out_features']}, bias={s.bias}",
    "Bilinear": lambda s: (
        f"in1_features={s['in1_features']}, in2_features={s['in2_features']}, "
        f"out_features={s['out_features']}, bias={s.bias}"
    ),
    "Embedding": _embedding,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("ReLU", "ReLU6", "SiLU", "Mish", "Hardswish", "Hardsigmoid", "SELU"), _in_place),
    "LeakyReLU": _and_in_place("negative_slope"),
    "ELU": _and_in_place("alpha"),
    "CELU": _and_in_place("alpha"),
    "GELU": lambda s: f"approximate={s['approximate']!r}",
    "PReLU": _named("num_parameters"),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _named("dim")),
    "Flatten": _named("start_dim", "end_dim"),
    "PixelShuffle": _named("upscale_factor"),
}
