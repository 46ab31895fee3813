"""Has anything changed since then? A cheap fingerprint of what is tracked.

A run may be told to leave in the middle of an evaluation. Saving there is right only if nothing was changed since the
last boundary: not if a scheduler was stepped, a counter in `run.state` moved or the weights were swapped for averaged
ones, since the resumed run would do that once more. Counters of in-place changes would miss `tensor.data`, so contents
are summed: one pass over the state, once per epoch, and once more when a signal comes. Of a small tensor the bytes
themselves are hashed, which takes fewer calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rekindle.run.sharded import local_of
from rekindle.run.tracked import non_persistent_buffers

try:
    import numpy as np
except ImportError:  # torch works without NumPy, and so does a run
    np = None  # type: ignore[assignment] # the one place where "no NumPy" is told apart

__all__ = ["fingerprint"]

_SMALL_BYTES = 4096
_WORD = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(tracked: Mapping[str, object]) -> int | None:
    """Return a number that changes when any tracked state does; None where that cannot be told.

    Args:
        tracked: name -> object with a `state_dict()`, or plain values.
    """
    try:
        return hash(tuple((name, _of(_state_of(value))) for name, value in tracked.items()))
    except Exception:  # noqa: BLE001 - whatever a tracked object does wrong here, the answer is "cannot tell"
        return None


def _state_of(value: Any) -> Any:
    if isinstance(value, torch.nn.Module):
        # state_dict() leaves out the buffers that are not persistent.
        kept = list(value.state_dict(keep_vars=True).values())
        return [kept, [buffer for _, _, buffer in non_persistent_buffers(value).values()]]
    get = getattr(value, "state_dict", None)
    if callable(get):
        return get()
    for name in ("bit_generator", "get_state", "getstate"):
        part = getattr(value, name, None)
        if part is not None:
            return part() if callable(part) else part.state
    return value


def _of(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return hash((value.shape, value.dtype, *_sums(value)))
    if isinstance(value, Mapping):
        return hash(tuple((repr(key), _of(part)) for key, part in value.items()))
    if isinstance(value, (list, tuple)):
        return hash(tuple(map(_of, value)))
    if hasattr(value, "tobytes"):
        return hash(value.tobytes())
    return hash(repr(value))


def _sums(value: torch.Tensor) -> tuple[int, ...]:
    plain = local_of(value).detach()
    if plain.is_meta:
        return ()
    if plain.layout != torch.strided or plain.is_quantized:
        raise TypeError("a tensor that has no plain words")
    if plain.is_complex():
        plain = torch.view_as_real(plain.resolve_conj())
    word = _WORD[plain.element_size()]
    words = plain if plain.dtype == torch.bool else plain.contiguous().view(word)
    if np is not None and words.is_cpu and words.nbytes <= _SMALL_BYTES:
        return (hash(words.numpy().tobytes()),)
    return (int(words.sum(dtype=torch.int64)), int(words.reshape(-1)[:: max(1, words.numel() // 16)].sum()))
