"""Run a pickle program as symbols and return the value it stands for; nothing is imported, called or guessed.

A pickle is a program for a small stack machine. Here a global is a name (`Global`), a call is a record of the call or
the node that `known_globals` knows it for, and a dict is a list of pairs. What an object turns out to be may be known
only at its BUILD, after others already refer to it: such objects are `Record`s while the program runs, and a last pass
over the finished tree puts the module or the array in their place everywhere at once.

Law: whatever the bytes, the result is a value, `UnreadableFile` or `LimitExceeded`. Memory and time are bounded by the
length of the program and by `Limits`: the machine never recurses, its memo is a dict (an index of 2^32 costs one
entry), and what a program can ask to have copied is paid for from a budget.

Facts: CPython 3.13 `Lib/pickle.py` (`_Unpickler`) and `Modules/_pickle.c`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError  # noqa: N812 - the module calls it `error`
from typing import Any, TypeAlias

from rekindle.collecting import without_collecting
from rekindle.errors import UnreadableFile
from rekindle.finding import Finding
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.tree import Global, Map, Record, SetOf, SparseTensor, StorageRef, Tensor, Value
from rekindle.unpickling.finish import finish
from rekindle.unpickling.known_globals import (
    BUILDS,
    MEANINGS,
    Context,
    Meaning,
    Odd,
    call,
    new,
    set_tensor_state,
)
from rekindle.unpickling.opcodes import BY_CODE, OPCODES
from rekindle.unpickling.program import READERS, Malformed, TooMuch, as_text, cut, explain

__all__ = ["Outcome", "Persistent", "run_partly", "run_program"]

_INT4 = Struct("<i").unpack_from
_UINT2 = Struct("<H").unpack_from
_UINT4 = Struct("<I").unpack_from
_FLOAT8 = Struct(">d").unpack_from

# The sizes of stack and memo are looked at once in so many opcodes.
_CHUNK = 4096

Persistent: TypeAlias = Callable[[Value], Value]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program came to.

    Attributes:
        value: the object; clean tree nodes.
        end: offset of the first byte after STOP.
        globals: every name that the program wants imported, in order, one entry per opcode that asks.
        protocol: as its PROTO opcode says, 0 where it has none.
        findings: what is odd about it.
    """

    value: Value
    end: int
    globals: list[Global]
    protocol: int
    findings: list[Finding]


