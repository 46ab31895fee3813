"""A log, or any pasted text, as the failures it tells: who failed, where, in which order, for which reason.

Three steps. (1) Lines: colours go, what a progress bar overwrote becomes lines, and the prefix that names a process
(``[rank3]:``, srun's ``3: ``, Ray's ``(Worker pid=7)``) sends each line to a stream of its own, so that ranks that
wrote at the same time come apart again. (2) Tracebacks: from each ``Traceback (most recent call last)`` on, whatever
stands in front of every line (time stamps, the tree of an exception group), in Python's form or IPython's; chains
(``direct cause``, ``during handling``), the original traceback inside a DataLoader worker's, spawn's and
torch.compile's are kept together, root first. (3) Lines outside of tracebacks that read as an error or a warning.

Law: linear in the length of the text, never an exception for what stands in it, standard library only. Most of a log
is never looked at: the words that matter are found with `str.find`, which is why this takes milliseconds a megabyte.

Sources of the forms: `traceback.py` of CPython 3.11 to 3.14, IPython's `ultratb.py` 5 to 9, torch's
`multiprocessing/spawn.py`, `_utils.py` (`ExceptionWrapper`), `_dynamo/exc.py`, `elastic/multiprocessing/errors`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rekindle.explain.event import Event, Frame, event_of, is_exception_name

__all__ = ["Chain", "chains_of", "inside", "is_users_path", "loose_events", "plain_lines", "plain_text", "read"]

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_MARK = "Traceback (most recent call last)"
_MAX_BLOCKS = 2_000
_MAX_MESSAGE_LINES = 400
_MAX_LOOSE = 1_000
_MAX_LINE = 20_000

_RANK = re.compile(
    r"\[rank(?P<rank>\d+)\]: ?"
    r"|\[(?:default|trainer|worker)(?P<local>\d+)\]:"
    r"|\[\d+,(?P<mpi>\d+)\]<std(?:err|out)>:"
    r"|(?P<ray>\([\w.() -]{1,60}pid=\d+[^)\n]{0,60}\)) ?"
)
_SRUN = re.compile(r" {0,5}(?P<rank>\d{1,5}): ")
_FRAME = re.compile(r'[\s>]*File "(?P<path>[^"\n]+)", line (?P<line>\d+)(?:, in (?P<function>.*))?')
_LIBRARY = re.compile(
    r"(?:^|[/\\])(?:site|dist)-packages[/\\]|^<frozen |^<__array|^<eval_with_key>|[/\\]lib[/\\]python\d[\d.]*[/\\]"
    r"|[/\\]Python\d+[/\\][Ll]ib[/\\]|[/\\](?:ana|mini)conda\d?[/\\].{0,80}[/\\][Ll]ib[/\\]"
    r"|[/\\]bin[/\\](?:torchrun|accelerate|deepspeed)$"
    r"|(?:^|[/\\])torch[/\\](?:nn|utils|distributed|_dynamo|_inductor|_functorch|autograd|optim|multiprocessing)[/\\]"
    r"|[/\\]src[/\\]rekindle[/\\]"
    r"|(?:^|[/\\])torch[/\\](?:serialization|_tensor|functional|_ops)\.py"
)
_IPYTHON_HEAD = re.compile(r"(?P<type>[A-Za-z_][\w.]*) {2,}Traceback \(most recent call last\)")
_IPYTHON_FRAME = re.compile(
    r"(?:Cell |Input )In ?\[(?P<cell>\d+)\](?:, line (?P<cell_line>\d+))?(?:, in (?P<cell_function>.*))?"
    r"|File (?P<path>[^\n\"]+?):(?P<line>\d+)(?:, in (?P<function>[^\n(]*).*)?$"
    r"|(?P<old_path><ipython-input-[^>]+>|(?:[A-Za-z]:|~|/)\S+\.py) in (?P<old_function>[^\n(]+)\(?.*$"
)
_IPYTHON_ARROW = re.compile(r"-+> ?(?P<line>\d+) ?(?P<code>.*)")
_BOX = "\u2500 Traceback (most recent call last)"
_BOXED_PLACE = re.compile(r"(?P<path>\S.*?):(?P<line>\d+) in (?P<function>\S+)")
_BOXED_CODE = re.compile("[\u2771>] *\\d+ (?P<code>.*)")
_EXCEPTION_LINE = re.compile(r"(?P<type>[A-Za-z_][\w.<>]*)(?:: ?(?P<message>.*)|)$")
_WORDS_THAT_MATTER = (
    "Error", "Exception", "Warning", "ERROR", "error:", "Assertion", "what():", "Killed", "failed", "Unsupported",
    "terminated", "signal", "Interrupt",
)  # fmt: skip
_LOOSE_TYPED = re.compile(
    r"(?:^|[\s:\]])(?P<type>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Warning|Unsupported|Failed)"
    r"|(?:[A-Za-z_]\w*\.)+Unsupported): "
    r"(?P<message>\S.*)"
)
_WARNED_AT = re.compile(r"(?P<path>\S[^\n:]*\.py|<stdin>):(?P<line>\d+): ")
_PYTEST = re.compile(r"E {3,7}(?P<text>\S.*)")
_PYTEST_PLACE = re.compile(r"(?P<path>\S+\.py):(?P<line>\d+): ?(?:in (?P<function>\S+)|\w*)$")
_BECAUSE = "The above exception was the direct cause of the following exception"
_DURING = "During handling of the above exception, another exception occurred"
_GOES_ON = ("-- Process ", "Check the documentation of torch.load", "from user code", "Set TORCHDYNAMO", "\t", " ")
_RECORD = re.compile(
    r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\[\w*\d*\]:|[IWEF]\d{4} |\[[IWEF]\d{3,4} "
    r"|(?:INFO|DEBUG|WARNING|ERROR|CRITICAL)[: \]]|=====|srun: |slurmstepd: "
)
_DYNAMO_GOT = re.compile(r"got (?P<type>[A-Z]\w*)\((?P<text>['\"].*)", re.DOTALL)
_BACKEND_RAISED = re.compile(r"backend='[^']*' raised:\n(?P<text>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Chain:
    """One failure: its events, in the order in which they are asked for a cause.

    What was raised first, or inside a worker, comes before what wraps it (``raise ... from``). An exception raised
    while another one was handled comes before that one, which the program may have expected.

    Attributes:
        events: at least one.
        line: where it begins in the text, from 1.
        rank: the process that said it, or None.
    """

    events: tuple[Event, ...]
    line: int
    rank: int | None


@dataclass(slots=True)
class _Stream:
    rank: int | None
    lines: list[str]
    numbers: list[int]
    used: set[int]  # positions of lines that belong to a traceback


def plain_lines(text: str) -> list[str]:
    """Return the lines of a text without colours; what a carriage return overwrote is a line of its own."""
    text = plain_text(text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    if _MARK + ":\\n" in text:  # a log of JSON lines: a whole traceback in one text
        lines = [part for line in lines for part in _unescaped(line)]
    return lines


def _unescaped(line: str) -> list[str]:
    if _MARK + ":\\n" not in line:
        return [line]
    return line.replace("\\n", "\n").replace('\\"', '"').replace("\\t", "\t").split("\n")


def plain_text(text: str) -> str:
    """Return a text without colours."""
    return _ANSI.sub("", text) if "\x1b" in text else text


def chains_of(text: str) -> list[Chain]:
    """Return the tracebacks of a text as chains, in the order in which they begin."""
    found = [chain for stream in _streams(plain_lines(text)) for chain in _chains(stream)]
    return sorted(found, key=lambda chain: chain.line)


def read(text: str) -> tuple[list[Chain], list[Event]]:
    """Return `chains_of` and `loose_events` of a text, read once."""
    streams = _streams(plain_lines(text))
    chains = [chain for stream in streams for chain in _chains(stream)]
    loose = [event for stream in streams for event in _loose(stream)]
    return sorted(chains, key=lambda chain: chain.line), sorted(loose, key=lambda event: event.line)


def loose_events(text: str) -> list[Event]:
    """Return the lines outside of tracebacks that read as an error or a warning, each different text once."""
    return read(text)[1]


# ---- lines and streams


def _streams(lines: list[str]) -> list[_Stream]:
    text = "\n".join(lines)
    has_ranks = any(mark in text for mark in ("[rank", "[default", "[trainer", "[worker", "]<std", "pid="))
    has_srun = ": Traceback (most" in text or (
        re.search(r"^ {0,5}\d{1,5}: \w+Error: ", text, re.MULTILINE) is not None if "Error: " in text else False
    )
    streams: dict[int | str | None, _Stream] = {None: _Stream(None, [], [], set())}
    known: dict[str, _Stream] = {}  # labels seen before: most lines need no expression
    for number, whole in enumerate(lines, 1):
        line = whole
        stream = streams[None]
        if has_ranks and line[:1] in "[(":
            cut = line.find(":" if line[:1] == "[" else ") ") + 2
            seen = known.get(line[:cut])
            if seen is not None and line[cut : cut + 1] != "[":
                seen.lines.append(line[cut:])
                seen.numbers.append(number)
                continue
            line, stream = _labelled(line, streams)
            if stream.rank is not None or line is not whole:
                label = whole[: len(whole) - len(line)]
                if label == whole[:cut]:
                    known[label] = stream
        elif has_srun and (found := _SRUN.match(line)):
            rank = int(found["rank"])
            line = line[found.end() :]
            stream = streams.setdefault(rank, _Stream(rank, [], [], set()))
        stream.lines.append(line)
        stream.numbers.append(number)
    return list(streams.values())


def _labelled(line: str, streams: dict[int | str | None, _Stream]) -> tuple[str, _Stream]:
    """Return a line without its labels, and the stream that they name."""
    key: int | str | None = None
    rank: int | None = None
    found = _RANK.match(line)
    while found:  # torchrun's label may stand before torch's own
        worker = found["rank"] or found["mpi"] or found["local"]
        rank = int(worker) if worker else rank
        key = rank if worker else found["ray"]
        line = line[found.end() :]
        found = _RANK.match(line)
    return line, streams.setdefault(key, _Stream(rank, [], [], set()))


def _positions(stream: _Stream, words: Sequence[str]) -> list[int]:
    """Return the positions of the lines that hold one of the words, without looking at the others one by one."""
    text = "\n".join(stream.lines)
    starts: list[int] = []
    for word in words:
        at = text.find(word)
        while at >= 0:
            starts.append(at)
            end = text.find("\n", at)  # once a line is enough
            if end < 0:
                break
            at = text.find(word, end)
    starts.sort()
    found: list[int] = []
    offset = position = 0
    pending = iter(starts)
    wanted = next(pending, None)
    while wanted is not None:
        end = offset + len(stream.lines[position]) + 1
        if wanted < end:
            if not found or found[-1] != position:
                found.append(position)
            wanted = next(pending, None)
        else:
            offset, position = end, position + 1
    return found


# ---- tracebacks


@dataclass(slots=True)
class _Block:
    events: list[Event]  # root first: more than one where the message itself holds another failure
    first: int
    last: int
    is_inner: bool


def _chains(stream: _Stream) -> Iterator[Chain]:
    chain: list[Event] = []
    first = last = -1
    blocks = 0
    for position in _positions(stream, (_MARK,)):
        if position <= last and last >= 0 and position in stream.used:
            continue
        blocks += 1
        if blocks > _MAX_BLOCKS:
            break
        block = _block(stream, position)
        link = _link(stream, last, position) if chain else ""
        stream.used.update(range(block.first, block.last + 1))
        if link == "cause":
            chain += block.events
        elif link == "during" or (chain and (link == "inner" or block.is_inner)):
            if chain[0].message.startswith("Caught ") or "terminated with the following error" in chain[0].message:
                chain[0] = _wrapping(chain[0], block.events[-1])
            chain = [*block.events, *chain]
        else:
            if chain:
                yield Chain(tuple(chain), stream.numbers[first], stream.rank)
            chain, first = list(block.events), block.first
        last = block.last
    if chain:
        yield Chain(tuple(chain), stream.numbers[first], stream.rank)


def _wrapping(outer: Event, inner: Event) -> Event:
    """Return what a worker's failure is wrapped in with the failure itself, as the live message has it."""
    return replace(outer, message=f"{outer.message}\n{inner.text}", frames=(*outer.frames, *inner.frames))


