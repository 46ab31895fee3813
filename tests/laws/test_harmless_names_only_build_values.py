"""Law: a name that is called harmless builds a value or fails, whatever it is given, in our machine and in CPython.

For every pair (module, name) that the scanner calls harmless or the machine gives a meaning, programs with hostile
arguments are made: wrong types, huge sizes, values inside themselves, names of modules and files in every place, states
and items of every kind. Two processes run them under an audit hook. Ours runs all of them and may cause no event at
all. CPython's own unpickler, with torch's real functions, runs those that the scanner calls clean, and may neither
import what a file names, nor open a file for writing, nor compile, execute, connect or start anything.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rekindle.finding import Severity
from rekindle.limits import DEFAULT_LIMITS
from rekindle.scanning.names import CHECKPOINT_NAMES, HARMLESS, PARTS, Level, judge
from rekindle.scanning.programs import report_program
from rekindle.scanning.report import Report, View
from rekindle.scanning.trace import trace
from rekindle.source import MemorySource
from rekindle.unpickling.known_globals import BUILDS, MEANINGS

CANARY = "canary_of_rekindle"  # a module that lies beside the process, and a file that must never appear


def text(words: str) -> bytes:
    raw = words.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def number(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def many(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def name(module: str, function: str) -> bytes:
    return f"c{module}\n{function}\n".encode()


NONE, TRUE, NAN = b"N", b"\x88", b"G\x7f\xf8" + bytes(6)
ONE, HUGE, MINUS = b"K\x01", number(1 << 61), number(-1)
INSIDE_ITSELF = b"]q\xc8h\xc8a"
DICT_INSIDE_ITSELF = b"}q\xc9" + text("me") + b"h\xc9s"
STORAGE = many(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(4)) + b"Q"
TENSOR = name("torch._utils", "_rebuild_tensor_v2") + many(
    STORAGE, b"K\x00", many(b"K\x02"), many(ONE), b"\x89", name("collections", "OrderedDict") + b")R"
) + b"R"  # fmt: skip
CALLABLES = (name("torch._utils", "_rebuild_tensor"), name("collections", "OrderedDict"), name("torch", "Size"))

ARGUMENTS = (
    b")", many(NONE), many(ONE), many(HUGE), many(MINUS), many(NAN), many(text(CANARY)), many(text("x" * 5000)),
    many(INSIDE_ITSELF), many(DICT_INSIDE_ITSELF), many(b"]" + HUGE + b"a"), many(many(HUGE, HUGE)), many(TENSOR),
    many(STORAGE), many(name("torch", "float32")), many(b"C\x04abcd"), many(text(CANARY), text(CANARY)),
    many(text(f"{CANARY}.pt"), TRUE), many(HUGE, HUGE, HUGE), many(STORAGE, HUGE, many(HUGE), many(HUGE)),
    many(STORAGE, MINUS, many(MINUS), many(MINUS)), many(STORAGE, ONE, many(ONE), many(HUGE), TRUE, text(CANARY)),
    many(STORAGE, b"K\x00", many(*[ONE] * 100), many(*[ONE] * 100), TRUE, INSIDE_ITSELF),
    many(TENSOR, TRUE, DICT_INSIDE_ITSELF), many(TENSOR, TRUE, b"}", b"}" + text("__class__") + text(CANARY) + b"s"),
    many(text(CANARY), b"]" + text(CANARY) + b"a", b"}" + text(CANARY) + ONE + b"s"),
    many(name("torch", "sparse_coo"), many(TENSOR, TENSOR, many(HUGE), TRUE)),
    *(many(call, name("torch", "Tensor"), many(ONE, HUGE), b"}" + text("__dict__") + b"}s") for call in CALLABLES),
    *(many(function, text(CANARY), HUGE) for function in CALLABLES),
    many(TENSOR, TENSOR, TENSOR, TENSOR), many(*[text(CANARY)] * 6), many(*[HUGE] * 9), NONE, text(CANARY), b"}",
)  # fmt: skip
# What may be done to the result.
STATES = (
    b"", b"}" + text("__class__") + name("torch", "Size") + b"sb", b"}" + text("__setstate__") + CALLABLES[0] + b"sb",
    b"}" + text("__reduce__") + text(CANARY) + b"sb", many(NONE, b"}" + text(CANARY) + ONE + b"s") + b"b",
    many(STORAGE, HUGE, many(HUGE), many(MINUS)) + b"b", text(CANARY) + b"b", text(CANARY) + ONE + b"s", HUGE + b"a",
    b"(" + HUGE + text(CANARY) + b"u", b"(" + text(CANARY) + b"e", many(text(CANARY)) + b"R", INSIDE_ITSELF + b"b",
)  # fmt: skip

# Reasons that many pairs share.
ALIKE = {reason for reason in HARMLESS.values() if list(HARMLESS.values()).count(reason) > 20}
SCANNED = sorted({*HARMLESS, *CHECKPOINT_NAMES})
KNOWN = sorted({*SCANNED, *PARTS, *MEANINGS, *BUILDS})


def wrapped(arguments: bytes) -> bytes:
    """Return a program that makes a DTensor as torch does, of these arguments."""
    kind = name("torch.distributed.tensor", "DTensor")
    given = many(name("torch._utils", "_rebuild_wrapper_subclass"), kind, many(kind, arguments), b"}")
    return b"\x80\x02" + name("torch._tensor", "_rebuild_from_type_v2") + given + b"R."


def programs(pair: tuple[str, str]) -> list[bytes]:
    """Programs around one name: all arguments, and with the first few of them every state.

    A constant cannot be called, and the classes of storages are all alike, so a few arguments are enough for most.
    """
    begin = b"\x80\x02" + name(*pair)
    if HARMLESS.get(pair) in ALIKE and pair not in (("torch", "float32"), ("torch", "FloatStorage")):
        return [begin + arguments + b"R" + state + b"." for arguments in ARGUMENTS[5:7] for state in STATES[:2]]
    made = [begin + arguments + call + b"." for arguments in ARGUMENTS for call in (b"R", b"\x81")]
    made += [
        begin + arguments + b"R" + state + b"." for arguments, state in itertools.product(ARGUMENTS[:2], STATES[1:])
    ]
    made += [begin + b")\x81" + state + b"." for state in STATES[1:]]
    return [*made, begin + text(CANARY) + ONE + b"s."]


HOOK = """
import json, os, sys
work = json.load(sys.stdin)
seen, watching = [], []
def writes(args):
    mode, flags = args[1], args[2]
    if isinstance(mode, str): return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC)