def run_program(
    data: bytes,
    *,
    start: int = 0,
    persistent: Persistent | None = None,
    nested: Callable[[bytes], Value] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Outcome:
    r"""Run the program that starts at byte `start`.

    Args:
        data: bytes that hold the program; more may follow it.
        start: offset of its first byte.
        persistent: gives the value that a persistent id stands for, usually a `StorageRef`; without it the ids stay
            records of ``rekindle.persistent_id``.
        nested: gives the object of the complete torch stream that is the argument of
            ``torch.storage._load_from_bytes``; without it, or where it returns None, the call stays a record.
        limits: caps; `pickle_bytes`, `opcodes`, `stack`, `depth`, `integer_bits` and `tensor_dims` apply.

    Returns:
        The value and what was met on the way.

    Raises:
        UnreadableFile: the program is broken or cut (``RK-FILE-07``); the text names opcode and byte.
        LimitExceeded: it needs more than `limits` allows.

    Example:
        >>> run_program(b"(K\x01K\x02t.").value
        (1, 2)
    """
    data, was_cut = cut(data, start, limits)
    machine = _Machine(data, start, persistent, nested, limits)
    try:
        # Nothing is garbage before the program ends; looking for it all the same makes a run at least half as long
        # again (measured by benchmarks/pickle_programs.py).
        with without_collecting():
            value = _run(machine)
            value = finish(value, machine.built, machine.context)
    except _Foreign as foreign:
        raise foreign.error from None
    except (Malformed, IndexError, KeyError, StructError) as problem:
        raise _explained(problem, machine, was_cut=was_cut) from None
    return Outcome(value, machine.at, machine.globals, machine.protocol, machine.context.findings)


def run_partly(
    data: bytes,
    *,
    start: int = 0,
    persistent: Persistent | None = None,
    nested: Callable[[bytes], Value] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Outcome:
    """Run a program that breaks off or breaks, and return what was made of its object by then; for `salvage`.

    What stands above a MARK when it ends belongs to the container below that MARK: pairs to a dict, elements to a list;
    the arguments of a call that never came are dropped. A program that is whole gives what `run_program` gives.

    Args:
        data: bytes that hold the program.
        start: offset of its first byte.
        persistent: as for `run_program`.
        nested: as for `run_program`.
        limits: as for `run_program`.

    Returns:
        The value (None where nothing was begun); `end` is the offset of the opcode that could not be run.

    Raises:
        UnreadableFile: even the part cannot be understood.
        LimitExceeded: it needs more than `limits` allows.
    """
    data, was_cut = cut(data, start, limits)
    machine = _Machine(data, start, persistent, nested, limits)
    try:
        try:
            value = _run(machine)
        except (TooMuch, _Foreign):
            raise
        except (Malformed, IndexError, KeyError, StructError):
            value = _unfinished(machine)
        value = finish(value, machine.built, machine.context)
    except _Foreign as foreign:
        raise foreign.error from None
    except (Malformed, IndexError, KeyError, StructError) as problem:
        raise _explained(problem, machine, was_cut=was_cut) from None
    return Outcome(value, machine.at, machine.globals, machine.protocol, machine.context.findings)


def _unfinished(machine: _Machine) -> Value:
    """Return the outermost object with all that was on its way into it."""
    frames = [*machine.below, machine.stack]
    while len(frames) > 1:
        loose = frames.pop()
        holder = frames[-1][-1] if frames[-1] else None
        if isinstance(holder, Map):
            _add_pairs(holder, loose)
        elif isinstance(holder, list):
            holder.extend(value for value in loose if not isinstance(value, Global))
    outermost = frames[0]
    if not outermost:
        return None
    root, rest = outermost[0], outermost[1:]
    if isinstance(root, Map):
        _add_pairs(root, rest)
    elif rest:
        return [value for value in outermost if not isinstance(value, Global)]
    return root


def _add_pairs(holder: Map, loose: list[Value]) -> None:
    """Add key and value by turns, up to the first that cannot be a pair."""
    known = {key for key, _ in holder.pairs if isinstance(key, str)}
    for key, value in zip(loose[::2], loose[1::2], strict=False):
        if not isinstance(key, (str, int, float, bytes)) or isinstance(value, Global):
            return
        if key not in known:
            holder.pairs.append((key, value))


class _Foreign(Exception):
    """Carries an error of the caller's own callback past the machine's handlers."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Machine:
    """What the opcodes of one program share: it holds the run open.

    Attributes:
        stack: values above the last MARK.
        below: the stacks under the open MARKs, outermost first.
        memo: by index.
        at: offset of the opcode that is being run; after STOP, the offset that follows it.
        known: globals of this program whose calls have a meaning.
        built: records that got a state, in order.
    """

    __slots__ = (
        "at",
        "below",
        "buffers",
        "built",
        "context",
        "data",
        "globals",
        "known",
        "limits",
        "memo",
        "persistent",
        "protocol",
        "stack",
    )  # fmt: skip

    def __init__(
        self,
        data: bytes,
        start: int,
        persistent: Persistent | None,
        nested: Callable[[bytes], Value] | None,
        limits: Limits,
    ) -> None:
        self.data = data
        self.limits = limits
        self.stack: list[Value] = []
        self.below: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.at = start
        self.protocol = 0
        self.buffers = 0
        self.globals: list[Global] = []
        self.known: dict[Global, Meaning] = {}
        self.built: list[Record] = []
        self.context = Context(limits, None if nested is None else _guarded(nested))
        self.persistent = _persistent_record if persistent is None else persistent

    def pop_mark(self) -> list[Value]:
        """Return the values above the last MARK and go back to those under it."""
        items = self.stack
        if not self.below:
            raise Malformed("there is no MARK")
        self.stack = self.below.pop()
        return items


def _guarded(nested: Callable[[bytes], Value]) -> Callable[[bytes], Value]:
    def read(stream: bytes) -> Value:
        try:
            return nested(stream)
        except Exception as error:
            raise _Foreign(error) from error

    return read


def _persistent_record(pid: Value) -> Value:
    return Record(Global("rekindle", "persistent_id"), (pid,))


def _explained(problem: Exception, machine: _Machine, *, was_cut: bool) -> UnreadableFile:
    data, at = machine.data, machine.at
    opcode = BY_CODE[data[at]] if at < len(data) else None
    if isinstance(problem, KeyError):
        problem = Malformed(f"nothing was memoised as {problem.args[0]}")
    elif not isinstance(problem, Malformed) and opcode is not None:
        # The loop found out by running into the end, of the bytes or of the stack; the reader tells which.
        try:
            READERS[opcode.reads](data, at + 1, machine.limits)
        except (Malformed, IndexError) as ends:
            problem = ends
        else:
            problem = Malformed("the stack has too few values")
    return explain(problem, data, at, was_cut=was_cut, limits=machine.limits)


def _run(machine: _Machine) -> Value:
    """Run opcodes up to STOP.

    The opcodes that make up a state dict are written out here, the most frequent first, with every variable local;
    all others go through `_RARE`. This loop is what the speed of listing a file depends on.
    """
    data, limits, memo = machine.data, machine.limits, machine.memo
    context, known, persistent = machine.context, machine.known, machine.persistent
    stack, below, at = machine.stack, machine.below, machine.at
    size = len(data)
    done = 0
    try:
        while True:
            chunk = min(max(_CHUNK, len(below)), limits.opcodes - done, limits.stack)
            for _ in range(chunk):
                code = data[at]
                if code == 0x72:  # LONG_BINPUT
                    memo[_UINT4(data, at + 1)[0]] = stack[-1]
                    at += 5
                elif code == 0x4B:  # BININT1
                    stack.append(data[at + 1])
                    at += 2
                elif code == 0x68:  # BINGET
                    stack.append(memo[data[at + 1]])
                    at += 2
                elif code == 0x28:  # MARK
                    below.append(stack)
                    stack = []
                    at += 1
                elif code == 0x74:  # TUPLE
                    items = tuple(stack)
                    stack = below.pop()
                    stack.append(items)
                    at += 1
                elif code == 0x58:  # BINUNICODE
                    first = at + 5
                    last = first + _UINT4(data, at + 1)[0]
                    if last > size:
                        raise IndexError
                    text = data[first:last]
                    stack.append(text.decode() if text.isascii() else as_text(text))
                    at = last
                elif code == 0x52:  # REDUCE
                    args = stack.pop()
                    function = stack[-1]
                    context.offset = at
                    value = None
                    if type(function) is Global:
                        meaning = known.get(function)
                        if meaning is not None:
                            try:
                                if type(args) is not tuple:
                                    raise Odd("they are not a tuple")  # noqa: TRY301 - handled where all are
                                value = meaning(args, context)
                            except Odd as odd:
                                context.report_odd(function.path, str(odd))
                    stack[-1] = Record(function, args, None, at) if value is None else value
                    at += 1
                elif code == 0x86:  # TUPLE2
                    second = stack.pop()
                    stack[-1] = (stack[-1], second)
                    at += 1
                elif code == 0x71:  # BINPUT
                    memo[data[at + 1]] = stack[-1]
                    at += 2
                elif code == 0x4D:  # BININT2
                    stack.append(_UINT2(data, at + 1)[0])
                    at += 3
                elif code == 0x4A:  # BININT
                    stack.append(_INT4(data, at + 1)[0])
                    at += 5
                elif code == 0x51:  # BINPERSID
                    pid = stack[-1]
                    try:
                        stack[-1] = persistent(pid)
                    except Exception as error:
                        raise _Foreign(error) from error
                    at += 1
                elif code == 0x85:  # TUPLE1
                    stack[-1] = (stack[-1],)
                    at += 1
                elif code == 0x89:  # NEWFALSE
                    stack.append(False)
                    at += 1
                elif code == 0x29:  # EMPTY_TUPLE
                    stack.append(())
                    at += 1
                elif code == 0x94:  # MEMOIZE
                    memo[len(memo)] = stack[-1]
                    at += 1
                elif code == 0x6A:  # LONG_BINGET
                    stack.append(memo[_UINT4(data, at + 1)[0]])
                    at += 5
                elif code == 0x8C:  # SHORT_BINUNICODE
                    first = at + 2
                    last = first + data[at + 1]
                    if last > size:
                        raise IndexError
                    text = data[first:last]
                    stack.append(text.decode() if text.isascii() else as_text(text))
                    at = last
                elif code == 0x87:  # TUPLE3
                    third = stack.pop()
                    second = stack.pop()
                    stack[-1] = (stack[-1], second, third)
                    at += 1
                elif code == 0x47:  # BINFLOAT
                    stack.append(_FLOAT8(data, at + 1)[0])
                    at += 9
                elif code == 0x4E:  # NONE
                    stack.append(None)
                    at += 1
                elif code == 0x88:  # NEWTRUE
                    stack.append(True)
                    at += 1
                elif code == 0x7D:  # EMPTY_DICT
                    stack.append(Map())
                    at += 1
                elif code == 0x5D:  # EMPTY_LIST
                    stack.append([])
                    at += 1
                elif code == 0x2E:  # STOP
                    value = stack.pop()
                    at += 1
                    return value
                else:
                    opcode = BY_CODE[code]
                    if opcode is None:
                        raise Malformed("there is no such opcode")
                    argument, after = READERS[opcode.reads](data, at + 1, limits)
                    machine.at = at
                    machine.stack = stack
                    context.offset = at
                    _RARE[code](machine, argument)
                    stack = machine.stack
                    at = after
            done += chunk
            _check_sizes(machine, stack, done)
    finally:
        if machine.at != at:  # otherwise an opcode of `_RARE` failed, and the machine's own stack is the one it left
            machine.stack = stack
        machine.at = at


def _check_sizes(machine: _Machine, stack: list[Value], done: int) -> None:
    limits = machine.limits
    if done >= limits.opcodes:
        raise TooMuch(f"the program has more than {limits.opcodes:,} opcodes", "opcodes")
    if len(machine.memo) > limits.stack:
        raise TooMuch(f"the memo has more than {limits.stack:,} entries", "stack")
    if len(machine.below) > limits.stack or len(stack) + sum(map(len, machine.below)) > limits.stack:
        raise TooMuch(f"the stack has more than {limits.stack:,} entries", "stack")


# ---- the other opcodes, one function each; the machine's stack is theirs while they run


def _push(machine: _Machine, argument: Value) -> None:
    machine.stack.append(argument)


def _push_string(machine: _Machine, argument: bytes) -> None:
    """Push a Python 2 string: a text where it is one, bytes where it is not (as arrays' contents are)."""
    try:
        machine.stack.append(argument.decode("utf-8"))
    except UnicodeDecodeError:
        machine.stack.append(argument)


def _proto(machine: _Machine, argument: int) -> None:
    if argument > 5:
        raise Malformed(f"protocol {argument}, the newest is 5")
    machine.protocol = argument


def _frame(machine: _Machine, argument: int) -> None:
    if machine.at + 9 + argument > len(machine.data):
        raise Malformed(f"the program ends inside it: the frame has {argument:,} bytes")


def _pop(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _pop_mark(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    machine.pop_mark()


def _dup(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    machine.stack.append(machine.stack[-1])


def _put(machine: _Machine, argument: int) -> None:
    machine.memo[argument] = machine.stack[-1]


def _get(machine: _Machine, argument: int) -> None:
    machine.stack.append(machine.memo[argument])


def _empty_set(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    machine.stack.append(SetOf([]))


def _list(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    items = machine.pop_mark()
    machine.stack.append(items)


def _dict(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    pairs = _pairs(machine.pop_mark())
    machine.stack.append(machine.context.filled(Map(pairs)))


def _frozenset(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    made = SetOf(machine.pop_mark(), frozen=True)
    machine.context.touched[id(made)] = made
    machine.stack.append(made)


def _pairs(items: list[Value]) -> list[tuple[Value, Value]]:
    if len(items) % 2:
        raise Malformed("a key without a value")
    return list(zip(items[::2], items[1::2], strict=True))


def _append(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    value = machine.stack.pop()
    _extend(machine.stack[-1], [value])


def _appends(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    items = machine.pop_mark()
    _extend(machine.stack[-1], items)


def _extend(target: Value, items: list[Value]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, Record):
        target.elements.extend(items)
    else:
        raise Malformed(f"values are appended to {_article(target)}")


def _additems(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    items = machine.pop_mark()
    target = machine.stack[-1]
    if isinstance(target, SetOf) and not target.frozen:
        target.items.extend(items)
        machine.context.touched[id(target)] = target
    elif isinstance(target, Record):
        target.elements.extend(items)
    else:
        raise Malformed(f"members are added to {_article(target)}")


def _setitem(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    value = machine.stack.pop()
    key = machine.stack.pop()
    _set_items(machine, [(key, value)])


def _setitems(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    pairs = _pairs(machine.pop_mark())
    _set_items(machine, pairs)


def _set_items(machine: _Machine, pairs: list[tuple[Value, Value]]) -> None:
    target = machine.stack[-1]
    if isinstance(target, Map):
        target.pairs.extend(pairs)
        machine.context.touched[id(target)] = target
    elif isinstance(target, Record):
        target.items.extend(pairs)
    else:
        raise Malformed(f"items are set on {_article(target)}")


def _article(value: Value) -> str:
    name = type(value).__name__.lower()
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _name(machine: _Machine, module: str, name: str) -> Global:
    named = Global(module, name, machine.at)
    machine.globals.append(named)
    meaning = MEANINGS.get((module, name))
    if meaning is not None:
        machine.known[named] = meaning
    return named


def _global(machine: _Machine, argument: tuple[str, str]) -> None:
    module, name = argument
    machine.stack.append(_name(machine, module, name))


def _stack_global(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    name = machine.stack.pop()
    module = machine.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise Malformed("the name of the global is not a text")
    machine.stack.append(_name(machine, module, name))


def _inst(machine: _Machine, argument: tuple[str, str]) -> None:
    module, name = argument
    args = tuple(machine.pop_mark())
    machine.stack.append(call(_name(machine, module, name), args, machine.context))


def _obj(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    items = machine.pop_mark()
    if not items:
        raise Malformed("there is no class")
    machine.stack.append(call(items[0], tuple(items[1:]), machine.context))


def _newobj(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    args = machine.stack.pop()
    machine.stack[-1] = new(machine.stack[-1], args, machine.context)


def _newobj_ex(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    kwargs = machine.stack.pop()
    args = machine.stack.pop()
    machine.stack[-1] = Record(machine.stack[-1], args, kwargs, machine.at)


def _ext(machine: _Machine, argument: int) -> None:
    if argument <= 0:
        raise Malformed(f"extension code {argument}")
    machine.stack.append(Record(Global("copyreg", "extension", machine.at), (argument,), None, machine.at))


def _next_buffer(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    number = machine.buffers
    machine.buffers += 1
    machine.stack.append(Record(Global("pickle", "buffer", machine.at), (number,), None, machine.at))


def _readonly_buffer(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    if not machine.stack:
        raise IndexError


def _persid(machine: _Machine, argument: str) -> None:
    try:
        machine.stack.append(machine.persistent(argument))
    except Exception as error:
        raise _Foreign(error) from error


def _build(machine: _Machine, argument: None) -> None:  # noqa: ARG001 - one signature for all
    state = machine.stack.pop()
    target = machine.stack[-1]
    context = machine.context
    if isinstance(target, Record):
        _build_record(machine, target, state)
    elif isinstance(target, Map):
        _build_map(target, state, context)
    elif isinstance(target, Tensor):
        try:
            set_tensor_state(target, state, context)
        except Odd as odd:
            context.report_odd("the state of a tensor", str(odd))
    elif isinstance(target, Global):
        context.report_odd(target.path, "a state for the class or function itself")
    elif isinstance(target, (StorageRef, SparseTensor)):
        context.report_odd(f"the state of {_article(target)}", "it has none that is known")
    else:
        raise Malformed(f"a state is set on {_article(target)}")


def _build_record(machine: _Machine, record: Record, state: Value) -> None:
    context = machine.context
    if record.state is None:
        record.state = state
    elif isinstance(record.state, Map) and isinstance(state, Map):
        context.spend(len(record.state.pairs) + len(state.pairs))
        record.state = context.filled(Map([*record.state.pairs, *state.pairs]))
    else:
        context.report_odd("BUILD", "a second state; the first is kept")
    machine.built.append(record)
    if isinstance(record.function, Global):
        meaning = BUILDS.get((record.function.module, record.function.name))
        if meaning is not None:
            try:
                value = meaning(record, state, context)
            except Odd as odd:
                context.report_odd(record.function.path, str(odd))
            else:
                if value is not None:
                    context.become[id(record)] = (record, value)


def _build_map(target: Map, state: Value, context: Context) -> None:
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for part in parts:
        if isinstance(part, Map):
            old = target.attributes.pairs if target.attributes is not None else []
            context.spend(len(old) + len(part.pairs))
            target.attributes = context.filled(Map([*old, *part.pairs]))
        elif part is not None:
            context.report_odd("the state of a dict", "it is not a dict of attributes")


# Each takes the argument as its opcode's reader gives it.
_Handler: TypeAlias = "Callable[[_Machine, Any], None]"

_HANDLERS: dict[str, _Handler] = {
    "POP": _pop, "DUP": _dup, "FLOAT": _push, "INT": _push, "LONG": _push, "PERSID": _persid, "STRING": _push_string,
    "UNICODE": _push, "APPEND": _append, "BUILD": _build, "GLOBAL": _global, "DICT": _dict, "GET": _get,
    "INST": _inst, "LIST": _list, "PUT": _put, "SETITEM": _setitem, "POP_MARK": _pop_mark,
    "BINSTRING": _push_string, "SHORT_BINSTRING": _push_string, "APPENDS": _appends, "OBJ": _obj,
    "SETITEMS": _setitems, "PROTO": _proto, "NEWOBJ": _newobj, "EXT1": _ext, "EXT2": _ext, "EXT4": _ext,
    "LONG1": _push, "LONG4": _push, "BINBYTES": _push, "SHORT_BINBYTES": _push, "BINUNICODE8": _push,
    "BINBYTES8": _push, "EMPTY_SET": _empty_set, "ADDITEMS": _additems, "FROZENSET": _frozenset,
    "NEWOBJ_EX": _newobj_ex, "STACK_GLOBAL": _stack_global, "FRAME": _frame, "BYTEARRAY8": _push,
    "NEXT_BUFFER": _next_buffer, "READONLY_BUFFER": _readonly_buffer,
}  # fmt: skip

_RARE: dict[int, _Handler] = {opcode.code: _HANDLERS[opcode.name] for opcode in OPCODES if opcode.name in _HANDLERS}
