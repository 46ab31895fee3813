"""What ``torch.load(weights_only=True)``, the default since 2.6, makes of a pickle program, without torch.

torch's restricted machine knows 35 opcodes (those of protocol 2), calls only what is on its list, and looks at the
exact types of what it fills. Here the same program is run with *kinds* in place of objects. Where torch would refuse a
class, it is noted and the run goes on as if it had been allowed, so that all of them are found at once; where nothing
that a user can allow would help, the run ends.

Facts: PyTorch 2.13 `torch/_weights_only_unpickler.py`. A test compares the verdict with torch's own.
"""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

from rekindle.checks._programs import Program
from rekindle.errors import UnreadableFile
from rekindle.limits import Limits
from rekindle.scanning.names import HARMLESS, OPERANDS
from rekindle.unpickling.opcodes import OPCODES
from rekindle.unpickling.program import Op, read_ops

__all__ = ["AFTER_IMPORT", "OPERANDS", "Verdict", "allowed_globals", "judge_programs", "modern_name"]

_NUMBERS = {opcode.name: opcode.code for opcode in OPCODES}

# Modules that torch refuses even when a user allows something of them.
_BLOCKED = frozenset(("sys", "os", "posix", "nt"))
# Allowed by torch itself when it is imported, beside its fixed list.
_ALLOWED_ON_IMPORT = frozenset(
    (
        "torch.nested._internal.nested_tensor._rebuild_njt",
        "torch.nested._internal.nested_tensor.NestedTensor",
        "torch.distributed._mesh_layout._FlatLayout",
        "torch.distributed._mesh_layout._MeshLayout",
    )
)
# Allowed only once the module beside it has been imported.
AFTER_IMPORT = {
    "torch._dynamo.decorators._DimRange": "torch._dynamo",
    "torch.distributed.device_mesh.DeviceMesh": "torch.distributed.tensor",
    "torch.distributed.tensor._dtensor_spec.DTensorSpec": "torch.distributed.tensor",
    "torch.distributed.tensor._dtensor_spec.ShardOrderEntry": "torch.distributed.tensor",
    "torch.distributed.tensor._dtensor_spec.TensorMeta": "torch.distributed.tensor",
    "torch.distributed.tensor.DTensor": "torch.distributed.tensor",
    "torch.distributed.tensor.placement_types.Partial": "torch.distributed.tensor",
    "torch.distributed.tensor.placement_types.Replicate": "torch.distributed.tensor",
    "torch.distributed.tensor.placement_types.Shard": "torch.distributed.tensor",
    "torch.distributed.tensor.placement_types._StridedShard": "torch.distributed.tensor",
}
# NumPy's scalar types have classes of their own, and torch asks for the class of what is given a state.
_NUMPY_TYPES = {
    "b1": "Bool", "i1": "Int8", "i2": "Int16", "i4": "Int32", "i8": "Int64", "u1": "UInt8", "u2": "UInt16",
    "u4": "UInt32", "u8": "UInt64", "f2": "Float16", "f4": "Float32", "f8": "Float64", "c8": "Complex64",
    "c16": "Complex128", "O8": "Object", "O": "Object",
}  # fmt: skip


def allowed_globals() -> frozenset[str]:
    """Return the dotted paths that torch allows by default."""
    return _ALLOWED


_ALLOWED = frozenset(f"{module}.{name}" for module, name in HARMLESS) | _ALLOWED_ON_IMPORT


@dataclass(slots=True)
class Verdict:
    """What torch's restricted machine does with a file.

    Attributes:
        refused: paths of the classes and functions that would have to be allowed, in order.
        named: (module, name) of everything that the programs ask for, in order, as the file spells it.
        imports: modules that must be imported before loading.
        stops: what torch says where nothing can be allowed; empty where it gets through.
        operand: (number, name, offset, program) of the first opcode it does not know; None where it knows all. What
            is refused before it is what torch stops at.
        byte_text: offset of a Python 2 text that is not UTF-8; None where there is none.
        byte_texts: whether there are texts of Python 2 at all.
    """

    refused: list[str] = field(default_factory=list)
    named: list[tuple[str, str]] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    stops: str = ""
    operand: tuple[int, str, int, str] | None = None
    byte_text: int | None = None
    byte_texts: bool = False

    @property
    def accepted(self) -> bool:
        """Whether torch loads the file as it is."""
        return not (self.refused or self.imports or self.stops or self.operand or self.byte_text is not None)

    @property
    def can_be_allowed(self) -> bool:
        """Whether allowing what is refused is enough."""
        return not (self.stops or self.operand or self.byte_text is not None or self.imports)


