"""Which entries fit an event, in which order their causes come, and that a faulty entry costs nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import explaining  # noqa: F401 - the entries as they are now
import pytest

from rekindle.explain import match
from rekindle.explain.catalogue import Heading, entry, headings
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event, event_of
from rekindle.explain.report import explain_events, explain_text


def made(name, likelihood, *, raises=("RuntimeError",), fails=False):
    """An entry that fits every `boom`."""

    def explain(event):
        if fails:
            raise SystemError("a fault of the entry")
        yield Cause(f"RK-X-{name}", name, f"{event.facts['who']} went boom", "", ("stop",), likelihood=likelihood)

    module = SimpleNamespace(PATTERNS=(r"(?P<who>\w+) boom(?P<how> loudly)?",), explain=explain)
    return Heading(name, f"RK-X-{name}", name, "boom", raises, ("boom",)), module


@pytest.fixture
def catalogue(monkeypatch):
    def use(*entries):
        modules = {heading.module: module for heading, module in entries}
        monkeypatch.setattr(match, "headings", lambda: tuple(heading for heading, _ in entries))
        monkeypatch.setattr(match, "entry", modules.__getitem__)

    return use


BOOM = Event("RuntimeError", "net boom")


def names(causes):
    return [cause.name for cause in causes]


def test_causes_come_in_the_order_of_their_likelihood(catalogue):
    catalogue(made("a", "possible"), made("b", "likely"), made("c", "likely"))
    assert names(match.causes_of(BOOM)) == ["b", "c", "a"]


def test_a_certain_cause_leaves_out_the_others(catalogue):
    catalogue(made("a", "likely"), made("b", "certain"))
    assert names(match.causes_of(BOOM)) == ["b"]


def test_another_type_of_exception_is_something_else(catalogue):
    catalogue(made("a", "likely", raises=("ValueError",)), made("b", "likely", raises=()))
    assert match.causes_of(BOOM) == []
    assert names(match.causes_of(Event("", "net boom"))) == ["a", "b"], "a pasted line has no type"
    assert names(match.causes_of(Event("UserWarning", "net boom"))) == ["b"]


def test_a_fault_in_an_entry_costs_that_entry_alone(catalogue):
    catalogue(made("a", "likely", fails=True), made("b", "likely"))
    assert names(match.causes_of(BOOM)) == ["b"]
    with pytest.raises(SystemError, match="a fault of the entry"):
        match.causes_of(BOOM, strict=True)


def test_a_group_that_took_no_part_is_an_empty_text(catalogue):
    _, module = made("a", "likely")
    assert match.facts_of(module, BOOM) == {"who": "net", "how": ""}
    assert match.facts_of(module, Event("RuntimeError", "quiet")) is None


def ranks(**said):
    frame = 'Traceback (most recent call last):\n  File "train.py", line 1, in f\n    f()\n'
    return "\n".join(f"[rank{name[1:]}]: {line}" for name, text in said.items() for line in (frame + text).splitlines())


def explained(text):
    return [(found.causes[0].what, found.ranks) for found in explain_text(text, strict=True).explained]


CLOSED = "RuntimeError: boom, Connection closed by peer [10.0.0.2]:4711; one boom"


def test_what_follows_from_another_ranks_failure_is_not_named_beside_it(catalogue):
    catalogue(made("a", "likely"))
    assert explained(ranks(r0=CLOSED, r1="RuntimeError: net boom", r2=CLOSED)) == [("net went boom", (1,))]


def test_what_follows_is_explained_where_nothing_else_is_known(catalogue):
    catalogue(made("a", "likely"))
    assert explained(ranks(r0=CLOSED, r2=CLOSED)) == [("one went boom", (0, 2))]


def test_of_one_rank_the_first_failure_counts(catalogue):
    catalogue(made("a", "likely"))
    text = ranks(r0="RuntimeError: first boom") + "\n[rank0]: \n" + ranks(r0="RuntimeError: second boom")
    assert explained(text) == [("first went boom", (0,))]


def test_a_failure_that_is_not_known_is_named_before_what_followed_from_it(catalogue):
    catalogue(made("a", "likely"))
    report = explain_text(ranks(r0=CLOSED, r1="KeyError: 'lr'"), strict=True)
    assert [event.text for event in report.unknown] == ["KeyError: 'lr'"]


def test_needles_are_looked_for_in_many_texts_at_once(catalogue):
    catalogue(made("a", "likely"))
    assert [heading.name for heading in match.mentioned(["x", "boom"])] == ["a"]
    assert match.mentioned(["x", "y"]) == []


@pytest.mark.parametrize(
    ("text", "raised", "message"),
    [
        ("KeyError: 'epoch'", "KeyError", "'epoch'"),
        ("torch.OutOfMemoryError: CUDA out of memory.", "torch.OutOfMemoryError", "CUDA out of memory."),
        ("EOFError", "EOFError", ""),
        ("loss: 0.5", "", "loss: 0.5"),
        ("RuntimeError: a\n\tb", "RuntimeError", "a\n\tb"),
    ],
)
def test_the_last_line_of_a_traceback_is_an_event(text, raised, message):
    event = event_of(text)
    assert (event.raised, event.message) == (raised, message)


def test_no_events_are_nothing_to_explain():
    with pytest.raises(ValueError, match="no events"):
        explain_events(())


@pytest.mark.parametrize("heading", headings(), ids=lambda heading: heading.name)
def test_the_needles_of_an_entry_are_in_its_own_old_wordings(heading):
    for text in entry(heading.module).OLD:
        assert any(needle in text for needle in heading.needles), text


def test_the_same_cause_twice_is_said_once():
    text = "RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x576 and 400x120)\n"
    assert len(explain_text(text + "\n" + text, strict=True).explained) == 1