"""

OURS = (
    HOOK
    + """
from rekindle.errors import RekindleError
from rekindle.unpickling.machine import run_program
from rekindle.limits import Limits
from rekindle.tree import StorageRef
from rekindle.tensors import Storage
def hook(event, args):
    if watching and not event.startswith(("object.__getattr__", "sys._getframe", "gc.", "builtins.id")):
        seen.append((watching[0], event, repr(args)[:200]))
def persistent(pid):
    return StorageRef(Storage("0", 16, None), "float32", 0, 4)
encodings = [b"".decode(codec) for codec in ("latin-1", "utf-8", "ascii")]
sys.addaudithook(hook)
ended = {}
for number, program in enumerate(work["programs"]):
    watching.append(number)
    try:
        run_program(bytes.fromhex(program), persistent=persistent, limits=Limits())
        how = "value"
    except RekindleError as error:
        how = "our error"
    except BaseException as error:
        how = repr(error)[:200]
    finally:
        watching.clear()
    ended[how] = ended.get(how, 0) + 1
    if how not in ("value", "our error"): seen.append((number, how, ""))
print("RESULT" + json.dumps([seen, ended]))
"""
)

REAL = (
    HOOK
    + """
import io, pickle, resource, warnings
import torch, torch.distributed.checkpoint, torch.distributed.checkpoint.filesystem, torch.distributed.tensor
warnings.simplefilter("ignore")
sys.path.insert(0, os.getcwd())  # where the canary lies
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
stood = torch.UntypedStorage(16)
repr(torch.ones(1))  # words of errors show tensors, for which torch imports more of itself
FORBIDDEN = ("os.", "subprocess.", "socket.", "ctypes.dlopen", "shutil.", "tempfile.", "pty.", "urllib.", "winreg.")
def hook(event, args):
    if not watching: return
    if event == "import":
        if args[0].partition(".")[0] not in ("torch", "numpy"): seen.append((watching[0], event, args[0]))
    elif event == "open":
        if writes(args): seen.append((watching[0], event, repr(args)[:200]))
    elif event in ("compile", "exec"):
        where = getattr(args[0], "co_filename", "") if event == "exec" else str(args[1])
        if not where.startswith(work["trusted"]): seen.append((watching[0], event, repr(args)[:200]))
    elif event.startswith(FORBIDDEN) and event not in ("os.listdir", "os.scandir"):
        seen.append((watching[0], event, repr(args)[:200]))
