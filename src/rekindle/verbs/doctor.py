"""`doctor`: what is wrong with a checkpoint, why, and what to type; and `fix`, which does what is safe in one go.

The readers' findings and those of every check in `rekindle.checks` become one list, worst first. A command that a
finding names is tried on the file before it is shown: nothing is written, but the part of the object is looked up and
the writer is asked whether it takes it. What would not work is not offered.

Law: the file is never written to, nothing in it is run, and memory does not grow with it.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from zlib import crc32

from rekindle.checks import Case, counted, run_checks
from rekindle.collecting import without_collecting
from rekindle.errors import CannotWrite, ConfigError, RekindleError, UnreadableFile
from rekindle.finding import Finding, Severity
from rekindle.formats import open_path
from rekindle.gather import gather
from rekindle.keys import plain_keys, plain_prefix
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.listing import kind_of, table_of
from rekindle.opened import Opened
from rekindle.strict import refuse_damaged
from rekindle.tensors import TensorEntry, TensorTable
from rekindle.tree import Map, Module, SparseTensor, Tensor, Value, distinct_nodes, lookup
from rekindle.verbs.convert import container_for, convert
from rekindle.verbs.scan import find_dangers
from rekindle.weights import Weights, find_weights

__all__ = ["Diagnosis", "Fixed", "doctor", "fix", "local_devices", "torch_version"]

# What stands between a command and a remark about it.
_REMARK = "     "
_MAX_LOST = 10_000


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What `doctor` found.

    Attributes:
        path: as it was given.
        format: the container, ``not-a-model`` for another kind of file.
        kind: ``tensor``, ``state_dict``, ``checkpoint``, ``module`` or ``object``.
        size_bytes: of the file, or of all files of a folder.
        tensors: how many.
        findings: worst first.
        commands: command lines that help, each tried on this file, in the order of the findings.
        values: whether the tensors were read too.
        listed: whether the object could be read at all.
    """

    path: str
    format: str
    kind: str
    size_bytes: int
    tensors: int
    findings: tuple[Finding, ...]
    commands: tuple[str, ...]
    values: bool
    listed: bool


@dataclass(frozen=True, slots=True)
class Fixed:
    """What `fix` wrote.

    Attributes:
        source: as it was given.
        target: the new file.
        size_bytes: of the new file.
        done: what was mended, a sentence each.
        written: (key, dtype, shape) of its tensors.
        lost: (path, why) of what the new file does not hold.
        is_whole: whether all tensors are in it.
    """

    source: str
    target: str
    size_bytes: int
    done: tuple[str, ...]
    written: tuple[tuple[str, str, tuple[int, ...]], ...]
    lost: tuple[tuple[str, str], ...]
    is_whole: bool = True


