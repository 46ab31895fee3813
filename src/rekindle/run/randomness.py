"""Randomness is a function of where we are, so nothing about it need be stored.

Every seed is the BLAKE2b hash of (seed, purpose, place): the place is a sample (pass, index), a step (epoch, loop,
batch) or a point of the run. Hashing keeps neighbours apart, which adding seeds does not. The global generators of
Python, NumPy and torch (every GPU as well, once CUDA is in use) are seeded from it at the borders of each step and of
each sample, so whatever is drawn from them in between is the same in every life of a run.

Law: two different places never share a key by construction; the same place always gives the same key.

The cheap calls matter here, since a step pays for them: `torch.manual_seed` visits every kind of device and costs
80 us, the default generator's own `manual_seed` 1 us; NumPy's takes 1.4 us, Python's 3.9 us, most of all.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from hashlib import blake2b
from struct import Struct, pack
from typing import Any

import torch

try:
    import numpy as np
except ImportError:  # torch works without NumPy, and so does a run
    np = None  # type: ignore[assignment] # the one place where "no NumPy" is told apart

__all__ = ["key_of", "preserved", "sample_key", "seed_all", "seed_globals", "seed_sample"]

_seed_torch = torch.default_generator.manual_seed
# Of `random.seed(key)`, what is done for a number: without asking first whether it is a text.
_python: Any = random.seed.__self__  # type: ignore[attr-defined] # a method of the generator behind the module
_seed_python = super(random.Random, _python).seed
# The legacy global generator is what data sets draw from.
_seed_numpy = None if np is None else np.random.seed
_pair = Struct("<QQ").pack
_cuda_is_in_use: Callable[[], bool] = torch.cuda.is_initialized


def key_of(seed: int, purpose: str, *place: int) -> int:
    """Return the 64-bit key of a place.

    Args:
        seed: the run's seed, any integer of 64 bits.
        purpose: what the key is for; keys of different purposes are unrelated.
        place: where, as integers of 64 bits.
    """
    data = pack(f"<{len(place) + 1}Q", seed & _U64, *[number & _U64 for number in place])
    return int.from_bytes(blake2b(data, digest_size=8, key=purpose.encode()).digest(), "little")


def sample_key(pass_key: int, index: int) -> int:
    """Return the key of sample `index` in the pass with this key."""
    return int.from_bytes(blake2b(_pair(pass_key, index & _U64), digest_size=8).digest(), "little")


def seed_globals(key: int) -> None:
    """Seed the global generators of Python, NumPy, torch and, where CUDA is in use, of every GPU. About 6 us."""
    _seed_torch(key)
    _seed_python(key)
    _python.gauss_next = None
    if _seed_numpy is not None:
        _seed_numpy(key & 0xFFFFFFFF)  # it takes 32 bits
    if _cuda_is_in_use():
        for generator in torch.cuda.default_generators:
            generator.manual_seed(key)


def seed_sample(key: int) -> None:
    """Seed the global generators that a data set may draw from: Python's, NumPy's, torch's on the CPU."""
    _seed_torch(key)
    _seed_python(key)
    _python.gauss_next = None
    if _seed_numpy is not None:
        _seed_numpy(key & 0xFFFFFFFF)


def seed_all(key: int) -> None:
    """Seed every generator that torch knows, also those of devices that are not in use yet. Slow: once per run."""
    torch.manual_seed(key)
    seed_sample(key)


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Leave the global CPU generators as they were found, whatever happens inside. About 65 us."""
    torch_state, python_state = torch.default_generator.get_state(), random.getstate()
    numpy_state: Any = np.random.get_state() if np is not None else None
    try:
        yield
    finally:
        torch.default_generator.set_state(torch_state)
        random.setstate(python_state)
        if np is not None:
            np.random.set_state(numpy_state)


_U64 = 0xFFFFFFFFFFFFFFFF
