"""Where tensors are, and why one stayed behind: from the words of a message, the frames and the user's own source."""

from __future__ import annotations

import re
from dataclasses import replace

from rekindle.explain.catalogue._modules import code_of, tensors_in_line
from rekindle.explain.catalogue._sources import lines_before
from rekindle.explain.event import Event, TensorFact

__all__ = ["device_of_type", "dropped_move", "new_layer", "seen_devices", "size_of"]

_STATEMENT = re.compile(r"(?P<name>[A-Za-z_]\w*)\.(?:to|cuda|cpu)\([^()]*\)")
_BARE_MOVE = re.compile(r"(?:^|;)\s*(?P<name>[A-Za-z_][\w.]*)\.(?:to|cuda)\([^()]*\)\s*;")
_NEW_LAYER = re.compile(
    r"\b(?:nn\.)(?P<kind>(?:Lazy)?(?:Linear|Bilinear|Conv\w+|BatchNorm\w+|LayerNorm|GroupNorm|InstanceNorm\w+|RMSNorm"
    r"|Embedding\w*|LSTM|GRU|RNN|PReLU|MultiheadAttention|Transformer\w*))\([^()]*(?:\([^()]*\)[^()]*)*\)"
    r"(?:\.(?:to|cuda)\([^()]*\))?\("
)
_OF_SELF = re.compile(r"\bself\.(\w+)")
_BITS = re.compile(r"(\d+)")


def device_of_type(word: str) -> str:
    """Return the device of a tensor type as messages spell it: ``torch.cuda.FloatTensor`` is ``cuda``.

    Example:
        >>> device_of_type("torch.cuda.HalfTensor"), device_of_type("torch.FloatTensor"), device_of_type("CUDAFloatType")
        ('cuda', 'cpu', 'cuda')
    """
    plain = word.strip().lower().removeprefix("torch.")
    for backend in ("mkldnn", "cuda"):
        if plain.startswith(backend):
            return backend
    first, dot, _ = plain.partition(".")
    return first if dot else "cpu"


def seen_devices(event: Event) -> list[TensorFact]:
    """Return the tensors that met: those of the user's line, else those of the module that ran; with two devices."""
    module = event.live.module if event.live else None
    kept = (*module.attributes, *module.parameters) if module is not None else ()
    of_self = _OF_SELF.findall(code_of(event))
    met = [*tensors_in_line(event), *(replace(fact, name=f"self.{fact.name}") for fact in kept if fact.name in of_self)]
    if len({fact.device for fact in met}) > 1:
        return met
    if module is not None:
        met = [*module.inputs, *module.parameters, *module.attributes]
        if len({fact.device for fact in met}) > 1:
            return met
    return []


def dropped_move(event: Event) -> str:
    """Return the tensor whose `.to(...)` or `.cuda()` was called and thrown away, or an empty text.

    The user's own line is looked at, and where the exception is alive the function around it: a statement that is
    only such a call, on a name that the frame holds as a tensor.
    """
    found = _BARE_MOVE.search(code_of(event))
    if found:
        return found["name"]
    frame = event.live.user_frame if event.live else None
    if frame is None:
        return ""
    held = {fact.name for fact in frame.tensors}
    for _, code in lines_before(event):
        moved = _STATEMENT.fullmatch(code.partition("#")[0].strip())
        if moved and moved["name"] in held:
            return moved["name"]
    return ""


def new_layer(event: Event) -> str:
    """Return the class of a layer with weights that the user's own line builds and calls at once, or an empty text."""
    found = _NEW_LAYER.search(code_of(event))
    return found["kind"] if found else ""


def size_of(fact: TensorFact) -> int:
    """Return the bytes of a tensor's elements."""
    bits = _BITS.search(fact.dtype)
    count = 1
    for size in fact.shape:
        count *= size
    width = int(bits[1]) // 8 if bits else 1
    return count * max(width, 1)
