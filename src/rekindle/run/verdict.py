"""What `rekindle prove` answers: a value, and the words for it.

The words follow one pattern: what differed first and when, what was still equal there (which rules out most causes),
what that means, and what to change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rekindle.run.ends import Other
from rekindle.run.first_difference import Difference, Suspect

__all__ = ["KilledLife", "Proof", "as_json", "as_text"]


@dataclass(frozen=True, slots=True)
class KilledLife:
    """One life of the run under kills.

    Attributes:
        ended: ``killed``, ``finished``, ``failed`` (by itself) or ``timed out``.
        when: for a killed life: ``at a step``, ``while saving`` or ``while starting``.
        resumed_from: step of the snapshot it went on from, 0 from nothing; None where it made no step.
        last_step: steps it had counted when it ended; None where it made none.
        exit_code: of a life that ended by itself.
        seconds: how long it lived.
        output: its last lines, where it failed.
    """

    ended: str
    when: str
    resumed_from: int | None
    last_step: int | None
    exit_code: int | None
    seconds: float
    output: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """The answer of `prove`.

    Attributes:
        command: as it was given.
        steps: of the undisturbed run.
        straight_s: seconds that it took.
        lives: of the killed run, in order.
        promised: saves promised by the killed run.
        lost: promised steps that were not there after a kill.
        tensors, values, log_lines: how many were compared.
        others: what ended differently; empty when proven.
        first: where the two parted, as far as it was seen.
        left_behind: untracked objects that ended differently without touching what was compared.
    """

    command: tuple[str, ...]
    steps: int
    straight_s: float
    lives: tuple[KilledLife, ...]
    promised: int
    lost: tuple[int, ...]
    tensors: int
    values: int
    log_lines: int
    others: tuple[Other, ...] = ()
    first: Difference | None = None
    left_behind: tuple[Suspect, ...] = ()

    @property
    def kills(self) -> int:
        """How many lives were ended by us."""
        return sum(life.ended == "killed" for life in self.lives)

    @property
    def resumed(self) -> int:
        """How many lives went on from a snapshot."""
        return sum(bool(life.resumed_from) for life in self.lives)

    @property
    def proven(self) -> bool:
        """Whether the killed run completed, lost no promised save and ended with the same bits."""
        return self.lives[-1].ended == "finished" and not self.others and not self.lost


def as_json(proof: Proof) -> dict[str, object]:
    """Return the answer as JSON values; fields may be added, never changed."""
    first = proof.first
    return {
        "verdict": "proven" if proof.proven else "not proven",
        "command": list(proof.command),
        "steps": proof.steps,
        "kills": proof.kills,
        "resumed": proof.resumed,
        "lives": [
            {
                "ended": life.ended,
                "when": life.when,
                "resumed_from": life.resumed_from,
                "last_step": life.last_step,
                "exit_code": life.exit_code,
                "seconds": round(life.seconds, 3),
            }
            for life in proof.lives
        ],
        "saves": {"promised": proof.promised, "lost": list(proof.lost)},
        "compared": {"tensors": proof.tensors, "values": proof.values, "log_lines": proof.log_lines},
        "different": [
            {"kind": other.kind, "name": other.name, "straight": other.straight, "killed": other.killed}
            for other in proof.others
        ],
        "first": None
        if first is None
        else {
            "aspect": first.aspect,
            "what": list(first.what),
            "details": [{"name": n, "straight": a, "killed": b} for n, a, b in first.details],
            "step": first.step,
            "epoch": first.epoch,
            "batch": first.batch,
            "life": first.life,
            "resumed_from": first.resumed_from,
            "equal": list(first.equal),
            "suspects": [_suspect_json(suspect) for suspect in first.suspects],
            "left": list(first.left),
            "so": _so(first),
            "do": _do(first),
        },
        "left_behind": [_suspect_json(suspect) for suspect in proof.left_behind],
    }


def as_text(proof: Proof) -> str:
    """Return the answer for people, several lines."""
    if proof.proven:
        lived = f"{_many(proof.kills, 'kill')}, {_many(len(proof.lives), 'life', 'lives')}"
        compared = f"{_many(proof.tensors, 'tensor')} and {_many(proof.log_lines, 'log line')} identical"
        lines = [f"proven: {lived}, {compared}"]
        lines += [_line("straight", f"{_many(proof.steps, 'step')} in {proof.straight_s:.1f} s"), *_history(proof)]
        lines += [_line("note", _left_behind_words(suspect)) for suspect in proof.left_behind]
        return "\n".join(lines)
    last = proof.lives[-1]
    if last.ended in ("failed", "timed out"):
        return "\n".join([*_failed(proof, last), *_history(proof)])
    if proof.lost and not proof.others:
        steps = ", ".join(map(str, proof.lost[:4]))
        lines = [f"not proven: {_many(len(proof.lost), 'promised save')} lost, of step {steps}"]
        return "\n".join([*lines, *_history(proof)])
    lines = ["not proven: the run that was killed ended with other bits"]
    if proof.first is not None:
        lines.append(_line("first", _first(proof.first)))
        if proof.first.equal:
            lines.append(_line("equal", _listed(proof.first.equal)))
        lines.append(_line("so", _so(proof.first)))
        lines += [_line("do", line) for line in _do(proof.first)]
    lines.append(_line("differ", _others(proof)))
    return "\n".join([*lines, *_history(proof)])


def _failed(proof: Proof, last: KilledLife) -> list[str]:
    base = f"going on from step {last.resumed_from}" if last.resumed_from else "begun after a kill"
    if last.ended == "failed":
        fate = f"ended by itself with exit code {last.exit_code}"
    else:
        fate = f"was still running after {last.seconds:.0f} s (the undisturbed run took {proof.straight_s:.0f} s)"
    lines = [f"not proven: life {len(proof.lives)}, {base}, {fate}"]
    return [*lines, *(_line("output", text) for text in last.output)]


def _history(proof: Proof) -> list[str]:
    kills = [
        f"{'before step 1' if life.last_step is None and not life.resumed_from else f'step {life.last_step}'}"
        + ("" if life.when == "at a step" else f" ({life.when})")
        for life in proof.lives
        if life.ended == "killed" and life.last_step is not None
    ]
    starting = sum(life.ended == "killed" and life.last_step is None for life in proof.lives)
    if starting:
        kills.append(f"{_many(starting, 'time')} while starting")
    bases = [str(life.resumed_from) for life in proof.lives[1:] if life.resumed_from is not None]
    lines = []
    if kills:
        lines.append(_line("killed", "after " + ", ".join(kills)))
    if bases:
        lines.append(_line("resumed", "from step " + ", ".join(bases)))
    return [*lines, _line("saves", f"{proof.promised} promised, {len(proof.lost)} lost")]


def _others(proof: Proof) -> str:
    found = []
    for kind, singular, count in (
        ("tensor", "tensor", proof.tensors),
        ("value", "plain value", proof.values),
        ("log", "log line", proof.log_lines),
    ):
        names = [other.name for other in proof.others if other.kind == kind]
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            found.append(f"{len(names)} of {_many(count, singular)} ({shown})")
    found += [f"{o.name} ({o.straight} and {o.killed})" for o in proof.others if o.kind == "step"]
    return "; ".join(found)


def _suspect_json(suspect: Suspect) -> dict[str, str]:
    return {
        "name": suspect.name,
        "place": suspect.place,
        "straight": suspect.straight,
        "killed": suspect.killed,
    }


# ---- the first difference


def _first(first: Difference) -> str:
    return f"{_when(first)}: {_what(first)}"


def _when(first: Difference) -> str:
    place = [f"epoch {first.epoch}"] if first.epoch is not None else []
    place += [f"batch {first.batch}"] if first.batch is not None else []
    where = f" ({', '.join(place)})" if place else ""
    if first.step is None:
        return f"the end{where}"
    if first.life is None:
        return f"step {first.step}{where}"
    if first.resumed_from:
        begin = f"resuming from step {first.resumed_from}"
        return f"step {first.step}{where}, " + (
            f"the first step after {begin}" if first.first_of_life else f"after {begin}"
        )
    return f"step {first.step}{where}, in a life that began from nothing"


def _what(first: Difference) -> str:
    details = _detail_words(first)
    match first.aspect:
        case "batch":
            return f"the step was made of another batch{details}"
        case "order":
            return "other samples were drawn for the batch"
        case "sample":
            return (
                "the same samples were drawn, and their content differs"
                if "the order of samples" in first.equal
                else ("the content of the batch differs")
            )
        case "generator":
            names = ", ".join(leaf for leaf, _, _ in first.details)
            return f"the global generators stood elsewhere ({names})"
        case "state before":
            return f"{_parts(first)} differ before the step{details}"
        case "gradients":
            return f"the gradients differ ({_leaf_names(first)})"
        case "settings":
            return f"the optimizer's settings differ{details}"
        case "state after":
            return f"{_parts(first)} differ after the step{details}"
        case "log":
            return f"{first.what[0]} of metrics.jsonl differs{_both(first)}"
        case "end":
            return f"{first.what[0]} differs{_both(first)}"


def _both(first: Difference) -> str:
    return "".join(f": {straight} undisturbed, {killed} here" for _, straight, killed in first.details[:1])


def _parts(first: Difference) -> str:
    words = []
    for part in first.what[:3]:
        name, _, kind = part.rpartition(": ")
        words.append(f"{kind} of `{name}`")
    return ", ".join(words)


def _leaf_names(first: Difference) -> str:
    return ", ".join(leaf for leaf, _, _ in first.details) + (", ..." if len(first.details) > 2 else "")


_FINGERPRINT = re.compile(r"[0-9a-f]{8}")


def _detail_words(first: Difference) -> str:
    leaf, straight, killed = first.details[0] if first.details else ("", "", "")
    if not leaf:
        return ""
    if _FINGERPRINT.fullmatch(straight) or _FINGERPRINT.fullmatch(killed):
        return f" ({_leaf_names(first)})"
    return f" ({leaf}: {straight} undisturbed, {killed} here)"


def _so(first: Difference) -> str:
    names = [_suspect_words(suspect) for suspect in first.suspects]
    seen = "; ".join(names)
    if first.life is not None and not first.resumed_from:
        cause = "two lives that both began from nothing already differ, so this is not about resuming"
        return f"{cause}; {seen}" if seen else f"{cause}: something random or clock-driven is not seeded by the run"
    if first.left:
        return f"it added to gradients that the step before had left in {_owners(first)}; no snapshot holds gradients"
    match first.aspect:
        case "batch" | "order":
            cause = "the position in the data was not brought back"
        case "sample" if _is_about_data(first):
            cause = "the data themselves are not the same"
        case "sample":
            cause = "the data set or its transforms use something besides the index and the global generators"
        case "generator":
            cause = "something seeds or draws from the global generators at another rate than in the undisturbed run"
        case "state before" if first.first_of_life:
            cause = "the snapshot did not bring this back, or the script changed it after `run.track`"
        case "state before":
            cause = "something changed it between the steps"
        case "settings":
            cause = "what sets the learning rate and its like is not tracked"
        case "state after" if first.what and first.what[0].endswith(": settings"):
            cause = "what sets the learning rate and its like is not tracked"
        case "state after" if "gradients" in first.equal:
            cause = "the gradients were equal and the update was not"
        case "log":
            cause = "what was logged depends on something outside the tracked state"
        case _:
            cause = "something outside the tracked state takes part in the step"
    if seen:
        return f"{cause}; {seen}"
    if first.aspect in ("gradients", "state after", "end", "log"):
        return f"{cause}; no name around the step explains it: a closure, an iterator, a file, the clock, or a kernel"
    return cause


def _suspect_words(suspect: Suspect) -> str:
    name = f"`{suspect.name}` in {suspect.place}"
    if " #" in suspect.killed:
        kind = suspect.killed.split(" ")[0]
        return f"{name} ({kind}) is not tracked and was not the same"
    return f"{name} was {suspect.straight} in the undisturbed run and {suspect.killed} here"


def _left_behind_words(suspect: Suspect) -> str:
    name = suspect.name.split(".")[-1]
    remedy = f"run.track({name}={suspect.name}) keeps it"
    return f"{_suspect_words(suspect)}; nothing that was compared depends on it; {remedy}"


_DRAW_INSIDE = (
    "draw from random, numpy.random or torch inside __getitem__: the run keys them to (seed, epoch, index);"
    " or make the generator there, from the index"
)


_DRAW_DATA = "make the data from a generator of their own with a fixed seed: torch.Generator().manual_seed(0)"


def _is_about_data(first: Difference) -> bool:
    """Whether tensors or arrays are suspected before any generator is."""
    return any(suspect.killed.startswith(("tensor ", "array ")) for suspect in first.suspects[:1])


def _owners(first: Difference) -> str:
    """The tracked modules whose parameters these are."""
    return ", ".join(dict.fromkeys(f"`{name.partition('.')[0]}`" for name in first.left))


def _do(first: Difference) -> tuple[str, ...]:
    if first.left and (first.resumed_from or first.life is None):
        return (
            "clear them before backward(): optimizer.zero_grad()",
            f"or have no other loss leave any there: requires_grad_(False) on {_owners(first)} while it goes backward",
        )
    if first.aspect == "sample":
        return (_DRAW_DATA if _is_about_data(first) else _DRAW_INSIDE,)
    if first.aspect in ("batch", "order") and not first.suspects:
        return ("let the run deal out the samples: run.loader(dataset, ...) and run.batches(...)",)
    if first.aspect == "generator" and not first.suspects:
        return ("remove calls of seed() and manual_seed() inside the loop: the run seeds every step",)
    if first.suspects:
        return tuple(_remedy(suspect) for suspect in first.suspects[:2])
    if first.life is not None and not first.resumed_from:
        return ("make the run first, rk.Run(..., seed=0), and the model and the data after it",)
    if first.aspect == "state before":
        return ("call run.track(...) once everything is built, and change nothing afterwards",)
    return ("look for state outside run.track and run.state; torch.use_deterministic_algorithms(True) names kernels",)


def _remedy(suspect: Suspect) -> str:
    last = re.split(r"[.\[]", suspect.name)[-1].strip("']\"") or suspect.name
    kept = f'run.state["{last}"]'
    if suspect.place == "the tracked object":
        return f"its state dict leaves `{suspect.name}` out: make it a buffer, or keep it in {kept}"
    if " #" in suspect.killed:
        kind = suspect.killed.split(" ")[0]
        if kind in ("tensor", "array") or " of " in suspect.killed:
            return f"keep it in {kept}"
        return f"run.track({last if last.isidentifier() else 'other'}={suspect.name})"
    return f"keep it in {kept}, or track the object that holds it: run.track(...)"


# ---- small words


def _line(label: str, text: str) -> str:
    return f"  {label:<9}{text}"


def _many(count: int, singular: str, plural: str = "") -> str:
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])}, and {words[-1]}"
