r"""NumPy's own files: one array (``.npy``), and a zip archive of them (``.npz``).

An array is ``\x93NUMPY``, two bytes of version, the length of a header and the header: the text of a Python dict with
exactly ``descr``, ``fortran_order`` and ``shape``, and then the elements. The dict is read by a small parser for these
three entries, not evaluated. Arrays of objects are pickles inside and are named, not read; records (several fields in
one element), texts and dates have no type in torch and are named as well.

Facts: NumPy 2.3 `numpy/lib/_format_impl.py` and NEP 1; the order of elements is C unless ``fortran_order`` is true.
"""

from __future__ import annotations

from rekindle.errors import UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.formats._archive_storages import directory_of
from rekindle.formats._zip_directory import Directory
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Member, Opened
from rekindle.source import BufferBytes, ByteRange, Bytes, Source
from rekindle.tensors import DTYPES, Storage, TensorTable, contiguous_stride, element_count
from rekindle.tree import Map, Tensor, Value

__all__ = ["NAME", "is_archive", "read", "read_archive", "sniff"]

NAME = "numpy"

_MAGIC = b"\x93NUMPY"
# NumPy itself refuses longer headers unless it is told to trust the file.
_HEADER_BYTES = 10_000

# NumPy's kind and size -> torch's name. NumPy has no bfloat16 or float8.
_DTYPES = {
    "b1": "bool",
    "i1": "int8",
    "i2": "int16",
    "i4": "int32",
    "i8": "int64",
    "u1": "uint8",
    "u2": "uint16",
    "u4": "uint32",
    "u8": "uint64",
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
    "c8": "complex64",
    "c16": "complex128",
}
_NO_TYPE = {
    "O": "objects: they are a pickle, which rekindle does not run",
    "U": "texts",
    "S": "byte strings",
    "a": "byte strings",
    "V": "raw records",
    "M": "dates",
    "m": "time spans",
    "f": "floating-point numbers of a size that torch does not have",
    "c": "complex numbers of a size that torch does not have",
}


def sniff(head: bytes, source: Source) -> bool:  # noqa: ARG001 - every format has the same two arguments
    """Tell whether it is a single array; archives of arrays are told apart from other archives by `is_archive`."""
    return head.startswith(_MAGIC)


def is_archive(names: set[str]) -> bool:
    """Tell whether these are the members of an archive of arrays."""
    return bool(names) and all(name.endswith(".npy") for name in names)


def read(source: Source, limits: Limits = DEFAULT_LIMITS) -> Opened:
    """Read one array, or an archive of them; the elements stay where they are."""
    findings: list[Finding] = []
    if not source.head(8).startswith(_MAGIC):
        return read_archive(source, directory_of(source, limits, findings), limits, findings)
    value = _read_array(ByteRange(source, 0, source.size), "", limits, findings)
    return _opened(source, value, findings, limits, listed=value is not None)


def read_archive(source: Source, directory: Directory, limits: Limits, findings: list[Finding]) -> Opened:
    """Read the headers of all arrays of an archive.

    Args:
        source: the open file.
        directory: of the archive, read already.
        limits: caps.
        findings: what was found so far; more is added.
    """
    pairs: list[tuple[Value, Value]] = []
    for record in directory.records:
        if record.data is None or not record.name.endswith(".npy"):
            continue
        key = record.name.removesuffix(".npy")
        value = _read_array(record.data, key, limits, findings)
        if value is not None:
            pairs.append((key, value))
    members = tuple(Member(r.name, r.raw, r.crc32) for r in directory.records if r.raw is not None)
    return _opened(source, Map(pairs), findings, limits, members, listed=bool(pairs) or not directory.records)


def _opened(
    source: Source,
    tree: Value,
    findings: list[Finding],
    limits: Limits,
    members: tuple[Member, ...] = (),
    *,
    listed: bool,
) -> Opened:
    from rekindle.listing import table_of  # noqa: PLC0415

    table, found = table_of(tree, limits) if tree is not None else (TensorTable(()), [])
    return Opened(
        source.path,
        NAME,
        source.size,
        tree,
        table,
        (*findings, *found),
        members,
        {},
        source.close,
        listed=listed,
    )


def _read_array(data: Bytes, key: str, limits: Limits, findings: list[Finding]) -> Tensor | None:
    """Return one array, None (and a finding) where it cannot be listed."""
    try:
        return _array(data, key, limits, findings)
    except UnreadableFile as error:
        findings.append(
            Finding(
                "RK-FILE-57",
                "broken-array",
                Severity.ERROR,
                f"{key}: {error.what}" if key else error.what,
                error.why or "the file was cut short or overwritten",
                error.do or "get the file again from its source",
                Where(key=key or None),
            )
        )
        return None


def _array(data: Bytes, key: str, limits: Limits, findings: list[Finding]) -> Tensor | None:
    descr, fortran, shape, start = _read_header(data, limits)
    kind = descr.lstrip("<>|=")
    dtype = _DTYPES.get(kind)
    if dtype is None:
        what = _NO_TYPE.get(kind[:1], "elements of a type that torch does not have")
        findings.append(
            Finding(
                "RK-FILE-33",
                "no-torch-dtype",
                Severity.WARNING,
                f"{key or 'the array'}: NumPy type {descr[:80]!r} {list(shape)} is not listed",
                f"it holds {what}",
                where=Where(key=key or None),
            )
        )
        return None
    size = element_count(shape) * DTYPES[dtype].itemsize
    if start + size > data.size:
        raise UnreadableFile(
            f"{descr} {list(shape)} needs {size:,} bytes, {data.size - start:,} follow the header",
            why="the copy or the download stopped early, or a number in the header is wrong",
            do="copy or download it again and compare the sizes",
            code="RK-FILE-04",
        )
    if start + size < data.size:
        findings.append(
            Finding(
                "RK-FILE-15",
                "trailing-bytes",
                Severity.WARNING,
                f"{key + ': ' if key else ''}{data.size - start - size:,} bytes follow the last element",
                "several arrays were saved into one file, of which the first is listed; or another file was appended",
                where=Where(key=key or None, offset=start + size),
            )
        )
    stride = contiguous_stride(shape)
    if fortran:
        stride = tuple(reversed(contiguous_stride(tuple(reversed(shape)))))
    order = "big" if descr.startswith(">") and DTYPES[dtype].component > 1 else "little"
    storage = Storage(key or "array", size, _part(data, start, size), byteorder=order)
    return Tensor(storage, dtype, 0, shape, stride)


