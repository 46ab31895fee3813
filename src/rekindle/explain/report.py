"""From a text or an exception to what is said about it: which failures came first, and what each was caused by.

Of several failures in one log the first real one of each process counts: what torchrun, NCCL and closed connections
say afterwards are consequences, and are explained only where nothing else is known. The same cause on several ranks is
said once. A failure that no entry fits is listed as it is; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rekindle.explain.catalogue import Heading
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event
from rekindle.explain.log import Chain, plain_text, read
from rekindle.explain.match import causes_of, fitting, mentioned, place_of
from rekindle.explain.own import LOST_RANK, own_cause, own_reports

__all__ = ["Explained", "Report", "explain_events", "explain_text"]

_MAX_TEXT = 64 << 20
_CONSEQUENCE = re.compile(
    r"ChildFailedError|ProcessExitedException|SignalException|Connection closed by peer|Connection reset by peer"
    r"|Broken pipe|communicator was aborted|Watchdog caught collective|SIGTERM|death signal|exitcode: -15"
    r"|remote process exited or there was a network error|(?:recvValue|sendBytes|recvBytes|recvVector) failed"
    r"|Some NCCL operations have failed or timed out|^KeyboardInterrupt"
    r"|^CalledProcessError: Command '\[?'?[^'\n]{0,300}python"
    r"|has failed\. See inner exception"
    r"|store->get\('\d+'\) got error: Connection|wait timeout after \d+ms, keys: |" + LOST_RANK
)
_BELOW = ("Assertion `", "fallen off the bus")  # what the GPU or its driver said before Python noticed
_NOTICED_LATE = re.compile(r"device-side assert|CUBLAS_STATUS_|CUDNN_STATUS_|CUDA error: |HIP error: ")


@dataclass(frozen=True, slots=True)
class Explained:
    """One failure and why it happened.

    Attributes:
        event: the event of the chain that an entry fits.
        causes: its causes, most likely first; empty where no entry fits.
        ranks: the processes that failed this way, where the log tells.
    """

    event: Event
    causes: tuple[Cause, ...]
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What a text tells.

    Attributes:
        explained: failures with a cause, the most telling first.
        unknown: failures that no entry fits, in the order of the text.
        lines: how many lines were read.
        failures: how many failures were found.
    """

    explained: tuple[Explained, ...]
    unknown: tuple[Event, ...]
    lines: int
    failures: int

    @property
    def causes(self) -> tuple[Cause, ...]:
        """All causes, most likely first."""
        return tuple(cause for explained in self.explained for cause in explained.causes)


def explain_text(text: str, *, strict: bool = False) -> Report:
    """Explain a log or a pasted message.

    Args:
        text: any text; of more than 64 MB the end.
        strict: let a fault inside an entry through (for tests).
    """
    text = text[-_MAX_TEXT:]
    chains, loose = read(text)
    first = _first_of_each_rank(chains)
    explained: list[Explained] = []
    unknown: list[Event] = []
    late: list[Explained] = []
    real = [chain for chain in first if not is_consequence(chain)]
    if not real:  # the launcher knows who ended first; what the others noticed of it adds nothing
        first = [chain for chain in first if _names_the_first(chain) or _waited(chain)] or first
    for chain in first:
        found = explain_events(chain.events, strict=strict)
        asserted = list(_asserted(chain, loose, strict=strict)) if chain in real else []
        explained += asserted
        if found.causes and (not real or chain in real):
            explained.append(found)
        elif asserted:
            continue
        elif found.causes:
            late.append(found)
        elif chain in real or not real:
            unknown.append(chain.events[-1])
    among = mentioned(event.text for event in loose)
    announced = [
        found
        for event in loose
        if among
        and (found := explain_events((event,), among=among, strict=strict)).causes
        and (not (first and event.raised and not event.raised.endswith("Warning")) or not explained)
    ]
    if not first and not announced:
        unknown += [event for event in loose if event.raised and not event.raised.endswith("Warning")]
    if not real and explained:  # a line that tells the cause, such as argparse's, comes before what followed from it
        explained = [found for found in announced if _tells_a_cause(found)] or explained
    if not explained and not announced:
        explained = [explain_events((event,)) for event in own_reports(plain_text(text)) if own_cause(event)]
    if explained:
        known = {cause.code for found in explained for cause in found.causes}
        announced = [found for found in announced if _is_a_warning(found.event) and not known & _codes(found)]
        late = []
    if unknown and late:
        late = [found for found in late if found.event.kind == "ChildFailedError"]
    if explained or announced:  # how the rest was ended explains nothing
        unknown = [event for event in unknown if not _CONSEQUENCE.search(event.text[:4_000])]
    told = {code for found in late for code in _codes(found)}
    announced = [found for found in announced if not told & _codes(found)]
    everything = _merged([*explained, *_real_before_consequences(announced), *late])
    return Report(tuple(everything), tuple(unknown), text.count("\n") + 1, len(chains) or len(announced) + len(unknown))


