"""Which tensor of a source belongs to which tensor of a model, by names and shapes alone.

Names are matched by the smallest change that explains them: the same name; the user's renames; the parts that wrappers
insert; then whatever brings in most of what is left, one thing at a time: a prefix in front of all keys of one side,
names that changed over the years, another library's names for the same network. What is matched once stays so.

Where names say nothing, order and shapes may: `match_structure` aligns the two lists as registered and keeps what
aligns in one way only.

Law: every tensor of the model has at most one match, every tensor of the source is used at most once, and nothing here
looks at values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rekindle.keys import plain_keys
from rekindle.tune.dialects import current_name, translate

__all__ = ["Match", "Matched", "Piece", "match_names", "match_structure"]

Shape = tuple[int, ...]

# A prefix is believed when it explains at least this share of what is left on the smaller side.
_SHARE_OF_PREFIX = 0.5
_MAX_ROUNDS = 6
_MAX_CANDIDATES = 50


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of the source, or one of several equal parts of it along the first dimension."""

    source: str
    part: int | None = None
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Match:
    """Where the values of a model's tensor come from.

    Attributes:
        key: the model's.
        pieces: joined along the first dimension where there are several.
        how: why these names belong together, in words; empty where they are the same.
    """

    key: str
    pieces: tuple[Piece, ...]
    how: str = ""


@dataclass(frozen=True, slots=True)
class Matched:
    """All matches by key of the model, and what is worth saying about how they were found."""

    found: Mapping[str, Match]
    notes: tuple[str, ...] = ()
    confidence: float = 1.0


def match_names(
    wanted: Mapping[str, Shape], offered: Mapping[str, Shape], rename: Callable[[str], str] | None = None
) -> Matched:
    """Match by names.

    Args:
        wanted: key of the model, without wrappers -> shape.
        offered: key of the source -> shape.
        rename: the user's renames, old key -> new key.
    """
    work = _Names(dict(wanted), {key: (key, ()) for key in offered}, offered)
    if rename is not None:
        work.change(rename, "renamed as asked")
    work.take_equal()
    plain = plain_keys([name for name, _ in work.left.values()])
    work.change(lambda name: plain.get(name, name), "without the wrapper's parts")
    work.take_equal()
    for _ in range(_MAX_ROUNDS):
        if not (work.wanted and work.left) or not work.best_change():
            break
    return Matched(work.found, tuple(work.notes))


class _Names:
    """What is matched so far, and what is left with its present name and the reasons for it."""

    def __init__(
        self, wanted: dict[str, Shape], left: dict[str, tuple[str, tuple[str, ...]]], shapes: Mapping[str, Shape]
    ) -> None:
        self.wanted = wanted
        self.left = left
        self.shapes = shapes
        self.found: dict[str, Match] = {}
        self.notes: list[str] = []

    def change(self, change: Callable[[str], str], how: str) -> None:
        """Give what is left other names, except where two would get the same."""
        new = {key: change(name) for key, (name, _) in self.left.items()}
        count = Counter(new.values())
        for key, (name, why) in self.left.items():
            if new[key] != name and count[new[key]] == 1:
                self.left[key] = (new[key], (*why, how))

    def take_equal(self) -> None:
        """Match what has the same name on both sides."""
        for key, (name, why) in list(self.left.items()):
            if name in self.wanted:
                self.take(name, (Piece(key),), ", ".join(why))

    def take(self, key: str, pieces: tuple[Piece, ...], how: str) -> None:
        self.found[key] = Match(key, pieces, how)
        del self.wanted[key]
        for piece in pieces:
            self.left.pop(piece.source, None)

    def best_change(self) -> bool:
        """Make the one change that matches most of what is left; False where none matches enough."""
        old_names = sum(1 for name, _ in self.left.values() if current_name(name) in self.wanted)
        dialect = self.by_dialect()
        prefix, gain, rivals = self.best_prefix()
        enough = max(1, _SHARE_OF_PREFIX * min(len(self.wanted), len(self.left)))
        if rivals:
            self.notes.append(
                f"the keys below {' and '.join(f'`{rival}.`' for rival in rivals)} fit equally well, so none of them "
                f"was taken; take={rivals[0]!r} decides"
            )
        if old_names and old_names >= max(len(dialect), gain if gain >= enough else 0):
            self.change(current_name, "an old name")
            self.take_equal()
            return True
        if dialect and (len(dialect) >= gain or gain < enough):
            for key, pieces in dialect.items():
                if key in self.wanted:
                    self.take(key, pieces, "another library's name")
            return True
        if prefix is not None and gain >= enough:
            mine, theirs = prefix
            self.change(lambda name: _moved(name, theirs, mine), _prefix_words(mine, theirs))
            self.take_equal()
            return True
        return False

    def by_dialect(self) -> dict[str, tuple[Piece, ...]]:
        """Return what matches when both sides are translated, and would not without."""
        offers: dict[str, dict[int | None, str]] = {}
        for key, (name, _) in self.left.items():
            there = translate(current_name(name))
            offers.setdefault(there.name, {}).setdefault(there.part, key)
        matches: dict[str, tuple[Piece, ...]] = {}
        for key in self.wanted:
            here = translate(key)
            offer = offers.get(here.name, {})
            if here.part is None and None in offer:
                matches[key] = (Piece(offer[None]),)
            elif here.part is None and len(offer) == 3:
                matches[key] = tuple(Piece(offer[part]) for part in range(3))
            elif here.part is not None and here.part in offer:
                matches[key] = (Piece(offer[here.part]),)
            elif here.part is not None and None in offer:
                matches[key] = (Piece(offer[None], here.part, here.parts),)
        return matches

    def best_prefix(self) -> tuple[tuple[str, str] | None, int, list[str]]:
        """Return (prefix here, prefix there), how many keys it matches, and the prefixes there that do as well."""
        ends: dict[str, list[str]] = {}
        for name, _ in self.left.values():
            for end in _ends(name):
                ends.setdefault(end, []).append(name)
        votes: Counter[tuple[str, str]] = Counter()
        for key in self.wanted:
            end = next((end for end in _ends(key) if end in ends), "")
            if not end or ("." not in end and "." in key):
                continue  # `weight` alone says nothing
            here = key[: -len(end)].rstrip(".")
            for name in ends[end][:_MAX_CANDIDATES]:
                there = name[: -len(end)].rstrip(".")
                # One side bare, or one word for another at the front: `backbone.` for `encoder.`.
                if not here or not there or ("." not in here and "." not in there):
                    votes[here, there] += 1
        best: tuple[str, str] | None = None
        gain = 0
        same: list[str] = []
        for pair, _ in votes.most_common(_MAX_CANDIDATES):
            here, there = pair
            fits = sum(
                1
                for key, (name, _) in self.left.items()
                if self.wanted.get(_moved(name, there, here)) == self.shapes[key]
            )
            if here and there and fits < _SHARE_OF_PREFIX * len(self.wanted):
                continue
            if fits > gain:
                best, gain, same = pair, fits, [there]
            elif fits == gain and best is not None and here == best[0]:
                same.append(there)
        if len(same) > 1:
            return None, 0, sorted(same)
        return best, gain, []