class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        watching.clear()  # the name itself may be imported
        try: return super().find_class(module, name)
        finally: watching.append(number)
    def persistent_load(self, pid):
        return torch.storage.TypedStorage(wrap_storage=stood, dtype=torch.float32, _internal=True)
sys.addaudithook(hook)
ended = {"value": 0, "error": 0, "absent": 0}
sys.setrecursionlimit(300)
for number, program in enumerate(work["programs"]):
    watching.append(number)
    try:
        Reader(io.BytesIO(bytes.fromhex(program))).load()
        how = "value"
    except (ImportError, AttributeError): how = "absent"
    except BaseException: how = "error"
    finally: watching.clear()
    ended[how] += 1
print("RESULT" + json.dumps([seen, ended]))
"""
)


def watched(script: str, work: list[bytes], folder: Path) -> tuple[list[tuple[int, str, str]], dict[str, int]]:
    """Run programs in a process that watches them; return (events, how they ended)."""
    import torch

    (folder / f"{CANARY}.py").write_text("raise SystemExit('the canary was imported')")
    trusted = os.path.dirname(os.path.dirname(torch.__file__))
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps({"programs": [program.hex() for program in work], "trusted": trusted}),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen, ended = json.loads(done.stdout.rsplit("RESULT", 1)[1])
    assert sorted(entry.name for entry in folder.iterdir()) == [f"{CANARY}.py"]  # nothing was written
    return [tuple(event) for event in seen], ended


def is_clean(program: bytes, *, checkpoint: bool) -> bool:
    report = Report(DEFAULT_LIMITS)
    found = trace(program, 0, DEFAULT_LIMITS)
    report_program(found, View(MemorySource(program, "x")), 0, report, checkpoint=checkpoint)
    return all(finding.severity is Severity.NOTE for finding in report.findings)


def test_our_machine_builds_a_value_or_gives_our_error_and_causes_no_event(tmp_path):
    work = [program for pair in KNOWN for program in programs(pair)]
    seen, ended = watched(OURS, work, tmp_path)
    assert seen == []
    assert set(ended) == {"value", "our error"}
    assert min(ended.values()) > 200  # both happen: the programs are neither all refused nor all harmless


def test_what_is_clean_builds_a_value_or_fails_in_cpython_too(tmp_path):
    work = [
        program
        for pair in (*SCANNED, *PARTS)
        for program in programs(pair)
        if is_clean(program, checkpoint=pair in CHECKPOINT_NAMES)
    ]
    work += [program for program in map(wrapped, ARGUMENTS) if is_clean(program, checkpoint=False)]
    assert all(any(name(*pair) in program for program in work) for pair in PARTS)
    seen, ended = watched(REAL, work, tmp_path)
    assert [(work[number], event, what) for number, event, what in seen] == []
    assert ended["value"] > 500
    assert ended["error"] > 500


def test_the_watch_sees_what_is_forbidden(tmp_path):
    work = [
        name("_codecs", "encode") + many(text("a"), text(CANARY)) + b"R.",
        name("builtins", "open") + many(text(f"{CANARY}.txt"), text("w")) + b"R0N.",
        name("builtins", "eval") + many(text("1 + 1")) + b"R.",
        name("os", "system") + many(text("true")) + b"R.",
        name("socket", "socket") + b")R0N.",
        name("importlib", "import_module") + many(text(CANARY)) + b"R.",
    ]
    folder = tmp_path / "cage"
    folder.mkdir()
    with pytest.raises(AssertionError):  # the second writes a file
        watched(REAL, work, folder)
    (folder / f"{CANARY}.txt").unlink()
    del work[1]
    seen, _ = watched(REAL, work, folder)
    assert {number for number, _, _ in seen} == set(range(len(work)))
    assert not any(is_clean(b"\x80\x02" + program, checkpoint=False) for program in work)


def test_every_pair_has_its_reason():
    for pair in SCANNED:
        judged = judge(*pair, checkpoint=pair not in HARMLESS)
        assert judged.level is Level.HARMLESS
        assert len(judged.reason.split()) >= 2, pair
