"""The law that every reader and verb keeps, as functions from any bytes to nothing: what fuzzing calls.

A *target* is a function that takes bytes and comes back, or raises `Broken` with what was broken:

    only our errors       a value, or a `RekindleError`; any other exception goes through as it is
    bounded               an input of at most 256 kB takes at most `SECONDS` and `MEMORY_MIB`
    nothing happens       nothing is imported, executed, compiled or connected to, no process started, and no file is
                          opened for writing, renamed or removed but in the target's own scratch folder

Two kinds of targets: *whole* ones take the bytes as a file; *parts* take a container apart (records of an archive,
files of a folder), put the bytes in the place of one of them, and read the container. The first byte says which one.
Seeds are the stored files of tests/golden.
"""

from __future__ import annotations

import io
import os
import random
import resource
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "golden"
SECONDS = 10.0
MEMORY_MIB = 512
MAX_BYTES = 256 * 1024

# Audit events of CPython 3.13, `Doc/library/audit_events.rst`.
_FORBIDDEN = frozenset(
    [
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "os.fork",
        "os.forkpty",
        "os.kill",
        "subprocess.Popen",
        "pty.spawn",
        "socket.connect",
        "socket.bind",
        "socket.sendto",
        "socket.getaddrinfo",
        "urllib.Request",
        "ctypes.dlopen",
        "ctypes.call_function",
        "pickle.find_class",
        "code.__new__",
        "builtins.input",
        "webbrowser.open",
        "ftplib.connect",
        "smtplib.connect",
        "ensurepip.bootstrap",
    ]
)
_CHANGES = frozenset(
    [
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.mkdir",
        "os.link",
        "os.symlink",
        "os.chmod",
        "os.chown",
        "os.truncate",
        "os.utime",
        "shutil.rmtree",
        "shutil.move",
        "shutil.copyfile",
        "shutil.copytree",
    ]
)


class Broken(BaseException):
    """The law does not hold. No `Exception`, so that nothing on the way can swallow it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something to fuzz.

    Attributes:
        name: how the command calls it.
        seeds: inputs to begin with, at most 256 kB each.
        run: keeps the law for any bytes, or raises.
    """

    name: str
    seeds: tuple[bytes, ...]
    run: Callable[[bytes], None]


# --- the watch -------------------------------------------------------------------------------------------------------


class Watch:
    """Breaks the law loudly while it is armed: an audit hook of the interpreter, which cannot be taken off again.

    Args:
        scratch: the only folder where files may change.
    """

    def __init__(self, scratch: Path) -> None:
        """Install the hook; it is quiet until `armed`."""
        self.armed = False
        self.scratch = str(scratch)
        self._homes = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), _home()})
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[object, ...]) -> None:
        if not self.armed:
            return
        if event == "open":
            self._opened(args)
        elif event == "import":
            name = str(args[0])
            if name.partition(".")[0] not in sys.stdlib_module_names | {"rekindle"}:
                self._break(f"imported {name}")
        elif event == "exec":
            self._ran(getattr(args[0], "co_filename", ""))
        elif event == "compile":
            self._ran(str(args[1]))
        elif event in _CHANGES:
            if not str(args[0]).startswith(self.scratch):
                self._break(f"{event} {args[:2]}")
        elif event in _FORBIDDEN and (event, args[:1]) != ("ctypes.dlopen", (None,)):  # renameat2, of this process
            self._break(f"{event} {str(args)[:200]}")

    def _opened(self, args: tuple[object, ...]) -> None:
        path, mode, flags = (*args, None, None, None)[:3]
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        if not isinstance(path, str) or not (writes or (isinstance(mode, str) and set(mode) & set("wax+"))):
            return
        if not path.startswith(self.scratch) and path != os.devnull:
            self._break(f"opened {path} for writing")

    def _ran(self, file: str) -> None:
        """Modules of Python and of ours are run when they are imported late; anything else is not ours to run."""
        if not file.startswith(self._homes) and not file.startswith("<frozen"):
            self._break(f"ran code of {file or 'no file'}")

    def _break(self, what: str) -> None:
        self.armed = False  # saying so may import and open
        raise Broken(what)


