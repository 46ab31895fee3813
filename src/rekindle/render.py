"""Values as text for people and as JSON for programs.

Law: what comes from a file is data. No string of a file reaches a terminal unescaped (`escape`): no control character,
no change of writing direction, nothing invisible, no second line; and none is longer than 200 characters in text.
JSON keeps strings exact and is pure ASCII.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from rekindle.finding import Finding, Severity

if TYPE_CHECKING:
    from rekindle.tensors import TensorEntry
    from rekindle.verbs.inspect import Inspection

__all__ = [
    "Paint",
    "escape",
    "finding_lines",
    "findings_json",
    "human_bytes",
    "inspection_json",
    "inspection_lines",
    "to_json",
]

MAX_LINES = 10_000
_MAX_TEXT = 200
_KEY_COLUMN = 64
# Letters that are printable by Unicode's tables and yet nothing can be seen of them.
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f")


def escape(text: str, limit: int = _MAX_TEXT) -> str:
    r"""Return a text from a file in a form that can do nothing but be read.

    Control characters (C0, C1, DEL), line ends, changes of writing direction, zero-width and invisible characters and
    lone surrogates become ``\xNN`` or ``\uNNNN``; what is longer than `limit` characters ends in ``…``.
    """
    cut = text[:limit]
    if not (cut.isascii() and cut.isprintable()):
        cut = "".join(
            letter if letter.isprintable() and letter not in _INVISIBLE else _escaped(letter) for letter in cut
        )
    return cut[:limit] + "…" if len(text) > limit or len(cut) > limit else cut


def _escaped(letter: str) -> str:
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Paint:
    """Colours for a terminal, or none: ``paint.bold("text")``.

    Args:
        on: whether the output is a terminal that wants colours.
    """

    def __init__(self, on: bool) -> None:
        """Remember whether to colour."""
        self.on = on

    def _in(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.on and text else text

    def bold(self, text: str) -> str:
        """Return the text, bold."""
        return self._in("1", text)

    def dim(self, text: str) -> str:
        """Return the text, faint."""
        return self._in("2", text)

    def severity(self, severity: Severity, text: str) -> str:
        """Return the text in the colour of a severity."""
        match severity:
            case Severity.DANGER | Severity.ERROR:
                return self._in("1;31", text)
            case Severity.WARNING:
                return self._in("33", text)
            case Severity.NOTE:
                return self._in("36", text)


def human_bytes(count: int) -> str:
    """Return a number of bytes in decimal units, as disks are sold and `ls -h --si` shows: ``44.7 MB``."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value:,.1f} PB"


def finding_lines(finding: Finding, path: str = "", paint: Paint | None = None) -> list[str]:
    """Return a finding in three parts: what, why, do."""
    paint = paint or Paint(on=False)
    what = finding.what if not path or finding.what.startswith(path) else f"{path}: {finding.what}"
    lines = [f"{paint.severity(finding.severity, finding.severity.value)}  {escape(what, 400)}  [{finding.code}]"]
    if finding.why:
        lines.append(f"  why     {escape(finding.why, 400)}")
    if finding.do:
        # A command must be whole to be typed; the list of classes to allow can be long.
        lines.append(f"  do      {escape(finding.do, 4000)}")
    return lines


def findings_json(findings: Iterable[Finding]) -> list[dict[str, object]]:
    """Return findings as the contract of ``--json`` has them."""
    return [
        {
            "code": finding.code,
            "name": finding.name,
            "severity": finding.severity.value,
            "where": {
                name: value
                for name, value in (
                    ("member", finding.where.member),
                    ("offset", finding.where.offset),
                    ("key", finding.where.key),
                )
                if value is not None
            },
            "what": finding.what,
            "why": finding.why,
            "do": finding.do,
        }
        for finding in findings
    ]


