"""A trace names what CPython would import; the attacks are shown to be real by CPython's own unpicklers, in a cage."""

from __future__ import annotations

import pickle
import random

import attacks
import pytest

from rekindle.finding import Severity
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.scanning.content import Role, scan_content
from rekindle.scanning.names import Level, judge
from rekindle.scanning.programs import report_program
from rekindle.scanning.report import Report, View
from rekindle.scanning.trace import describe, trace
from rekindle.source import MemorySource
from rekindle.verbs.scan import _verdict_of

PROGRAMS = attacks.programs()


def verdict(data: bytes) -> str:
    report = Report(DEFAULT_LIMITS)
    scan_content(View(MemorySource(data, "x")), report, Role.FILE)
    return _verdict_of(report.findings)


@pytest.fixture(scope="module")
def reached() -> dict[str, dict[str, list[str]]]:
    return dict(zip(PROGRAMS, attacks.in_cage(list(PROGRAMS.values()), "every"), strict=True))


def judged(path: str) -> Level:
    module, _, name = path.rpartition(".")
    parts = path.split(".")
    # find_class has two arguments; the cage joins them, so every cut is tried and the worst one counts.
    cuts = [(".".join(parts[:at]), ".".join(parts[at:])) for at in range(1, len(parts))] or [(module, name)]
    return max((judge(*cut).level for cut in cuts), key=lambda level: level.value)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_attack_is_named(name):
    assert verdict(PROGRAMS[name]) == "dangerous"


# Not shown in the cage: these need what a stand-in has not, joblib's own reader and the result of a call.
UNSHOWN = {"changes a function", "joblib array and then", "a name that a call makes"}


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in UNSHOWN])
def test_an_attack_is_alive_in_one_of_the_two_unpicklers(name, reached):
    names = [path for found in reached[name].values() for path in found]
    assert any(judged(path) is Level.DANGEROUS or "_load_from_bytes" in path for path in names), names


def test_the_real_unpickler_asks_for_the_dangerous_name_first():
    simple = ["reduce-0", "reduce-2", "reduce-4", "INST", "OBJ", "NEWOBJ", "STACK_GLOBAL", "breaks after the call"]
    found = attacks.in_cage([PROGRAMS[name] for name in simple], "first")
    for name, one in zip(simple, found, strict=True):
        assert {path.split(".")[0] for names in one.values() for path in names} <= {"os", "posix", "nt", "subprocess"}
        assert one["c"], name


def test_the_trace_meets_every_name_that_cpython_asks_for(reached):
    for name, found in reached.items():
        if "joblib" in name:
            continue  # CPython does not step over the array
        for asked in found.values():
            met = []
            at = 0
            data = PROGRAMS[name]
            while at < len(data):
                one = trace(data, at, DEFAULT_LIMITS)
                met += [known.path for known in one.names]
                if one.problem:
                    break
                at = one.end
            assert set(asked) <= set(met), name


def test_changed_attacks_never_look_better_than_they_are():
    """Whatever a mutation leaves, what CPython would still import decides, in either unpickler."""
    chance = random.Random(20)
    bases = [data for name, data in PROGRAMS.items() if len(data) < 2000 and "joblib" not in name]
    changed = []
    for _ in range(2000):
        data = chance.choice(bases)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            change = chance.choice(attacks.MUTATORS)
            data = change(data, chance.randrange(max(len(data), 1)), chance.randrange(256))
        changed.append(data)
    found = attacks.in_cage(changed, "every")
    dangerous = 0
    for data, one in zip(changed, found, strict=True):
        levels = [judged(path) for names in one.values() for path in names]
        if Level.DANGEROUS in levels:
            dangerous += 1
            assert verdict(data) == "dangerous", (data, one)
        elif Level.UNKNOWN in levels:
            assert verdict(data) != "clean", (data, one)
    assert 600 < dangerous < 1999


def test_a_program_that_ends_is_followed_to_its_end():
    one = trace(b"\x80\x02}q\x00.rest", 0, DEFAULT_LIMITS)
    assert (one.end, one.problem, one.names, one.opcodes) == (6, "", [], 4)


def test_a_broken_program_keeps_what_it_did_and_says_where_it_breaks():
    one = trace(b"cos\nsystem\n\x00", 0, DEFAULT_LIMITS)
    assert (one.end, one.problem, [name.path for name in one.names]) == (11, "there is no opcode 0x00", ["os.system"])


def test_bounds_stop_a_trace_and_are_said():
    assert trace(b"0" * 10, 0, DEFAULT_LIMITS).problem == "there is no MARK"
    assert trace(b"N" * 9000 + b".", 0, Limits(opcodes=5000)).limit == "opcodes"
    assert trace(b"N" * 9000 + b".", 0, Limits(stack=100)).limit == "stack"