def _home() -> str:
    import rekindle

    return os.path.dirname(str(rekindle.__file__))


def kept(watch: Watch, run: Callable[[bytes], None], data: bytes) -> None:
    """Run a target on one input and hold it to the law.

    Raises:
        Broken: it took too long, needed too much, or did something.
        Exception: it raised something that is no error of ours.
    """
    from rekindle.errors import RekindleError

    before, start = _peak_mib(), time.perf_counter()
    watch.armed = True
    try:
        run(data)
    except RekindleError as refused:
        watch.armed = False
        if not str(refused):
            raise Broken("an error without words") from refused
    finally:
        watch.armed = False
    taken, grown = time.perf_counter() - start, _peak_mib() - before
    if len(data) <= MAX_BYTES and taken > SECONDS:
        raise Broken(f"{len(data):,} bytes took {taken:.1f} s")
    if len(data) <= MAX_BYTES and grown > MEMORY_MIB:
        raise Broken(f"{len(data):,} bytes needed {grown:,} MiB")


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


# --- what is done with bytes -----------------------------------------------------------------------------------------


def read_all(path: Path) -> None:
    """Open a file or folder, and read the beginning of every tensor."""
    from rekindle.errors import UnreadableFile
    from rekindle.formats import open_path
    from rekindle.gather import gather
    from rekindle.listing import kind_of, values_of

    with open_path(path) as opened:
        kind_of(opened.tree, opened.table)
        values_of(opened.tree)
        for finding in opened.findings:
            if not finding.what or not finding.code:
                raise Broken("a finding without words")
        for entry in opened.table.entries[:64]:
            try:
                next(iter(gather(entry).chunks(4096)), None)
            except UnreadableFile:
                continue


def _program(data: bytes) -> None:
    from rekindle.listing import table_of
    from rekindle.unpickling.machine import run_partly, run_program

    run_partly(data)
    table_of(run_program(data).value)


def _scan(path: Path) -> None:
    from rekindle.verbs.scan import scan

    if str(scan(path).verdict) == "":
        raise Broken("no verdict")


def _salvage(path: Path) -> None:
    from rekindle.verbs.salvage import salvage

    target = path.parent / "out" / "saved.safetensors"
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    salvage(path, target)


def _verify(path: Path) -> None:
    from rekindle.verbs.verify import verify

    verify(path)


def _doctor(path: Path) -> None:
    from rekindle.verbs.doctor import doctor

    doctor(path)


# --- inputs -----------------------------------------------------------------------------------------------------------


