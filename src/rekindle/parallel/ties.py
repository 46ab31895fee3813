"""Ties between the ranks: small words beside the collectives, and the news that one of them is gone.

Every rank keeps one connection to rank 0, served by a thread. Nothing is sent while a run just trains: no collective,
no message, no look at a device is added to a step. Over the ties go

  gathers     one plain value of each rank, which all of them get: metrics, barriers, what rank 0 decided
  agreements  "leave after step N": the step is the same on every rank, although each learns of it at another moment
  losses      a connection that ends without a farewell: that process is gone, and the others are told at once
  standings   asked for only when a collective took too long: after which step each rank is, and where in its script,
              so that the one for which the others waited can be named

How ranks agree without meeting. Somebody asks; rank 0 passes the question on; the thread of every rank answers with the
number of updates done there, p, and from that moment on forbids the loop to pass the boundary of p + 1 before the
answer is in. Rank 0 takes N = max(p) + 1. No loop can be beyond its own p + 1 <= N, and none waits for another loop,
only for threads, so all of them reach N and stop there. The loop itself compares two numbers per boundary.

Law: a signal handler only puts a word into a queue; only the thread writes to a connection; what comes over one is
plain JSON from a process that knew the token, never code.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import re
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import util
from typing import Any

from rekindle.errors import RunError
from rekindle.parallel import notes
from rekindle.parallel.ranks import Ranks, name_ranks
from rekindle.parallel.standing import where_main_thread_is

__all__ = ["Decision", "Ties", "tie"]

_GRACE_S = 5.0
_LONG_WAIT_S = 30.0
_END_S = 30.0
_TICK_S = 1.0
# What torch says on a rank whose partner is gone: a consequence, to be told only if no cause is found.
_CONSEQUENCES = ("closed by peer", "reset by peer", "Broken pipe", "is gone", "NCCL")
_NOT_COME = "the other ranks did not come within"
# What gloo, NCCL (torch 2.13) and we say on a rank that waited for another one in vain.
_WAITED = re.compile(
    r"Timed out waiting \d+ ?ms for|Application timeout caused pair closure|collective operation timeout|" + _NOT_COME
)
_LARGEST = 64 * 1024**2

Json = Any


@dataclass(frozen=True, slots=True)
class Decision:
    """Something that all ranks do at the same boundary.

    Attributes:
        kind: ``leave`` or ``save``.
        detail: what was given to `ask`.
        step: after how many updates.
    """

    kind: str
    detail: Json
    step: int


@dataclass(slots=True)
class _Gather:
    """A gather in progress, as rank 0 sees it."""

    began: float
    values: dict[int, Json] = field(default_factory=dict)
    said: bool = False


class Ties:
    """This rank's connection to the others; made by `tie`, ended when the process ends.

    Attributes:
        hold_at: the loop must call `settle` before it passes a boundary with so many updates or more.
        position: gives the number of updates done; None while no loop is under way.
        lost: what is known of a rank that is gone; None while all are there.
        unfinished: whether a loop is under way, so that the process should not end now.
    """

    def __init__(self, ranks: Ranks, timeout_s: float, say: Callable[[str], object]) -> None:
        """Use `tie`."""
        self.ranks = ranks
        self.timeout_s = timeout_s
        self.hold_at: float = math.inf
        self.position: Callable[[], int | None] = lambda: None
        self.way_back: Callable[[], str] = lambda: "start it again"
        self.unfinished = False
        self.lost: str | None = None
        self._say = say
        self._news = threading.Condition()
        self._results: dict[str, list[Json]] = {}
        self._counts: dict[str, int] = {}
        self._holds: dict[str, float] = {}
        self._decided: list[Decision] = []
        self._outbox: queue.SimpleQueue[list[Json]] = queue.SimpleQueue()
        self._wake_here, self._wake_there = socket.socketpair()
        self._wake_here.setblocking(False)
        self._wake_there.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_there, selectors.EVENT_READ, None)
        self._sockets: dict[int, socket.socket] = {}
        self._rests: dict[int, bytes] = {}
        self._gathers: dict[str, _Gather] = {}
        self._rounds: dict[str, dict[int, int | None]] = {}
        self._details: dict[str, Json] = {}
        self._left: set[int] = set()
        self._suspect: tuple[float, int, str] | None = None
        self._waited_in_vain = False
        self._standings: dict[int, tuple[int, str]] = {}
        self._failing, self._has_waited = False, False
        self._ending = False
        self._grace_until = math.inf
        self._thread = threading.Thread(target=self._serve, name="rekindle ties", daemon=True)

    # ---- for the main thread

    def gather(self, what: str, value: Json, *, timeout_s: float | None = -1) -> list[Json]:
        """Give a plain value, and return those of all ranks, by rank; every rank has to call it.

        Args:
            what: what it is about, in words of the script's author (``run.log``); the n-th gather of a name meets the
                n-th one of the same name elsewhere.
            value: plain JSON.
            timeout_s: seconds to wait for the others; None for ever, -1 for the group's own timeout.

        Raises:
            RunError: another rank is gone, ended already, or did not come in time.
        """
        number = self._counts[what] = self._counts.get(what, 0) + 1
        name = f"{what}#{number}"
        limit = self.timeout_s if timeout_s == -1 else timeout_s
        began = time.monotonic()
        self._send(["value", name, value])
        with self._news:
            while name not in self._results:
                self._require_all()
                if limit is not None and time.monotonic() - began > limit:
                    raise RunError(
                        f"{what}: {_NOT_COME} {limit:.0f} s",
                        why=f"rank {self.ranks.rank} of {self.ranks.world_size} called it, and every rank has to",
                        do=f"call {what} on every rank, not only on one",
                    )
                self._news.wait(_TICK_S / 4)
            result = self._results.pop(name)
        if result and result[0] == "$gone":
            raise RunError(
                f"{what}: {name_ranks(list(result[1]))} ended before it was called there",
                why="every rank has to make the same calls in the same order",
                do=f"call {what} on every rank",
            )
        return result

    def ask(self, kind: str, detail: Json = None) -> None:
        """Ask all ranks to do something at one boundary; safe in a signal handler."""
        self._send(["ask", kind, detail])

    def settle(self, steps_done: int) -> list[Decision]:
        """Return what is to be done at this boundary, waiting for an agreement that is under way."""
        due = []
        with self._news:
            while steps_done >= self.hold_at:
                due += [decision for decision in self._decided if steps_done >= decision.step]
                self._decided = [decision for decision in self._decided if steps_done < decision.step]
                self._find_hold()
                if steps_done >= self.hold_at:
                    self._require_all()
                    self._news.wait(_TICK_S / 4)
        return due

    def fail(self, text: str) -> None:
        """Tell the others why this rank is about to end."""
        self._failing = True
        self._send(["failed", text])

    def end(self) -> None:
        """Say farewell, once every rank is ready to, and close; called when the process ends."""
        if self._ending:
            return
        failed = _last_words()
        if failed is None and self.unfinished:
            failed = notes.LEFT
        clean = failed is None and self.lost is None
        if clean:
            with contextlib.suppress(RunError):
                self.gather("the end", None, timeout_s=_END_S)
            _destroy_group(self.ranks)
        if failed is not None:
            self.fail(failed)
            self._await_cause(failed)
        self._send(["bye"] if failed is None else ["over"])
        self._thread.join(2.0)

    def _require_all(self) -> None:
        if self.lost is not None:
            raise RunError(self.lost, do=self.way_back())

    def _send(self, message: list[Json]) -> None:
        self._outbox.put(message)
        with contextlib.suppress(OSError):  # full: the thread is awake already
            self._wake_here.send(b"!")

    # ---- meeting

    def open(self, store: Any) -> None:
        """Connect all ranks, by way of the process group's store, and start the thread.

        Raises:
            RunError: no connection to rank 0.
        """
        if self.ranks.rank == 0:
            self._listen(store)
        else:
            self._connect(store)
        self._thread.start()
        self._hook = sys.excepthook
        sys.excepthook = self._explain
        util.Finalize(self, Ties.end, args=(self,), exitpriority=100)

    def _explain(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """Have the last line of a process name the rank whose end was the cause: torch only knows an address."""
        self._hook(kind, error, trace)
        text = _words_of(error)
        if _is_consequence(text):
            self.fail(text)
            self._await_cause(text)
            if self.lost is not None:
                self._say(f"{self.lost}; {self.way_back()}")
            elif self.ranks.rank and _WAITED.search(text):
                self._say(f"{_words_of_loss(0, self.ranks.world_size, notes.SILENT)}; {self.way_back()}")

    def _await_cause(self, text: str) -> None:
        """Wait a moment, once, for the news of what was behind an error that only follows from another one."""
        if self._has_waited or not _is_consequence(text):
            return
        self._has_waited = True
        until = time.monotonic() + 4 * _TICK_S
        with self._news:
            while self.lost is None and time.monotonic() < until:
                self._news.wait(_TICK_S / 4)

    def _listen(self, store: Any) -> None:
        token = secrets.token_hex(16)
        local = self.ranks.address in {"127.0.0.1", "localhost"}
        with socket.create_server(("127.0.0.1" if local else "", 0), backlog=self.ranks.world_size) as server:
            port = server.getsockname()[1]
            store.set("rekindle/ties", json.dumps([port, token, socket.gethostname(), self.ranks.address]))
            until = time.monotonic() + self.timeout_s
            while len(self._sockets) < self.ranks.world_size - 1:
                server.settimeout(max(0.1, until - time.monotonic()))
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    missing = [r for r in range(1, self.ranks.world_size) if r not in self._sockets]
                    raise RunError(
                        f"{name_ranks(missing)} did not connect to rank 0 within {self.timeout_s:.0f} s",
                        do="look at what they wrote, and at firewalls between the machines",
                    ) from None
                rank = _welcome(connection, token)
                if rank is None or not 0 < rank < self.ranks.world_size or rank in self._sockets:
                    connection.close()
                else:
                    self._keep(rank, connection)

    def _connect(self, store: Any) -> None:
        port, token, host, address = json.loads(store.get("rekindle/ties"))
        places = ["127.0.0.1"] if host == socket.gethostname() else []
        places += [place for place in (address, os.environ.get("MASTER_ADDR"), host) if place]
        errors = []
        for place in dict.fromkeys(places):
            try:
                connection = socket.create_connection((place, port), timeout=10)
                connection.sendall(json.dumps([token, self.ranks.rank]).encode() + b"\n")
                if connection.recv(1) == b"+":
                    self._keep(0, connection)
                    return
                connection.close()
                errors.append(f"{place}: something else listens there")
            except OSError as error:
                errors.append(f"{place}: {error.strerror or error}")
        raise RunError(
            f"rank {self.ranks.rank} cannot reach rank 0 on port {port}",
            why="; ".join(errors),
            do="open the ports between the machines: torch's own backends need them too",
        )

    def _keep(self, rank: int, connection: socket.socket) -> None:
        connection.settimeout(_GRACE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A machine that loses its power says nothing: half a minute, instead of the two hours that are usual.
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._sockets[rank] = connection
        self._rests[rank] = b""
        self._selector.register(connection, selectors.EVENT_READ, rank)

    # ---- the thread

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select(_TICK_S):
                if key.data is None:
                    with contextlib.suppress(OSError):
                        self._wake_there.recv(4096)
                else:
                    self._receive(key.data)
            while not self._outbox.empty():
                message = self._outbox.get()
                if message[0] in {"bye", "over"}:  # what was said before is told before
                    self._ending = True
                if self.ranks.rank == 0:
                    self._heard(0, message)
                else:
                    self._post(0, message)
            self._look_at_gathers()
            if self._suspect is not None and time.monotonic() > self._suspect[0]:
                self._accuse(*self._suspect)
            if self._ending:
                self._close()
                return
            if time.monotonic() > self._grace_until:
                self._give_up()

    def _close(self) -> None:
        for connection in (*self._sockets.values(), self._wake_here, self._wake_there):
            connection.close()
        self._selector.close()

    def _receive(self, rank: int) -> None:
        connection = self._sockets[rank]
        try:
            data = connection.recv(65536)
        except TimeoutError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(rank)
            if rank not in self._left:
                self._lose(rank, "it ended without a word: killed, out of memory, or its machine is gone")
            return
        lines = (self._rests[rank] + data).split(b"\n")
        self._rests[rank] = lines.pop()
        if len(self._rests[rank]) > _LARGEST:
            self._drop(rank)
            return
        for line in lines:
            message = json.loads(line)
            if self.ranks.rank == 0:
                self._heard(rank, message)
            else:
                self._told(message)

    def _drop(self, rank: int) -> None:
        connection = self._sockets.pop(rank, None)
        if connection is not None:
            self._selector.unregister(connection)
            connection.close()

    def _post(self, rank: int, message: list[Json]) -> None:
        connection = self._sockets.get(rank)
        if connection is None:
            return
        with contextlib.suppress(OSError):  # its end is noticed where it is read
            connection.sendall(json.dumps(message).encode() + b"\n")

    def _tell_all(self, message: list[Json]) -> None:
        for rank in list(self._sockets):
            self._post(rank, message)
        self._told(message)

    def _heard(self, rank: int, message: list[Json]) -> None:
        """Rank 0: deal with a word of some rank, of its own too."""
        match message:
            case ["value", str(name), value]:
                gather = self._gathers.setdefault(name, _Gather(time.monotonic()))
                gather.values[rank] = value
                if len(gather.values) == self.ranks.world_size:
                    del self._gathers[name]
                    self._tell_all(["all", name, [gather.values[r] for r in range(self.ranks.world_size)]])
            case ["ask", str(kind), detail]:
                if kind not in self._rounds and all(decision.kind != kind for decision in self._decided):
                    self._rounds[kind] = {}
                    self._details[kind] = detail
                    self._tell_all(["where", kind])
            case ["at", str(kind), step]:
                answers = self._rounds.get(kind)
                if answers is None:
                    return
                answers[rank] = step
                if len(answers) == self.ranks.world_size:
                    del self._rounds[kind]
                    steps = [answer for answer in answers.values() if answer is not None]
                    whole = len(steps) == self.ranks.world_size
                    self._tell_all(["decided", kind, self._details.pop(kind), max(steps) + 1 if whole else None])
            case ["failed", str(text)]:
                self._left.add(rank)
                if not _is_consequence(text):
                    self._lose(rank, text)
                    return
                self._suspect = self._suspect or (time.monotonic() + _TICK_S, rank, text)
                if _WAITED.search(text) and not self._waited_in_vain:
                    self._waited_in_vain = True
                    self._tell_all(["stand"])
            case ["standing", int(step), str(place)]:
                self._standings[rank] = (step, place)
            case ["bye"]:
                self._left.add(rank)
                if rank == 0:
                    for other in list(self._sockets):
                        self._post(other, ["bye"])

    def _told(self, message: list[Json]) -> None:
        """Deal with a word of rank 0."""
        match message:
            case ["all", str(name), list(values)]:
                with self._news:
                    self._results[name] = values
                    self._news.notify_all()
            case ["where", str(kind)]:
                # First the hold, then the look: whatever boundary the loop passes in between is below the answer + 1.
                with self._news:
                    self._hold(kind, -1)
                step = self.position()
                with self._news:
                    self._hold(kind, None if step is None else step + 1)
                answer = ["at", kind, step]
                if self.ranks.rank == 0:
                    self._heard(0, answer)
                else:
                    self._post(0, answer)
            case ["decided", str(kind), detail, step]:
                with self._news:
                    if step is not None:  # one more, where this rank has not come to what was decided before
                        self._decided.append(Decision(kind, detail, step))
                    self._hold(kind, None)
                    self._news.notify_all()
            case ["stand"]:
                standing = ["standing", self.position() or 0, where_main_thread_is()]
                if self.ranks.rank == 0:
                    self._heard(0, standing)
                else:
                    self._post(0, standing)
            case ["bye"]:
                self._left.add(0)
            case ["lost", int(rank), str(text)]:
                self._left.add(rank)
                self._note_loss(rank, text)

    def _hold(self, kind: str, step: float | None) -> None:
        if step is None:
            self._holds.pop(kind, None)
        else:
            self._holds[kind] = step
        self._find_hold()

    def _find_hold(self) -> None:
        decided = [decision.step for decision in self._decided]
        self.hold_at = min([*self._holds.values(), *decided], default=math.inf)

    def _look_at_gathers(self) -> None:
        """Rank 0: say who is waited for, and have nobody wait for a rank that has ended."""
        over = self._left.union(*(g.values for name, g in self._gathers.items() if name.startswith("the end#")))
        for name, gather in list(self._gathers.items()):
            what = name.partition("#")[0]
            missing = [rank for rank in range(self.ranks.world_size) if rank not in gather.values]
            gone = [rank for rank in missing if rank in over]
            if gone:
                del self._gathers[name]
                self._tell_all(["all", name, ["$gone", gone]])
            elif time.monotonic() - gather.began > _LONG_WAIT_S and not gather.said and what != "the end":
                gather.said = True
                here, there = name_ranks(sorted(gather.values)), name_ranks(missing)
                self._say(f"{here} waited {_LONG_WAIT_S:.0f} s at {what} for {there}; every rank has to call it")

    # ---- losses

    def _accuse(self, since: float, rank: int, text: str) -> None:
        """Rank 0: no cause was told, so name the rank that the others waited for; else the first that broke off."""
        absent = [other for other in range(self.ranks.world_size) if other not in self._left]
        if not self._waited_in_vain or not absent:
            self._lose(rank, text)
        elif len(absent) == 1 or time.monotonic() > since + 2 * _TICK_S:  # the others may just be a little later
            # A thread that is silent is worse than one that answers; then, whoever did the least.
            culprit = min(absent, key=lambda other: (other in self._standings, self._standings.get(other, (0, ""))))
            if culprit not in self._standings:
                self._lose(culprit, notes.SILENT)
            else:
                step, place = self._standings[culprit]
                self._lose(culprit, f"{notes.HANGS}{f' in {place}' * bool(place)}, after step {step:,}")

    def _lose(self, rank: int, text: str) -> None:
        if self.lost is not None or self._ending:
            return
        if self.ranks.rank == 0:
            for other in list(self._sockets):
                self._post(other, ["lost", rank, text])
        self._note_loss(rank, text)

    def _note_loss(self, rank: int, text: str) -> None:
        own = rank == self.ranks.rank
        if self.lost is not None or self._ending or (own and self._failing):
            return
        notes.tell_cause(rank, text)
        with self._news:
            self.lost = _words_of_loss(rank, self.ranks.world_size, text)
            self._grace_until = time.monotonic() + _GRACE_S
            self._news.notify_all()
        if self.ranks.rank == 0 or rank == 0:
            self._say(f"{self.lost}; the other ranks end now, and {self.way_back()}")

    def _give_up(self) -> None:
        """End this process, whatever its main thread waits for: a collective with a dead rank may never return."""
        notes.tell_end({"code": 1, "error": self.lost or "", "place": ""})
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(1)


def tie(ranks: Ranks, *, timeout_s: float, say: Callable[[str], object]) -> Ties | None:
    """Return the ties of this process, made by the first call; None on one process.

    Args:
        ranks: from `rekindle.parallel.ranks.start`.
        timeout_s: seconds to wait for a rank.
        say: takes a line for people.

    Raises:
        RunError: a rank cannot be reached.
    """
    global _ties  # noqa: PLW0603 - one connection per process, however many runs it makes
    if ranks.world_size == 1:
        return None
    if _ties is None:
        from torch.distributed.distributed_c10d import (  # noqa: PLC0415 - only where there are many processes
            _get_default_store,
        )

        ties = Ties(ranks, timeout_s, say)
        ties.open(_get_default_store())
        _ties = ties
    return _ties


_ties: Ties | None = None


def _welcome(connection: socket.socket, token: str) -> int | None:
    """Return the rank of whoever connected, None if it is not one of ours."""
    connection.settimeout(10)
    try:
        with connection.makefile("rb", buffering=0) as stream:
            words = json.loads(stream.readline(256))
        if not (isinstance(words, list) and len(words) == 2 and secrets.compare_digest(str(words[0]), token)):
            return None
        connection.sendall(b"+")
        return int(words[1])
    except (OSError, ValueError):
        return None


def _last_words() -> str | None:
    """Return what an exception that nobody caught said; None where the process ends in good order.

    Processes of `multiprocessing` end while it is still on its way.
    """
    error: BaseException | None = getattr(sys, "last_value", None) or sys.exc_info()[1]
    if isinstance(error, SystemExit):  # with which `torch.multiprocessing.spawn` ends a process that raised
        error = None if error.code in (None, 0, *notes.GOOD_ORDER) else error.__context__
    return None if error is None else _words_of(error)


def _words_of(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}"[:300] if text else type(error).__name__


def _is_consequence(text: str) -> bool:
    return any(word in text for word in _CONSEQUENCES) or _WAITED.search(text) is not None


def _words_of_loss(rank: int, world_size: int, text: str) -> str:
    verb = "" if text.startswith((notes.HANGS, notes.SILENT, notes.LEFT)) else "is gone: "
    return f"rank {rank} of {world_size} {verb}{text}"


def _destroy_group(ranks: Ranks) -> None:
    """Give torch's threads up before the interpreter does: those of gloo end a process with SIGABRT otherwise."""
    dist: Any = sys.modules.get("torch.distributed")
    if dist is not None and ranks.source != "group" and dist.is_initialized():
        with contextlib.suppress(Exception):  # nothing that fails here may change how the process ends
            dist.destroy_process_group()
