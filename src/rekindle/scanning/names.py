"""What is known of the names that a pickle may import: exact pairs that are harmless, and known dangers.

Harmless are pairs of (module, name), each with its reason; no prefixes and no dotted names, because a name of a module
can be anything that the module ever imported (``torch.serialization`` + ``os.system``). The pairs are those that
``torch.load(weights_only=True)`` takes by default, so that nothing is called clean that torch itself refuses; the
classes of torch.distributed.checkpoint count in its own bare pickles only. The list of dangers cannot be complete and
need not be: a name in neither list is *unknown*, never clean.

Facts: PyTorch 2.13 `torch/_weights_only_unpickler.py` and `torch/distributed/checkpoint/metadata.py`, CPython 3.13
`Lib/_compat_pickle.py`.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from rekindle.tensors import DTYPE_OF_STORAGE

__all__ = [
    "BUILDABLE",
    "CHECKPOINT_NAMES",
    "HARMLESS",
    "OPERANDS",
    "PARTS",
    "Judgement",
    "Level",
    "judge",
    "spellings",
]


class Level(Enum):
    """What a name is, mildest first."""

    HARMLESS = 0
    UNKNOWN = 1
    DANGEROUS = 2


class Judgement(NamedTuple):
    """What is known of a name, and why."""

    level: Level
    reason: str


# ---- harmless

_REBUILDS = "makes a tensor from a storage and sizes, which torch checks"
_DTYPE = "a constant"
_STORAGE = "a class that stands for the element type of a storage"
_OLD_TENSOR = "an empty tensor of PyTorch up to 0.4; its state is a storage and sizes"
_VALUE = "makes a plain value from plain values"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DTYPES = _words(
    "bfloat16 bits16 bits1x8 bits2x4 bits4x2 bits8 bool complex128 complex32 complex64 float16 float32 "
    "float4_e2m1fn_x2 float64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu int1 int16 int2 "
    "int3 int32 int4 int5 int6 int64 int7 int8 qint32 qint8 quint2x4 quint4x2 quint8 uint1 uint16 uint2 uint3 uint32 "
    "uint4 uint5 uint6 uint64 uint7 uint8 per_channel_affine per_channel_affine_float_qparams per_channel_symmetric "
    "per_tensor_affine per_tensor_symmetric"
)
_REBUILD_FUNCTIONS = _words(
    "_rebuild_device_tensor_from_cpu_tensor _rebuild_device_tensor_from_numpy _rebuild_meta_tensor_no_storage "
    "_rebuild_nested_tensor _rebuild_parameter _rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_tensor "
    "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_wrapper_subclass"
)  # fmt: skip
_KINDS = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
_CPU_STORAGES = sorted(name for name in DTYPE_OF_STORAGE if name not in {"TypedStorage", "UntypedStorage"})
_SPARSE_KINDS = [kind for kind in _KINDS if kind != "Bool"]

HARMLESS: dict[tuple[str, str], str] = {
    ("collections", "OrderedDict"): "a dict",
    ("collections", "Counter"): "a dict of counts",
    ("builtins", "set"): _VALUE,
    ("builtins", "complex"): _VALUE,
    ("builtins", "bytearray"): _VALUE,
    ("_codecs", "encode"): "makes bytes from a text; the codec is looked at",
    ("torch", "Size"): "a tuple of integers",
    ("torch", "Tensor"): "the class of tensors, as an argument of the rebuild functions",
    ("torch", "device"): "makes a device from its name",
    ("torch.nn.parameter", "Parameter"): "a tensor that is marked as a parameter",
    ("torch.serialization", "_get_layout"): "looks a layout up in a fixed table",
    ("torch.storage", "UntypedStorage"): _STORAGE,
    ("torch.storage", "TypedStorage"): _STORAGE,
    ("torch._tensor", "_rebuild_from_type_v2"): "calls one of the functions of this list, which the file names",
    **{("torch", name): _DTYPE for name in _DTYPES},
    **{("torch._utils", name): _REBUILDS for name in _REBUILD_FUNCTIONS},
    **{("torch", name): _STORAGE for name in _CPU_STORAGES},
    **{("torch", name): _STORAGE for name in ("QUInt2x4Storage", "QUInt4x2Storage")},
    **{("torch.cuda", f"{kind}Storage"): _STORAGE for kind in (*_KINDS, "ComplexDouble", "ComplexFloat")},
    **{(module, f"{kind}Tensor"): _OLD_TENSOR for module in ("torch", "torch.cuda") for kind in _KINDS},
    **{
        (module, f"{kind}Tensor"): _OLD_TENSOR
        for module in ("torch.sparse", "torch.cuda.sparse")
        for kind in _SPARSE_KINDS
    },
}

_DESCRIBES = "a record of names, sizes and places in files"
CHECKPOINT_NAMES: dict[tuple[str, str], str] = {
    **{
        ("torch.distributed.checkpoint.metadata", name): _DESCRIBES
        for name in (
            "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
            "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
        )
    },
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _DESCRIBES,
    ("pathlib", "PosixPath"): "a path; nothing is opened by making one",
    ("pathlib._local", "PosixPath"): "a path; nothing is opened by making one",
}  # fmt: skip

# How FSDP2 and tensor parallelism describe a tensor of which each rank holds a part. torch.load(weights_only=True) has
# these classes once `torch.distributed.tensor` is imported (its `__init__.py`, `add_safe_globals`). They are no
# harmless names all the same: called, DeviceMesh joins a process group. So they count only in the one form in which
# torch writes them, which `rekindle.scanning.parts` knows. The values say which are tuples, made with their items.
PARTS: dict[tuple[str, str], bool] = {
    ("torch.distributed.tensor", "DTensor"): False,
    ("torch.distributed.device_mesh", "DeviceMesh"): False,
    ("torch.distributed._mesh_layout", "_MeshLayout"): False,
    ("torch.distributed._mesh_layout", "_FlatLayout"): False,
    ("torch.distributed.tensor._dtensor_spec", "DTensorSpec"): False,
    ("torch.distributed.tensor._dtensor_spec", "TensorMeta"): True,
    ("torch.distributed.tensor._dtensor_spec", "ShardOrderEntry"): True,
    ("torch.distributed.tensor.placement_types", "Shard"): False,
    ("torch.distributed.tensor.placement_types", "_StridedShard"): False,
    ("torch.distributed.tensor.placement_types", "Replicate"): False,
    ("torch.distributed.tensor.placement_types", "Partial"): False,
}

# Results of these may get a state (BUILD): a dict of attributes, or the storage and sizes of an old tensor.
BUILDABLE: frozenset[tuple[str, str]] = frozenset(
    pair
    for pair, reason in HARMLESS.items()
    if reason in {_REBUILDS, _OLD_TENSOR} or pair[1] in {"OrderedDict", "Parameter", "_rebuild_from_type_v2"}
)

# The opcodes that the machine behind torch.load(weights_only=True) knows; every other one ends in
# `Unsupported operand` and its number.
OPERANDS = _words(
    "GLOBAL NEWOBJ REDUCE BUILD APPEND APPENDS SETITEM SETITEMS MARK TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWFALSE NEWTRUE "
    "EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BININT BININT1 BININT2 BINFLOAT BINUNICODE SHORT_BINSTRING BINPERSID "
    "BINGET LONG_BINGET BINPUT LONG_BINPUT LONG1 PROTO STOP"
)

# ---- dangerous

_COMMAND = "it runs commands of the operating system"
_CODE = "it runs Python code that is given as text or bytes"
_IMPORT = "it imports or runs modules by name"
_ATTRIBUTE = "it reaches any attribute of any object, and through them everything"
_CALLS = "it calls what it is given, later or in a roundabout way"
_UNPICKLES = "it loads another pickle, without any check"
_FILES = "it reads, changes or deletes files"
_NETWORK = "it opens connections"
_NATIVE = "it loads or calls native code, or reads and writes memory"
_PROCESS = "it starts processes or threads"
_GUTS = "it reaches into the interpreter"

_MODULES_BY_REASON: dict[str, str] = {
    _COMMAND: "os posix nt subprocess _posixsubprocess _winapi commands pty popen2 platform webbrowser antigravity pip "
    "pip._internal ensurepip setuptools distutils pkg_resources venv sysconfig _osx_support _aix_support",
    _CODE: "code codeop bdb pdb timeit cProfile profile _lsprof trace doctest cgitb idlelib lib2to3 py_compile "
    "compileall rlcompleter pyclbr IPython ipykernel pytest _pytest nose",
    _IMPORT: "importlib _frozen_importlib _frozen_importlib_external imp runpy pkgutil zipimport modulefinder",
    _ATTRIBUTE: "operator _operator inspect",
    _CALLS: "functools _functools atexit sched signal weakref contextlib unittest test",
    _UNPICKLES: "pickle _pickle cPickle cloudpickle dill marshal _marshal shelve jsonpickle",
    _FILES: "shutil tempfile io _io _pyio fileinput linecache zipfile tarfile glob sqlite3 _sqlite3 dbm mmap "
    "posixpath ntpath genericpath",
    _NETWORK: "socket _socket ssl _ssl http urllib urllib2 urllib3 ftplib smtplib smtpd imaplib nntplib poplib "
    "telnetlib xmlrpc socketserver asyncore asynchat requests aiohttp httpx wsgiref paramiko cgi",
    _NATIVE: "ctypes _ctypes cffi _cffi_backend msvcrt winreg _winreg gdb torch.utils.cpp_extension torch.ops "
    "torch._ops",
    _PROCESS: "multiprocessing _multiprocessing asyncio _asyncio concurrent threading _thread torch.multiprocessing "
    "torch.distributed.rpc torch.distributed.run torch.distributed.launch torch.distributed.elastic",
    _GUTS: "sys gc types _types site sitecustomize builtins.__dict__ codecs encodings ast symtable faulthandler "
    "pydoc pyexpat pydoc_data readline tkinter _tkinter turtle logging.config uuid",
}  # fmt: skip
_MODULES: dict[str, str] = {
    module: reason for reason, modules in _MODULES_BY_REASON.items() for module in modules.split()
}

_NAMES: dict[tuple[str, str], str] = {
    ("torch", "load"): _UNPICKLES,
    ("torch.serialization", "load"): _UNPICKLES,
    ("torch.serialization", "_load"): _UNPICKLES,
    ("torch.serialization", "_legacy_load"): _UNPICKLES,
    ("torch", "save"): _FILES,
    ("torch.serialization", "save"): _FILES,
    ("torch", "from_file"): _FILES,
    ("torch.jit", "load"): "it loads a TorchScript file",
    ("torch.jit._serialization", "load"): "it loads a TorchScript file",
    ("torch.jit", "CompilationUnit"): _CODE,
    ("torch.jit.unsupported_tensor_ops", "execWrapper"): _CODE,
    ("torch.jit.frontend", "parse_def"): _CODE,
    ("torch.hub", "load"): "it downloads a repository and runs its code",
    ("torch.hub", "_load_local"): _IMPORT,
    ("torch.hub", "load_state_dict_from_url"): "it downloads a file and unpickles it",
    ("torch.hub", "download_url_to_file"): _NETWORK,
    ("torch.hub", "_import_module"): _IMPORT,
    ("torch.fx.graph_module", "reduce_graph_module"): "it runs the Python source code that the file carries",
    ("torch.fx.graph_module", "reduce_package_graph_module"): "it runs the Python source code that the file carries",
    ("torch.fx.graph_module", "reduce_deploy_graph_module"): "it runs the Python source code that the file carries",
    ("torch.fx.graph_module", "_exec_with_source"): _CODE,
    ("torch.package.package_importer", "PackageImporter"): _IMPORT,
    ("torch.package", "PackageImporter"): _IMPORT,
    ("torch.utils.collect_env", "run"): _COMMAND,
    ("torch.utils._config_module", "load_config"): _UNPICKLES,
    ("torch._dynamo.guards", "GuardBuilder"): _CODE,
    ("torch.fx.experimental.symbolic_shapes", "ShapeEnv"): _CODE,
    ("torch.distributed", "broadcast_object_list"): _UNPICKLES,
    ("numpy", "load"): _UNPICKLES,
    ("numpy.lib.npyio", "load"): _UNPICKLES,
    ("numpy.lib._npyio_impl", "load"): _UNPICKLES,
    ("numpy.lib.format", "read_array"): _UNPICKLES,
    ("numpy", "fromfile"): _FILES,
    ("numpy", "memmap"): _FILES,
    ("numpy", "save"): _FILES,
    ("numpy.testing._private.utils", "runstring"): _CODE,
    ("numpy.testing.utils", "runstring"): _CODE,
    ("numpy.f2py.crackfortran", "getlincoef"): _CODE,
    ("numpy.f2py.crackfortran", "param_eval"): _CODE,
    ("numpy.f2py.crackfortran", "_eval_length"): _CODE,
    ("joblib", "load"): _UNPICKLES,
    ("joblib.numpy_pickle", "load"): _UNPICKLES,
    ("pandas", "read_pickle"): _UNPICKLES,
    ("pandas.io.pickle", "read_pickle"): _UNPICKLES,
    ("pandas", "eval"): _CODE,
    ("pandas", "read_csv"): _NETWORK,
    ("pandas.io.parsers.readers", "read_csv"): _NETWORK,
    ("mlflow.projects.backend.local", "_run_entry_point"): _COMMAND,
    ("sympy", "sympify"): _CODE,
    ("sympy.core.sympify", "sympify"): _CODE,
    ("yaml", "load"): _CODE,
    ("yaml", "unsafe_load"): _CODE,
    ("keras.models", "load_model"): _CODE,
    ("tensorflow", "py_function"): _CALLS,
    ("dask.config", "load"): _FILES,
    ("copyreg", "add_extension"): _GUTS,
    ("copyreg", "pickle"): _CALLS,
    ("_codecs", "lookup"): _IMPORT,
    ("_codecs", "register"): _CALLS,
    ("collections", "namedtuple"): _CODE,
    ("dataclasses", "make_dataclass"): _CODE,
    ("dataclasses", "_create_fn"): _CODE,
    ("enum", "property"): _CALLS,
    ("itertools", "starmap"): _CALLS,
    ("itertools", "accumulate"): _CALLS,
    ("random", "_urandom"): _GUTS,
    ("logging", "FileHandler"): _FILES,
    ("string", "Formatter"): _ATTRIBUTE,
}

# Builtins that only make values; every other one is dangerous (eval, exec, getattr, open, __import__, map, type...).
_PLAIN_BUILTINS = _words(
    "abs all any ascii bin bool bytes callable chr dict divmod enumerate float format frozenset hash hex id int "
    "isinstance issubclass len list long max min object oct ord pow print range repr reversed round slice sorted str "
    "sum tuple unicode xrange zip Ellipsis "
    "NotImplemented None True False"
)
_ERRORS = ("Error", "Exception", "Warning", "Interrupt", "Exit", "Iteration")

# What these names do is the same in whatever module they are found: they are imported into many.
_TELLTALE = {
    "system": _COMMAND, "popen": _COMMAND, "Popen": _COMMAND, "check_output": _COMMAND, "check_call": _COMMAND,
    "getoutput": _COMMAND, "spawn": _PROCESS, "eval": _CODE, "exec": _CODE, "execfile": _CODE, "compile": _CODE,
    "run_path": _IMPORT, "run_module": _IMPORT, "import_module": _IMPORT, "__import__": _IMPORT,
    "getattr": _ATTRIBUTE, "setattr": _ATTRIBUTE, "attrgetter": _ATTRIBUTE, "methodcaller": _ATTRIBUTE,
    "itemgetter": _ATTRIBUTE, "unlink": _FILES, "rmtree": _FILES, "urlopen": _NETWORK, "urlretrieve": _NETWORK,
    "CDLL": _NATIVE, "Unpickler": _UNPICKLES,
}  # fmt: skip


def judge(module: str, name: str, *, checkpoint: bool = False) -> Judgement:
    """Say what is known of a name, however pickle would spell it.

    Args:
        module: as the program names it.
        name: as the program names it; may have dots.
        checkpoint: whether the program is the description of a torch.distributed.checkpoint folder.
    """
    worst: Judgement | None = None
    for pair in spellings(module, name):
        judged = _judge(*pair, checkpoint=checkpoint)
        if worst is None or judged.level.value > worst.level.value:
            worst = judged
    assert worst is not None  # noqa: S101 - a name has at least its own spelling
    return worst


def spellings(module: str, name: str) -> list[tuple[str, str]]:
    """Return a name as it stands and as pickle renames it where the program's protocol is below 3."""
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # noqa: PLC0415 - the very tables that pickle uses

    found = [(module, name)]
    renamed = NAME_MAPPING.get((module, name)) or (IMPORT_MAPPING.get(module, module), name)
    if renamed != found[0]:
        found = [renamed] if module in {"__builtin__", "copy_reg"} else [*found, renamed]
    return found


