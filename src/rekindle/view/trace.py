"""Trace: what each line of a function did to its tensors, as a decorator.

Python calls a *tracer* before each line of a frame (`sys.settrace`). When the next line begins, or the function ends,
the local names are compared with what they were; a row is written for each tensor that is new or changed. A change in
place is seen by the tensor's version counter. Tensors are held by weak references only; Python itself keeps what a
tracer has looked at until the next line, so a tensor may live a line longer than it would have.

Laws: results are the same bits with and without; no generator is drawn from; the tracer that was there before (a
debugger's, coverage's) gets its events during the call, and is in place again after it; switched off, the very same
function is returned.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import os
import sys
import sysconfig
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, ParamSpec, TypeVar, overload

import torch

from rekindle.errors import ConfigError

__all__ = ["TraceRow", "trace"]

P = ParamSpec("P")
R = TypeVar("R")

_MAX_PARTS = 8  # of a list or dict that are looked at
_MAX_DEPTH = 2
_LIBRARIES = tuple(
    {os.path.dirname(os.path.dirname(torch.__file__)), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}
)


@dataclass(frozen=True, slots=True)
class TraceRow:
    """A tensor after a line that made or changed it.

    Attributes:
        function: its qualified name.
        line: number in the file; 0 for what the function returns.
        source: the line, stripped.
        name: the local name, such as ``x`` or ``batch['image']``; ``return`` for what is returned.
        dtype: torch's name for it.
        shape: its sizes.
        device: where it lies.
        low, high: least and greatest finite value; None where there is none, or where values cannot be looked at.
        nans: number of NaN elements.
        infs: number of infinite elements.
    """

    function: str
    line: int
    source: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    device: str
    low: float | None
    high: float | None
    nans: int
    infs: int

    def __str__(self) -> str:
        """Return one line of the trace."""
        span = ""
        if self.low is not None and self.high is not None:
            span = _number(self.low) if self.low == self.high else f"{_number(self.low)} … {_number(self.high)}"
        bad = [f"{count:,} {word}" for count, word in ((self.nans, "NaN"), (self.infs, "inf")) if count]
        cells = (f"{self.name:<12}", f"{self.dtype:<8}", f"{list(self.shape)!s:<18}", f"{self.device:<5}", span, *bad)
        return "  ".join(cell for cell in cells if cell).rstrip()


@overload
def trace(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def trace(
    function: None = None,
    /,
    *,
    enabled: bool = True,
    calls: int | None = None,
    nested: bool = False,
    into: list[TraceRow] | Callable[[TraceRow], object] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def trace(
    function: Any = None,
    /,
    *,
    enabled: bool = True,
    calls: int | None = None,
    nested: bool = False,
    into: list[TraceRow] | Callable[[TraceRow], object] | None = None,
) -> Any:
    """Show, line by line, the name, dtype, shape, device and range of each tensor that a function makes or changes.

    A decorator, with or without arguments, for functions and methods (`forward`). Looking at ranges waits for a GPU
    after each line; it is for finding mistakes, not for training runs. Under `torch.compile` nothing is traced.

    Args:
        function: what is decorated.
        enabled: when False, the function is returned as it is and costs nothing.
        calls: trace only the first so many calls; all by default.
        nested: also trace functions of yours that it calls; those of torch and of installed libraries never.
        into: a list to which rows are added, or a function called with each, in place of lines on stderr.

    Raises:
        TypeError: it is no function, or one that yields or awaits: those are left and entered again.
        ConfigError: `calls` is negative.

    Example:
        class Net(nn.Module):
            @rk.trace(calls=1)
            def forward(self, x): ...
    """
    if calls is not None and calls < 0:
        raise ConfigError(f"trace: calls={calls} is negative", do="give how many calls to trace, such as calls=1")
    if function is None:
        return functools.partial(_decorated, enabled=enabled, calls=calls, nested=nested, into=into)
    return _decorated(function, enabled=enabled, calls=calls, nested=nested, into=into)


def _decorated(
    function: Any,
    *,
    enabled: bool,
    calls: int | None,
    nested: bool,
    into: list[TraceRow] | Callable[[TraceRow], object] | None,
) -> Any:
    if isinstance(function, (staticmethod, classmethod)):
        raise TypeError(f"rk.trace goes below @{type(function).__name__}, next to the function itself")
    plain = inspect.unwrap(function) if callable(function) else function
    if not inspect.isfunction(plain):
        kind = function.__name__ if inspect.isclass(function) else type(function).__name__
        raise TypeError(f"rk.trace decorates a function, such as the `forward` of a module, not {kind}")
    if inspect.isgeneratorfunction(plain) or inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
        raise TypeError(f"rk.trace cannot follow {plain.__qualname__}: it yields or awaits, and is left on the way")
    if not enabled:
        return function
    left = [calls]

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        if left[0] == 0 or torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if left[0] is not None:
            left[0] -= 1
        write = _Writer() if into is None else into.append if isinstance(into, list) else into
        return _Tracer(plain.__code__, write, nested=nested).run(function, args, kwargs)

    return traced


class _Writer:
    """Rows as lines on stderr: the line of code once, and below it what it did."""

    def __init__(self) -> None:
        self.last: tuple[str, int] | None = None
        self.function = ""

    def __call__(self, row: TraceRow) -> None:
        lines = []
        if row.function != self.function:
            self.function = row.function
            lines.append(row.function)
        if (row.function, row.line) != self.last:
            self.last = (row.function, row.line)
            lines.append(f"{row.line or '':>6}  {row.source}" if row.line else "        returns")
        lines.append(f"          {row}")
        print("\n".join(lines), file=sys.stderr)  # noqa: T201 - this is what it is for


@dataclass(slots=True)
class _Frame:
    """A frame being traced: what its names held when the line that is running began."""

    line: int
    names: dict[str, tuple[Any, ...]]
    before: Any = None  # the local tracer of whoever traced before us


class _Tracer:
    """One traced call."""

    def __init__(self, code: CodeType, write: Callable[[TraceRow], object], *, nested: bool) -> None:
        self.code = code
        self.write = write
        self.nested = nested
        self.frames: dict[FrameType, _Frame] = {}
        self.found = False
        self.outer: Any = None

    def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before = sys.gettrace()
        # A call inside a traced call is traced by its own tracer; theirs must not see it twice.
        self.outer = before
        while isinstance(getattr(self.outer, "__self__", None), _Tracer):
            self.outer = self.outer.__self__.outer
        mine = self.on_call
        sys.settrace(mine)
        try:
            return function(*args, **kwargs)
        finally:
            if sys.gettrace() == mine:  # a debugger that was started inside stays
                sys.settrace(before)
            self.frames.clear()

    def on_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Decide about a frame that begins; the earlier tracer is asked as well."""
        before = None
        if self.outer is not None:
            before = self.outer(frame, event, arg)
            sys.settrace(self.on_call)  # coverage's tracer puts itself in place when it is called
        wanted = frame.f_code is self.code and not self.found
        self.found = self.found or wanted
        if not wanted and not (self.nested and self.found and _is_of_the_user(frame.f_code)):
            return before
        state = _Frame(frame.f_lineno, {}, before)
        self.frames[frame] = state
        self.compare(frame, state, "arguments")
        return self.on_line

    def on_line(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Compare after each line and at the end."""
        state = self.frames.get(frame)
        if state is None:
            return None
        if state.before is not None:
            state.before = state.before(frame, event, arg)
        if event in {"line", "return"}:
            self.compare(frame, state)
            state.line = frame.f_lineno
        if event == "return":
            if arg is not None:
                self.say(frame, 0, {"return": arg}, {}, "return")
            del self.frames[frame]
        return self.on_line

    def compare(self, frame: FrameType, state: _Frame, source: str | None = None) -> None:
        if source is None:
            source = linecache.getline(frame.f_code.co_filename, state.line).strip()
        state.names = self.say(frame, state.line, frame.f_locals, state.names, source)

    def say(
        self,
        frame: FrameType,
        line: int,
        values: Mapping[str, Any],
        before: Mapping[str, tuple[Any, ...]],
        source: str,
    ) -> dict[str, tuple[Any, ...]]:
        now = {}
        for name, tensor in _tensors(values):
            mark = (weakref.ref(tensor), _version(tensor), tensor.dtype, tensor.shape, tensor.device)
            now[name] = mark
            old = before.get(name)
            if old is None or old[0]() is not tensor or old[1:] != mark[1:]:
                self.write(_row(frame.f_code.co_qualname, line, source, name, tensor))
        return now


def _is_of_the_user(code: CodeType) -> bool:
    file = code.co_filename
    return not file.startswith((*_LIBRARIES, "<")) and file != __file__


def _tensors(
    values: Mapping[Any, Any], prefix: str | None = None, depth: int = 0
) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in list(values.items())[: None if prefix is None else _MAX_PARTS]:
        name = str(key) if prefix is None else f"{prefix}[{key!r}]"
        if isinstance(value, torch.Tensor):
            yield name, value
        elif depth < _MAX_DEPTH and type(value) in {list, tuple}:
            yield from _tensors(dict(enumerate(value[:_MAX_PARTS])), name, depth + 1)
        elif depth < _MAX_DEPTH and isinstance(value, dict):
            yield from _tensors(value, name, depth + 1)


def _version(tensor: torch.Tensor) -> int:
    try:
        return tensor._version  # noqa: SLF001 - what autograd itself notices changes in place by
    except RuntimeError:  # a tensor of inference mode has none
        return -1


def _row(function: str, line: int, source: str, name: str, tensor: torch.Tensor) -> TraceRow:
    low, high, nans, infs = _values(tensor)
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TraceRow(function, line, source, name, dtype, tuple(tensor.shape), str(tensor.device), low, high, nans, infs)


def _values(tensor: torch.Tensor) -> tuple[float | None, float | None, int, int]:
    """Return the least and greatest finite value, and how many are NaN and infinite; of complex ones the magnitude."""
    nothing = (None, None, 0, 0)
    if tensor.device.type == "meta" or not tensor.numel():
        return nothing
    try:
        with torch.no_grad(), torch.autocast(tensor.device.type, enabled=False):
            flat = tensor.detach()
            flat = flat.coalesce().values() if flat.layout == torch.sparse_coo else flat
            flat = flat.abs() if flat.is_complex() else flat
            if not flat.dtype.is_floating_point:
                flat = flat.to(torch.uint8) if flat.dtype == torch.bool else flat
                return float(flat.min()), float(flat.max()), 0, 0
            flat = flat.float() if flat.dtype.itemsize < 4 else flat
            nans, infs = int(flat.isnan().sum()), int(flat.isinf().sum())
            if nans or infs:
                flat = flat[flat.isfinite()]
            if not flat.numel():
                return None, None, nans, infs
            return float(flat.min()), float(flat.max()), nans, infs
    except Exception:  # noqa: BLE001 - a tensor of vmap, a fake one, a layout without minimum: the row says the rest
        return nothing


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e6 else f"{value:.4g}"