def _link(stream: _Stream, last: int, position: int) -> str:
    """How a traceback hangs on the one before: that one is its ``cause``, ``during``, ``inner`` (inside it), or not."""
    between = [line.strip(" |+-") for line in stream.lines[last + 1 : position]][-12:]
    said = [line for line in between if line]
    if any(_BECAUSE in line for line in said):
        return "cause"
    if any(_DURING in line for line in said):
        return "during"
    before = stream.lines[last]
    head = stream.lines[position].partition(_MARK)[0]
    if head.rstrip().endswith("Original") or "terminated with the following error" in " ".join([before, *said]):
        return "inner"
    if "(RANK " in stream.lines[position] and not said:  # inside the message of a CheckpointException
        return "inner"
    if head.strip() == "|" and not said:  # a member of an exception group
        return "inner"
    return ""


def _block(stream: _Stream, position: int) -> _Block:
    lines = stream.lines
    header = lines[position]
    notebook = _IPYTHON_HEAD.search(header)
    if notebook:
        frames, at = _notebook_frames(lines, position + 1, notebook["type"])
        prefix = ""
    elif _BOX in header:
        frames, at = _boxed_frames(lines, position + 1)
        prefix = ""
    else:
        prefix = _prefix(lines, position)
        frames, at = _plain_frames(lines, position + 1, prefix)
    kind, message, end = _exception(lines, at, prefix)
    if _BOX in header:
        message = _unwrapped(message, len(header.strip()) - len(kind) - 2, len(header.strip()))
    event = Event(
        kind,
        message,
        frames=tuple(frames),
        rank=stream.rank,
        line=stream.numbers[min(at, len(lines) - 1)],
        before="\n".join(line[:500] for line in lines[max(0, position - 40) : position])[-2000:],
    )
    inner = "Original" in header[: header.find(_MARK)]
    return _Block([*inside(event), event], position, max(end - 1, position), inner)


