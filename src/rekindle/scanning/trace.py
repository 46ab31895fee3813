"""Follow a pickle program and note what CPython would import and call, as far as CPython would get.

This is not the machine that reads checkpoints (`rekindle.unpickling.machine`): that one refuses what is odd, and a
scanner that stops where the loader goes on sees nothing of what comes then. Here nothing is refused that one of
CPython's two unpicklers might take; the heights of stack and memo follow from the opcodes alone, so the trace ends
where both of them certainly end, and what was met before is kept. Values are symbols; nothing is imported or called.

Facts: CPython 3.13 `Lib/pickle.py` (`_Unpickler`, the laxer one) and `Modules/_pickle.c`; joblib 1.4
`numpy_pickle.py` (arrays in the middle of a program).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct
from struct import error as StructError  # noqa: N812 - the module calls it `error`
from typing import cast

from rekindle.limits import Limits
from rekindle.scanning.names import BUILDABLE, HARMLESS, OPERANDS, spellings
from rekindle.tree import Global, Map, Record, SetOf, Value
from rekindle.unpickling.opcodes import BY_CODE
from rekindle.unpickling.program import Malformed, unescape

__all__ = ["Odd", "Trace", "describe", "trace"]

_INT4 = Struct("<i").unpack_from
_UINT2 = Struct("<H").unpack_from
_UINT4 = Struct("<I").unpack_from
_UINT8 = Struct("<Q").unpack_from
_FLOAT8 = Struct(">d").unpack_from

_DEPTH = 4  # programs inside a program (object arrays of joblib)
_KEPT_ODD = 100
_BYTES_WORTH_LOOKING = 4


@dataclass(frozen=True, slots=True)
class Odd:
    """Something a program does that no ordinary one does.

    Attributes:
        kind: ``computed-name``, ``changed-global``, ``extension``, ``odd-call``.
        text: what it does.
        offset: of the opcode.
    """

    kind: str
    text: str
    offset: int


@dataclass(slots=True)
class Trace:
    """What one program does before it ends or breaks.

    Attributes:
        start: offset of its first byte.
        end: offset after STOP; where it broke, of the opcode that did.
        names: every name that it would import, in order.
        calls: every call that it would make, in order.
        odd: what no ordinary program does.
        blobs: (offset of the opcode, content) of byte strings that may hold something themselves.
        problem: why it ends before STOP; empty where it does not.
        ran_out: whether it ends since its bytes end.
        limit: the field of `Limits` that stopped it; empty where none did.
        opcodes: how many were followed.
        lookups: how often ``builtins.getattr`` was put on the stack.
        looked_up: how often it was then called for an attribute of a global, by a name: what protocols below 4 write
            for nested classes, and Python 3.11 for enum members. The result is in `names`, with dots, as protocol 4
            would spell it.
        refused: (name, offset) of the first opcode that ``weights_only=True`` does not know; None where it knows all.
        value: what STOP would return.
        meddles: whether an object of a class without a meaning of ours gets a second state, items or elements.
    """

    start: int
    end: int = 0
    names: list[Global] = field(default_factory=list)
    calls: list[Record] = field(default_factory=list)
    odd: list[Odd] = field(default_factory=list)
    blobs: list[tuple[int, bytes]] = field(default_factory=list)
    problem: str = ""
    ran_out: bool = False
    limit: str = ""
    opcodes: int = 0
    lookups: int = 0
    looked_up: int = 0
    refused: tuple[str, int] | None = None
    value: Value = None
    meddles: bool = False


class _Ends(Exception):
    """Both unpicklers raise here."""


class _RunsOut(_Ends):
    """The bytes end inside the program."""


class _Limit(_Ends):
    """A bound of ours was reached."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(what)
        self.name = name


def trace(data: bytes, start: int, limits: Limits, depth: int = 0, *, whole: bool = True) -> Trace:
    r"""Follow the program that starts at byte `start`.

    Args:
        data: bytes that hold the program; more may follow it.
        start: offset of its first byte.
        limits: `opcodes`, `stack` and `pickle_bytes` apply.
        depth: how many programs it is inside of.
        whole: whether the file ends where `data` does.

    Returns:
        What it does; never raises for what the bytes say.

    Example:
        >>> from rekindle.limits import DEFAULT_LIMITS
        >>> trace(b"cos\nsystem\n.", 0, DEFAULT_LIMITS).names
        [<global os.system>]
    """
    result = Trace(start)
    tracer = _Tracer(data, start, limits, result, depth, whole=whole)
    try:
        result.value = tracer.run()
    except _Limit as limit:
        result.problem, result.limit = str(limit), limit.name
    except _RunsOut:
        result.problem, result.ran_out = "the bytes end before STOP", True
    except _Ends as end:
        result.problem = str(end)
    result.end = tracer.at
    return result