def inspection_json(inspection: Inspection) -> dict[str, object]:
    """Return an inspection as the contract of ``rekindle inspect --json`` has it.

    ``offset`` is the first element, counted in elements of the dtype from the start of the storage; ``bytes`` of a
    tensor are those of its own elements; ``storage`` is equal for tensors that share one; ``part`` says which part of
    which whole a tensor is, where a model was spread over ranks. Numbers that JSON has not
    (NaN, infinities) are texts.
    """
    tensors = []
    parts = _parts(inspection)
    for entry in inspection.table:
        row: dict[str, object] = {
            "key": entry.key,
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "stride": list(entry.stride),
            "device": entry.storage.device,
            "storage": entry.storage.id,
            "offset": entry.offset,
            "bytes": entry.size_bytes,
            "layout": entry.layout,
        }
        if entry.key in parts:
            row["part"] = parts[entry.key]
        if entry.key in inspection.digests:
            row["digest"] = inspection.digests[entry.key]
        tensors.append(row)
    return {
        "path": inspection.path,
        "format": inspection.format,
        "kind": inspection.kind,
        "bytes": inspection.size_bytes,
        "tensors": tensors,
        "values": {key: _json_number(value) for key, value in inspection.values.items()},
        "findings": findings_json(inspection.findings),
        "facts": _json_facts(inspection.facts),
    }


def _parts(inspection: Inspection) -> Mapping[str, object]:
    """Return key -> which part of which whole shape the file has, for tensors that are spread over ranks."""
    parts = inspection.facts.get("parts")
    return parts if isinstance(parts, Mapping) else {}


def _json_number(value: object) -> object:
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