def test_a_joblib_array_is_stepped_over_and_an_array_of_objects_followed():
    whole = attacks.joblib_array(b"\x00\xff." * 8, "f8") + b"."
    assert trace(whole, 0, DEFAULT_LIMITS).problem == ""
    objects = attacks.joblib_array(b"", "O")[:-1] + attacks.evil() + b"a."
    one = trace(objects, 0, DEFAULT_LIMITS)
    assert one.problem == ""
    assert [name.name for name in one.names][-1] == "system"


def test_calls_are_described_as_python_would_write_them_and_cut():
    one = trace(attacks.reduce_of("os", "system", attacks.text("x" * 5000)), 0, DEFAULT_LIMITS)
    words = describe(one.calls[0])
    assert words.startswith("os.system('xxx")
    assert len(words) < 200


def test_a_value_inside_itself_is_described_without_end():
    value: list = []
    value.append(value)
    assert describe(value) == "[[[[…]]]]"


GETATTR = b"cbuiltins\ngetattr\n"
RED = b"(cmodels\nColour\n" + attacks.text("RED") + b"tR"

# What protocols below 4 write for nested classes, and Python 3.11 for enum members.
PLAIN_LOOKUPS = {
    "an enum member": GETATTR + RED,
    "two by the memo": GETATTR + b"q\x00" + RED + b"h\x00" + RED.replace(b"RED", b"TAN") + b"\x86",
    "a nested class that is called": GETATTR + RED + b")R",
    "a class in a nested class": GETATTR + b"q\x00(h\x00" + RED + attacks.text("Inner") + b"tR",
    "as Python 2 spells it": b"c__builtin__\ngetattr\n" + RED,
}
# The same function for anything else, or kept for later.
OTHER_LOOKUPS = {
    "of a value": GETATTR + b"(" + attacks.text("abc") + attacks.text("format") + b"tR",
    "with a default": GETATTR + RED.replace(b"tR", b"NtR"),
    "kept in a tuple": GETATTR + b"q\x00" + RED + b"h\x00\x86",
    "taken from a persistent id": b"(" + attacks.text("module") + GETATTR + b"tQ" + RED,
    "popped": GETATTR + b"0" + RED.replace(b"tR", b"t"),
    "given a state": GETATTR + b"q\x00" + RED + b"h\x00}b\x86",
    "a name made by a call": GETATTR + b"(cmodels\nColour\ncmodels\nname\n)RtR",
    "a name with dots": GETATTR + RED.replace(attacks.text("RED"), attacks.text("a.b")),
    "of a dangerous module": GETATTR + b"(ctorch\nserialization\n" + attacks.text("os") + b"tR",
    "of dangerous names": GETATTR + RED.replace(attacks.text("RED"), attacks.text("__globals__")),
    "step by step to a command": GETATTR + b"q\x00(h\x00(ctorch\nserialization\n" + attacks.text("os") + b"tR"
    + attacks.text("system") + b"tR",
}  # fmt: skip


def reported(program: bytes) -> Report:
    report = Report(DEFAULT_LIMITS)
    view = View(MemorySource(program, "x"))
    report_program(trace(program, 0, DEFAULT_LIMITS), view, 0, report)
    return report


@pytest.mark.parametrize("name", PLAIN_LOOKUPS)
def test_a_plain_lookup_is_the_dotted_name_that_it_means(name):
    program = b"\x80\x02" + PLAIN_LOOKUPS[name] + b"."
    found = trace(program, 0, DEFAULT_LIMITS)
    assert found.lookups == found.looked_up > 0
    assert ("models", "Colour.RED") in [(named.module, named.name) for named in found.names]
    assert {finding.code for finding in reported(program).findings} == {"RK-SCAN-02"}


@pytest.mark.parametrize("name", OTHER_LOOKUPS)
def test_any_other_lookup_stays_a_danger(name):
    findings = reported(b"\x80\x02" + OTHER_LOOKUPS[name] + b".").findings
    assert "RK-SCAN-01" in {finding.code for finding in findings}


def test_enum_members_and_nested_classes_of_real_pickles_are_unknown_and_not_dangerous():
    class Inner:
        pass

    Inner.__qualname__, Inner.__module__ = "Outer.Inner", __name__
    globals()["Outer"] = type("Outer", (), {"Inner": Inner})
    try:
        program = pickle.dumps(Inner(), 2)
    finally:
        del globals()["Outer"]
    assert b"getattr" in program  # that is how CPython writes it below protocol 4
    assert {finding.code for finding in reported(program).findings if finding.severity is not Severity.NOTE} == {
        "RK-SCAN-02"
    }