class _Tracer:
    """The stack machine: it holds one run open."""

    def __init__(self, data: bytes, start: int, limits: Limits, result: Trace, depth: int, *, whole: bool) -> None:
        self.whole = whole
        self.after = start
        self.data = data
        self.at = start
        self.limits = limits
        self.result = result
        self.depth = depth
        self.stack: list[Value] = []
        self.below: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.bytes_left = limits.pickle_bytes

    # ---- the loop

    def run(self) -> Value:
        data, result, most = self.data, self.result, self.limits.opcodes
        size, rows = len(data), _ROWS
        while True:
            at = self.at
            if at >= size:
                raise _RunsOut
            row = rows[data[at]]
            if row is None:
                raise _Ends(f"there is no opcode {data[at]:#04x}")
            name, reads, layout, step, is_known = row
            if result.opcodes >= most:
                raise _Limit(f"more than {most:,} opcodes", "opcodes")
            result.opcodes += 1
            if not result.opcodes & 0xFFF:
                self.check_sizes()
            if not is_known and result.refused is None:
                result.refused = name, at
            # A large file is millions of these lines: what needs no reading is not asked for.
            argument: object = None
            if reads == "nothing":
                self.after = at + 1
            elif layout is not None:
                try:
                    argument = layout[0](data, at + 1)[0]
                except (IndexError, StructError):
                    raise _RunsOut from None
                self.after = at + 1 + layout[1]
            else:
                argument, self.after = self.argument(reads, at + 1)
            if step is None:  # STOP
                value = self.pop()
                self.at = self.after
                return value
            step(self, argument)
            self.at = self.after

    def check_sizes(self) -> None:
        most = self.limits.stack
        if len(self.memo) > most or len(self.below) > most or len(self.stack) + sum(map(len, self.below)) > most:
            raise _Limit(f"more than {most:,} entries on the stack or in the memo", "stack")

    # ---- arguments, read as the laxer of the two unpicklers does

    def argument(self, reads: str, at: int) -> tuple[object, int]:
        try:
            if reads in _COUNTED:
                unpack, width = _COUNTED[reads]
                count = unpack(self.data, at)[0]
                return self.counted(reads, count, at + width)
        except (IndexError, StructError):
            raise _RunsOut from None
        line, at = self.line(at)
        if reads != "two lines":
            return line, at
        name, at = self.line(at)
        try:
            return (line.decode("utf-8"), name.decode("utf-8")), at
        except UnicodeDecodeError:
            raise _Ends("a name that is not UTF-8") from None

    def counted(self, reads: str, count: int, at: int) -> tuple[object, int]:
        if count < 0:
            raise _Ends("a negative count")
        end = at + count
        if end > len(self.data):
            raise _RunsOut
        raw = self.data[at:end]
        if not reads.startswith("text"):
            return raw, end
        try:
            return raw.decode("utf-8", "surrogatepass"), end
        except UnicodeDecodeError:
            raise _Ends("a text that is not UTF-8") from None

    def line(self, at: int) -> tuple[bytes, int]:
        end = self.data.find(b"\n", at)
        if end >= 0:
            return self.data[at:end], end + 1
        if not self.whole:
            raise _RunsOut
        # At the end of a file the unpickler in Python takes the last character, if any, for the line's end.
        return self.data[at:-1], len(self.data)

    # ---- stack

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def pop(self) -> Value:
        if not self.stack:
            raise _Ends("the stack is empty")
        return self.stack.pop()

    def top(self) -> Value:
        if not self.stack:
            raise _Ends("the stack is empty")
        return self.stack[-1]

    def pop_mark(self) -> list[Value]:
        if not self.below:
            raise _Ends("there is no MARK")
        items, self.stack = self.stack, self.below.pop()
        return items

    # ---- what is noted

    def note(self, kind: str, text: str) -> None:
        if len(self.result.odd) < _KEPT_ODD:
            self.result.odd.append(Odd(kind, text, self.at))

    def name(self, module: str, name: str) -> Global:
        found = Global(module, name, self.at)
        self.result.names.append(found)
        self.result.lookups += _is_one_of(found, _LOOKUP)
        return found

    def push_again(self, value: Value) -> None:
        """Push a value that was on the stack before."""
        self.stack.append(value)
        if self.result.lookups and _is_one_of(value, _LOOKUP):
            self.result.lookups += 1

    def looked_up(self, function: Value, args: Value, kwargs: Value) -> Global | None:
        """Return the global that a plain lookup means: ``getattr(module.Class, "NAME")`` is ``module.Class.NAME``."""
        if kwargs is not None or not self.result.lookups or not _is_one_of(function, _LOOKUP):
            return None
        if not isinstance(args, tuple) or len(args) != 2:
            return None
        base, attribute = args
        if not isinstance(base, Global) or not isinstance(attribute, str) or not attribute.isidentifier():
            return None
        self.result.looked_up += 1
        return self.name(base.module, f"{base.name}.{attribute}")

    def keep_bytes(self, raw: bytes) -> None:
        if len(raw) >= _BYTES_WORTH_LOOKING:
            self.result.blobs.append((self.at, raw))

    def call(self, function: Value, args: Value, kwargs: Value = None) -> Value:
        found = self.looked_up(function, args, kwargs)
        if found is not None:
            return found
        made = Record(function, args, kwargs, self.at)
        if not isinstance(function, Global):
            self.note("odd-call", f"calls {describe(function)}, which is no name")
            return made
        self.result.calls.append(made)
        if function.module == "_codecs" and function.name == "encode":
            return self.encoded(made)
        if function.name == "bytearray" and not _is_plain_bytearray(args):
            self.note("odd-call", f"{describe(made)}: a codec is a module that gets imported by this name")
        return made

    def encoded(self, call: Record) -> Value:
        """Return the bytes that protocols 0 to 2 write as a text: the only call whose result matters here."""
        args = call.args
        if isinstance(args, tuple) and len(args) == 2 and isinstance(args[0], str) and args[1] in _CODECS:
            self.bytes_left -= len(args[0])
            if self.bytes_left < 0:
                raise _Limit(f"more than {self.limits.pickle_bytes:,} bytes of encoded text", "pickle_bytes")
            try:
                raw = args[0].encode(args[1])
            except UnicodeEncodeError:
                return call
            self.keep_bytes(raw)
            return raw
        self.note("odd-call", f"{describe(call)}: a codec is a module that gets imported by this name")
        return call