def doctor(
    path: str | os.PathLike[str],
    *,
    values: bool = False,
    torch: str | None = None,
    devices: Mapping[str, int] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Return what is wrong with a file or folder; nothing in it is executed, imported or trusted.

    Args:
        path: any file or folder.
        values: also read every tensor: NaN, infinities, zeros, copies, damaged bytes.
        torch: a version to ask about, such as ``1.4`` or ``torch==1.4``: what would it say?
        devices: kind -> how many of them the file is meant for; those of this machine by default.
        limits: what reading may cost.
        progress: called with (bytes read, bytes in all) while tensors are read.

    Raises:
        ConfigError: `torch` is no version.
        LimitExceeded: reading on would need more than `limits` allows.
        UnreadableFile: it is a pipe or a device, or it changed while it was read.
        OSError: it is missing or may not be read.

    Example:
        >>> for finding in doctor("model.pth").findings:  # doctest: +SKIP
        ...     print(finding.code, finding.what, finding.do)
    """
    version = None if torch is None else torch_version(torch)
    with without_collecting(), open_path(path, limits) as opened:
        case = Case(opened, values, version, devices or local_devices(), limits, progress)
        findings = list(opened.findings)
        findings += find_dangers(opened.path, limits)
        if opened.listed:
            findings += [finding for finding in run_checks(case) if finding not in findings]
        else:
            findings = _told_apart(case, findings)
        findings.sort(key=lambda finding: finding.severity.rank)
        _offer_salvage(findings, opened, limits)
        _offer_copy(findings, opened, limits)
        tried: dict[str, bool] = {}
        findings = [_checked(finding, opened, limits, tried) for finding in findings]
        commands = [finding.do.split(_REMARK)[0] for finding in findings if finding.do.startswith("rekindle ")]
        return Diagnosis(
            opened.path,
            opened.format,
            kind_of(opened.tree, opened.table),
            opened.size_bytes,
            len(opened.table),
            tuple(findings),
            tuple(dict.fromkeys(commands)),
            values,
            opened.listed,
        )


def _told_apart(case: Case, findings: list[Finding]) -> list[Finding]:
    """Return the findings of a file that no reader lists, with what it is in place of what it looks like."""
    from rekindle.checks import archives_before_header  # noqa: PLC0415 - rare

    known = list(archives_before_header.check(case))
    return [*known, *(finding for finding in findings if not known or finding.name != "truncated-archive")]


# Findings that say that bytes are lost or wrong.
_DAMAGE = frozenset(
    (
        *("truncated-archive", "truncated-stream", "broken-directory", "broken-pickle", "broken-header"),
        *("storage-size-mismatch", "missing-storage", "tensor-outside-storage", "unreadable-member", "damaged-part"),
        "changed-record",
    )
)


_RESCUED = frozenset({"torch-zip", "torch-stream", "safetensors", "torchscript", "torch-export", "torch-package"})
# Findings that a copy does not have: bytes and objects that stand around the model.
_LEFT_BEHIND = frozenset({"trailing-bytes", "prepended-bytes", "objects-in-front"})
_GET_AGAIN = "copy or download it again and compare the sizes"


def _offer_salvage(findings: list[Finding], opened: Opened, limits: Limits) -> None:
    """Give the worst damage the command that rescues what is whole, where something is.

    Counting it means reading the file: the only other way to know would be to promise.
    """
    if opened.format not in _RESCUED and not any(finding.name == "broken-directory" for finding in findings):
        return
    for index, finding in enumerate(findings):
        if finding.severity is Severity.ERROR and finding.name in _DAMAGE:
            whole, total = _count_whole(opened.path, limits)
            other = _GET_AGAIN if finding.do.startswith("rekindle salvage") else finding.do
            if whole:
                are = "is" if whole == 1 else "are"
                remark = f"({whole:,} of {counted(total, 'tensor')} {are} whole{f'; or {other}' if other else ''})"
                target = shlex.quote(Case(opened).stem + ".rescued.safetensors")
                other = f"rekindle salvage {shlex.quote(opened.path)} -o {target}{_REMARK}{remark}"
            findings[index] = replace(finding, do=other)
            return


def _offer_copy(findings: list[Finding], opened: Opened, limits: Limits) -> None:
    """Give what stands around a model the command that writes it without."""
    if not opened.listed or not len(opened.table):
        return
    path, stem = shlex.quote(opened.path), Case(opened).stem
    suffix = ".safetensors" if opened.format in {"safetensors", "hub-shards"} else ".pth"
    command = f"rekindle convert {path} {shlex.quote(f'{stem}.converted{suffix}')}"
    for index, finding in enumerate(findings):
        if finding.name in _LEFT_BEHIND and not finding.do.startswith("rekindle "):
            if not _works(command, opened, limits):  # where readers refuse such a file, so does `convert`
                command = f"rekindle salvage {path} -o {shlex.quote(f'{stem}.rescued.safetensors')}"
            findings[index] = replace(finding, do=f"{command}{_REMARK}(the new file does not have them)")


def _count_whole(path: str, limits: Limits) -> tuple[int, int]:
    """Return how many tensors `salvage` could write as safetensors, and how many there were."""
    from rekindle.verbs.salvage import find_whole  # noqa: PLC0415 - only for damaged files
    from rekindle.writers.safetensors import why_not  # noqa: PLC0415

    try:
        wreck = find_whole(path, limits=limits)
    except (RekindleError, OSError):
        return 0, 0
    try:
        table, _ = table_of(wreck.tree, limits)
        whole = sum(
            entry.layout in {"strided", "storage"}
            and not why_not(entry.dtype)
            and (entry.storage.data is not None or not entry.numel)
            for entry in table
        )
        return whole, len(table) + len(wreck.gone)
    finally:
        wreck.close_files()


_VERSION = re.compile(r"(?:torch\s*==\s*)?v?(\d{1,3}(?:\.\d{1,3}){0,3})(?:\.?(?:dev|post|a|b|rc)\d*)?(?:\+[\w.]+)?")


def torch_version(text: str) -> tuple[int, ...]:
    """Return a version of torch as numbers: ``(1, 4)`` of ``"torch==1.4"``.

    Raises:
        ConfigError: it is none.
    """
    found = _VERSION.fullmatch(text.strip())
    if found is None:
        raise ConfigError(
            f"{text!r} is no version of torch", why="a version looks like 1.4 or 2.6.0", do="--for torch==1.4"
        )
    return tuple(int(part) for part in found[1].split("."))


def local_devices() -> dict[str, int]:
    """Return the devices of this machine, without torch: kind -> how many."""
    counts = {"cpu": 1}
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        gpus = sum(re.fullmatch(r"nvidia\d+", name) is not None for name in os.listdir("/dev"))
    except OSError:
        gpus = 0
    if hidden is not None:
        gpus = min(gpus, len([part for part in hidden.split(",") if part.strip() not in {"", "-1"}]))
    if gpus:
        counts["cuda"] = gpus
    if sys.platform == "darwin":
        counts["mps"] = 1
    return counts


# --- trying what is offered -------------------------------------------------------------------------------------------


def _checked(finding: Finding, opened: Opened, limits: Limits, tried: dict[str, bool]) -> Finding:
    """Return the finding, without its command where that would not work on this file."""
    if not finding.do.startswith("rekindle "):
        return finding
    command = finding.do.split(_REMARK)[0]
    if command not in tried:
        tried[command] = _works(command, opened, limits)
    if tried[command]:
        return finding
    _, _, remark = finding.do.partition(_REMARK)
    return replace(finding, do=remark.strip().removeprefix("(or ").removesuffix(")"))


def _works(command: str, opened: Opened, limits: Limits) -> bool:
    """Tell whether a command line would do on this file what it says, without writing anything."""
    words = shlex.split(command)[1:]
    options = dict(pairwise(words))
    try:
        if words[0] == "doctor" and "--fix" in words:
            target = words[words.index("--fix") + 1]
            refuse_damaged(opened)
            plan = _plan(opened, limits, slim=False)
            return _accepts(plan.tree, container_for(target), limits)
        if words[0] == "doctor":
            return True
        if words[0] == "convert":
            refuse_damaged(opened)
            known = convert.__kwdefaults__ or {}
            if any(_KEYWORDS.get(word, word[2:]) not in known for word in words if word.startswith("--")):
                return False
            part = _part(opened.tree, options["--take"]) if "--take" in words else opened.tree
            return _accepts(part, container_for(words[2], options.get("--to")), limits)
        if words[0] == "inspect":
            with open_path(words[1], limits) as other:
                return other.listed
    except (RekindleError, OSError, KeyError, IndexError):
        return False
    return _has_verb(words[0])


# Options of `convert` that are called otherwise in Python.
_KEYWORDS = {"--take": "part", "--all": "everything"}


def _has_verb(name: str) -> bool:
    import importlib.util  # noqa: PLC0415 - only where such a command is offered

    return importlib.util.find_spec(f"rekindle.verbs.{name}") is not None


def _part(tree: Value, part: str) -> Value:
    """Return what lies under a key of dicts; KeyError where there is nothing."""
    node, rest = tree, part
    while rest:
        names = [key for key, _ in node.pairs if isinstance(key, str)] if isinstance(node, Map) else []
        name = max((name for name in names if rest == name or rest.startswith(f"{name}.")), key=len, default=None)
        if name is None:
            raise KeyError(part)
        node, rest = lookup(node, name), rest[len(name) + 1 :]
    return node


def _accepts(tree: Value, container: str, limits: Limits) -> bool:
    table, _ = table_of(tree, limits)
    if container == "safetensors":
        from rekindle.writers.safetensors import why_not  # noqa: PLC0415 - one writer or the other

        return any(entry.layout == "strided" and not why_not(entry.dtype) for entry in table)
    from rekindle.writers.pickle_program import program_of  # noqa: PLC0415

    program = program_of(tree, stream=container == "torch-stream", unfit=lambda path, why: None)  # noqa: ARG005
    return bool(program.storages) or not len(table)


# --- fixing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
    tree: Value
    done: tuple[str, ...]


def fix(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[int, int], None] | None = None,
) -> Fixed:
    """Write a checkpoint that loads everywhere: the weights alone, under plain keys, as plain data, on the CPU.

    The state dict is taken out of whatever is around it (a training checkpoint, a whole module), wrappers' names leave
    the keys, small views are cut loose from large storages, and objects become the plain data that they hold. Where no
    weights can be told, the whole object goes over. Tied tensors stay tied where the container can hold that. The new
    file is read back and compared with the source, tensor by tensor, before it takes its name.

    Args:
        path: any file or folder that rekindle reads.
        target: the new file; ``.pth``, ``.pt``, ``.bin``, ``.ckpt`` or ``.safetensors``.
        force: replace `target` if it is there.
        limits: what reading may cost.
        progress: called with (bytes compared, bytes in all).

    Raises:
        CannotWrite: the target cannot hold it, or is there without `force`.
        UnreadableFile: the source is damaged; nothing is written.
        OSError: the source is missing, the disk is full, ...; the target is as it was.

    Example:
        >>> fix("model.pth", "model.fixed.pth").done  # doctest: +SKIP
        ('the names of wrappers left 122 keys',)
    """
    given, goal = os.fspath(path), os.fspath(target)
    container = container_for(goal)
    if os.path.isdir(goal) or (not force and os.path.lexists(goal)):
        raise CannotWrite(
            f"{goal}: there is a file or folder of this name already",
            why="nothing is replaced unless you say so",
            do=f"rekindle doctor {shlex.quote(given)} --fix {shlex.quote(goal)} --force",
        )
    with open_path(given, limits) as opened:
        refuse_damaged(opened)
        _refuse_changed(opened, limits)
        plan = _plan(opened, limits, slim=True)
        return _write(opened, plan, goal, container, limits, force=force, progress=progress)


def _refuse_changed(opened: Opened, limits: Limits) -> None:
    """Raise where bytes changed since they were written: a copy of them would look whole."""
    from rekindle.checks import changed_record  # noqa: PLC0415 - only for fixing

    for finding in changed_record.check(Case(opened, values=True, limits=limits)):
        raise UnreadableFile(f"{opened.path}: {finding.what}", why=finding.why, do=finding.do, code=finding.code)


def _plan(opened: Opened, limits: Limits, *, slim: bool) -> _Plan:  # noqa: ARG001 - limits bound what a plan may cost
    weights = find_weights(opened.tree)
    done: list[str] = []
    tree = opened.tree
    if weights is not None:
        tree = _plain_state(weights, done, opened)
    tree = _as_data(tree, done)
    devices = sorted({entry.storage.device for entry in opened.table} - {"cpu", "meta"})
    if devices:
        done.append(f"what was saved on {', '.join(devices)} is written for the CPU")
    if slim:
        from rekindle.writers.sharing import dragged_storages, untie  # noqa: PLC0415 - only for fixing

        dragged = {id(found.storage) for found in dragged_storages(tree)}
        views: list[Value] = [
            node for node in distinct_nodes(tree) if isinstance(node, Tensor) and id(node.storage) in dragged
        ]
        if views:
            untie(views)
            done.append(f"{counted(len(views), 'view', 'was', 'were')} cut loose from a larger storage")
    return _Plan(tree, tuple(done))


def _as_data(tree: Value, done: list[str]) -> Value:
    """Return a tree without objects of any class, as far as what they hold is plain."""
    from rekindle.plain_data import as_data  # noqa: PLC0415 - only for fixing

    try:
        made = as_data(tree)
    except RecursionError:  # nested deeper than anything honest; the writer says what it cannot hold
        return tree
    if made.changed:
        path, what = made.changed[0]
        more = f", and {len(made.changed) - 1:,} more" if len(made.changed) > 1 else ""
        done.append(f"{path or 'the whole object'}: {what}{more}")
    return made.tree


def _plain_state(weights: Weights, done: list[str], opened: Opened) -> Map:
    """Return the weights as a state dict with plain keys."""
    where = "".join(f"[{part!r}]" for part in weights.path)
    if isinstance(weights.value, Module):
        done.append(
            f"the state dict of the module {weights.value.type.path}{f' under {where}' if where else ''} was taken"
        )
        pairs: list[tuple[Value, Value]] = [(key, _as_buffer(value)) for key, value in weights.state.items()]
        attributes = None
    else:
        pairs, attributes = list(weights.value.pairs), weights.value.attributes
        if where:
            done.append(f"the weights were taken from {where}")
    if where and isinstance(opened.tree, Map):
        left = [str(key) for key, _ in opened.tree.pairs if key != weights.path[0]]
        if left:
            done.append(f"left out: {', '.join(left[:8])}{' ...' if len(left) > 8 else ''}")
    plain = plain_keys(weights.state)
    changed = sum(old != new for old, new in plain.items())
    if changed and len(set(plain.values())) == len(plain):
        done.append(f"the names of wrappers left {counted(changed, 'key')}")
        pairs = [(plain.get(key, key) if isinstance(key, str) else key, value) for key, value in pairs]
        attributes = _plain_metadata(attributes, weights)
    return Map(pairs, "OrderedDict", attributes)


def _as_buffer(value: Tensor | SparseTensor) -> Value:
    """Return a tensor as ``state_dict()`` gives it: no parameter, no gradient."""
    if not isinstance(value, Tensor) or value.attributes is not None or value.quantizer is not None:
        return value
    plain = Tensor(value.storage, value.dtype, value.offset, value.shape, value.stride)
    plain.conj, plain.neg = value.conj, value.neg
    return plain


def _plain_metadata(attributes: Map | None, weights: Weights) -> Map | None:
    """Return a state dict's ``_metadata`` under the plain names of the modules."""
    metadata = lookup(attributes, "_metadata")
    if attributes is None or not isinstance(metadata, Map):
        return attributes
    plain = plain_prefix(weights.state)
    renamed: dict[str, Value] = {}
    for name, about in metadata.pairs:
        if isinstance(name, str):
            renamed[plain(name)] = about
    kept = Map(list(renamed.items()), metadata.type, metadata.attributes)
    return Map([(key, kept if key == "_metadata" else value) for key, value in attributes.pairs], attributes.type)


def _write(
    opened: Opened,
    plan: _Plan,
    target: str,
    container: str,
    limits: Limits,
    *,
    force: bool,
    progress: Callable[[int, int], None] | None,
) -> Fixed:
    from rekindle.store.atomic import write_beside  # noqa: PLC0415 - only for fixing

    lost: list[tuple[str, str]] = []
    table, _ = table_of(plan.tree, limits)
    with write_beside(target, overwrite=force) as out:
        if container == "safetensors":
            from rekindle.writers.safetensors import NamedTensor, why_not, write_tensors  # noqa: PLC0415

            tensors = []
            for entry in table:
                why = why_not(entry.dtype) if entry.layout == "strided" else f"a part of a {entry.layout} tensor"
                if not why and entry.storage.data is None and entry.numel:
                    why = "it has no values"
                if why:
                    lost.append((entry.key, why))
                else:
                    data = gather(entry, conj=entry.conj, neg=entry.neg)
                    tensors.append(NamedTensor(entry.key, entry.dtype, entry.shape, data))
            write_tensors(tensors, out, {"format": "pt"})
        else:
            from rekindle.writers import torch_zip  # noqa: PLC0415
            from rekindle.writers.pickle_program import program_of  # noqa: PLC0415

            def lose(path: tuple[object, ...], why: str) -> None:
                lost.append((".".join(map(str, path)), why))

            for _ in torch_zip.write_program(program_of(plan.tree, unfit=lose), out):
                pass
        size = out.size
        written = _compare(out.path, target, table, {key for key, _ in lost}, limits, progress)
    whole = len(written) == len(table)
    return Fixed(opened.path, target, size, plan.done, written, tuple(lost[:_MAX_LOST]), whole)


def _compare(
    made_path: str,
    target: str,
    table: TensorTable,
    lost: set[str],
    limits: Limits,
    progress: Callable[[int, int], None] | None,
) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """Open the new file and compare every tensor with the source, bytes and all.

    Raises:
        UnreadableFile: they differ; the new file is thrown away.
    """
    total = sum(entry.size_bytes for entry in table)
    done = 0
    with open_path(made_path, limits) as made:
        refuse_damaged(made)
        for entry in table:
            if entry.key not in made.table:
                if any(entry.key == path or entry.key.startswith(f"{path}.") for path in lost):
                    continue
                raise _differs(target, f"{entry.key} is missing")
            found = made.table[entry.key]
            same = (found.dtype, found.shape) == (entry.dtype, entry.shape)
            if not same or (entry.storage.data is not None and _sum(found) != _sum(entry)):
                raise _differs(target, f"{entry.key} is not what it was")
            done += entry.size_bytes
            if progress is not None:
                progress(done, total)
        return tuple((entry.key, entry.dtype, entry.shape) for entry in made.table)


def _sum(entry: TensorEntry) -> int:
    crc = 0
    for chunk in gather(entry, conj=entry.conj, neg=entry.neg).chunks():
        crc = crc32(chunk, crc)
    return crc


def _differs(target: str, what: str) -> UnreadableFile:
    return UnreadableFile(
        f"{target}: the new file is not what it should be: {what}; it was thrown away",
        why="a fault of rekindle, or of the disk",
        do="try again on another disk, and report it",
    )
