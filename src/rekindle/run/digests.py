"""Small fingerprints of live objects: what a run's evidence is made of.

Law: looking never changes. Nothing here draws from a generator, moves a tensor that training uses, or calls a user's
code, except the `state_dict()` of what is tracked (a snapshot calls that as well). A fingerprint is a CRC-32 as eight
hex digits: it only has to find the place where two runs part; whether they are equal is judged by SHA-256 elsewhere.
Where numbers fit on a line they stand there as themselves, so that people can read what differs.
"""

from __future__ import annotations

import random
import sys
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["crc_of_tensor", "generator_states", "is_generator", "leaves", "mark", "parts_of", "text_of"]

_TEXT_LENGTH = 80
_DEPTH = 12


def crc_of_tensor(tensor: Any) -> str:
    """Return the CRC-32 of a tensor's elements in row-major order, with its dtype and shape, as 8 hex digits."""
    import torch  # noqa: PLC0415 - reading evidence needs no torch

    whole = tensor.detach()
    if type(whole) is not torch.Tensor:
        whole = whole.to_local() if hasattr(whole, "to_local") else whole.as_subclass(torch.Tensor)
    start = zlib.crc32(f"{whole.dtype} {tuple(whole.shape)}".encode())
    if whole.is_meta:
        return f"{start:08x}"
    if whole.layout != torch.strided:
        return _crc_of_sparse(whole, start)
    if whole.is_quantized:
        whole = whole.int_repr()
    flat = whole.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return f"{zlib.crc32(flat.view(torch.uint8).numpy(), start):08x}"