def _prefix(lines: list[str], position: int) -> str:
    """Return what stands in front of each line of a traceback: a time stamp, the tree of a group; mostly nothing."""
    for line in lines[position + 1 : position + 4]:
        at = line[:300].find('  File "')
        if at >= 0:
            return line[:at]
    return ""


_DIGITS = str.maketrans("123456789", "000000000")


def _stripped(line: str, prefix: str) -> str | None:
    """Return a line without the prefix; None where it has another one."""
    if not prefix:
        return line
    front = line[: len(prefix)]
    if front == prefix or front.translate(_DIGITS) == prefix.translate(_DIGITS):
        return line[len(prefix) :]
    if line.rstrip() == prefix.rstrip():
        return ""
    return None


def _plain_frames(lines: list[str], at: int, prefix: str) -> tuple[list[Frame], int]:
    """Return the frames that begin at a position, and the position of the line that names the exception."""
    frames: list[Frame] = []
    noise = 0
    end = min(len(lines), at + 20_000)
    while at < end:
        line = _stripped(lines[at], prefix)
        if line is None:
            noise += 1
        elif found := _FRAME.match(line):
            code = ""
            follow = _stripped(lines[at + 1], prefix) if at + 1 < end else None
            if follow and _indent(follow) > _indent(line) and not _FRAME.match(follow) and follow.strip(" ^~"):
                code = follow.strip()[:500]
                at += 1
            frames.append(_frame(found["path"], int(found["line"]), found["function"] or "", code))
            noise = 0
        elif line[:1] in (" ", "\t"):
            pass  # more of the source line, its carets, a note about repeated lines
        elif _names_an_exception(line):
            break
        else:
            noise += 1  # another process or a progress bar wrote in between
        if noise > 20 or (line is not None and _MARK in line):
            break
        at += 1
    return frames, at


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _names_an_exception(line: str) -> bool:
    found = _EXCEPTION_LINE.match(line)
    if not found:
        return False
    name = found["type"]
    return is_exception_name(name) or "." in name.strip(".") or (name[:1].isupper() and found["message"] is not None)


