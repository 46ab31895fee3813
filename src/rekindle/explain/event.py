"""What happened, as values: an exception or a line of a log, and what the frames held where it is still alive.

An `Event` is one failure: the type's name, the message, the calls that led to it and the match of the entry that asks
(`facts`). From a log that is all there is. Where the exception was caught alive, `live` describes the frames: which
module of the model ran, with what settings, and the shapes, dtypes and devices of the tensors.

Law: values only. No tensor, module or frame object is kept here, nothing large and nothing secret; the standard
library is enough, so logs are read where torch is not installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

__all__ = ["Event", "Frame", "Live", "LiveFrame", "MappingFact", "ModuleFact", "TensorFact", "event_of"]

_TYPED = re.compile(r"(?P<type>[A-Za-z_][\w.]*)(?:: |:?$|:\n)(?P<message>.*)", re.DOTALL | re.MULTILINE)
_ENDINGS = ("Error", "Exception", "Warning", "Interrupt", "Exit", "Failed", "Unsupported", "Iteration", "Exceeded")


@dataclass(frozen=True, slots=True)
class Frame:
    """One call of a traceback.

    Attributes:
        path: the file as it is printed, or ``Cell In[3]`` of a notebook.
        line: the line number, from 1; 0 where it is unknown.
        function: the function's name, ``<module>`` at the top of a file; may be empty.
        code: the line of source, stripped; may be empty.
        is_users: whether the line belongs to the user: not to a library, not to Python itself.
    """

    path: str
    line: int
    function: str = ""
    code: str = ""
    is_users: bool = True

    def __str__(self) -> str:
        """Return the place as an editor takes it: ``train.py:12``."""
        return f"{self.path}:{self.line}" if self.line else self.path


@dataclass(frozen=True, slots=True)
class TensorFact:
    """A tensor (or array) that was there, described.

    Attributes:
        name: the variable, argument or parameter it was found under.
        shape: sizes.
        dtype: torch's name without ``torch.``: ``float32``, ``int64``.
        device: ``cpu``, ``cuda:0``, ``meta``; ``numpy`` for an array.
        requires_grad: whether gradients are asked for.
        low: smallest value; only of small tensors on the CPU that hold whole numbers or probabilities, else None.
        high: largest value, likewise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    requires_grad: bool = False
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """Return it in one short piece: ``images [16, 3, 32, 32] float32 on cpu``."""
        return f"{self.name} [{', '.join(map(str, self.shape))}] {self.dtype} on {self.device}".strip()


@dataclass(frozen=True, slots=True)
class ModuleFact:
    """A module whose ``forward`` was running.

    Attributes:
        name: qualified name in the outermost model, such as ``layer3.0.conv2``; empty for the outermost itself.
        kind: its class: ``Linear``.
        settings: what its ``repr`` says: ``in_features=400, out_features=120, bias=True``.
        inputs: the tensors among the arguments of ``forward``.
        parameters: its own parameters and buffers, not those of its children.
        is_training: its mode.
        attributes: tensors that it keeps as plain attributes, which `.to(device)` does not move.
    """

    name: str
    kind: str
    settings: str = ""
    inputs: tuple[TensorFact, ...] = ()
    parameters: tuple[TensorFact, ...] = ()
    is_training: bool = True
    attributes: tuple[TensorFact, ...] = ()

    def __str__(self) -> str:
        """Return ``layer3.0.conv2 = Conv2d(...)``, or the class alone for the outermost module."""
        return f"{self.name} = {self.kind}({self.settings})" if self.name else f"{self.kind}({self.settings})"


@dataclass(frozen=True, slots=True)
class MappingFact:
    """A dict that was there, such as a state dict: its keys (at most 5,000) and the shapes of its tensors."""

    name: str
    keys: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """What one frame held.

    Attributes:
        frame: the call.
        tensors: its local tensors and arrays, those of short lists and tuples too (``name[0]``).
        mappings: its local dicts with text keys.
        plain: its numbers, truth values, None and short texts (a path, a mode); nothing with a secret name.
        kinds: the class of every local: ``{"model": "ResNet", "loss": "Tensor"}``.
        file: where its source is read; `frame.path` is shortened for people, and a shortened path is found again only
            from the same folder.
    """

    frame: Frame
    tensors: tuple[TensorFact, ...] = ()
    mappings: tuple[MappingFact, ...] = ()
    plain: Mapping[str, object] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    file: str = ""

    def tensor(self, name: str) -> TensorFact | None:
        """Return the tensor of that name, or None."""
        return next((fact for fact in self.tensors if fact.name == name), None)