def explain_events(
    events: Iterable[Event], *, among: Iterable[Heading] | None = None, strict: bool = False
) -> Explained:
    """Explain one failure: the first of its events, root first, that an entry fits.

    Args:
        events: at least one.
        among: the entries to ask; all by default.
        strict: let a fault inside an entry through (for tests).
    """
    chain = tuple(events)
    if not chain:
        raise ValueError("no events to explain")
    where = next(filter(None, map(place_of, chain)), "")  # frames of a compiler name no line of the user's
    for event in reversed(chain):  # rekindle knows its own errors better than what they were raised from
        own = own_cause(event)
        if own is not None:
            ranks = () if event.rank is None else (event.rank,)
            return Explained(event, (replace(own, where=place_of(event) or where),), ranks)
    for event in chain:
        causes = causes_of(event, among=among, strict=strict)
        if causes:
            said = tuple(cause if cause.where else replace(cause, where=where) for cause in causes)
            return Explained(event, said, () if event.rank is None else (event.rank,))
    return Explained(chain[-1], ())


def is_consequence(chain: Chain) -> bool:
    """Whether a failure is what another process's failure leads to, so that the cause stands elsewhere."""
    root = chain.events[0]
    return _CONSEQUENCE.search(root.text[:4_000]) is not None


def _names_the_first(chain: Chain) -> bool:
    """Whether it is torchrun's report of the ranks, with the one that failed first."""
    event = chain.events[-1]
    return event.kind == "ChildFailedError" and "Root Cause" in event.message


def _waited(chain: Chain) -> bool:
    """Whether a rank gave up waiting at the store: where nobody failed before it, that is what there is to tell."""
    return any(mark in chain.events[0].message[:4_000] for mark in ("wait timeout after ", "got error: "))


def _asserted(chain: Chain, loose: list[Event], *, strict: bool) -> Iterator[Explained]:
    """Yield what the assertions of a GPU's kernel tell, which stand before the traceback that only says one failed.

    The line that Python names is the one where the failure was noticed, so none is named.
    """
    if not any(_NOTICED_LATE.search(event.text[:4_000]) for event in chain.events):
        return
    end = chain.events[-1].line or chain.line
    for event in loose:
        if any(mark in event.text for mark in _BELOW) and event.rank == chain.rank and event.line < end:
            found = explain_events((event,), strict=strict)
            if found.causes:
                yield found


def _first_of_each_rank(chains: list[Chain]) -> list[Chain]:
    """Keep of each rank the first failure that is no consequence; of text without ranks every failure, each once."""
    kept: list[Chain] = []
    done: set[int] = set()
    later: list[Chain] = []
    seen: set[tuple[object, ...]] = set()
    for chain in chains:
        same = (chain.rank, *(event.text for event in chain.events))
        if same in seen or chain.rank in done:
            continue
        seen.add(same)
        if is_consequence(chain):
            later.append(chain)
            continue
        kept.append(chain)
        if chain.rank is not None:
            done.add(chain.rank)
    return kept + [chain for chain in later if chain.rank not in done or chain.rank is None]


def _is_a_warning(event: Event) -> bool:
    return event.raised.endswith("Warning") or any(not heading.raises for heading in fitting(event))


def _tells_a_cause(found: Explained) -> bool:
    text = found.event.text[:4_000]
    return not found.event.raised.endswith("Warning") and not _CONSEQUENCE.search(text) and "exitcode: " not in text


def _codes(found: Explained) -> set[str]:
    return {cause.code for cause in found.causes}


def _real_before_consequences(found: list[Explained]) -> list[Explained]:
    real = [one for one in found if not _CONSEQUENCE.search(one.event.text[:4_000])]
    return real or found


def _merged(found: list[Explained]) -> list[Explained]:
    """Say the same causes once: of several ranks, or told twice, and then where the user's line is known."""
    merged: dict[tuple[tuple[str, str], ...], Explained] = {}
    for one in found:
        same = tuple((cause.code, cause.what) for cause in one.causes)
        before = merged.get(same)
        if before is None:
            merged[same] = one
        else:
            better = one if one.causes[0].where and not before.causes[0].where else before
            merged[same] = Explained(better.event, better.causes, tuple(sorted({*before.ranks, *one.ranks})))
    return list(merged.values())
