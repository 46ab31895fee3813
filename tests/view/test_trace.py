"""The trace: what it shows, and that it changes nothing."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

torch = pytest.importorskip("torch")
from torch import nn

import rekindle as rk
from rekindle.errors import ConfigError
from rekindle.view.trace import TraceRow


def names(rows: list[TraceRow]) -> list[tuple[str, str]]:
    return [(row.source, row.name) for row in rows]


def test_each_line_shows_what_it_made_or_changed_and_no_more():
    rows: list[TraceRow] = []

    @rk.trace(into=rows)
    def work(x, factor):
        y = x * factor
        factor += 1
        y.add_(1)
        z = y
        del y
        return z

    work(torch.ones(2, 3), 2)
    assert names(rows) == [
        ("arguments", "x"),
        ("y = x * factor", "y"),
        ("y.add_(1)", "y"),
        ("z = y", "z"),
        ("return", "return"),
    ]
    changed = rows[2]
    assert (changed.dtype, changed.shape, changed.device) == ("float32", (2, 3), "cpu")
    assert (changed.low, changed.high, changed.nans, changed.infs) == (3.0, 3.0, 0, 0)
    assert changed.function.endswith("work")


@pytest.mark.parametrize(
    ("tensor", "span"),
    [
        (torch.tensor([1.0, float("nan"), -2.0, float("inf"), float("-inf")]), (-2.0, 1.0, 1, 2)),
        (torch.tensor([float("nan")]), (None, None, 1, 0)),
        (torch.tensor([3, -7]), (-7.0, 3.0, 0, 0)),
        (torch.tensor([True, False]), (0.0, 1.0, 0, 0)),
        (torch.tensor([1.5, 2.0], dtype=torch.bfloat16), (1.5, 2.0, 0, 0)),
        (torch.tensor([3 + 4j]), (5.0, 5.0, 0, 0)),
        (torch.tensor([0.0, 2.0]).to_sparse(), (2.0, 2.0, 0, 0)),
        (torch.empty(0), (None, None, 0, 0)),
        (torch.empty(3, device="meta"), (None, None, 0, 0)),
    ],
)
def test_ranges_of_every_kind_of_tensor(tensor, span):
    rows: list[TraceRow] = []
    rk.trace(into=rows)(lambda x: x is None)(tensor)
    assert (rows[0].low, rows[0].high, rows[0].nans, rows[0].infs) == span


def test_a_forward_is_traced_as_text_with_the_line_once_and_lists_by_their_parts(capsys):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(2, 2)
            nn.init.ones_(self.line.weight)
            nn.init.zeros_(self.line.bias)

        @rk.trace
        def forward(self, x):
            x = self.line(x)
            both = {"a": x, "b": [x / 0]}
            return both["a"]

    with torch.no_grad():
        Net()(torch.ones(1, 2))
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if not line.strip().split(" ")[0].isdecimal()]
    assert lines[0].endswith("Net.forward")
    assert [line.strip().replace("              ", " ") for line in lines[1:]] == [
        line.strip().replace("              ", " ")
        for line in (
            "x             float32   [1, 2]              cpu    1",
            "x             float32   [1, 2]              cpu    2",
            "both['a']     float32   [1, 2]              cpu    2",
            "both['b'][0]  float32   [1, 2]              cpu    2 inf",
            "returns",
            "return        float32   [1, 2]              cpu    2",
        )
    ]


def helper(y):
    z = y + 1
    return z  # noqa: RET504 - a line that makes a tensor


def test_nested_calls_are_followed_when_asked_and_those_of_torch_never():
    def outer(x):
        x = helper(x)
        return nn.functional.softmax(x, 0)

    flat, deep = [], []
    rk.trace(into=flat)(outer)(torch.ones(2))
    rk.trace(into=deep, nested=True)(outer)(torch.ones(2))
    assert {row.function.rpartition(".")[2] for row in flat} == {"outer"}
    assert {row.function.rpartition(".")[2] for row in deep} == {"outer", "helper"}


def test_a_traced_function_that_calls_itself_and_another_traced_one_shows_each_row_once():
    rows: list[TraceRow] = []

    @rk.trace(into=rows)
    def inner(x):
        return x + 1

    @rk.trace(into=rows, nested=True)
    def fall(x, depth):
        return fall(x, depth - 1) if depth else inner(x)

    fall(torch.zeros(1), 2)
    assert [row.name for row in rows].count("x") == 4
    assert [row.name for row in rows].count("return") == 4


def test_results_gradients_and_generators_are_the_same_bits():
    def work(x):
        y = nn.functional.dropout(x, 0.5) @ x.T
        y = y.relu()
        return y.sum()

    found = []
    for function in (work, rk.trace(into=[])(work)):
        torch.manual_seed(3)
        x = torch.randn(4, 4, requires_grad=True)
        result = function(x)
        result.backward()
        found.append((result.detach(), x.grad, torch.get_rng_state()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_no_tensor_lives_more_than_a_line_longer():
    @rk.trace(into=print)
    def work(x):
        big = x + 1
        ref = weakref.ref(big)
        big = None  # until the next line Python itself keeps what a tracer has seen
        gc.collect()
        return ref() is None

    assert work(torch.ones(1))


def test_switched_off_it_is_the_very_same_function_and_calls_are_counted():
    assert rk.trace(enabled=False)(helper) is helper
    rows: list[TraceRow] = []
    counted = rk.trace(into=rows, calls=1)(helper)
    for _ in range(3):
        counted(torch.ones(1))
    assert len([row for row in rows if row.source == "arguments"]) == 1


def test_the_tracer_that_was_there_gets_its_events_and_is_back_also_after_an_error():
    seen: list[tuple[str, str]] = []

    def debugger(frame, event, arg):
        seen.append((frame.f_code.co_name, event))
        if event == "call":
            sys.settrace(debugger)  # as coverage's tracer does
        return debugger

    rows: list[TraceRow] = []

    @rk.trace(into=rows, nested=True)
    def breaks(x):
        x = helper(x)
        raise KeyError("mine")

    before = sys.gettrace()
    sys.settrace(debugger)
    try:
        with pytest.raises(KeyError, match="mine"):
            breaks(torch.ones(1))
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is debugger
    assert seen.count(("breaks", "call")) == 1
    assert seen.count(("breaks", "line")) == 2
    assert seen.count(("helper", "line")) == 2
    assert "z" in [row.name for row in rows]  # ours got its events as well


def test_a_debugger_started_inside_stays():
    def debugger(frame, event, arg):
        return None

    def starts(tracer):
        sys.settrace(tracer)

    before = sys.gettrace()
    try:
        rk.trace(into=[])(starts)(debugger)
        assert sys.gettrace() is debugger
    finally:
        sys.settrace(before)


def test_coverage_counts_the_lines_of_a_traced_function(tmp_path):
    pytest.importorskip("coverage")
    (tmp_path / "mine.py").write_text(
        "import torch, rekindle as rk\n"
        "@rk.trace(into=[])\ndef work(x):\n    y = after(x)\n    return y\n"
        "def after(x):\n    z = x + 1\n    return z\n"
        "work(torch.ones(1))\nlast = after(torch.ones(1))\n"
    )
    run = [sys.executable, "-m", "coverage"]
    subprocess.run([*run, "run", "mine.py"], cwd=tmp_path, check=True, timeout=60)
    done = subprocess.run([*run, "report", "-m"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "100%" in done.stdout, done.stdout


def test_what_cannot_be_traced_is_refused_with_the_reason():
    def steps():
        yield 1

    async def later():
        pass

    for wrong, words in [
        (steps, "yields or awaits"),
        (later, "yields or awaits"),
        (nn.Linear(1, 1), "not Linear"),
        (nn.Linear, "not Linear"),
        (staticmethod(helper), "below @staticmethod"),
    ]:
        with pytest.raises(TypeError, match=words):
            rk.trace(wrong)
    with pytest.raises(ConfigError, match="calls=-1 is negative"):
        rk.trace(calls=-1)


def test_a_compiled_function_is_not_disturbed():
    rows: list[TraceRow] = []
    traced = rk.trace(into=rows)(helper)
    assert torch.equal(torch.compile(traced, backend="eager")(torch.ones(2)), torch.full((2,), 2.0))
    assert rows == []
