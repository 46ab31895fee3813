"""A pickle program as opcodes with offsets, without running it.

Law: every count in a program is checked against the bytes that are really there before anything is read, and a number
written in two ways by different readers (`010`, `1_0`, `0x10`) is refused, not guessed. Facts: CPython 3.13
`Lib/pickle.py` (`_Unpickler`), `Modules/_pickle.c` and `Lib/pickletools.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from struct import Struct
from typing import NamedTuple, TypeAlias

from rekindle.errors import LimitExceeded, UnreadableFile
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.unpickling.opcodes import BY_CODE, Reads

__all__ = ["READERS", "Argument", "Malformed", "Op", "TooMuch", "explain", "read_ops"]

Argument: TypeAlias = "None | bool | int | float | str | bytes | tuple[str, str]"
Reader: TypeAlias = "Callable[[bytes, int, Limits], tuple[Argument, int]]"

_INT4 = Struct("<i").unpack_from
_UINT2 = Struct("<H").unpack_from
_UINT4 = Struct("<I").unpack_from
_UINT8 = Struct("<Q").unpack_from
_FLOAT8 = Struct(">d").unpack_from


class Malformed(Exception):
    """What is wrong with the program at the current opcode; `explain` makes the public error of it."""


class TooMuch(Malformed):
    """A bound was reached.

    Args:
        what: what there is too much of, with its number.
        field: name of the field of `Limits`.
    """

    def __init__(self, what: str, field: str) -> None:
        super().__init__(what)
        self.field = field


class Op(NamedTuple):
    """One opcode of a program.

    Attributes:
        name: as in `OPCODES`.
        argument: decoded; None where there is none. Python 2 strings are bytes; names of globals are a pair.
        offset: of the opcode's byte.
        end: offset after its argument.
    """

    name: str
    argument: Argument
    offset: int
    end: int


def read_ops(data: bytes, start: int = 0, limits: Limits = DEFAULT_LIMITS) -> Iterator[Op]:
    r"""Yield the opcodes of a program up to its STOP.

    Args:
        data: bytes that hold the program; more may follow it.
        start: offset of its first byte.
        limits: `pickle_bytes`, `opcodes` and `integer_bits` apply.

    Raises:
        UnreadableFile: the bytes are no program, or it ends before STOP; the text names the offset.
        LimitExceeded: the program is longer than the limits allow.

    Example:
        >>> [op.name for op in read_ops(b"K\x01.")]
        ['BININT1', 'STOP']
    """
    data, was_cut = cut(data, start, limits)
    at = start
    try:
        for _ in range(limits.opcodes):
            opcode = BY_CODE[data[at]]
            if opcode is None:
                raise Malformed("there is no such opcode")  # noqa: TRY301 - one handler adds the place
            argument, end = READERS[opcode.reads](data, at + 1, limits)
            yield Op(opcode.name, argument, at, end)
            if opcode.code == 0x2E:  # STOP
                return
            at = end
        raise TooMuch(f"the program has more than {limits.opcodes:,} opcodes", "opcodes")
    except (Malformed, IndexError) as problem:
        raise explain(problem, data, at, was_cut=was_cut, limits=limits) from None


def cut(data: bytes, start: int, limits: Limits) -> tuple[bytes, bool]:
    """Return the bytes that a program from `start` may use, and whether some were left out."""
    end = start + limits.pickle_bytes
    return (data[:end], True) if len(data) > end else (data, False)


def explain(problem: Exception, data: bytes, at: int, *, was_cut: bool, limits: Limits) -> UnreadableFile:
    """Return the public error for a problem with the opcode at `at`."""
    if isinstance(problem, TooMuch):
        return _limit_error(str(problem), problem.field, at)
    if at >= len(data):
        name, place = "", f"the pickle program ends at byte {at:,} without STOP"
        text = "the end is missing"
    else:
        opcode = BY_CODE[data[at]]
        name = opcode.name if opcode else f"0x{data[at]:02x}"
        text = str(problem) if isinstance(problem, Malformed) else "the program ends inside it"
        place = f"broken pickle program: {name} at byte {at:,}: {text}"
    if was_cut and (not name or "ends inside" in text):
        return _limit_error(f"the program is longer than {limits.pickle_bytes:,} bytes", "pickle_bytes", at)
    return UnreadableFile(
        place,
        why="the file was cut short or damaged, or these bytes are not a pickle",
        code="RK-FILE-07",
    )


def _limit_error(what: str, field: str, at: int) -> LimitExceeded:
    return LimitExceeded(
        f"pickle program at byte {at:,}: {what}",
        why=f"`Limits.{field}` bounds what reading a file may cost",
        do=f"if you trust the size of this file, raise `{field}` in rekindle.limits.Limits",
    )


def _take(data: bytes, at: int, count: int) -> bytes:
    end = at + count
    if end > len(data):
        raise Malformed(f"the program ends inside it: {count:,} bytes are wanted, {max(len(data) - at, 0):,} are left")
    return data[at:end]


def _number(unpack: Callable[[bytes, int], tuple[int | float, ...]], size: int) -> Reader:
    def read(data: bytes, at: int, limits: Limits) -> tuple[Argument, int]:  # noqa: ARG001 - one signature for all
        if at + size > len(data):
            raise Malformed("the program ends inside it")
        return unpack(data, at)[0], at + size

    return read


def _nothing(data: bytes, at: int, limits: Limits) -> tuple[Argument, int]:  # noqa: ARG001 - one signature for all
    return None, at


def _uint1(data: bytes, at: int, limits: Limits) -> tuple[Argument, int]:  # noqa: ARG001 - one signature for all
    return data[at], at + 1


def _counted(size: int, unpack: Callable[[bytes, int], tuple[int, ...]], *, text: bool) -> Reader:
    def read(data: bytes, at: int, limits: Limits) -> tuple[Argument, int]:  # noqa: ARG001 - one signature for all
        count = unpack(_take(data, at, size), 0)[0]
        if count < 0:
            raise Malformed(f"a negative count, {count:,}")
        raw = _take(data, at + size, count)
        return (as_text(raw) if text else raw), at + size + count

    return read


def _byte(data: bytes, at: int) -> tuple[int]:
    return (data[at],)


def as_text(raw: bytes) -> str:
    """Decode UTF-8 as pickle does, lone surrogates included."""
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise Malformed("a text that is not UTF-8") from None


def _long(size: int, unpack: Callable[[bytes, int], tuple[int, ...]]) -> Reader:
    def read(data: bytes, at: int, limits: Limits) -> tuple[Argument, int]:
        count = unpack(_take(data, at, size), 0)[0]
        if count < 0:
            raise Malformed(f"a negative count, {count:,}")
        at += size
        raw = _take(data, at, count)
        if count * 8 > limits.integer_bits + 8 or (
            count * 8 > limits.integer_bits
            and int.from_bytes(raw, "little", signed=True).bit_length() > limits.integer_bits
        ):
            raise TooMuch(f"an integer of {count:,} bytes", "integer_bits")
        return int.from_bytes(raw, "little", signed=True), at + count

    return read


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\n", at)
    if end < 0:
        raise Malformed("the program ends inside it: a line without an end")
    return data[at:end], end + 1


# What every reader takes for the same number; anything else is refused.
_DECIMAL = re.compile(rb"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(rb"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf)")


def _integer(text: bytes, limits: Limits) -> int:
    if not _DECIMAL.fullmatch(text):
        raise Malformed("a number that is not decimal")
    if len(text) > limits.integer_bits * 0.302 + 2:
        raise TooMuch(f"an integer of {len(text):,} digits", "integer_bits")
    try:
        number = int(text)
    except ValueError:  # more digits than sys.get_int_max_str_digits() allows
        raise TooMuch(f"an integer of {len(text):,} digits", "integer_bits") from None
    if number.bit_length() > limits.integer_bits:
        raise TooMuch(f"an integer of {number.bit_length():,} bits", "integer_bits")
    return number


def _decimal_line(data: bytes, at: int, limits: Limits) -> tuple[Argument, int]:
    text, end = _line(data, at)
    if text in {b"00", b"01"}:
        return text == b"01", end
    return _integer(text, limits), end


def _long_line(data: bytes, at: int, limits: Limits) -> tuple[Argument, int]:
    text, end = _line(data, at)
    return _integer(text.removesuffix(b"L"), limits), end


def _float_line(data: bytes, at: int, limits: Limits) -> tuple[Argument, int]:  # noqa: ARG001 - one signature for all
    text, end = _line(data, at)
    if not _FLOAT.fullmatch(text):
        raise Malformed("a number that is not decimal")
    return float(text), end


def _index_line(data: bytes, at: int, limits: Limits) -> tuple[Argument, int]:  # noqa: ARG001 - one signature for all
    text, end = _line(data, at)
    if not _DECIMAL.fullmatch(text) or text.startswith(b"-") or len(text) > 20:
        raise Malformed("a memo index that is not a decimal number")
    return int(text), end


def _quoted_line(data: bytes, at: int, limits: Limits) -> tuple[Argument, int]:  # noqa: ARG001 - one signature for all
    text, end = _line(data, at)
    if len(text) < 2 or text[:1] not in {b"'", b'"'} or text[-1:] != text[:1]:
        raise Malformed("a string without its quotes")
    return unescape(text[1:-1]), end


def _unicode_line(data: bytes, at: int, limits: Limits) -> tuple[Argument, int]:  # noqa: ARG001 - one signature for all
    text, end = _line(data, at)
    try:
        return text.decode("raw-unicode-escape"), end
    except UnicodeDecodeError:
        raise Malformed("a text with a broken escape") from None


def _ascii_line(data: bytes, at: int, limits: Limits) -> tuple[Argument, int]:  # noqa: ARG001 - one signature for all
    text, end = _line(data, at)
    if not text.isascii():
        raise Malformed("a persistent id that is not ASCII")
    return text.decode("ascii"), end


def _two_lines(data: bytes, at: int, limits: Limits) -> tuple[Argument, int]:  # noqa: ARG001 - one signature for all
    module, at = _line(data, at)
    name, at = _line(data, at)
    try:
        return (module.decode("utf-8"), name.decode("utf-8")), at
    except UnicodeDecodeError:
        raise Malformed("a name that is not UTF-8") from None


_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
_PLAIN = {
    b"\\": b"\\", b"'": b"'", b'"': b'"', b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r",
    b"t": b"\t", b"v": b"\v",
}  # fmt: skip


def _unescape_one(match: re.Match[bytes]) -> bytes:
    body = match[1]
    if len(body) == 3 and body[:1] == b"x":
        return bytes((int(body[1:], 16),))
    if body[:1].isdigit() and body[:1] < b"8":
        return bytes((int(body, 8) & 0xFF,))
    if body == b"x":
        raise Malformed("a string with a broken escape")
    return _PLAIN.get(body, b"\\" + body)


def unescape(text: bytes) -> bytes:
    """Return the bytes of a Python 2 string literal's inside; an unknown escape stays as it is, as in Python."""
    if b"\\" not in text:
        return text
    if (len(text) - len(text.rstrip(b"\\"))) % 2:
        raise Malformed("a string that ends inside an escape")
    return _ESCAPE.sub(_unescape_one, text)


READERS: dict[Reads, Reader] = {
    "nothing": _nothing,
    "uint1": _uint1,
    "uint2": _number(_UINT2, 2),
    "uint4": _number(_UINT4, 4),
    "uint8": _number(_UINT8, 8),
    "int4": _number(_INT4, 4),
    "float8": _number(_FLOAT8, 8),
    "decimal line": _decimal_line,
    "long line": _long_line,
    "float line": _float_line,
    "quoted line": _quoted_line,
    "unicode line": _unicode_line,
    "ascii line": _ascii_line,
    "index line": _index_line,
    "two lines": _two_lines,
    "bytes1": _counted(1, _byte, text=False),
    "bytes4": _counted(4, _UINT4, text=False),
    "bytes8": _counted(8, _UINT8, text=False),
    "string4": _counted(4, _INT4, text=False),
    "text1": _counted(1, _byte, text=True),
    "text4": _counted(4, _UINT4, text=True),
    "text8": _counted(8, _UINT8, text=True),
    "long1": _long(1, _byte),
    "long4": _long(4, _INT4),
}