def _notebook_frames(lines: list[str], at: int, kind: str) -> tuple[list[Frame], int]:
    frames: list[Frame] = []
    end = min(len(lines), at + 5_000)
    place: tuple[str, int, str] | None = None
    code = ""
    last = kind.rpartition(".")[2]
    while at < end:
        line = lines[at]
        found = _IPYTHON_FRAME.match(line) if line[:1] not in " -" else None
        if found:
            if place:
                frames.append(_frame(*place, code))
            place, code = _notebook_place(found), ""
        elif arrow := _IPYTHON_ARROW.match(line.lstrip()) if "-> " in line[:12] else None:
            code = arrow["code"].strip()[:500]
            if place and not place[1]:
                place = (place[0], int(arrow["line"]), place[2])
        elif line.startswith((kind, last)) and _EXCEPTION_LINE.match(line.split("\n")[0]):
            break
        at += 1
    if place:
        frames.append(_frame(*place, code))
    return frames, at


def _boxed_frames(lines: list[str], at: int) -> tuple[list[Frame], int]:
    """The frames of a traceback that rich drew: a box of paths and of source lines."""
    frames: list[Frame] = []
    end = min(len(lines), at + 5_000)
    while at < end and "\u2570" not in lines[at]:  # its lower left corner
        inside = lines[at].strip().strip("\u2502").strip()
        if place := _BOXED_PLACE.match(inside[:1_000]):
            frames.append(_frame(place["path"], int(place["line"]), place["function"], ""))
        elif frames and (code := _BOXED_CODE.match(inside[:1_000])) and not frames[-1].code:
            frames[-1] = replace(frames[-1], code=code["code"].strip("\u2502 "))
        at += 1
    at += 1
    while at < end and not _names_an_exception(lines[at]) and _MARK not in lines[at] and not lines[at].strip():
        at += 1
    return frames, at