_CODECS = ("latin1", "latin-1", "iso-8859-1", "utf-8", "utf8", "ascii")


def _is_plain_bytearray(args: Value) -> bool:
    """Tell whether these make bytes of bytes, or of a text by a codec that Python has loaded."""
    return isinstance(args, tuple) and (len(args) < 2 or (len(args) == 2 and args[1] in _CODECS))


def _byte(data: bytes, at: int) -> tuple[int]:
    return (data[at],)


_Layout = tuple[Callable[[bytes, int], tuple[int | float, ...]], int]
_FIXED: dict[str, _Layout] = {
    "uint1": (_byte, 1), "uint2": (_UINT2, 2), "uint4": (_UINT4, 4), "uint8": (_UINT8, 8), "int4": (_INT4, 4),
    "float8": (_FLOAT8, 8),
}  # fmt: skip
_COUNTED: dict[str, tuple[Callable[[bytes, int], tuple[int, ...]], int]] = {
    "bytes1": (_byte, 1), "bytes4": (_UINT4, 4), "bytes8": (_UINT8, 8), "string4": (_INT4, 4), "text1": (_byte, 1),
    "text4": (_UINT4, 4), "text8": (_UINT8, 8), "long1": (_byte, 1), "long4": (_INT4, 4),
}  # fmt: skip


# ---- one function an opcode


