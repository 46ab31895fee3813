"""Summary: the layers of a model with their outputs, parameters and FLOPs; or of a file, from its table alone.

Definitions. A parameter that several layers share is counted once, with the first. *FLOPs* are those of
`torch.utils.flop_counter`: matrix products, convolutions and attention, two for a multiply and an add; everything else
is small beside them and not counted. *Activations* are the bytes of the outputs of layers, each memory once: an output
that is a view of another, or written over it, adds nothing.

Law: this module imports no torch, so that a file is summed up where there is none. A model's own numbers come from
`view/measure.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from rekindle.render import escape, human_bytes

if TYPE_CHECKING:
    from torch import nn

    from rekindle.tensors import TensorEntry

__all__ = ["Layer", "Summary", "summary"]

Shape: TypeAlias = tuple[int, ...]
_ABSENT: Any = object()
_BUFFERS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
_NAME_COLUMN, _OUTPUT_COLUMN = 48, 40


@dataclass(frozen=True, slots=True)
class Layer:
    """One module of a model, or one group of tensors in a file.

    Attributes:
        name: as in keys, without wrappers; empty for the model itself.
        kind: the class; of a file, what the shapes look like, or empty.
        inner: whether it has layers below it.
        outputs: shapes of the tensors it returned; empty where no pass was made or it was not called.
        parameters: values in its own parameters, without those of layers below it.
        trained: of these, the values that get gradients.
        buffers: values in its own buffers.
        size_bytes: of its own parameters and buffers.
        flops: of its own operations, without those of layers below it; None without a pass.
        activation_bytes: of its outputs; None without a pass.
        calls: how often it was called in the pass.
        same_as: name of an earlier layer that is this very module, or empty.
        weight: shape of its tensor ``weight``; empty where it has none.
    """

    name: str
    kind: str
    inner: bool = False
    outputs: tuple[Shape, ...] = ()
    parameters: int = 0
    trained: int = 0
    buffers: int = 0
    size_bytes: int = 0
    flops: int | None = None
    activation_bytes: int | None = None
    calls: int = 0
    same_as: str = ""
    weight: Shape = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """What a model is made of; `str` of it is a table.

    Attributes:
        title: the model's class, or the file.
        inputs: what went in, in words; empty without a pass.
        layers: every module, in the order of registration.
        input_bytes: of the tensors that went in.
        notes: what is worth knowing about the numbers.
        depth: how many levels of names the table shows; None for all.
    """

    title: str
    inputs: str
    layers: tuple[Layer, ...]
    input_bytes: int = 0
    notes: tuple[str, ...] = ()
    depth: int | None = None

    @property
    def parameters(self) -> int:
        """Values in all parameters."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def trained(self) -> int:
        """Values in parameters that get gradients."""
        return sum(layer.trained for layer in self.layers)

    @property
    def frozen(self) -> int:
        """Values in parameters that get none."""
        return self.parameters - self.trained

    @property
    def buffers(self) -> int:
        """Values in all buffers."""
        return sum(layer.buffers for layer in self.layers)

    @property
    def size_bytes(self) -> int:
        """Bytes of all parameters and buffers."""
        return sum(layer.size_bytes for layer in self.layers)

    @property
    def flops(self) -> int | None:
        """FLOPs of one pass, or None where none was made."""
        known = [layer.flops for layer in self.layers if layer.flops is not None]
        return sum(known) if known else None

    @property
    def activation_bytes(self) -> int | None:
        """Bytes of the outputs of all layers, or None where no pass was made."""
        known = [layer.activation_bytes for layer in self.layers if layer.activation_bytes is not None]
        return sum(known) if known else None

    def to_json(self) -> dict[str, object]:
        """Return the summary for programs."""
        return {
            "title": self.title,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "trained": self.trained,
            "frozen": self.frozen,
            "buffers": self.buffers,
            "bytes": self.size_bytes,
            "flops": self.flops,
            "activation_bytes": self.activation_bytes,
            "input_bytes": self.input_bytes,
            "layers": [asdict(layer) for layer in self.layers],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Return the table."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{escape(self.title, 400)}" + (f"  input {escape(self.inputs)}" if self.inputs else "")
        shown = _shown(self.layers, self.depth)
        passed = self.flops is not None
        titles = ("layer", "kind", "output" if passed else "weight", "parameters", "trained", "FLOPs")
        rows = [
            (
                escape(layer.name or "(the model)"),
                escape(layer.kind),
                _outputs(layer, passed),
                f"{layer.parameters:,}" if layer.parameters else "",
                _trained(layer),
                short_number(layer.flops) if layer.flops else "",
            )
            for layer in shown
        ]
        # A column that no row fills is not shown: a file has no outputs, many models have nothing frozen.
        kept = [column for column in range(len(titles)) if column < 1 or any(row[column] for row in rows)]
        caps = (_NAME_COLUMN, 32, _OUTPUT_COLUMN, 20, 12, 12)
        widths = [min(max([len(titles[i]), *(len(row[i]) for row in rows)]), caps[i]) for i in range(len(titles))]
        for row in (titles, *rows):
            cells = [f"{row[i]:>{widths[i]}}" if i in {3, 5} else f"{row[i]:<{widths[i]}}" for i in kept]
            yield ("  " + "  ".join(cells)).rstrip()
        yield from self._totals()

    def _totals(self) -> Iterator[str]:
        yield ""
        sure = not any(layer.kind.endswith("?") for layer in self.layers)
        split = f" ({self.trained:,} trained, {self.frozen:,} frozen)" if sure and self.title else ""
        yield f"  parameters   {self.parameters:,}{split}"
        if self.buffers:
            yield f"  buffers      {self.buffers:,}"
        yield f"  size         {human_bytes(self.size_bytes)}"
        if self.flops is not None:
            yield f"  FLOPs        {short_number(self.flops)} in one pass"
        if self.activation_bytes is not None:
            yield f"  activations  {human_bytes(self.activation_bytes)}, and {human_bytes(self.input_bytes)} of input"
        for note in self.notes:
            yield f"  note         {escape(note, 400)}"


def summary(model: nn.Module | str | os.PathLike[str], inputs: Any = _ABSENT, *, depth: int | None = None) -> Summary:
    """Return what a model, or a file of one, is made of: `print` it for a table.

    With `inputs`, a pass with tensors that hold no values finds the output shapes, the FLOPs and the activations: it
    takes no memory and hardly any time, also for a model too large for this machine (build it under
    ``torch.device("meta")``). Where the model cannot be run that way, because it looks at values, a real pass is made,
    and said. The model is in eval mode for it and unchanged after it.

    Args:
        model: a module, also wrapped (DDP, `torch.compile`); or the path of a file in any format that rekindle reads,
            of which nothing is run. For a file torch is not needed.
        inputs: a shape, such as ``(1, 3, 224, 224)``; a tensor; a text such as ``"1,128:int64"``; a list or tuple of
            these for several arguments, a dict for named ones. A shape without dtype gets the model's.
        depth: show names down to so many parts, with all below them added up.

    Raises:
        ConfigError: the model does not take the input; its layers have no sizes yet (lazy); `inputs` with a file.
        UnreadableFile, OSError: the file cannot be read.

    Example:
        print(rk.summary(model, (1, 3, 224, 224), depth=1))
    """
    if isinstance(model, (str, os.PathLike)):
        return _of_file(os.fspath(model), has_inputs=inputs is not _ABSENT and inputs is not None, depth=depth)
    from rekindle.view.measure import measure  # noqa: PLC0415 - torch begins here

    layers, words, input_bytes, notes = measure(model, None if inputs is _ABSENT else inputs)
    return Summary(type(model).__name__, words, tuple(layers), input_bytes, tuple(notes), depth)


def short_number(count: int | None) -> str:
    """Return a count as people say it: ``3.64 G``."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("", " k", " M", " G", " T", " P"):
        if value < 999.5 or unit == " P":
            return f"{count}" if not unit else f"{value:.3g}{unit}"
        value /= 1000
    raise AssertionError


def _shown(layers: Sequence[Layer], depth: int | None) -> list[Layer]:
    """Return the rows of the table: layers that hold or do something, or, with a depth, parts with their sums."""
    if depth is None:
        return [layer for layer in layers if not layer.inner or layer.parameters or layer.buffers or layer.flops]
    sums: dict[str, list[Layer]] = {}
    for layer in layers:
        parts = layer.name.split(".")
        sums.setdefault(".".join(parts[:depth]) if layer.name else "", []).append(layer)
    made = []
    for name, group in sums.items():
        head = next((layer for layer in group if layer.name == name), group[0])
        known = [layer.flops for layer in group if layer.flops is not None]
        row = Layer(
            name,
            head.kind if head.name == name else "",
            len(group) > 1,
            head.outputs if head.name == name else (),
            sum(layer.parameters for layer in group),
            sum(layer.trained for layer in group),
            sum(layer.buffers for layer in group),
            sum(layer.size_bytes for layer in group),
            sum(known) if known else None,
            None,
            head.calls,
            head.same_as,
            head.weight if head.name == name else (),
        )
        if name or row.parameters or row.buffers or row.flops:
            made.append(row)
    return made


def _outputs(layer: Layer, passed: bool) -> str:
    if layer.same_as:
        return f"same as {escape(layer.same_as, 60)}"
    if not passed:
        return str(list(layer.weight)) if layer.weight else ""
    shapes = "  ".join(str(list(shape)) for shape in layer.outputs[:3])
    if len(layer.outputs) > 3:
        shapes += f"  and {len(layer.outputs) - 3} more"
    if not shapes and not layer.calls and layer.name:
        return "not called"
    return f"{shapes}  {layer.calls} times" if layer.calls > 1 else shapes


def _trained(layer: Layer) -> str:
    if not layer.parameters or layer.kind.endswith("?") or layer.trained == layer.parameters:
        return ""
    return "frozen" if not layer.trained else f"{layer.trained:,}"


def _of_file(path: str, *, has_inputs: bool, depth: int | None) -> Summary:
    """Sum up a file by the parts of its keys; shared storages are counted once."""
    from rekindle.errors import ConfigError, UnreadableFile  # noqa: PLC0415 - only for files
    from rekindle.verbs.inspect import inspect  # noqa: PLC0415

    if has_inputs:
        raise ConfigError(
            f"{path}: a file has no code to run an input through",
            why="it holds tensors; output shapes and FLOPs need the model",
            do="give the model that it belongs to, or leave the input away",
        )
    found = inspect(path)
    if not found.listed:
        first = found.findings[0] if found.findings else None
        raise UnreadableFile(
            f"{path}: {first.what if first else 'nothing in it can be listed'}",
            why=first.why if first else "",
            do=first.do if first else "",
            code=first.code if first else "",
        )
    groups: dict[str, list[TensorEntry]] = {}
    for entry in found.table:
        groups.setdefault(entry.key.rpartition(".")[0], []).append(entry)
    seen: dict[tuple[Any, ...], str] = {}
    layers = [_group(name, entries, seen) for name, entries in groups.items()]
    notes = [] if groups else ["there are no tensors in it"]
    if any(layer.kind for layer in layers):
        notes.append("a kind with a question mark is a guess from names and shapes: the file has no code")
    return Summary(f"{path}: {found.format}, {found.kind}", "", tuple(layers), notes=tuple(notes), depth=depth)


def _group(name: str, entries: Sequence[TensorEntry], seen: dict[tuple[Any, ...], str]) -> Layer:
    parameters = buffers = size = 0
    same = ""
    for entry in entries:
        look = (id(entry.storage), entry.offset, entry.shape, entry.stride)
        if look in seen and entry.numel:
            same = seen[look]
            continue
        seen[look] = name
        size += entry.size_bytes
        if entry.key.rpartition(".")[2] in _BUFFERS:
            buffers += entry.numel
        else:
            parameters += entry.numel
    shapes = {entry.key.rpartition(".")[2]: entry.shape for entry in entries}
    kind = _looks_like(shapes)
    return Layer(
        name,
        kind,
        parameters=parameters,
        trained=parameters,
        buffers=buffers,
        size_bytes=size,
        same_as=same if not size else "",
        weight=shapes.get("weight", ()),
    )


def _looks_like(shapes: dict[str, Shape]) -> str:
    """Return what the names and shapes of a layer's tensors look like, with a question mark."""
    weight = shapes.get("weight")
    if "running_mean" in shapes:
        return "BatchNorm?"
    if any(key.startswith("weight_ih_l") for key in shapes):
        return "RNN?"
    if "in_proj_weight" in shapes:
        return "MultiheadAttention?"
    if weight is None:
        return ""
    match len(weight):
        case 1:
            return "Norm?"
        case 2:
            return "Linear?" if "bias" in shapes else "Linear or Embedding?"
        case 3 | 4 | 5:
            return f"Conv{len(weight) - 2}d?"
        case _:
            return ""
