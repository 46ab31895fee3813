"""What is neither a checkpoint nor an archive: text and pictures, in which nothing runs, and what nobody here knows."""

from __future__ import annotations

from rekindle.finding import Severity
from rekindle.scanning.report import Report, View

__all__ = ["report_other"]

_PICTURES = ((b"\x89PNG", "a picture"), (b"\xff\xd8\xff", "a picture"), (b"GIF8", "a picture"), (b"%PDF", "a document"))
_NATIVE = (b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"\xfe\xed\xfa\xcf")
_SOURCE_STARTS = ("import ", "from ", "def ", "class ", "#!/usr/bin/env python", "#!/usr/bin/python", "async def ", "@")
_SOURCE_LINES = ("import ", "from ", "def ", "class ")


def report_other(view: View, head: bytes, report: Report, *, is_file: bool) -> str:
    """Say what bytes are that hold no program, as far as it can be told.

    Args:
        view: the bytes.
        head: the first 4,096 of them.
        report: takes the findings.
        is_file: whether it is a whole file; only of one is it worth saying that it is no model.
    """
    if _is_all_zeros(view):
        if is_file:
            report.unreadable("RK-SCAN-18", "not-a-model", "the file is all zeros", view.where())
        return "zeros"
    text = _text(head, view.size)
    if text is not None:
        return _report_text(text, view, report, is_file=is_file)
    if head.startswith(_NATIVE) and (not head.startswith(b"MZ") or len(head) > 64):
        report.add(
            "RK-SCAN-17", "native-code", Severity.WARNING, "a program or library for the processor", view.where(),
            why="whoever loads it runs it; what it does was not looked at",
        )  # fmt: skip
        return "native-code"
    for magic, kind in _PICTURES:
        if is_file and head.startswith(magic):
            report.unreadable("RK-SCAN-18", "not-a-model", f"{kind}, no model", view.where())
            return "picture"
    if is_file and b"brain.Event:" in head[:64]:
        report.unreadable("RK-SCAN-18", "not-a-model", "a log of TensorBoard, no model", view.where())
        return "picture"
    report.unreadable(
        "RK-SCAN-15",
        "unknown-content",
        f"{view.size:,} bytes that nothing here knows; they start with {head[:16].hex(' ')}",
        view.where(),
        "looked for: pickles, archives, compressed files, arrays, safetensors, text, pictures and programs",
    )
    return "unknown"


def _is_all_zeros(view: View) -> bool:
    at = 0
    while at < view.size:
        piece = view.data.read(at, min(1 << 20, view.size - at))
        if piece.count(0) != len(piece):
            return False
        at += len(piece)
    return True


def _text(head: bytes, size: int) -> str | None:
    """Return the first bytes as text, None where they are none."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if size <= len(head) or error.start < len(head) - 4:
            return None
        text = head[: error.start].decode("utf-8")
    return text if all(letter.isprintable() or letter in "\t\r\n\f\ufeff" for letter in text) else None


def _report_text(text: str, view: View, report: Report, *, is_file: bool) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    first = lines[0].lstrip("\ufeff") if lines else ""
    if (
        first.startswith(_SOURCE_STARTS)
        or any(line.startswith(_SOURCE_LINES) and line.rstrip().endswith((":", ")")) for line in lines)
        or (first.startswith(('"""', "#")) and any(line.startswith(_SOURCE_LINES) for line in lines))
    ):
        report.add(
            "RK-SCAN-19", "python-source", Severity.WARNING, "Python source code", view.where(),
            why="it runs when it is imported (trust_remote_code, torch.package); it was not looked into",
        )  # fmt: skip
        return "python-source"
    if is_file:
        report.unreadable(
            "RK-SCAN-18", "not-a-model", f"text, no model; it starts with {first[:60]!r}", view.where(),
            "text runs nowhere by itself",
        )  # fmt: skip
    return "text"