def _constant(value: Value) -> Callable[[_Tracer, object], None]:
    def step(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
        tracer.stack.append(value)

    return step


def _made(kind: Callable[[], Value]) -> Callable[[_Tracer, object], None]:
    def step(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
        tracer.stack.append(kind())

    return step


def _push(tracer: _Tracer, argument: object) -> None:
    tracer.stack.append(cast("Value", argument))


def _push_bytes(tracer: _Tracer, argument: object) -> None:
    raw = cast("bytes", argument)
    tracer.keep_bytes(raw)
    tracer.stack.append(raw)


def _push_string(tracer: _Tracer, argument: object) -> None:
    """Push a Python 2 string; a loader may take it for a text."""
    raw = cast("bytes", argument)
    tracer.keep_bytes(raw)
    tracer.stack.append(raw.decode("utf-8") if _is_utf8(raw) else raw.decode("latin-1"))


def _push_quoted(tracer: _Tracer, argument: object) -> None:
    raw = cast("bytes", argument).strip()
    if len(raw) >= 2 and raw[:1] == raw[-1:] and raw[:1] in {b"'", b'"'}:
        raw = raw[1:-1]
    try:
        _push_string(tracer, unescape(raw))
    except Malformed:
        raise _Ends("a string with a broken escape") from None


def _push_unicode(tracer: _Tracer, argument: object) -> None:
    try:
        tracer.stack.append(cast("bytes", argument).decode("raw-unicode-escape"))
    except UnicodeDecodeError:
        raise _Ends("a text with a broken escape") from None


def _push_integer(tracer: _Tracer, argument: object) -> None:
    raw = cast("bytes", argument)
    tracer.stack.append(int.from_bytes(raw, "little", signed=True) if len(raw) <= 16 else _UNKNOWN)


_UNKNOWN = Record(Global("rekindle", "number"), ())


def _push_digits(tracer: _Tracer, argument: object) -> None:
    tracer.stack.append(_number(cast("bytes", argument)))


def _number(line: bytes) -> Value:
    if len(line) <= 40:
        try:
            return int(line.removesuffix(b"L"), 0)
        except ValueError:
            pass
    return _UNKNOWN


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _nothing(tracer: _Tracer, argument: object) -> None:
    pass


def _proto(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    if cast("int", argument) > 5:
        raise _Ends(f"protocol {argument}, the newest is 5")


def _mark(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    tracer.below.append(tracer.stack)
    tracer.stack = []


def _pop(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    if tracer.stack:
        tracer.stack.pop()
    else:
        tracer.pop_mark()


def _pop_mark(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    tracer.pop_mark()


def _dup(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    tracer.push_again(tracer.top())


def _put(tracer: _Tracer, argument: object) -> None:
    tracer.memo[cast("int", argument)] = tracer.top()


def _index(line: bytes) -> int:
    try:
        number = int(line)  # spaces, underscores and leading zeros as pickle's own; Python bounds the digits
    except ValueError:
        number = -1
    if number < 0:
        raise _Ends("a memo index that is no number")
    return number


def _put_line(tracer: _Tracer, argument: object) -> None:
    tracer.memo[_index(cast("bytes", argument))] = tracer.top()


def _memoize(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    tracer.memo[len(tracer.memo)] = tracer.top()


def _get(tracer: _Tracer, argument: object) -> None:
    index = cast("int", argument)
    if index not in tracer.memo:
        raise _Ends(f"nothing was memoised as {index}")
    tracer.push_again(tracer.memo[index])


def _get_line(tracer: _Tracer, argument: object) -> None:
    _get(tracer, _index(cast("bytes", argument)))


def _tuple(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    items = tuple(tracer.pop_mark())
    tracer.stack.append(items)


def _tuple_of(count: int) -> Callable[[_Tracer, object], None]:
    def step(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
        if len(tracer.stack) < count:
            raise _Ends("the stack is empty")
        items = tuple(tracer.stack[-count:])
        del tracer.stack[-count:]
        tracer.stack.append(items)

    return step


def _list(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    items = tracer.pop_mark()
    tracer.stack.append(items)


def _dict(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    items = tracer.pop_mark()
    tracer.stack.append(Map(_pairs(items)))


def _frozenset(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    items = tracer.pop_mark()
    tracer.stack.append(SetOf(items, frozen=True))


def _pairs(items: list[Value]) -> list[tuple[Value, Value]]:
    return list(zip(items[::2], items[1::2], strict=False))


def _append(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    item = tracer.pop()
    _extend(tracer, [item])


def _appends(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    items = tracer.pop_mark()
    _extend(tracer, items)


def _extend(tracer: _Tracer, items: list[Value]) -> None:
    target = tracer.top()
    if isinstance(target, list):
        target.extend(items)
    else:
        _changed(tracer, target, "its `append` or `extend` is called")


def _additems(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    items = tracer.pop_mark()
    target = tracer.top()
    if isinstance(target, SetOf):
        target.items.extend(items)
    else:
        _changed(tracer, target, "its `add` is called")


def _setitem(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    value, key = tracer.pop(), tracer.pop()
    _set_items(tracer, [(key, value)])


def _setitems(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    items = tracer.pop_mark()
    _set_items(tracer, _pairs(items))


def _set_items(tracer: _Tracer, pairs: list[tuple[Value, Value]]) -> None:
    target = tracer.top()
    if isinstance(target, Map):
        target.pairs.extend(pairs)
    elif not (isinstance(target, Record) and _is_one_of(target.function, _DICTS)):
        _changed(tracer, target, "its `__setitem__` is called")


_LOOKUP = frozenset({("builtins", "getattr")})
_DICTS = frozenset({("collections", "OrderedDict"), ("collections", "Counter")})


def _is_one_of(function: Value, pairs: frozenset[tuple[str, str]]) -> bool:
    return isinstance(function, Global) and any(pair in pairs for pair in spellings(function.module, function.name))


_GETS_STATE = "it gets a state"


def _changed(tracer: _Tracer, target: Value, how: str) -> None:
    if isinstance(target, Global):
        tracer.note("changed-global", f"{target.path} itself is changed: {how}")
    elif not _is_of_unknown_class(target):
        tracer.note("odd-call", f"{describe(target)}: {how}")
    elif how != _GETS_STATE:
        tracer.result.meddles = True


def _is_of_unknown_class(target: Value) -> bool:
    """Tell whether the name of what made a value has a finding already, as everything it does then has."""
    function = target.function if isinstance(target, Record) else None
    return isinstance(function, Global) and function.module != "rekindle" and not _is_one_of(function, _HARMLESS)


_HARMLESS = frozenset(HARMLESS)


def _global(tracer: _Tracer, argument: object) -> None:
    module, name = cast("tuple[str, str]", argument)
    tracer.stack.append(tracer.name(module, name))


def _stack_global(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    name, module = tracer.pop(), tracer.pop()
    if isinstance(name, str) and isinstance(module, str):
        tracer.stack.append(tracer.name(module, name))
        return
    if not isinstance(name, (str, Record)) or not isinstance(module, (str, Record)):
        raise _Ends("the name of a global is not a text")
    tracer.note("computed-name", f"imports a name that calls have made: {describe(module)}, {describe(name)}")
    tracer.stack.append(Record(Global("rekindle", "computed name", tracer.at), (module, name), None, tracer.at))


def _inst(tracer: _Tracer, argument: object) -> None:
    module, name = cast("tuple[str, str]", argument)
    # The unpickler in Python imports before it looks for the MARK.
    function = tracer.name(module, name)
    args = tuple(tracer.pop_mark())
    tracer.stack.append(tracer.call(function, args))


def _obj(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    items = tracer.pop_mark()
    if not items:
        raise _Ends("there is no class")
    tracer.stack.append(tracer.call(items[0], tuple(items[1:])))


def _reduce(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    args, function = tracer.pop(), tracer.pop()
    tracer.stack.append(tracer.call(function, args))


def _newobj_ex(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    kwargs, args, function = tracer.pop(), tracer.pop(), tracer.pop()
    tracer.stack.append(tracer.call(function, args, kwargs))


def _build(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    state = tracer.pop()
    target = tracer.top()
    if isinstance(target, Record):
        tracer.result.meddles |= target.state is not None
        target.state = state
        if _is_one_of(target.function, _JOBLIB_ARRAYS):
            _skip_joblib_array(tracer, state)
        elif not _is_one_of(target.function, BUILDABLE):
            _changed(tracer, target, _GETS_STATE)
        elif any(isinstance(key, str) and key.startswith("__") for key in _keys_of(state)):
            tracer.note("odd-call", f"{describe(target)}: its special attributes are set")
    else:
        _changed(tracer, target, _GETS_STATE)


def _keys_of(state: Value) -> list[Value]:
    parts = state if isinstance(state, tuple) else (state,)
    return [key for part in parts if isinstance(part, Map) for key, _ in part.pairs]


def _ext(tracer: _Tracer, argument: object) -> None:
    tracer.note("extension", f"imports whatever the extension code {argument} stands for in the loading process")
    tracer.stack.append(Record(Global("copyreg", "extension", tracer.at), (cast("int", argument),), None, tracer.at))


def _buffer(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    tracer.stack.append(Record(Global("pickle", "buffer", tracer.at), (), None, tracer.at))


def _binpersid(tracer: _Tracer, argument: object) -> None:  # noqa: ARG001 - one signature for all
    _persistent(tracer, tracer.pop())


def _persid(tracer: _Tracer, argument: object) -> None:
    try:
        text = cast("bytes", argument).decode("ascii")
    except UnicodeDecodeError:
        raise _Ends("a persistent id that is not ASCII") from None
    _persistent(tracer, text)


def _persistent(tracer: _Tracer, pid: Value) -> None:
    """Push what a loader finds for an id: a storage, a module class of an old stream, or something of its own."""
    if isinstance(pid, tuple) and len(pid) >= 2 and _text(pid[0]) == "module" and isinstance(pid[1], Global):
        tracer.push_again(pid[1])
        return
    tracer.stack.append(Record(Global("rekindle", "persistent_id", tracer.at), (pid,), None, tracer.at))


def _text(value: Value) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else ""


_Step = Callable[[_Tracer, object], None]

_STEPS: dict[str, _Step] = {
    "MARK": _mark, "POP": _pop, "POP_MARK": _pop_mark, "DUP": _dup, "NONE": _constant(None), "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False), "EMPTY_TUPLE": _constant(()), "EMPTY_LIST": _made(list), "EMPTY_DICT": _made(Map),
    "EMPTY_SET": _made(lambda: SetOf([])), "FLOAT": _push_digits, "INT": _push_digits, "LONG": _push_digits,
    "BININT": _push, "BININT1": _push, "BININT2": _push, "BINFLOAT": _push, "LONG1": _push_integer,
    "LONG4": _push_integer, "STRING": _push_quoted, "BINSTRING": _push_string, "SHORT_BINSTRING": _push_string,
    "UNICODE": _push_unicode, "BINUNICODE": _push, "SHORT_BINUNICODE": _push, "BINUNICODE8": _push,
    "BINBYTES": _push_bytes, "SHORT_BINBYTES": _push_bytes, "BINBYTES8": _push_bytes, "BYTEARRAY8": _push_bytes,
    "PUT": _put_line, "BINPUT": _put, "LONG_BINPUT": _put, "MEMOIZE": _memoize, "GET": _get_line, "BINGET": _get,
    "LONG_BINGET": _get, "TUPLE": _tuple, "TUPLE1": _tuple_of(1), "TUPLE2": _tuple_of(2), "TUPLE3": _tuple_of(3),
    "LIST": _list, "DICT": _dict, "FROZENSET": _frozenset, "APPEND": _append, "APPENDS": _appends,
    "ADDITEMS": _additems, "SETITEM": _setitem, "SETITEMS": _setitems, "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global, "INST": _inst, "OBJ": _obj, "REDUCE": _reduce, "NEWOBJ": _reduce,
    "NEWOBJ_EX": _newobj_ex, "BUILD": _build, "EXT1": _ext, "EXT2": _ext, "EXT4": _ext, "NEXT_BUFFER": _buffer,
    "READONLY_BUFFER": _nothing, "PERSID": _persid, "BINPERSID": _binpersid, "PROTO": _proto, "FRAME": _nothing,
}  # fmt: skip


# ---- joblib: the bytes of an array follow the opcode that builds its wrapper

_JOBLIB_ARRAYS = frozenset({("joblib.numpy_pickle", "NumpyArrayWrapper")})
_PLAIN_TYPE = re.compile(r"[<>=|]?([biufcSVUmM])([0-9]{1,9})")


def _skip_joblib_array(tracer: _Tracer, state: Value) -> None:
    """Go on behind the array; an array of objects is a program of its own and is followed."""
    pairs = dict(_text_pairs(state))
    if "numpy_array_alignment_bytes" in pairs and pairs.get("numpy_array_alignment_bytes") is not None:
        if tracer.after >= len(tracer.data):
            raise _RunsOut
        tracer.after += 1 + tracer.data[tracer.after]
    dtype, shape = pairs.get("dtype"), pairs.get("shape")
    args = dtype.args if isinstance(dtype, Record) else None
    kind = args[0] if isinstance(args, tuple) and args else None
    if not isinstance(kind, str) or not isinstance(shape, tuple):
        raise _Ends("an array of joblib whose size cannot be told")
    if kind.lstrip("<>=|")[:1] == "O":
        _follow_nested(tracer)
        return
    plain = _PLAIN_TYPE.fullmatch(kind)
    if plain is None:
        raise _Ends(f"an array of joblib of type {kind[:40]!r}, whose size cannot be told")
    size = int(plain[2]) * (4 if plain[1] == "U" else 1)
    for length in shape:
        if not isinstance(length, int) or not 0 <= length < 2**48:
            raise _Ends("an array of joblib whose size cannot be told")
        size = min(size * length, 2**62)
    tracer.after += size
    if tracer.after > len(tracer.data):
        raise _RunsOut


def _text_pairs(state: Value) -> list[tuple[str, Value]]:
    return [(key, value) for key, value in state.pairs if isinstance(key, str)] if isinstance(state, Map) else []


def _follow_nested(tracer: _Tracer) -> None:
    if tracer.depth >= _DEPTH:
        raise _Limit(f"programs more than {_DEPTH} deep in each other", "depth")
    inner = trace(tracer.data, tracer.after, tracer.limits, tracer.depth + 1, whole=tracer.whole)
    result = tracer.result
    for mine, theirs in (
        (result.names, inner.names), (result.calls, inner.calls), (result.odd, inner.odd), (result.blobs, inner.blobs),
    ):  # fmt: skip
        cast("list[object]", mine).extend(cast("list[object]", theirs))
    result.opcodes += inner.opcodes
    result.lookups += inner.lookups
    result.looked_up += inner.looked_up
    tracer.after = inner.end
    if inner.ran_out:
        raise _RunsOut
    if inner.problem:
        raise _Ends(f"in an array of objects at byte {inner.start:,}: {inner.problem}")


# ---- words


def describe(value: Value, room: int = 120) -> str:
    """Return a value as Python would write it, in about `room` characters and without recursion that a file chooses."""
    return _described(value, room, 4)


def _described(value: Value, room: int, depth: int) -> str:
    if isinstance(value, (str, bytes)):
        return repr(value[:room]) + ("…" if len(value) > room else "")
    if value is None or isinstance(value, (bool, int, float, complex)):
        return str(value)
    if isinstance(value, Global):
        return f"{value.module}.{value.name}"[: room + 40]
    if depth == 0 or room <= 0:
        return "…"
    if isinstance(value, Record):
        args = value.args if isinstance(value.args, tuple) else (value.args,)
        function = _described(value.function, room, depth - 1)
        return f"{function}({_listed(args, room - len(function), depth - 1)})"
    if isinstance(value, Map):
        return "{…}" if value.pairs else "{}"
    if isinstance(value, SetOf):
        return f"{{{_listed(value.items, room, depth - 1)}}}"
    if isinstance(value, tuple):
        return f"({_listed(value, room, depth - 1)})"
    if isinstance(value, list):
        return f"[{_listed(value, room, depth - 1)}]"
    return type(value).__name__


def _listed(values: tuple[Value, ...] | list[Value], room: int, depth: int) -> str:
    parts: list[str] = []
    for value in values:
        if room <= 0:
            parts.append("…")
            break
        parts.append(_described(value, room, depth))
        room -= len(parts[-1]) + 2
    return ", ".join(parts)


# By the opcode's byte: its name, how its argument is read, the reader of one of fixed width, what it does (nothing for
# STOP), and whether `weights_only` knows it.
_ROWS: list[tuple[str, str, _Layout | None, _Step | None, bool] | None] = [
    None
    if opcode is None
    else (opcode.name, opcode.reads, _FIXED.get(opcode.reads), _STEPS.get(opcode.name), opcode.name in OPERANDS)
    for opcode in BY_CODE
]
