"""What gets saved under a model's name without being one: recognised by content and named, with what to do instead.

Empty files, files of zeros, web pages, git-lfs pointers, compressed files, other families' formats, text. Asked after
all formats: whatever nobody else knows is an unknown file, and the finding shows its first bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from rekindle.finding import Finding, Severity, Where
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.opened import Opened
from rekindle.source import Source
from rekindle.tensors import TensorTable

__all__ = ["NAME", "mangled_finding", "read", "sniff"]

NAME = "not-a-model"

_HEAD_BYTES = 4096
# How much of a compressed file is inflated to see what is inside.
_PEEK_BYTES = 64 * 1024


def sniff(head: bytes, source: Source) -> bool:  # noqa: ARG001 - every format has the same two arguments
    """Tell that it is some file."""
    return True


def read(source: Source, limits: Limits = DEFAULT_LIMITS) -> Opened:  # noqa: ARG001 - same arguments as every format
    """Name the file; the tree is None and the finding says what it is."""
    head = source.head(_HEAD_BYTES)
    finding = next(found for look in _LOOKS if (found := look(source, head)) is not None)
    return Opened(
        source.path,
        NAME,
        source.size,
        None,
        TensorTable(()),
        (finding,),
        close_files=source.close,
        listed=False,
    )


def _error(code: str, name: str, what: str, why: str = "", do: str = "", offset: int | None = None) -> Finding:
    return Finding(code, name, Severity.ERROR, what, why, do, Where(offset=offset))


def _empty(source: Source, head: bytes) -> Finding | None:
    if head:
        return None
    return _error(
        "RK-FILE-01",
        "empty-file",
        f"{source.path}: the file is empty",
        "saving or copying stopped before the first byte, or the disk was full",
        "copy or download it again; for a run, use its previous checkpoint",
    )


def _zeros(source: Source, head: bytes) -> Finding | None:
    if any(head) or any(source.read(max(source.size - _HEAD_BYTES, 0), min(source.size, _HEAD_BYTES))):
        return None
    middle = source.size // 2
    if any(source.read(middle, min(_HEAD_BYTES, source.size - middle))):
        return None
    return _error(
        "RK-FILE-02",
        "zero-filled-file",
        f"{source.path}: {source.size:,} bytes, zeros wherever it was looked at (start, middle, end)",
        "the power failed after the file got its length and before it got its content, or a download left a hole",
        "copy or download it again; for a run, use its previous checkpoint",
    )


def _lfs(source: Source, head: bytes) -> Finding | None:
    if not head.startswith(b"version https://git-lfs"):
        return None
    fields = dict(line.split(" ", 1) for line in head.decode("utf-8", "replace").splitlines() if " " in line)
    size = fields.get("size", "?")
    size = f"{int(size):,}" if size.isascii() and size.isdigit() and len(size) < 20 else "unknown number of"
    return _error(
        "RK-FILE-20",
        "git-lfs-pointer",
        f"{source.path}: a git-lfs pointer of {source.size:,} bytes; the model itself has {size} bytes",
        f"the repository was cloned without git-lfs; the content is {fields.get('oid', 'not named')[:80]}",
        f"git lfs install && git lfs pull --include {source.path}",
    )


def _web_page(source: Source, head: bytes) -> Finding | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512]
    lower = start.lower()
    kind = ""
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<script")):
        kind = "a web page (HTML)"
    elif lower.startswith(b"<?xml") or (lower.startswith(b"<") and lower[1:2].isalpha() and b">" in lower):
        kind = "a web page (HTML)" if b"<html" in lower else "an XML document"
    elif lower.startswith((b"{", b"[{")) and (b'"error"' in lower or b'"message"' in lower or b'"detail"' in lower):
        kind = "an error message of a web service (JSON)"
    if not kind:
        return None
    title = _between(head, b"<title>", b"</title>") or _between(head, b"<Message>", b"</Message>")
    return _error(
        "RK-FILE-03",
        "web-page",
        f"{source.path}: {kind} of {source.size:,} bytes" + (f", titled {title!r}" if title else ""),
        "the download answered with a page (a login, an error, a confirmation) and it was saved under the model's name",
        "open the address in a browser, log in where it asks, and download the file itself",
    )


def _between(head: bytes, start: bytes, end: bytes) -> str:
    lower = head.lower()
    at = lower.find(start.lower())
    to = lower.find(end.lower(), at)
    return head[at + len(start) : to].decode("utf-8", "replace").strip()[:80] if 0 <= at < to else ""


_COMPRESSED: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ\x00", "xz", "unxz"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -d"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x"),
    (b"Rar!\x1a\x07", "RAR", "unrar x"),
)


_TAR = "a tar archive"
_PEEKED = 4096


def _compressed(source: Source, head: bytes) -> Finding | None:
    for magic, kind, command in _COMPRESSED:
        if head.startswith(magic):
            inside = _peek(source, kind)
            return _error(
                "RK-FILE-21",
                "compressed-file",
                f"{source.path}: compressed with {kind}" + (f"; inside is {inside}" if inside else ""),
                "it was packed after saving; torch.load does not unpack",
                f"{'tar -xf' if inside.startswith(_TAR) else command} {source.path}",
            )
    return None


def _peek(source: Source, kind: str) -> str:
    """Return what a compressed file holds, from its first bytes; empty where that cannot be seen."""
    data = source.head(_PEEK_BYTES)
    first = b""
    try:
        if kind == "gzip":
            import zlib  # noqa: PLC0415

            first = zlib.decompressobj(31).decompress(data, _PEEKED)
        elif kind == "bzip2":
            import bz2  # noqa: PLC0415

            first = bz2.BZ2Decompressor().decompress(data, _PEEKED)
        elif kind == "xz":
            import lzma  # noqa: PLC0415

            first = lzma.LZMADecompressor(memlimit=64 * 1024**2).decompress(data, _PEEKED)
    except Exception:  # noqa: BLE001 - zlib, bz2, lzma and their absence each have an error of their own; a peek may fail
        return ""
    return _name_of_content(first)


def _name_of_content(head: bytes) -> str:
    from rekindle.formats.torch_stream import is_stream  # noqa: PLC0415

    if head.startswith(b"PK\x03\x04"):
        return "a zip archive, probably a torch.save file"
    if is_stream(head):
        return "a torch.save file of the kind before 1.6"
    if head[8:9] == b"{" and head[5:8] == b"\0\0\0":
        return "probably a safetensors file"
    if head[257:262] == b"ustar":
        return f"{_TAR} that starts with {_first_name(head)!r}"
    if head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return "a pickle"
    return ""


def _first_name(head: bytes) -> str:
    """Return the name of the first member of a tar archive; headers that only describe the next one are passed over."""
    at = 0
    while head[at + 156 : at + 157] in {b"x", b"g", b"L"} and at + 1024 <= len(head):
        digits = head[at + 124 : at + 136].strip(b" \0")
        size = int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else 0
        if at + 512 + -(-size // 512) * 512 + 512 > len(head):
            break
        at += 512 + -(-size // 512) * 512
    return head[at : at + 100].split(b"\0", 1)[0].decode("utf-8", "replace")


def _tar(source: Source, head: bytes) -> Finding | None:
    if head[257:262] != b"ustar":
        return None
    name = _first_name(head)
    return _error(
        "RK-FILE-21",
        "compressed-file",
        f"{source.path}: {_TAR} that starts with {name!r}",
        "it was packed after saving; torch.load does not unpack",
        f"tar -xf {source.path}",
    )


_ANOTHER = "give the path of the file that torch.save or safetensors wrote"
_FAMILIES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"GGUF", "a GGUF model (llama.cpp)", "open it with llama.cpp or the gguf package"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, h5py)", "open it with h5py"),
    (0, b"PYTORCH1", "a container of the PyTorch 1.0 preview", "load it with PyTorch 1.0 and save it again"),
    (4, b"PTMF", "a PyTorch mobile model (flatbuffer)", "in PyTorch: torch.jit.jit_module_from_flatbuffer"),
    (4, b"TFL3", "a TensorFlow Lite model", "open it with TensorFlow Lite"),
    (0, b"\x89PNG", "a picture (PNG)", _ANOTHER),
    (0, b"\xff\xd8\xff", "a picture (JPEG)", _ANOTHER),
    (0, b"%PDF", "a PDF document", _ANOTHER),
    (0, b"\x7fELF", "a program (ELF)", _ANOTHER),
    (0, b"MZ", "a program (Windows)", _ANOTHER),
    (0, b"RIFF", "a sound, film or picture (RIFF)", _ANOTHER),
    (0, b"SQLite format 3\0", "an SQLite database", _ANOTHER),
    (0, b"PAR1", "a Parquet table", _ANOTHER),
)


def _other_family(source: Source, head: bytes) -> Finding | None:
    for at, magic, kind, do in _FAMILIES:
        if head[at : at + len(magic)] == magic and (magic != b"MZ" or len(head) > 64):
            return _error("RK-FILE-22", "other-format", f"{source.path}: {kind}, no PyTorch checkpoint", do=do)
    # ONNX is a bare protobuf: field 1 (ir_version), then field 2 (producer) or 7 (graph) with a text or a message.
    if head[:1] == b"\x08" and head[1:2] and head[1] < 32 and head[2:3] in {b"\x12", b"\x3a"}:
        return _error(
            "RK-FILE-22",
            "other-format",
            f"{source.path}: an ONNX model, no PyTorch checkpoint",
            do="open it with onnx or onnxruntime",
        )
    return None


def _mangled(source: Source, head: bytes) -> Finding | None:
    from rekindle.formats.torch_stream import is_mangled  # noqa: PLC0415 - knows the magic number

    return mangled_finding(source.path) if is_mangled(head) else None


def mangled_finding(path: str) -> Finding:
    """Return the finding for a binary file that was transferred as text."""
    return _error(
        "RK-FILE-25",
        "mangled-line-ends",
        f"{path}: a torch.save file whose line ends were changed on the way (0A became 0D 0A)",
        "it was copied as text: ftp in ASCII mode, or git with autocrlf",
        "copy it again in binary mode; in git: echo '*.pth binary' >> .gitattributes",
    )


def _text(source: Source, head: bytes) -> Finding | None:
    if b"\0" in head:
        return None
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The head may end inside a letter; a whole file does not.
        if len(head) < _HEAD_BYTES or error.start < len(head) - 4:
            return None
        text = head[: error.start].decode("utf-8")
    printable = sum(letter.isprintable() or letter in "\t\r\n\f" for letter in text)
    if printable < len(text):
        return None
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    kind = "a text file"
    if first.startswith(("import ", "from ", "def ", "class ", "#!/usr/bin/env python", '"""')):
        kind = "Python source code"
    elif text.lstrip().startswith(("{", "[")):
        kind = "a JSON file"
    return _error(
        "RK-FILE-23",
        "text-file",
        f"{source.path}: {kind} of {source.size:,} bytes, no checkpoint; it starts with {first[:60]!r}",
        "checkpoints are binary",
        "give the path of the file that torch.save wrote",
    )


def _unknown(source: Source, head: bytes) -> Finding:
    shown = head[:16].hex(" ")
    return _error(
        "RK-FILE-24",
        "unknown-file",
        f"{source.path}: nothing that rekindle knows; {source.size:,} bytes that start with {shown}",
        "looked for: torch.save of every age, safetensors, pickles, archives, and what is mistaken for them",
        "if a program wrote it as a PyTorch checkpoint, its first bytes were lost: copy or download it again",
        0,
    )


_LOOKS: tuple[Callable[[Source, bytes], Finding | None], ...] = (
    _empty,
    _zeros,
    _lfs,
    _mangled,
    _web_page,
    _compressed,
    _tar,
    _other_family,
    _text,
    _unknown,
)
