"""Bounds on what reading a file may cost, whatever the file claims.

The threat model: a file's author controls every length, count, depth and shape in it. Memory, time and recursion are
therefore limited by the size of the input and by these caps, never by a number that the file states. Reaching a cap
raises `LimitExceeded` with the name of the field to raise.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_LIMITS", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps for one reading of one file; all settable, all named in the error when hit.

    Attributes:
        pickle_bytes: bytes of one pickle program.
        opcodes: opcodes of one pickle program.
        stack: entries on the pickle machine's stack, and in its memo.
        depth: nesting of containers in a value, and of JSON.
        integer_bits: bits of one integer in a pickle; wider ones are refused.
        members: members of one archive, or tensors of one header.
        name_bytes: bytes of one member's name.
        header_bytes: bytes of a safetensors header.
        tensor_dims: dimensions of one tensor.
    """

    pickle_bytes: int = 256 * 1024**2
    opcodes: int = 10_000_000
    stack: int = 10_000_000
    depth: int = 500
    integer_bits: int = 4096
    members: int = 1_000_000
    name_bytes: int = 4096
    header_bytes: int = 100_000_000
    tensor_dims: int = 64


DEFAULT_LIMITS = Limits()