@dataclass(frozen=True, slots=True)
class Live:
    """What was alive when the exception was caught.

    Attributes:
        modules: the modules whose ``forward`` ran, outermost first; the last one is where it failed.
        frames: all frames, outermost first, those of libraries too.
        is_grad_enabled: whether gradients were recorded when it was caught, all `with` blocks being left.
    """

    modules: tuple[ModuleFact, ...] = ()
    frames: tuple[LiveFrame, ...] = ()
    is_grad_enabled: bool = True

    @property
    def module(self) -> ModuleFact | None:
        """The innermost module that ran, or None."""
        return self.modules[-1] if self.modules else None

    @property
    def user_frame(self) -> LiveFrame | None:
        """The innermost frame of the user's own code, or None."""
        return next((frame for frame in reversed(self.frames) if frame.frame.is_users), None)

    def find_tensors(self, *names: str) -> Iterator[TensorFact]:
        """Yield local tensors of these names (of any name without one), innermost frame first."""
        for frame in reversed(self.frames):
            yield from (fact for fact in frame.tensors if not names or fact.name in names)

    def find_tensor(self, *names: str) -> TensorFact | None:
        """Return the first of `find_tensors`, or None."""
        return next(self.find_tensors(*names), None)

    def find_mapping(self, *names: str) -> MappingFact | None:
        """Return the innermost local dict of one of these names (of any name without one), or None."""
        for frame in reversed(self.frames):
            for fact in frame.mappings:
                if not names or fact.name in names:
                    return fact
        return None

    def find_plain(self, *names: str, function: str = "") -> object:
        """Return the innermost number, truth value or short text of one of these names, or None.

        Args:
            names: local variables.
            function: look only in frames of a function of that name, such as ``load`` for ``torch.load``.
        """
        for frame in reversed(self.frames):
            if function and frame.frame.function != function:
                continue
            for name in names:
                if name in frame.plain:
                    return frame.plain[name]
        return None


@dataclass(frozen=True, slots=True)
class Event:
    """One failure.

    Attributes:
        raised: the exception's type as it is printed, ``torch.OutOfMemoryError``; empty for a line of a log.
        message: all of the message, without colours.
        frames: the calls that led to it, outermost first.
        facts: what the entry's pattern found; a group that took no part is an empty text.
        live: what the frames held, or None where only text is known.
        rank: the process that said it, where the log tells.
        line: its line in the log, from 1; 0 where there is no log.
        before: up to 2,000 characters of what stands before it in the log: warnings, failed assertions.
        outer: the text of an exception that wraps it or was raised while it was handled; may be empty.
    """

    raised: str
    message: str
    frames: tuple[Frame, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    live: Live | None = None
    rank: int | None = None
    line: int = 0
    before: str = ""
    outer: str = ""

    @property
    def kind(self) -> str:
        """The type without its module: ``OutOfMemoryError``."""
        return self.raised.rpartition(".")[2]

    @property
    def text(self) -> str:
        """What patterns are tried on: ``KeyError: 'epoch'``, type without its module, then the message."""
        return f"{self.kind}: {self.message}" if self.raised and self.message else self.kind or self.message

    @property
    def user_frame(self) -> Frame | None:
        """The innermost call of the user's own code, or None."""
        return next((frame for frame in reversed(self.frames) if frame.is_users), None)

    def with_facts(self, facts: Mapping[str, str]) -> Event:
        """Return it with the match of one entry."""
        return replace(self, facts=facts)


def event_of(text: str) -> Event:
    """Return the event that the last lines of a traceback tell: ``KeyError: 'epoch'``, or a line without a type."""
    text = text.strip("\n")
    found = _TYPED.match(text)
    if found and is_exception_name(found["type"]):
        return Event(found["type"], found["message"].strip())
    return Event("", text.strip())


def is_exception_name(name: str) -> bool:
    """Whether a word reads as the name of an exception type."""
    last = name.rpartition(".")[2]
    return last.endswith(_ENDINGS) and last.lstrip("_")[:1].isupper()
