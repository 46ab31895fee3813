"""Files that would run something when loaded, made byte by byte, and a cage that shows it without letting them.

Every attack only asks for ``os.system("touch MARKER")`` or the like, and nobody here ever grants it: the cage is a
process whose audit hook notes each `pickle.find_class` and stops the first one that is dangerous.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

COMMAND = "touch marker-of-an-attack"


class Call:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def evil(protocol: int = 2) -> bytes:
    return pickle.dumps({"weights": [1, 2], "x": Call(os.system, COMMAND)}, protocol)


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def short(value: str) -> bytes:
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def reduce_of(module: str, name: str, *args: bytes) -> bytes:
    """A program that calls module.name with these pushed arguments."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(args) + b"tR."


def stack_global(module: str, name: str, *args: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + short(module) + short(name) + b"\x93(" + b"".join(args) + b"tR."


ONE = text(COMMAND)

# What is dangerous by its name alone: (module, name).
NAMES = [
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("os", "popen"), ("os", "execv"), ("posix", "fork"),
    ("subprocess", "Popen"), ("subprocess", "check_output"), ("subprocess", "getoutput"), ("builtins", "eval"),
    ("builtins", "exec"), ("builtins", "getattr"), ("builtins", "__import__"), ("builtins", "compile"),
    ("builtins", "open"), ("builtins", "map"), ("builtins", "globals"), ("builtins", "breakpoint"),
    ("__builtin__", "eval"), ("__builtin__", "execfile"), ("__builtin__", "getattr"), ("commands", "getoutput"),
    ("runpy", "run_path"), ("runpy", "_run_code"), ("pty", "spawn"), ("socket", "socket"),
    ("socket", "create_connection"), ("ctypes", "CDLL"), ("ctypes.util", "find_library"),
    ("importlib", "import_module"), ("importlib.util", "spec_from_file_location"), ("operator", "attrgetter"),
    ("operator", "methodcaller"), ("_operator", "attrgetter"), ("functools", "partial"), ("functools", "reduce"),
    ("_functools", "partial"), ("torch.hub", "load"), ("torch", "load"), ("torch.serialization", "load"),
    ("torch.jit", "load"), ("torch.jit.unsupported_tensor_ops", "execWrapper"), ("torch.utils.collect_env", "run"),
    ("torch.fx.graph_module", "reduce_graph_module"), ("torch.utils.cpp_extension", "load_inline"),
    ("torch.multiprocessing", "spawn"), ("torch._dynamo.guards", "GuardBuilder.get"), ("numpy", "load"),
    ("numpy.f2py.crackfortran", "getlincoef"), ("numpy.testing._private.utils", "runstring"), ("pandas", "read_csv"),
    ("joblib", "load"),
    ("pickle", "loads"), ("_pickle", "loads"), ("dill", "loads"), ("cloudpickle", "loads"), ("marshal", "loads"),
    ("codecs", "decode"), ("codecs", "open"), ("shutil", "rmtree"), ("tempfile", "mkstemp"), ("io", "open"),
    ("io", "FileIO"), ("webbrowser", "open"), ("bdb", "Bdb"), ("pdb", "run"), ("timeit", "timeit"),
    ("cProfile", "run"), ("cProfile", "runctx"), ("profile", "run"), ("trace", "Trace"),
    ("code", "InteractiveInterpreter"), ("asyncio", "create_subprocess_shell"),
    ("asyncio.unix_events", "_UnixSubprocessTransport._start"), ("multiprocessing", "Process"),
    ("multiprocessing.util", "spawnv_passfds"), ("logging.config", "dictConfig"), ("logging.config", "listen"),
    ("pip", "main"), ("pip._internal", "main"), ("ensurepip", "_run_pip"), ("doctest", "debug_script"),
    ("idlelib.pyshell", "ModifiedInterpreter"), ("idlelib.autocomplete", "AutoComplete"),
    ("lib2to3.pgen2.grammar", "Grammar.loadgrammar"), ("pydoc", "pipepager"), ("pydoc", "locate"),
    ("uuid", "_get_command_stdout"), ("_osx_support", "_read_output"), ("_aix_support", "_read_cmd_output"),
    ("distutils.file_util", "write_file"), ("linecache", "getlines"), ("urllib.request", "urlopen"),
    ("ssl", "wrap_socket"),
    ("types", "FunctionType"), ("types", "CodeType"), ("sys", "settrace"), ("gc", "get_objects"),
    ("atexit", "register"),
    ("threading", "Thread"), ("_thread", "start_new_thread"), ("signal", "signal"), ("weakref", "finalize"),
    ("unittest.mock", "_importer"), ("zipimport", "zipimporter"), ("pkgutil", "resolve_name"),
    ("inspect", "getattr_static"),
    ("site", "main"), ("venv", "create"), ("sysconfig", "_init_posix"), ("smtplib", "SMTP"), ("sqlite3", "connect"),
    ("concurrent.futures.process", "ProcessPoolExecutor"), ("fileinput", "input"), ("glob", "glob"),
    ("platform", "popen"),
    # Through modules that are harmless themselves.
    ("torch.serialization", "os.system"), ("torch", "serialization.os.system"), ("collections", "_sys.modules"),
    ("collections.abc", "sys"), ("torch._utils", "torch.hub.load"), ("torch.storage", "io.open"),
    ("collections", "OrderedDict.__init__.__globals__"), ("torch._utils", "_rebuild_tensor.__globals__"),
    ("numpy.core.multiarray", "os"), ("random", "_os.system"), ("torch.serialization", "pickle"),
    ("torch.nn.modules.module", "functools"), ("somewhere.unknown", "getattr"), ("my_models.layers", "eval"),
]  # fmt: skip


def programs() -> dict[str, bytes]:
    """Programs that reach a dangerous import, by the trick they use."""
    found = {f"reduce-{protocol}": evil(protocol) for protocol in range(6)}
    found |= {
        "first and then garbage": evil() + b"\xff\xfe garbage",
        "after a harmless one": pickle.dumps({"epoch": 3}) + evil(),
        "after three harmless ones": pickle.dumps(1, 0) + pickle.dumps([2], 2) + pickle.dumps("three", 4) + evil(5),
        "without an end": evil()[:-1],
        "breaks after the call": reduce_of("os", "system", ONE)[:-1] + b"\x00\x00",
        "pops the result": b"\x80\x02cos\nsystem\n(" + ONE + b"tR0N.",
        "INST": b"(" + b"S'" + COMMAND.encode() + b"'\nios\nsystem\n.",
        "INST without a mark": b"ios\nsystem\n.",
        "OBJ": b"\x80\x02(cos\nsystem\n" + ONE + b"o.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n(" + ONE + b"t\x81.",
        "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n(" + ONE + b"t}\x92.",
        "name without the last line end": b"\x80\x02cos\nsystemX",
        "STACK_GLOBAL": stack_global("os", "system", ONE),
        "STACK_GLOBAL of memoised pieces": b"\x80\x04"
        + short("os") + b"\x94" + short("system") + b"\x94]\x94(h\x00h\x01e0" + b"h\x00h\x01\x93(" + ONE + b"tR.",
        "STACK_GLOBAL of old strings": b"\x80\x04U\x02osU\x06system\x93(" + ONE + b"tR.",
        "STACK_GLOBAL of quoted strings": b"\x80\x04S'o\\x73'\nS\"sys\\164em\"\n\x93(" + ONE + b"tR.",
        "STACK_GLOBAL of unicode lines": b"\x80\x04V\\u006fs\nVsyste\\u006d\n\x93(" + ONE + b"tR.",
        "memo index with zeros": b"\x80\x04" + short("os") + b"p" + b"0" * 60 + b"7\n" + short("system")
        + b"p8\n00g 7\ng8\n\x93(" + ONE + b"tR.",
        "memo index with underscores": b"\x80\x04" + short("os") + b"p1_0\n0" + b"g10\n" + short("system") + b"\x93("
        + ONE + b"tR.",
        "numbers that others refuse": b"I0x10\n0L1_000L\n0F1_0.5\n0" + reduce_of("os", "system", ONE)[2:],
        "frame longer than the file": b"\x80\x04\x95\xff\x00\x00\x00\x00\x00\x00\x00" + short("os") + short("system")
        + b"\x93(" + ONE + b"tR.",
        "frames of nothing": b"\x80\x04" + b"\x95" + bytes(8) + short("os") + b"\x95" + bytes(8) + short("system")
        + b"\x93(" + ONE + b"tR.",
        "many PROTO": b"\x80\x02\x80\x04\x80\x00cos\nsystem\n(" + ONE + b"tR.",
        "behind a large text": b"\x80\x02" + text("x" * 200_000) + b"0" + reduce_of("os", "system", ONE)[2:],
        "behind a long line": b"V" + b"x" * 200_000 + b"\n0" + reduce_of("os", "system", ONE)[2:],
        "the builtins of another module, and a class that is changed": b"\x80\x04" + short("numpy") + short("size")
        + b"\x93\x940" + short("numpy") + short("__builtins__") + b"\x93\x940h\x00}}" + short("shape") + b"h\x01s\x86b"
        + short("eval") + b"\x86R.",
        "getattr chain": b"\x80\x02cbuiltins\ngetattr\n(cos\npath\n" + text("os") + b"tR0cbuiltins\ngetattr\n(cos\n"
        b"path\n" + text("os") + b"tR0N.",
        "changes a function": b"\x80\x02ctorch._utils\n_rebuild_tensor\n}" + text("__defaults__") + b"K\x01sb"
        b"cos\nsystem\n.",
        "a name that a call makes": b"\x80\x04c_codecs\nencode\n(" + text("os") + text("latin1")
        + b"tR0cbuiltins\nstr\n(" + text("os") + b"tR" + short("system") + b"\x93.",
        "pickle in bytes": reduce_of("pickle", "loads", b"C" + bytes([len(evil())]) + evil()),
        "bytes written as a text": reduce_of("pickle", "loads", b"c_codecs\nencode\n(" + text(evil(0).decode("latin1"))
        + text("latin1") + b"tR"),
        "stream in _load_from_bytes": reduce_of("torch.storage", "_load_from_bytes", b"B"
        + struct.pack("<I", len(stream(evil()))) + stream(evil())),
        "joblib array and then": joblib_array(b"\x00\xff." * 8, "f8") + reduce_of("os", "system", ONE)[2:],
    }  # fmt: skip
    return found


def stream(program: bytes) -> bytes:
    """An old torch stream around an object."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    return b"".join(pickle.dumps(value, 2) for value in head) + program + pickle.dumps([], 2)


def joblib_array(raw: bytes, dtype: str) -> bytes:
    """The start of a list of joblib, up to and with the bytes of its first array; goes on with more opcodes."""
    count = len(raw) // 8
    state = b"}(" + text("dtype") + b"cnumpy\ndtype\n(" + text(dtype) + b"tR" + text("shape") + b"K" + bytes([count])
    return b"\x80\x03]cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81" + state + b"\x85ub" + raw + b"a"


def zip_of(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def torch_zip(program: bytes, *more: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    return zip_of(("archive/data.pkl", program), ("archive/version", b"3\n"), *more, method=method)


GOOD = pickle.dumps({"epoch": 3, "name": "good"}, 2)


def _tar_of(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _changed(data: bytes, mark: bytes, at: int, value: bytes, which: int = 0) -> bytes:
    """Write over bytes behind the n-th place of a mark."""
    place = -1
    for _ in range(which + 1):
        place = data.index(mark, place + 1)
    return data[: place + at] + value + data[place + at + len(value) :]


def _hidden_member() -> bytes:
    """An archive whose second member is in no directory."""
    one, two = torch_zip(GOOD), zip_of(("archive/hidden.pkl", evil()))
    local = two[: two.index(b"PK\x01\x02")]
    directory = one.index(b"PK\x01\x02")
    end = one.rindex(b"PK\x05\x06")
    moved = struct.pack("<I", directory + len(local))
    return one[:directory] + local + one[directory : end + 16] + moved + one[end + 20 :]


def _npy(body: bytes, descr: str = "|O") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}".encode()
    header += b" " * (117 - len(header) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def safetensors(tail: bytes = b"") -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4) + tail


def _nested(data: bytes, levels: int) -> bytes:
    for _ in range(levels):
        data = zip_of(("inner.zip", data))
    return data


def containers() -> dict[str, bytes]:
    """Files of other kinds that hold a dangerous program."""
    return {
        "zip": torch_zip(evil()),
        "zip, deflated": torch_zip(evil(), method=zipfile.ZIP_DEFLATED),
        "zip, bzip2": torch_zip(evil(), method=zipfile.ZIP_BZIP2),
        "zip, under the name of a storage": torch_zip(GOOD, ("archive/data/0", evil())),
        "zip, under the name of a text": torch_zip(GOOD, ("archive/README.md", evil())),
        "zip, twice the same name": _changed(
            torch_zip(evil(), ("archive/data.pkX", GOOD)).replace(b"data.pkX", b"data.pkl"), b"PK", 0, b"PK"
        ),
        "zip, another name in the local header": _changed(torch_zip(evil()), b"PK\x03\x04", 30, b"archive/data.txt"),
        "zip, marked as encrypted": _changed(torch_zip(evil()), b"PK\x01\x02", 8, b"\x01\x00"),
        "zip, encrypted in the local header": _changed(torch_zip(evil()), b"PK\x03\x04", 6, b"\x01\x00"),
        "zip, wrong checksum": _changed(torch_zip(evil()), b"PK\x01\x02", 16, b"\x01\x02\x03\x04"),
        "zip, other compression in the directory": _changed(torch_zip(evil()), b"PK\x01\x02", 10, b"\x08\x00"),
        "zip, unknown compression in the directory": _changed(torch_zip(evil()), b"PK\x01\x02", 10, b"\x63\x00"),
        "zip, not in the directory": _hidden_member(),
        "zip, cut before its directory": torch_zip(evil(), method=0)[: torch_zip(evil()).index(b"PK\x01\x02")],
        "pickle in front of a zip": evil() + torch_zip(GOOD),
        "pickle behind a zip": torch_zip(GOOD) + evil(),
        "zip in front of a zip": torch_zip(evil()) + torch_zip(GOOD),
        "zip behind a zip": torch_zip(GOOD) + torch_zip(evil()),
        "zip behind a pickle": GOOD + torch_zip(evil()),
        "pickle as the comment of a zip": _changed(
            torch_zip(GOOD), b"PK\x05\x06", 20, struct.pack("<H", len(evil())) + evil()
        ),
        "zip in zip in zip": _nested(torch_zip(evil()), 2),
        "gzip": gzip.compress(evil()),
        "gzip in a zip in gzip": gzip.compress(zip_of(("model.gz", gzip.compress(evil())))),
        "two gzip streams": gzip.compress(GOOD) + gzip.compress(evil()),
        "bzip2": bz2.compress(evil()),
        "xz": lzma.compress(torch_zip(evil())),
        "lzma": lzma.compress(evil(), lzma.FORMAT_ALONE),
        "zlib, as joblib packs": zlib.compress(evil()),
        "tar": _tar_of(("readme.txt", b"hello"), ("model.bin", evil())),
        "tar in gzip": gzip.compress(_tar_of(("checkpoints/model.pth", torch_zip(evil())))),
        "NumPy objects": _npy(evil()),
        "npz of NumPy objects": zip_of(("arr_0.npy", _npy(evil()))),
        "behind a NumPy array": _npy(bytes(4), "<f4") + evil(),
        "behind safetensors": safetensors(evil()),
        "torch stream": stream(evil()),
        "torch stream, saved twice": stream(GOOD) + stream(evil()),
        "torch stream in a zip": zip_of(("model.pth", stream(evil()))),
        "expression in an exported program": zip_of(
            ("p/archive_format", b"pt2"),
            ("p/models/model.json", b"{\"expr_str\": \"__import__('os').system('touch marker')\"}"),
        ),
    }


CAGE = """
import io, json, pickle, resource, sys, warnings
# A memo index of four billion makes the C unpickler ask for as much memory.
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
warnings.simplefilter("ignore")
met = []
class Stop(Exception): pass
def hook(event, args):
    if event == "pickle.find_class":
        met.append(f"{args[0]}.{args[1]}")
        raise Stop(met[-1])
    if event in ("os.system", "exec", "subprocess.Popen", "socket.connect", "os.exec", "os.posix_spawn") and armed:
        raise Stop(event)
armed = False
sys.addaudithook(hook)
class Thing:
    def __init__(self, *args, **more): pass
    def __call__(self, *args, **more): return Thing()
    def __setstate__(self, state): pass
    def __setitem__(self, key, value): pass
    def append(self, value): pass
    def extend(self, values): pass
    def add(self, value): pass
def caged(base):
    class Caged(base):
        def persistent_load(self, pid): return Thing()
        def find_class(self, module, name):
            met.append(f"{module}.{name}")
            return Thing
    return Caged
KINDS = {"c": caged(pickle.Unpickler), "python": caged(pickle._Unpickler)}
def every_name(data):
    found = {}
    for kind, reader in KINDS.items():
        met.clear()
        file = io.BytesIO(data)
        try:
            while file.tell() < len(data):
                reader(file).load()
        except Exception: pass
        found[kind] = list(met)
    return found
def first_name(data):
    found = {}
    for kind, load in (("c", pickle.loads), ("python", pickle._loads)):
        met.clear()
        try: load(data)
        except BaseException: pass
        found[kind] = list(met)
    return found
work = json.load(sys.stdin)
for codec in ("raw-unicode-escape", "unicode-escape", "latin-1", "ascii", "utf-8"):
    b"".decode(codec)
armed = True
look = {"every": every_name, "first": first_name}[work["look"]]
print(json.dumps([look(bytes.fromhex(one)) for one in work["programs"]]))
"""


def in_cage(programs: list[bytes], look: str) -> list[dict[str, list[str]]]:
    """Say which names CPython's two unpicklers ask for: all (with stand-ins), or the first (with the real `loads`)."""
    done = subprocess.run(
        [sys.executable, "-c", CAGE],
        input=json.dumps({"look": look, "programs": [one.hex() for one in programs]}),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write_all(folder: Path, files: dict[str, bytes]) -> dict[str, Path]:
    paths = {}
    for number, (name, data) in enumerate(files.items()):
        paths[name] = folder / f"{number:03}.bin"
        paths[name].write_bytes(data)
    return paths


MUTATORS: tuple[Callable[[bytes, int, int], bytes], ...] = (
    lambda data, at, value: data[:at] + bytes([value]) + data[at + 1 :],
    lambda data, at, value: data[:at] + bytes([value]) + data[at:],
    lambda data, at, _: data[:at] + data[at + 1 :],
    lambda data, at, _: data[:at],
    lambda data, at, value: data[:at] + data[at : at + value % 16] + data[at:],
)