def _part(data: Bytes, offset: int, size: int) -> Bytes:
    from rekindle.gather import part_of  # noqa: PLC0415

    return part_of(data, offset, size)


def _first(data: Bytes, length: int) -> bytes:
    if isinstance(data, ByteRange):
        return data.sub(0, min(length, data.size)).read()
    if isinstance(data, BufferBytes):
        return bytes(data.view[:length])
    head = b""
    for chunk in data.chunks(64 * 1024):
        head += chunk
        if len(head) >= length:
            break
    return head[:length]


def _read_header(data: Bytes, limits: Limits) -> tuple[str, bool, tuple[int, ...], int]:
    """Return (element type, whether in Fortran order, shape, first byte of the elements)."""
    head = _first(data, 12 + _HEADER_BYTES)
    if len(head) < 10 or not head.startswith(_MAGIC):
        raise UnreadableFile("it does not begin as NumPy's arrays do")
    major = head[6]
    if major not in {1, 2, 3}:
        raise UnreadableFile(f"version {major} of NumPy's format is none that rekindle knows")
    wide = 2 if major == 1 else 4
    length = int.from_bytes(head[8 : 8 + wide], "little")
    start = 8 + wide + length
    if length > _HEADER_BYTES or len(head) < start:
        raise UnreadableFile(f"its header should have {length:,} bytes; there are {max(len(head) - 8 - wide, 0):,}")
    try:
        text = head[8 + wide : start].decode("utf-8" if major == 3 else "latin-1")
        fields = _Header(text).read()
    except ValueError as error:
        raise UnreadableFile(f"its header is not what NumPy writes: {error}") from error
    descr, fortran, shape = fields.get("descr"), fields.get("fortran_order"), fields.get("shape")
    if isinstance(descr, list):
        descr = "V (several fields)"
    if not isinstance(descr, str) or not isinstance(fortran, bool) or not isinstance(shape, tuple) or len(fields) != 3:
        raise UnreadableFile("its header is not what NumPy writes: descr, fortran_order and shape are wanted")
    if len(shape) > limits.tensor_dims or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise UnreadableFile(f"its shape {str(shape)[:80]} is impossible")
    sizes = tuple(size for size in shape if isinstance(size, int))
    if element_count(max(size, 1) for size in sizes) >= 2**59:
        raise UnreadableFile(f"its shape {str(shape)[:80]} is impossible")
    return descr, fortran, sizes, start


class _Header:
    """The few Python literals that a header may hold: texts, numbers, True and False, tuples, lists, one dict."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def read(self) -> dict[str, object]:
        """Return the dict; ValueError for anything else."""
        self.expect("{")
        fields: dict[str, object] = {}
        while not self.accept("}"):
            key = self.value(0)
            if not isinstance(key, str) or key in fields:
                raise ValueError("a key is no text, or comes twice")
            self.expect(":")
            fields[key] = self.value(0)
            if not self.accept(","):
                self.expect("}")
                break
        if self.text[self.at :].strip():
            raise ValueError("something follows the dict")
        return fields

    def value(self, depth: int) -> object:
        """Return one value, at most eight levels deep."""
        self.skip()
        letter = self.text[self.at : self.at + 1]
        if letter in {"'", '"'}:
            return self.string(letter)
        if letter in {"(", "["}:
            if depth >= 8:
                raise ValueError("it is nested too deeply")
            return self.sequence(depth)
        for word, value in (("True", True), ("False", False), ("None", None)):
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return value
        digits = self.at
        while self.text[self.at : self.at + 1].isdigit() and self.at - digits < 20:
            self.at += 1
        number = self.text[digits : self.at]
        if not number or not number.isascii():
            raise ValueError(f"byte {digits} begins no value")
        self.accept("L")  # Python 2 wrote long numbers so
        return int(number)

    def string(self, quote: str) -> str:
        end = self.text.find(quote, self.at + 1)
        text = self.text[self.at + 1 : end]
        if end < 0 or "\\" in text:
            raise ValueError("a text without an end, or with escapes")
        self.at = end + 1
        return text

    def sequence(self, depth: int) -> object:
        close = ")" if self.text[self.at] == "(" else "]"
        self.at += 1
        items: list[object] = []
        while not self.accept(close):
            items.append(self.value(depth + 1))
            if not self.accept(","):
                self.expect(close)
                break
        return tuple(items) if close == ")" else items

    def skip(self) -> None:
        while self.text[self.at : self.at + 1] in {" ", "\n", "\t"}:
            self.at += 1

    def accept(self, letter: str) -> bool:
        self.skip()
        if self.text[self.at : self.at + 1] == letter:
            self.at += 1
            return True
        return False

    def expect(self, letter: str) -> None:
        if not self.accept(letter):
            raise ValueError(f"{letter!r} is missing at {self.at}")