def _judge(module: str, name: str, *, checkpoint: bool) -> Judgement:
    reason = HARMLESS.get((module, name)) or (CHECKPOINT_NAMES.get((module, name)) if checkpoint else None)
    if reason is not None:
        return Judgement(Level.HARMLESS, reason)
    reason = _danger(module, name)
    if reason is not None:
        return Judgement(Level.DANGEROUS, reason)
    return Judgement(Level.UNKNOWN, _why_unknown(module, name))


def _danger(module: str, name: str) -> str | None:
    """Return why a name is dangerous, None where it is not known to be."""
    known = _NAMES.get((module, name))
    if known:
        return known
    if module == "builtins":
        if name in _PLAIN_BUILTINS or (name.endswith(_ERRORS) and name.isidentifier()):
            return None
        return _BUILTINS.get(name, "it is a builtin that does more than make a value")
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        reason = _MODULES.get(".".join(parts[:count]))
        if reason:
            return reason
    return _danger_below(module, name)


_BUILTINS = {
    "eval": _CODE, "exec": _CODE, "compile": _CODE, "__import__": _IMPORT, "getattr": _ATTRIBUTE,
    "setattr": _ATTRIBUTE, "delattr": _ATTRIBUTE, "vars": _ATTRIBUTE, "globals": _ATTRIBUTE, "open": _FILES,
    "map": _CALLS, "filter": _CALLS, "input": _CODE, "breakpoint": _CODE, "type": "it makes classes",
}  # fmt: skip