def _unwrapped(message: str, first_width: int, width: int) -> str:
    """Return a message without the line ends that were put in because its first word had no room left."""
    first, *rest = message.split("\n")
    joined = first
    last, room = first, first_width
    for line in rest:
        joined += (" " if len(last) + 1 + len(line.split(" ", 1)[0]) > room else "\n") + line
        last, room = line, width
    return joined


def _notebook_place(found: re.Match[str]) -> tuple[str, int, str]:
    if found["cell"]:
        return f"Cell In[{found['cell']}]", int(found["cell_line"] or 0), (found["cell_function"] or "").strip()
    if found["path"]:
        return found["path"], int(found["line"]), (found["function"] or "").strip()
    return found["old_path"], 0, found["old_function"].strip()


def _frame(path: str, line: int, function: str, code: str) -> Frame:
    return Frame(path[:500], line, function.strip()[:200], code, is_users_path(path))


def is_users_path(path: str) -> bool:
    """Whether a path of a traceback reads as the user's own file: no installed package, not Python itself."""
    if path.startswith("<") and not path.startswith(("<stdin>", "<ipython-input", "<string>")):
        return False
    return _LIBRARY.search(path) is None


def _exception(lines: list[str], at: int, prefix: str) -> tuple[str, str, int]:
    """Return type, message and the position after the message; empty texts where the log ends too early."""
    if at >= len(lines):
        return "", "", at
    first = _stripped(lines[at], prefix)
    if first is None or _MARK in first or not _names_an_exception(first):
        return "", "", at
    found = _EXCEPTION_LINE.match(first)
    if not found:
        return "", "", at
    said = [(found["message"] or "")[:_MAX_LINE]]
    at += 1
    is_box = found["type"].endswith("ChildFailedError")  # torchrun's table of ranks, between two lines of ====
    while at < len(lines) and len(said) < _MAX_MESSAGE_LINES:
        line = _stripped(lines[at], prefix)
        if line is None or not (is_box or _belongs(line, lines, at, prefix)):
            break
        is_box = is_box and not (len(said) > 1 and line.startswith("====="))
        said.append(line[:_MAX_LINE])
        at += 1
    return found["type"], "\n".join(said).strip(), at


def _belongs(line: str, lines: list[str], at: int, prefix: str) -> bool:
    """Whether a line goes on with the message above it."""
    if _MARK in line or _BECAUSE in line or _DURING in line or _RECORD.match(line):
        return False
    if line.startswith(("Exception raised from ", "frame #", "  +-", "-----")):
        return False
    if line.strip():
        return True
    following = next(
        (rest for line in lines[at + 1 : at + 4] if (rest := _stripped(line, prefix)) and rest.strip()), ""
    )
    return following.startswith(_GOES_ON)


def inside(event: Event) -> Iterator[Event]:
    """Yield the failure that a message reports: of torch.compile in the user's code, of torchrun in the first rank."""
    if event.raised.endswith("ChildFailedError") and _MARK in event.message:
        recorded = event.message.partition("Root Cause")[2]
        for chain in chains_of(recorded)[:1] if "ChildFailedError" not in recorded else ():  # never into itself
            yield from (replace(one, line=event.line) for one in chain.events)
        return
    got = _DYNAMO_GOT.search(event.message) if "got " in event.message[:5_000] else None
    if got:
        text = _literal(got["text"])
        if text:
            frames = _user_code(event.message) or event.frames
            yield replace(event, raised=got["type"], message=text, frames=frames, outer=event.text[:2000])
        return
    raised = _BACKEND_RAISED.search(event.message) if "raised:" in event.message[:1_000] else None
    if raised:
        inner = event_of(raised["text"])
        if inner.raised:
            yield replace(event, raised=inner.raised, message=inner.message, outer=event.text[:2000])