def modern_name(module: str, name: str) -> tuple[str, str]:
    """Return how Python 3 calls a class or function that a pickle of protocol 2 names as Python 2 did."""
    if (module, name) in NAME_MAPPING:
        return NAME_MAPPING[module, name]
    return IMPORT_MAPPING.get(module, module), name


def judge_programs(programs: Iterable[Program], limits: Limits) -> Verdict | None:
    """Run the programs and return the verdict; None where one of them is broken."""
    verdict = Verdict()
    for program in programs:
        if len(program.data) - program.start > _LONG and _is_plain(program, verdict):
            continue
        machine = _Machine(verdict, program)
        try:
            for op in read_ops(program.data, program.start, limits):
                if op.name not in OPERANDS:
                    verdict.byte_texts = verdict.byte_texts or op.name in {"STRING", "BINSTRING"}
                    verdict.operand = (_NUMBERS[op.name], op.name, op.offset + program.at, program.name)
                    _name_the_rest(verdict, program, limits)
                    return verdict
                machine.run(op)
        except _Stop:
            _name_the_rest(verdict, program, limits)
            return verdict
        except (UnreadableFile, IndexError, KeyError):
            return None
    return verdict


# From this many bytes on a program is first looked at for anything that torch could stop at.
_LONG = 1024**2

# Bytes of each opcode that torch knows, with its argument; None for those whose length depends on it.
_LENGTHS: dict[int, int | None] = {
    _NUMBERS[name]: {
        **dict.fromkeys(("GLOBAL", "BINUNICODE", "SHORT_BINSTRING", "LONG1")),
        **dict.fromkeys(("BININT", "LONG_BINGET", "LONG_BINPUT"), 5),
        **dict.fromkeys(("BININT1", "BINGET", "BINPUT", "PROTO"), 2),
        "BININT2": 3,
        "BINFLOAT": 9,
    }.get(name, 1)
    for name in OPERANDS
}


def _is_plain(program: Program, verdict: Verdict) -> bool:
    """Tell whether a long program has opcodes and names that torch takes, and nothing of Python 2.

    What such a program does to which object is not followed: to be refused all the same it has to be made by hand, and
    a listing of 100,000 tensors must not take ten times as long for it.
    """
    data, at, end = program.data, program.start, len(program.data)
    lengths = _LENGTHS
    named: dict[tuple[str, str], None] = {}
    unknown = -1
    while at < end:
        code = data[at]
        length = lengths.get(code, unknown)
        if length is not None:
            if length < 0:
                return False
            at += length
            if code == 0x2E:  # STOP
                verdict.named.extend(name for name in named if name not in verdict.named)
                return True
        elif code == 0x58:  # BINUNICODE
            at += 5 + int.from_bytes(data[at + 1 : at + 5], "little")
        elif code == 0x63:  # GLOBAL
            middle = data.find(b"\n", at)
            last = data.find(b"\n", middle + 1)
            if not 0 < middle < last:
                return False
            pair = (data[at + 1 : middle].decode("latin-1"), data[middle + 1 : last].decode("latin-1"))
            if ".".join(modern_name(*pair)) not in _ALLOWED:
                return False
            named[pair] = None
            at = last + 1
        elif code == 0x8A:  # LONG1
            at += 2 + int.from_bytes(data[at + 1 : at + 2], "little")
        else:
            return False
    return False


def _name_the_rest(verdict: Verdict, program: Program, limits: Limits) -> None:
    """Note every name of the program where its run ended early; those of STACK_GLOBAL come from the last two texts."""
    named: list[tuple[str, str]] = []
    texts: list[str] = []
    memo: dict[int, str] = {}
    try:
        for op in read_ops(program.data, program.start, limits):
            argument = op.argument
            if isinstance(argument, tuple):
                named.append(argument)
            elif isinstance(argument, str):
                texts = [*texts[-1:], argument]
            elif op.name == "MEMOIZE":
                memo[len(memo)] = texts[-1] if texts else ""
            elif op.name in {"BINGET", "LONG_BINGET"} and isinstance(argument, int) and memo.get(argument):
                texts = [*texts[-1:], memo[argument]]
            elif op.name == "STACK_GLOBAL" and len(texts) == 2:
                named.append((texts[0], texts[1]))
    except UnreadableFile:
        pass
    verdict.named[:] = list(dict.fromkeys((*verdict.named, *named)))


