"""Where a scan stands in a file, and what it has found: shared by everything that looks at a part of one.

A `View` is a run of bytes with a name for people: a file, a part of one, or what a compressed part came to. A `Report`
collects findings. It is bounded: of findings that are not dangers a thousand are kept, and the number of those left
out is said.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rekindle.errors import UnreadableFile
from rekindle.finding import Finding, Severity, Where
from rekindle.limits import Limits
from rekindle.source import Bytes, MemorySource, Readable

__all__ = ["NESTING", "Part", "Report", "View"]

NESTING = 4
_KEPT = 1000


class Part:
    """A part of something readable, read as a file of its own.

    Args:
        base: what it is a part of.
        offset: its first byte.
        size: its bytes.
    """

    def __init__(self, base: Readable, offset: int, size: int) -> None:
        """Check the range; nothing is read."""
        base.range(offset, size)
        self.path = base.path
        self.size = size
        # A part of a part reads from the whole, however often parts were taken.
        self.base: Readable = base.base if isinstance(base, Part) else base
        self.offset: int = offset + (base.offset if isinstance(base, Part) else 0)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; `UnreadableFile` where they do not lie inside."""
        self.range(offset, length)
        return self.base.read(self.offset + offset, length)

    def head(self, length: int) -> bytes:
        """Return the first `length` bytes, fewer where there are fewer."""
        return self.read(0, min(length, self.size))

    def range(self, offset: int, length: int) -> Bytes:
        """Return a lazy range; `UnreadableFile` where it does not lie inside."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise UnreadableFile(
                f"{self.path}: {length:,} bytes at {offset:,} are wanted of a part of {self.size:,}",
                why="a length in the file is wrong",
            )
        return self.base.range(self.offset + offset, length)


@dataclass(frozen=True, slots=True)
class View:
    """A run of bytes and where it stands.

    Attributes:
        data: the bytes.
        member: the way to it through archives, outermost first, joined with `` > ``; None for the file itself.
        base: offset of its first byte in the member (or in the file).
        depth: how many archives it is inside of.
    """

    data: Readable
    member: str | None = None
    base: int = 0
    depth: int = 0

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.data.size

    def where(self, at: int = 0) -> Where:
        """Return the place of a byte."""
        return Where(member=self.member, offset=self.base + at)

    def part(self, offset: int, size: int) -> View:
        """Return a part that belongs to the same member."""
        return View(Part(self.data, offset, size), self.member, self.base + offset, self.depth)

    def inside(self, name: str, data: Readable) -> View:
        """Return the content of a member of this archive."""
        return View(data, name if self.member is None else f"{self.member} > {name}", 0, self.depth + 1)

    def unpacked(self, how: str, raw: bytes) -> View:
        """Return what this came to when it was unpacked."""
        return self.inside(f"({how})", MemorySource(raw, self.data.path))


@dataclass(slots=True)
class Report:
    """What was found.

    Attributes:
        limits: what looking may cost.
        storages: whether the bytes of tensors are looked at too; no loader runs them.
        findings: in the order found.
        left_out: findings over the thousand that are kept.
        inflate_left: bytes that may still be unpacked.
        opcodes_left: opcodes that may still be followed, in all programs together.
    """

    limits: Limits
    storages: bool = True
    findings: list[Finding] = field(default_factory=list)
    left_out: int = 0
    inflate_left: int = 0
    opcodes_left: int = 0
    _worst: int = len(Severity)
    _known: set[tuple[str, str, Where]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Set what all of it together may cost."""
        self.inflate_left = 4 * self.limits.pickle_bytes
        self.opcodes_left = 4 * self.limits.opcodes

    def add(
        self, code: str, name: str, severity: Severity, what: str, where: Where, *, why: str = "", do: str = ""
    ) -> None:
        """Add a finding, unless it is known."""
        if (code, what, where) in self._known:
            return
        self._known.add((code, what, where))
        if severity is not Severity.DANGER and len(self.findings) >= _KEPT:
            self.left_out += 1
            # The answer is the worst of all; what makes it so is never left out.
            if severity.rank >= self._worst:
                return
        self._worst = min(self._worst, severity.rank)
        self.findings.append(Finding(code, name, severity, what, why, do, where))

    def unreadable(self, code: str, name: str, what: str, where: Where, why: str = "") -> None:
        """Add a finding about something that could not be looked at."""
        self.add(code, name, Severity.ERROR, what, where, why=why)