def _danger_below(module: str, name: str) -> str | None:
    """Return why what a module lends is dangerous: another module, or a function that came from one."""
    parts = name.split(".")
    if len(parts) > _MOST_PARTS:
        return f"a name of {len(parts):,} parts, which nothing ordinary has"
    for at, part in enumerate(parts):
        if part.startswith("__") and part.endswith("__"):
            return f"{part} leads from any object to the whole interpreter"
        lent = part.lstrip("_")  # modules are often imported as `_sys`
        reason = _TELLTALE.get(part) or (_MODULES.get(lent) if at or part not in _ORDINARY else None)
        if reason or lent == "builtins":
            return f"{part}, reached through {module}: {reason or _ATTRIBUTE}"
        for start in range(at):
            inner = ".".join(parts[start:at])
            reason = _NAMES.get((inner, part)) or _MODULES.get(f"{inner}.{part}")
            if reason:
                return f"{inner}.{part}, reached through {module}: {reason}"
        if at:
            reason = _NAMES.get((".".join((module, *parts[:at])), part)) or _NAMES.get((module, parts[0]))
            if reason:
                return reason
    return None


_MOST_PARTS = 16

# Modules whose name is also an ordinary name of a function or class.
_ORDINARY = frozenset(
    {"test", "trace", "profile", "code", "signal", "types", "platform", "requests", "glob", "commands"}
)


def _why_unknown(module: str, name: str) -> str:
    if (module, name) == ("torch.storage", "_load_from_bytes"):
        return "it is torch.load on the bytes in its argument; those were looked at as well"
    if module.startswith("__torch__"):
        return "a class of the TorchScript code in the archive"
    root = module.partition(".")[0]
    if root == "torch":
        return "a name of torch that torch.load(weights_only=True) does not take by default"
    if root == "numpy":
        return "a name of NumPy; torch.load(weights_only=True) does not take it by default"
    if root == "builtins":
        return "a builtin that makes a value; torch.load(weights_only=True) does not take it by default"
    return "importing it runs the module's code and calling it can do anything; rekindle does not know it"