def variants(data: bytes, changes: int, seed: int = 0) -> Iterator[bytes]:
    """Yield damaged copies: bytes changed, ranges zeroed, removed or repeated; the same ones every time."""
    draw = random.Random(seed)
    for _ in range(changes):
        copy = bytearray(data)
        kind = draw.randrange(5)
        at = draw.randrange(len(copy))
        length = min(draw.choice((1, 2, 4, 8, 64, 512)), len(copy) - at)
        if kind == 0:
            copy[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            copy[at : at + length] = draw.randbytes(length)
        elif kind == 2:
            copy[at : at + length] = bytes(length)
        elif kind == 3:
            del copy[at : at + length]
        else:
            copy[at:at] = copy[at : at + length]
        yield bytes(copy)


# --- targets ---------------------------------------------------------------------------------------------------------


def _stored(*patterns: str) -> tuple[bytes, ...]:
    paths = [path for pattern in patterns for path in sorted(GOLDEN.glob(pattern)) if path.is_file()]
    seeds = tuple(path.read_bytes() for path in paths if path.stat().st_size <= MAX_BYTES)
    if not seeds:
        raise FileNotFoundError(f"no seeds: {patterns}")
    return seeds


_WHOLE = {
    "torch-zip": ("readers/zip-*.pt", "fsdp_ranks/*/model*rank_1.pt"),
    "torch-stream": ("readers/stream-*.pt",),
    "torch-tar": ("torch_tar/*.tar",),
    "torchscript": ("torchscript/*.pt*",),
    "torch-export": ("torch_export/*.pt2",),
    "torch-package": ("torch_package/*.pt",),
    "safetensors": ("readers/safetensors.pt",),
    "pickle": ("python2/*.pkl",),
    "numpy": (),
}
_ARCHIVES = ("torch-zip", "torchscript", "torch-export", "torch-package")
_FOLDERS = ("distcp/mixed", "distcp/sharded", "distcp/hub", "deepspeed/zero2", "deepspeed/zero3", "deepspeed/universal")
_VERBS = {"scan": _scan, "salvage": _salvage, "verify": _verify, "doctor": _doctor}


def _arrays() -> tuple[bytes, ...]:
    """Return arrays as NumPy writes them, made by hand: the harness needs no NumPy."""
    seeds = []
    for dtype, size in (("<f4", 4), ("|b1", 1), (">i8", 8)):
        header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': (2, 3), }}".ljust(117) + "\n"
        seeds.append(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(6 * size))
    return tuple(seeds)


def targets(scratch: Path) -> Iterator[Target]:
    """Yield all targets; `scratch` is an empty folder, best in memory."""
    for name, patterns in _WHOLE.items():
        seeds = _stored(*patterns) if patterns else _arrays()
        yield Target(name, seeds, _as_file(scratch, read_all))
    for name in _ARCHIVES:
        containers = [_records(seed) for seed in _stored(*_WHOLE[name])]
        yield _parts_target(f"{name}-records", containers, _in_archive(scratch, read_all))
    for folder in (*_FOLDERS, "fsdp_ranks/tensor", "fsdp_ranks/older", "fsdp_ranks/strided"):
        files = [
            (str(path.relative_to(GOLDEN / folder)), path.read_bytes())
            for path in sorted((GOLDEN / folder).rglob("*"))
            if path.is_file()
        ]
        yield _parts_target(folder.replace("/", "-").replace("_", "-"), [files], _in_folder(scratch, read_all))
    yield Target("program", (*_stored("python2/*.pkl"), *_programs()), _program)
    for name, verb in _VERBS.items():
        seeds = tuple(
            seed for kind in ("torch-zip", "torch-stream", "safetensors", "pickle") for seed in _stored(*_WHOLE[kind])
        )
        yield Target(name, seeds, _as_file(scratch, verb))


def _programs() -> tuple[bytes, ...]:
    """Return the pickles of the stored archives."""
    archives = [_records(seed) for pattern in ("torch-zip", "torchscript") for seed in _stored(*_WHOLE[pattern])]
    return tuple(data for records in archives for name, data in records if name.endswith(".pkl"))


_Parts = list[tuple[str, bytes]]


def _records(data: bytes) -> _Parts:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()][:256]


def _as_file(scratch: Path, work: Callable[[Path], None]) -> Callable[[bytes], None]:
    path = scratch / "input.pt"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        work(path)

    return run


def _in_archive(scratch: Path, work: Callable[[Path], None]) -> Callable[[_Parts], None]:
    path = scratch / "input.zip"

    def run(parts: _Parts) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in parts:
                archive.writestr(zipfile.ZipInfo(name), data)
        work(path)

    return run


def _in_folder(scratch: Path, work: Callable[[Path], None]) -> Callable[[_Parts], None]:
    written: dict[Path, bytes] = {}

    def run(parts: _Parts) -> None:
        folder = scratch / "folder"
        for name, data in parts:
            path = folder / name
            if written.get(path) != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                written[path] = data
        work(folder)

    return run


def _parts_target(name: str, containers: list[_Parts], run_parts: Callable[[_Parts], None]) -> Target:
    """Return a target that replaces one part of one container; two bytes say which, the rest is its content."""

    def run(data: bytes) -> None:
        if len(data) < 2:
            return
        parts = list(containers[data[0] % len(containers)])
        at = data[1] % len(parts)
        parts[at] = (parts[at][0], data[2:])
        run_parts(parts)

    seeds = tuple(
        bytes([which, at]) + content
        for which, parts in enumerate(containers)
        for at, (_, content) in enumerate(parts)
        if len(content) <= MAX_BYTES
    )
    return Target(name, seeds, run)