class _Stop(Exception):
    """torch would stop here whatever a user allows; the verdict says why."""


@dataclass(frozen=True, slots=True)
class _Thing:
    """An object of the run: ``list``, ``dict``, ``tensor``, ...; the path of its class for all others.

    `is_name` marks a class or function itself.
    """

    kind: str
    is_name: bool = False


_Kind: TypeAlias = "_Thing | tuple[_Kind, ...] | str | bytes | int | float | bool | None"

_LIST, _DICT, _TENSOR, _PARAMETER = _Thing("list"), _Thing("dict"), _Thing("tensor"), _Thing("parameter")
_UNKNOWN = _Thing("?")
_FILLABLE = frozenset(("dict", "collections.OrderedDict", "collections.Counter"))
_RESULTS = {
    "_codecs.encode": _Thing("bytes"),
    "torch.nn.parameter.Parameter": _PARAMETER,
    "torch.serialization._get_layout": _Thing("torch.layout"),
    "torch.nested._internal.nested_tensor._rebuild_njt": _TENSOR,
}


class _Machine:
    """One run; it holds the stacks open."""

    def __init__(self, verdict: Verdict, program: Program) -> None:
        self.verdict = verdict
        self.program = program
        self.stack: list[_Kind] = []
        self.below: list[list[_Kind]] = []
        self.memo: dict[int, _Kind] = {}

    def run(self, op: Op) -> None:
        """Run one opcode."""
        name, argument = op.name, op.argument
        if name in _PUSHES:
            self.stack.append(_PUSHES[name])
        elif name in {"BINPUT", "LONG_BINPUT"}:
            self.memo[_number(argument)] = self.stack[-1]
        elif name in {"BINGET", "LONG_BINGET"}:
            self.stack.append(self.memo[_number(argument)])
        elif name in {"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "LONG1"}:
            self.stack.append(argument)
        elif name == "SHORT_BINSTRING":
            self.push_bytes(op)
        elif name == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif name == "TUPLE":
            items = self.pop_mark()
            self.stack.append(tuple(items))
        elif name in {"TUPLE1", "TUPLE2", "TUPLE3"}:
            count = int(name[-1])
            if len(self.stack) < count:
                raise IndexError
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name in _ACTIONS:
            _ACTIONS[name](self, op)

    def pop_mark(self) -> list[_Kind]:
        """Return what lies above the last MARK."""
        items = self.stack
        self.stack = self.below.pop()
        return items

    def stop(self, why: str) -> NoReturn:
        """End the run: nothing that a user can allow would help."""
        self.verdict.stops = why
        raise _Stop

    def push_bytes(self, op: Op) -> None:
        """Push a text of Python 2, which torch reads as UTF-8."""
        self.verdict.byte_texts = True
        data = op.argument if isinstance(op.argument, bytes) else b""
        try:
            self.stack.append(data.decode("utf-8"))
        except UnicodeDecodeError:
            self.verdict.byte_text = op.offset
            raise _Stop from None

    def do_global(self, op: Op) -> None:
        if not isinstance(op.argument, tuple):
            raise IndexError
        if op.argument not in self.verdict.named:
            self.verdict.named.append(op.argument)
        module, name = modern_name(*op.argument)
        path = f"{module}.{name}"
        if module in _BLOCKED:
            self.stop(f"Trying to load unsupported GLOBAL {path} whose module {module} is blocked.")
        if path in AFTER_IMPORT:
            _add(self.verdict.imports, AFTER_IMPORT[path])
        elif path not in _ALLOWED:
            _add(self.verdict.refused, path)
        self.stack.append(_Thing(path, is_name=True))

    def do_newobj(self, op: Op) -> None:  # noqa: ARG002 - one signature for all
        args = self.stack.pop()
        kind = self.stack.pop()
        if not isinstance(kind, _Thing) or not kind.is_name:
            self.stop("Can only create new object for nn.Parameter or classes allowlisted via `add_safe_globals`")
        self.stack.append(_made(kind, args))

    def do_reduce(self, op: Op) -> None:  # noqa: ARG002 - one signature for all
        args = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, _Thing) or not function.is_name:
            self.stop("Trying to call reduce for unrecognized function")
        self.stack[-1] = _made(function, args)

    def do_build(self, op: Op) -> None:  # noqa: ARG002 - one signature for all
        self.stack.pop()
        target = self.stack[-1]
        kind = target.kind if isinstance(target, _Thing) else type(target).__name__
        if kind in {"tensor", "parameter", "?"} or kind in _ALLOWED:
            return
        if not isinstance(target, _Thing) or target.is_name or "." not in kind:
            self.stop(f"Can only build Tensor, Parameter, OrderedDict or types allowlisted, but got {kind}")
        _add(self.verdict.refused, kind)

    def do_append(self, op: Op) -> None:
        items = self.pop_mark() if op.name == "APPENDS" else [self.stack.pop()]
        if self.stack[-1] != _LIST:
            self.stop(f"Can only {'extend' if len(items) != 1 else 'append to'} lists, but got {_kind(self.stack[-1])}")

    def do_setitem(self, op: Op) -> None:
        if op.name == "SETITEMS":
            self.pop_mark()
        else:
            del self.stack[-2:]
        target = self.stack[-1]
        if not isinstance(target, _Thing) or target.kind not in _FILLABLE:
            self.stop(
                f"Can only {op.name} for dict, collections.OrderedDict, collections.Counter, but got {_kind(target)}"
            )

    def do_persid(self, op: Op) -> None:  # noqa: ARG002 - one signature for all
        pid = self.stack.pop()
        if not isinstance(pid, (tuple, int)) or isinstance(pid, bool):
            self.stop(f"persistent_load id must be tuple or int, but got {_kind(pid)}")
        if isinstance(pid, tuple) and pid and pid[0] != "storage":
            self.stop(f"Only persistent_load of storage is allowed, but got {_kind(pid[0])}")
        self.stack.append(_Thing("storage"))

    def do_nothing(self, op: Op) -> None:
        """PROTO and STOP change no value."""