def _literal(text: str) -> str:
    """Return the text literal that a text begins with, without its quotes; empty where it does not end."""
    quote = text[0]
    at = 1
    while at < min(len(text), _MAX_LINE):
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == quote:
            try:
                return str(ast.literal_eval(text[: at + 1]))
            except (ValueError, SyntaxError):
                return text[1:at]
        at += 1
    return ""


def _user_code(message: str) -> tuple[Frame, ...]:
    tail = message.partition("from user code")[2]
    if not tail:
        return ()
    lines = tail.split("\n")[1:]
    start = next((number for number, line in enumerate(lines) if _FRAME.match(line)), None)
    return tuple(_plain_frames(lines, start, "")[0]) if start is not None else ()


# ---- lines outside of tracebacks


def _loose(stream: _Stream) -> Iterator[Event]:
    seen: set[str] = set()
    small = len(stream.lines) <= 200
    positions: Sequence[int] = range(len(stream.lines)) if small else _positions(stream, _WORDS_THAT_MATTER)
    if len(positions) > 2 * _MAX_LOOSE:  # what began it and what ended it
        positions = [*positions[:_MAX_LOOSE], *positions[-_MAX_LOOSE:]]
    until = -1
    for position in positions:
        if position in stream.used or position <= until:
            continue
        line = stream.lines[position]
        if not line.strip():
            continue
        event, until = _loose_event(stream, position)
        if event.text in seen:
            continue
        seen.add(event.text)
        yield event


def _loose_event(stream: _Stream, position: int) -> tuple[Event, int]:
    line = stream.lines[position][:_MAX_LINE]
    number, rank = stream.numbers[position], stream.rank
    tested = _PYTEST.match(line)
    if tested:
        return _pytest_event(stream, position)
    typed = _LOOSE_TYPED.search(line)
    if not typed:
        return Event("", line.strip(), line=number, rank=rank), position
    end = position + 1
    said = [typed["message"]]
    while end < len(stream.lines) and len(said) < 60 and end not in stream.used:
        more = stream.lines[end]
        if not more.startswith(("\t", "  ")) and not (
            more.strip() and len(said) < 6 and _belongs(more, stream.lines, end, "")
        ):
            break
        if not _belongs(more, stream.lines, end, "") or _LOOSE_TYPED.search(more[:_MAX_LINE]):
            break
        said.append(more[:_MAX_LINE])
        end += 1
    place = _WARNED_AT.search(line[max(0, typed.start("type") - 400) : typed.start("type")])
    frames = (_frame(place["path"], int(place["line"]), "", ""),) if place else ()
    event = Event(typed["type"], "\n".join(said).strip(), frames=frames, line=number, rank=rank)
    return event, position if typed["type"].endswith("Warning") else end - 1


def _pytest_event(stream: _Stream, position: int) -> tuple[Event, int]:
    """The lines that pytest marks with E, and the place that it names below them."""
    end = position
    said: list[str] = []
    while end < len(stream.lines) and (found := _PYTEST.match(stream.lines[end][:_MAX_LINE])) and len(said) < 200:
        said.append(found["text"])
        end += 1
    event = event_of("\n".join(said))
    begin = next(
        (at for at in range(position, max(-1, position - 400), -1) if stream.lines[at].startswith("____")),
        max(0, position - 400),
    )
    frames = []
    code = ""
    for at in range(begin, min(end + 6, len(stream.lines))):
        line = stream.lines[at][:500]
        place = _PYTEST_PLACE.match(line)
        if place:
            below = stream.lines[at + 1].strip()[:500] if place["function"] and at + 1 < len(stream.lines) else code
            frames.append(_frame(place["path"], int(place["line"]), place["function"] or "", below))
        elif line.startswith("> "):
            code = line[1:].strip()
        if at >= end and place:
            break
    return replace(event, frames=tuple(frames), line=stream.numbers[position], rank=stream.rank), end - 1