def _crc_of_sparse(tensor: Any, start: int) -> str:
    import torch  # noqa: PLC0415 - reading evidence needs no torch

    if tensor.layout == torch.sparse_coo:
        parts = [tensor._indices(), tensor._values()]  # noqa: SLF001 - the public ones want a coalesced tensor
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    else:
        parts = [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return f"{zlib.crc32(' '.join(map(crc_of_tensor, parts)).encode(), start):08x}"


def is_generator(value: object) -> bool:
    """Tell whether a value is a random generator of Python, NumPy or torch."""
    if isinstance(value, random.Random):
        return True
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(value, (numpy.random.Generator, numpy.random.RandomState)):
        return True
    return torch is not None and isinstance(value, torch.Generator)


def _generator_crc(value: Any) -> str:
    if isinstance(value, random.Random):
        return _crc_of_text(repr(value.getstate()))
    if hasattr(value, "bit_generator"):
        return mark(value.bit_generator.state)
    if hasattr(value, "initial_seed"):
        return crc_of_tensor(value.get_state())
    return mark(value.get_state(legacy=False))


def generator_states() -> dict[str, str]:
    """Return the fingerprints of the global generators: ``python``, and those of the libraries that are loaded."""
    found = {"python": _crc_of_text(repr(random.getstate()))}
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None:
        found["numpy"] = mark(numpy.random.get_state(legacy=False))
    if torch is not None:
        found["torch"] = crc_of_tensor(torch.default_generator.get_state())
        if torch.cuda.is_initialized():
            for index, generator in enumerate(torch.cuda.default_generators):
                found[f"cuda:{index}"] = crc_of_tensor(generator.get_state())
    return found


def text_of(value: object) -> str | None:
    """Return a small plain value as one line of text; None where it is not one.

    Numbers, text, None, NumPy scalars and tensors of one element are plain; long ones are cut and carry a CRC-32.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return _short(repr(value))
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(value, numpy.generic):
        return _short(repr(value.item()))
    if torch is not None:
        if type(value) in (torch.Tensor, torch.nn.Parameter) and value.numel() == 1:  # type: ignore[attr-defined] # a tensor
            plain = value.layout == torch.strided and not value.is_meta  # type: ignore[attr-defined] # a tensor
            return _short(repr(value.detach().item())) if plain else None  # type: ignore[attr-defined] # a tensor
        if isinstance(value, (torch.dtype, torch.device, torch.Size)):
            return _short(str(value))
    return None


def _short(text: str) -> str:
    return text if len(text) <= _TEXT_LENGTH else f"{text[: _TEXT_LENGTH - 14]}... #{_crc_of_text(text)}"


def _crc_of_text(text: str) -> str:
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"


def leaves(value: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield (path, fingerprint or text) for everything inside nested containers, in their order.

    Objects that are no containers are looked into by their attributes, down to 12 levels; what cannot be looked into
    is the name of its class.
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    text = text_of(value)
    if text is not None:
        yield path, text
    elif torch is not None and isinstance(value, torch.Tensor):
        yield path, crc_of_tensor(value)
    elif numpy is not None and isinstance(value, numpy.ndarray):
        start = zlib.crc32(f"{value.dtype} {value.shape}".encode())
        plain = not value.dtype.hasobject
        yield path, f"{zlib.crc32(value.tobytes(), start):08x}" if plain else _crc_of_text(repr(value.tolist()))
    elif is_generator(value):
        yield path, _generator_crc(value)
    elif depth >= _DEPTH:
        yield path, type(value).__name__
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from leaves(child, f"{path}[{key!r}]" if path else str(key), depth + 1)
    elif isinstance(value, (list, tuple, deque)):
        for index, child in enumerate(value):
            yield from leaves(child, f"{path}[{index}]", depth + 1)
    elif isinstance(value, (set, frozenset)):
        yield path, mark(sorted(map(repr, value)))
    else:
        inside = getattr(value, "__dict__", None)
        if inside and not callable(value):
            for name, child in inside.items():
                yield from leaves(child, f"{path}.{name}" if path else name, depth + 1)
        else:
            yield path, type(value).__name__


def mark(value: object) -> str:
    """Return one CRC-32 over everything inside a value, as 8 hex digits."""
    crc = 0
    for path, leaf in leaves(value):
        crc = zlib.crc32(f"{path}={leaf}\n".encode("utf-8", "surrogatepass"), crc)
    return f"{crc:08x}"


def parts_of(value: Any) -> dict[str, dict[str, str]]:
    """Return the state of something tracked by part, each a mapping from a leaf's path to its fingerprint or text.

    The parts of a module are ``parameters``, ``buffers`` (those outside its state dict too) and ``extra state``; of
    an optimizer ``state`` and ``settings`` (learning rate and the other values of its groups); of all else ``state``.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.nn.Module):
        return _parts_of_module(value, torch)
    if torch is not None and isinstance(value, torch.optim.Optimizer):
        return _parts_of_optimizer(value)
    if not isinstance(value, Mapping) and not is_generator(value) and hasattr(value, "state_dict"):
        return {"state": dict(leaves(value.state_dict()))}
    return {"state": dict(leaves(value))}


def _parts_of_module(module: Any, torch: Any) -> dict[str, dict[str, str]]:
    parts = {
        "parameters": {name: crc_of_tensor(p) for name, p in torch.nn.Module.named_parameters(module)},
        "buffers": {name: crc_of_tensor(b) for name, b in torch.nn.Module.named_buffers(module)},
    }
    without = torch.nn.Module.get_extra_state
    extra = {
        name: mark(child.get_extra_state())
        for name, child in torch.nn.Module.named_modules(module)
        if getattr(type(child), "get_extra_state", without) is not without
    }
    return {**parts, "extra state": extra} if extra else parts


def _parts_of_optimizer(optimizer: Any) -> dict[str, dict[str, str]]:
    settings: dict[str, str] = {}
    state: dict[str, str] = {}
    for at, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key == "params":
                for index, parameter in enumerate(value):
                    held = optimizer.state.get(parameter)
                    state.update(leaves(held, f"group {at}, parameter {index}") if held else ())
            else:
                settings.update(leaves(value, key if len(optimizer.param_groups) == 1 else f"group {at} {key}"))
    return {"state": state, "settings": settings}