_PUSHES: dict[str, _Kind] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "EMPTY_LIST": _LIST,
    "EMPTY_DICT": _DICT,
    "EMPTY_SET": _Thing("builtins.set"),
}
_ACTIONS: dict[str, Callable[[_Machine, Op], None]] = {
    "GLOBAL": _Machine.do_global,
    "NEWOBJ": _Machine.do_newobj,
    "REDUCE": _Machine.do_reduce,
    "BUILD": _Machine.do_build,
    "APPEND": _Machine.do_append,
    "APPENDS": _Machine.do_append,
    "SETITEM": _Machine.do_setitem,
    "SETITEMS": _Machine.do_setitem,
    "BINPERSID": _Machine.do_persid,
    "PROTO": _Machine.do_nothing,
    "STOP": _Machine.do_nothing,
}


def _made(kind: _Thing, args: _Kind) -> _Kind:
    """Return what calling or creating an allowed class or function amounts to."""
    path = kind.kind
    given = args if isinstance(args, tuple) else ()
    if path in _RESULTS:
        return _RESULTS[path]
    if path.startswith("torch._utils._rebuild_parameter"):
        return _PARAMETER
    if path == "torch._utils._rebuild_wrapper_subclass":
        return _class_of(given, 0)
    if path.startswith("torch._utils._rebuild_"):
        return _TENSOR
    if path == "torch._tensor._rebuild_from_type_v2":
        return _class_of(given, 1)
    if path.startswith("torch.") and path.endswith("Tensor"):
        return _TENSOR
    if path == "numpy.dtype":
        code = given[0] if given and isinstance(given[0], str) else ""
        return _Thing(f"numpy.dtypes.{_NUMPY_TYPES.get(code, 'Void')}DType")
    if path in {"numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct"}:
        return _class_of(given, 0)
    if path in _ALLOWED or path.rpartition(".")[2][:1].isupper():
        return _Thing(path)
    return _UNKNOWN  # a function of somebody's: nobody knows what it gives


def _class_of(args: tuple[_Kind, ...], index: int) -> _Kind:
    kind = args[index] if index < len(args) else None
    if not isinstance(kind, _Thing) or not kind.is_name:
        return _UNKNOWN
    return {"torch.Tensor": _TENSOR, "torch.nn.parameter.Parameter": _PARAMETER}.get(kind.kind, _Thing(kind.kind))


def _number(argument: object) -> int:
    if not isinstance(argument, int):
        raise IndexError
    return argument


def _add(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)


def _kind(value: _Kind) -> str:
    if isinstance(value, _Thing):
        return value.kind
    return type(value).__name__