def _ends(name: str) -> list[str]:
    """Return the ends of a name by parts, the longest first."""
    found = [name]
    while "." in name:
        name = name.partition(".")[2]
        found.append(name)
    return found


def _moved(name: str, old: str, new: str) -> str:
    if old and not name.startswith(f"{old}."):
        return name
    rest = name[len(old) + 1 :] if old else name
    return f"{new}.{rest}" if new else rest


def _prefix_words(here: str, there: str) -> str:
    if not here:
        return f"without `{there}.`"
    return f"`{here}.` for `{there}.`" if there else f"with `{here}.`"


# ---- by order and shapes


def match_structure(
    wanted: Sequence[tuple[str, Shape]], offered: Sequence[tuple[str, Shape]], *, least: float = 0.9
) -> Matched | None:
    """Match by order and shapes, whatever the names; None where too little aligns in one way only.

    The two lists are aligned from the front and from the back, leaving out as little as possible; what both alignments
    agree on is certain. The confidence is its share of the model's tensors.

    Args:
        wanted: (key, shape) of the model's tensors, in order of registration.
        offered: the same of the source.
        least: smallest confidence that is answered.
    """
    ours = [(_kind(key), shape) for key, shape in wanted]
    theirs = [(_kind(key), shape) for key, shape in offered]
    front = _aligned(ours, theirs)
    last = len(ours) - 1, len(theirs) - 1
    backwards = _aligned(ours[::-1], theirs[::-1])
    back = {last[0] - i: last[1] - j for i, j in backwards.items()}
    certain = {i: j for i, j in front.items() if back.get(i) == j}
    confidence = len(certain) / max(1, len(ours))
    if confidence < least:
        return None
    found = {
        wanted[i][0]: Match(wanted[i][0], (Piece(offered[j][0]),), f"place {j + 1} of {len(theirs)}")
        for i, j in sorted(certain.items())
    }
    note = f"matched by order and shapes, not by names: {len(certain)} of {len(ours)} align in one way only"
    return Matched(found, (note,), confidence)


def _kind(key: str) -> str:
    """Return what the last part of a name says about the tensor; nothing for names of one's own."""
    last = current_name(key).rpartition(".")[2]
    known = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return last if last in known else ""


def _aligned(ours: Sequence[tuple[str, Shape]], theirs: Sequence[tuple[str, Shape]]) -> dict[int, int]:
    """Return the longest alignment (place here -> place there), the earliest of several.

    Quadratic in the number of tensors; what is equal at both ends is taken off before.
    """
    start = 0
    while start < min(len(ours), len(theirs)) and _alike(ours[start], theirs[start]):
        start += 1
    found = {i: i for i in range(start)}
    a, b = ours[start:], theirs[start:]
    lengths = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) - 1, -1, -1):
        for j in range(len(b) - 1, -1, -1):
            lengths[i][j] = (
                lengths[i + 1][j + 1] + 1 if _alike(a[i], b[j]) else max(lengths[i + 1][j], lengths[i][j + 1])
            )
    i = j = 0
    while i < len(a) and j < len(b):
        if _alike(a[i], b[j]) and lengths[i][j] == lengths[i + 1][j + 1] + 1:
            found[start + i] = start + j
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return found


def _alike(one: tuple[str, Shape], other: tuple[str, Shape]) -> bool:
    return one[1] == other[1] and (one[0] == other[0] or not one[0] or not other[0])
