"""What is worth saying about a conversion: losses, each with its reason, and notes with their codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rekindle.converting.result import MAX_LOST, Lost
from rekindle.finding import Finding, Severity
from rekindle.tree import Global, Map, Module, Record, SetOf, children, distinct_nodes, walk
from rekindle.writers.safetensors import NamedTensor

if TYPE_CHECKING:
    from rekindle.converting.job import Job

__all__ = [
    "cast_findings",
    "code_of",
    "lose_values",
    "prefixes",
    "report_copies",
    "report_devices",
    "report_modules",
    "report_old_torch",
    "report_wrapper",
]

# Keys under which training scripts keep the weights beside other things.
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "model_state", "module", "net", "network", "weights", "params"),
    *("ema", "ema_state_dict", "model_ema", "generator", "encoder"),
)

_CODES = (
    *("weights-only", "wrapped-weights", "dragged-storage", "many-losses", "module-as-state-dict"),
    *("needs-newer-torch", "device-left-out", "shared-tensors-copied", "wrong-crc", "left-out-as-asked"),
    *("renamed-as-asked", "pattern-without-match", "cast-as-asked", "values-out-of-range", "values-beside"),
    *("object-as-data", "old-shards", "averaged-as-asked"),
)


def code_of(name: str) -> str:
    """Return the code of a note: ``weights-only`` -> ``RK-CONV-01``."""
    return f"RK-CONV-{_CODES.index(name) + 1:02}"


def lose_values(job: Job) -> None:
    """List everything but tensors: a flat file holds nothing else."""
    if job.wishes.values:
        return  # they are written beside; what is not is listed there
    absent: set[tuple[str, ...]] = set()  # a module without a bias lacks nothing
    for path, node in walk(job.tree):
        if isinstance(node, Module):
            absent.update((*path, name) for name, child in children(node) if child is None)
            continue
        if node is None and path in absent:
            continue
        if isinstance(node, (bool, int, float, complex, str, bytes, Global)) or node is None:
            why = "a plain value; safetensors holds tensors only"
        elif isinstance(node, Record):
            name = node.function.path if isinstance(node.function, Global) else "a call"
            why = f"an object of {name}; safetensors holds tensors only"
        elif isinstance(node, SetOf):
            why = "a set; safetensors holds tensors only"
        else:
            continue
        job.lost.append(Lost(".".join(path), why))
        if len(job.lost) > MAX_LOST:
            job.note("many-losses", f"more than {MAX_LOST:,} plain values are left out; the list stops there")
            return


def report_modules(job: Job, *, hidden: bool = False, kept: set[int] | None = None) -> None:
    """Say that whole modules go over as their state dicts; their classes stay behind.

    Args:
        job: the conversion.
        hidden: also list the buffers that a state dict leaves out, whatever the container.
        kept: ids of the tensors that were chosen, where not all are; modules without any are not told of.
    """
    modules = {id(node): node for node in distinct_nodes(job.tree) if isinstance(node, Module)}
    if kept is not None:
        modules = {key: node for key, node in modules.items() if any(id(part) in kept for part in distinct_nodes(node))}
    inner = {id(child) for node in modules.values() for child in node.modules.values()}
    tops = [node for key, node in modules.items() if key not in inner]
    for node in tops:
        job.note(
            "module-as-state-dict",
            f"the module {node.type.path} is written as its state dict",
            why="its class and settings are code and objects that a plain file does not hold",
        )
    if hidden or job.container != "safetensors":
        _lose_hidden_buffers(job, set(modules))


def _lose_hidden_buffers(job: Job, modules: set[int]) -> None:
    for path, node in walk(job.tree):
        if isinstance(node, Module) and id(node) in modules:
            for name in node.non_persistent:
                if node.buffers.get(name) is not None:
                    key = ".".join((*path, name))
                    job.lost.append(Lost(key, "a buffer that state_dict() leaves out", is_tensor=True))


def report_old_torch(job: Job) -> None:
    """Say what in the new stream an old torch does not know."""
    if job.container != "torch-stream":
        return
    from rekindle.writers.torch_stream import needs_newer_torch  # noqa: PLC0415

    needs = needs_newer_torch(job.tree)
    if needs:
        listed = ", ".join(f"{name} (torch {since})" for name, since in sorted(needs.items()))
        job.note(
            "needs-newer-torch",
            f"an older torch cannot open this stream; it holds {listed}",
            why="the container is old, these types are not",
            do="convert the tensors to older types first, or use a torch of that version or newer",
        )


def report_devices(job: Job) -> None:
    """Say that what was saved on a GPU is written for the CPU."""
    devices = sorted({entry.storage.device for entry in job.table} - {"cpu", "meta"})
    if devices:
        job.note(
            "device-left-out",
            f"what was saved on {', '.join(devices)} is written for the CPU",
            why="the file then opens on every machine; move the tensors after loading",
        )


def report_copies(job: Job, tensors: list[NamedTensor]) -> None:
    """Say that shared tensors are written once per key, with both sizes."""
    kept = {tensor.key for tensor in tensors}
    shared = [
        entries
        for entries in job.table.by_storage.values()
        if len([entry for entry in entries if entry.key in kept]) > 1
    ]
    once = sum(entries[0].storage.size_bytes for entries in shared)
    each = sum(entry.size_bytes for entries in shared for entry in entries if entry.key in kept)
    if shared and each > once:
        keys = [entry.key for entry in shared[0]]
        job.note(
            "shared-tensors-copied",
            f"{', '.join(keys[:4])}{' ...' if len(keys) > 4 else ''} share their bytes and are written one by one: "
            f"{each:,} bytes instead of {once:,}",
            why="safetensors has no sharing; with every key in the file, every loader finds what it looks for",
            do="tie the weights again after loading, or keep the sharing in a .pth file",
        )


def report_wrapper(job: Job) -> None:
    """Say where the weights lie, when the keys of a flat file will carry the name of a wrapper."""
    if not isinstance(job.tree, Map):
        return
    for key, child in job.tree.pairs:
        if key in _WRAPPERS and isinstance(child, (Map, Module)) and len(job.tree.pairs) > 1:
            job.note(
                "wrapped-weights",
                f"the weights lie under {key!r}, so their keys start with {key}.",
                why="the checkpoint keeps other things beside them; a safetensors file is one flat list",
                do=f"rekindle convert {job.source} {job.target} --part {key}",
            )
            return


def cast_findings(job: Job) -> list[Finding]:
    """Return what casting did, now that all is written."""
    report = job.casting
    if report is None:
        return []
    before = len(job.findings)
    cast = ", ".join(f"{count:,} of {name}" for name, count in report.cast.items())
    left = ", ".join(f"{count:,} of {name}" for name, count in report.left.items())
    untied = f"; {report.untied:,} of them shared bytes with another type and now have their own"
    job.note(
        "cast-as-asked",
        (f"cast to {job.wishes.dtype}: {cast}" if cast else f"nothing had to be cast to {job.wishes.dtype}")
        + (untied if report.untied else "")
        + (f"; left as they are: {left}" if left else ""),
    )
    tally = report.tally
    if tally.overflowed or tally.vanished:
        bound = "448, the largest there is," if job.wishes.dtype == "float8_e4m3fn" else "infinite"
        job.findings.append(
            Finding(
                code_of("values-out-of-range"),
                "values-out-of-range",
                Severity.WARNING if tally.overflowed else Severity.NOTE,
                f"{tally.overflowed:,} values became {bound} and {tally.vanished:,} became zero",
                f"{job.wishes.dtype} cannot hold numbers as large or as small",
                "--dtype bfloat16 has the range of float32" if job.wishes.dtype == "float16" else "",
            )
        )
    return job.findings[before:]


def prefixes(key: str) -> Iterator[str]:
    """Yield the key and what stands before each of its dots, and the empty text for the whole object."""
    yield key
    for at in _dots(key):
        yield key[:at]
    yield ""


def _dots(text: str) -> Iterator[int]:
    """Yield the places of the dots, last first."""
    at = text.rfind(".")
    while at >= 0:
        yield at
        at = text.rfind(".", 0, at)