def _json_facts(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _json_facts(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_facts(child) for child in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return _json_number(value)
    return str(value)


def to_json(value: object) -> str:
    """Return JSON in printable ASCII: Python's encoder escapes everything else, also DEL, which JSON itself allows."""
    import json  # noqa: PLC0415 - only when asked for

    return json.dumps(value, indent=1, allow_nan=False)


def inspection_lines(inspection: Inspection, paint: Paint | None = None, *, tree: bool = False) -> Iterator[str]:
    """Yield an inspection as lines of text: a summary, the tensors, the values, the findings, what to type next.

    Args:
        inspection: what to show.
        paint: colours; none by default.
        tree: show the structure of the object in place of the table of its tensors.
    """
    paint = paint or Paint(on=False)
    yield _headline(inspection, paint)
    if tree:
        from rekindle.structure import structure_lines  # noqa: PLC0415 - only when asked for

        yield ""
        yield from structure_lines(inspection.tree, MAX_LINES)
    elif len(inspection.table):
        yield ""
        yield from _tensor_lines(inspection, paint)
    if inspection.values:
        yield ""
        yield paint.bold("values")
        width = min(max(len(escape(key)) for key in inspection.values), _KEY_COLUMN)
        for key, value in inspection.values.items():
            yield f"  {escape(key):<{width}}  {escape(_plain(value))}"
    metadata = inspection.facts.get("metadata")
    if isinstance(metadata, Mapping) and metadata:
        yield ""
        yield paint.bold("metadata")
        for count, (key, value) in enumerate(metadata.items()):
            if count == 64:
                yield f"  … and {len(metadata) - 64:,} more (--json has all)"
                break
            yield f"  {escape(str(key))}  {escape(str(value))}"
    for finding in inspection.findings[:MAX_LINES]:
        yield ""
        yield from finding_lines(finding, inspection.path, paint)
    if inspection.listed and len(inspection.table):
        yield ""
        yield from _next_lines(inspection, paint, tree=tree)


def _plain(value: object) -> str:
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 4096:
        return f"{value.bit_length()}-bit integer"
    return str(value)


def _headline(inspection: Inspection, paint: Paint) -> str:
    parts = [inspection.format]
    if inspection.listed:
        parts.append(inspection.kind)
    parts.append(human_bytes(inspection.size_bytes))
    table = inspection.table
    if len(table):
        parts.append(f"{len(table):,} tensor{'s' if len(table) != 1 else ''}")
        parts.append(f"{_distinct_elements(table.entries):,} elements")
        counts: dict[str, int] = {}
        for entry in table:
            counts[entry.dtype] = counts.get(entry.dtype, 0) + 1
        ordered = sorted(counts.items(), key=lambda item: -item[1])
        if len(ordered) == 1:
            parts.append(ordered[0][0])
        else:
            parts.append(" ".join(f"{name} ({count:,})" for name, count in ordered))
    elif inspection.listed:
        parts.append("no tensors")
    return f"{paint.bold(escape(inspection.path, 400))}: {', '.join(parts)}"


def _distinct_elements(entries: Iterable[TensorEntry]) -> int:
    """Count elements; tensors that are the very same view of a storage count once."""
    seen: set[tuple[int, int, tuple[int, ...], tuple[int, ...]]] = set()
    total = 0
    for entry in entries:
        look = (id(entry.storage), entry.offset, entry.shape, entry.stride)
        if look not in seen:
            seen.add(look)
            total += entry.numel
    return total


def _tensor_lines(inspection: Inspection, paint: Paint) -> Iterator[str]:
    """Yield the table of tensors, aligned by what its first lines need."""
    entries = inspection.table.entries
    shown = entries[:MAX_LINES]
    digests = inspection.digests
    rows = [
        (
            escape(entry.key),
            entry.dtype if entry.layout == "strided" else f"{entry.dtype} {escape(entry.layout)}",
            str(list(entry.shape)) if len(entry.shape) <= 16 else f"{len(entry.shape)} dimensions",
            human_bytes(entry.size_bytes),
        )
        for entry in shown
    ]
    marks = _sharing_marks(entries)
    for key, part in _parts(inspection).items():
        marks[key] = f"part {escape(str(part))}" + (f", {marks[key]}" if key in marks else "")
    widths = [min(max(len(title), *(len(row[i]) for row in rows)), _KEY_COLUMN) for i, title in enumerate(_TITLES)]
    title = "  ".join(f"{name:<{width}}" for name, width in zip(_TITLES, widths, strict=True))
    yield paint.dim("  " + title.rstrip() + ("  sha256" if digests else ""))
    for entry, (key, dtype, shape, size) in zip(shown, rows, strict=True):
        line = f"  {key:<{widths[0]}}  {dtype:<{widths[1]}}  {shape:<{widths[2]}}  {size:>{widths[3]}}"
        if digests:
            line += f"  {digests.get(entry.key, '-' * 16)[:16]}"
        mark = marks.get(entry.key)
        yield f"{line}  {paint.dim(mark)}" if mark else line
    if len(entries) > MAX_LINES:
        yield f"  … and {len(entries) - MAX_LINES:,} more (--json lists all)"


_TITLES = ("key", "dtype", "shape", "size")


def _sharing_marks(entries: Iterable[TensorEntry]) -> dict[str, str]:
    """Return a mark for each tensor worth one: shared, a view into more, without bytes, saved on a device."""
    first: dict[int, TensorEntry] = {}
    marks: dict[str, str] = {}
    for entry in entries:
        notes = []
        earlier = first.setdefault(id(entry.storage), entry)
        if earlier is not entry and entry.numel:
            same = (entry.offset, entry.shape, entry.stride) == (earlier.offset, earlier.shape, earlier.stride)
            notes.append(f"{'same as' if same else 'shares storage with'} {escape(earlier.key)}")
        elif entry.storage.size_bytes > 2 * entry.size_bytes and entry.storage.size_bytes - entry.size_bytes > 4096:
            notes.append(f"view into {human_bytes(entry.storage.size_bytes)}")
        if entry.storage.device != "cpu":
            notes.append(f"saved on {escape(entry.storage.device, 40)}")
        if entry.storage.data is None and entry.numel:
            notes.append("no bytes in the file")
        if notes:
            marks[entry.key] = ", ".join(notes)
    return marks


def _next_lines(inspection: Inspection, paint: Paint, *, tree: bool) -> Iterator[str]:
    import shlex  # noqa: PLC0415

    path = inspection.path
    stem = path.rstrip("/").rpartition("/")[2].rpartition(".")[0] or path.rstrip("/").rpartition("/")[2]
    target = stem + (".safetensors" if inspection.format != "safetensors" else ".pth")
    yield paint.dim("next")
    yield f"  rekindle inspect {escape(shlex.quote(path), 400)} {'--digest' if tree else '--tree'}"
    yield f"  rekindle convert {escape(shlex.quote(path), 400)} {escape(shlex.quote(target), 400)}"
