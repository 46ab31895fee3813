"""Autograd and optimizers: a weight told from a result, a carried state, the line that cut the graph."""

from __future__ import annotations

from pathlib import Path

import pytest
from explaining import run_example

from rekindle.explain.cause import Cause
from rekindle.explain.event import event_of
from rekindle.explain.match import causes_of
from rekindle.explain.report import explain_events, explain_text

IMPORTS = "import torch\nfrom torch import nn\n"


def ran(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Cause]:
    monkeypatch.chdir(folder)
    done = run_example(IMPORTS + source, folder)
    assert done.events, done.printed
    return list(explain_events(done.events, strict=True).causes)


def test_a_weight_that_a_step_changed_is_told_from_a_result_that_was_written_into(tmp_path, monkeypatch):
    gan = """
generator, critic = nn.Linear(2, 3), nn.Linear(3, 4)
optimizer = torch.optim.SGD([*generator.parameters(), *critic.parameters()], lr=0.1)
scores = critic(generator(torch.ones(1, 2)))
scores.sum().backward(retain_graph=True)
optimizer.step()
scores.mean().backward()
"""
    (cause,) = ran(gan, tmp_path, monkeypatch)
    assert cause.what.startswith("a weight of shape")
    assert "optimizer.step()" in cause.why
    written = "x = nn.Linear(3, 3)(torch.ones(2, 3)).tanh()\nx[:, 0] = 0\nx.sum().backward()\n"
    (cause,) = ran(written, tmp_path, monkeypatch)
    assert (
        cause.what == "a tensor of shape [2, 3], the result of tanh, was overwritten after the forward pass had kept it"
    )
    assert "line 4: x[:, 0] = 0" in cause.why


def test_an_input_that_was_written_into_has_no_operation_to_name(tmp_path, monkeypatch):
    (cause,) = ran("x = torch.zeros(2, 3)\ny = nn.Linear(3, 3)(x)\nx += 1\ny.sum().backward()\n", tmp_path, monkeypatch)
    assert cause.what == "a tensor of shape [2, 3] was overwritten after the forward pass had kept it"
    assert "it is an input" in cause.why


def test_a_state_that_is_carried_is_told_from_two_calls_of_backward(tmp_path, monkeypatch):
    lstm = """
rnn, hidden = nn.LSTM(2, 2), None
for step in range(2):
    out, hidden = rnn(torch.ones(1, 1, 2), hidden)
    out.sum().backward()
"""
    causes = ran(lstm, tmp_path, monkeypatch)
    assert causes[0].code == "RK-GRAD-17"
    assert causes[0].what == "hidden is carried from step to step with the graph of the steps before"
    assert causes[0].fix[0].startswith("hidden = tuple(part.detach() for part in hidden)")
    twice = "loss = (torch.ones(3, requires_grad=True) ** 2).sum()\nloss.backward()\nloss.backward()\n"
    assert [cause.code for cause in ran(twice, tmp_path, monkeypatch)] == ["RK-GRAD-02"]


def test_from_text_alone_both_reasons_of_a_second_backward_are_given():
    causes = explain_text("RuntimeError: Trying to backward through the graph a second time (or directly access").causes
    assert [(cause.code, cause.likelihood) for cause in causes] == [
        ("RK-GRAD-02", "likely"),
        ("RK-GRAD-17", "possible"),
    ]


@pytest.mark.parametrize(
    ("source", "line", "said"),
    [
        ("with torch.no_grad():\n    loss = model(x).sum()\nloss.backward()\n", "line 5", "gradients are switched off"),
        ("loss = model(x).argmax(1).float().mean()\nloss.backward()\n", "line 5", "a whole number has no gradient"),
        (
            "loss = model(x).sum()\nloss = torch.tensor(loss.item())\nloss.backward()\n",
            "line 6",
            "makes a new tensor, without history",
        ),
    ],
)
def test_the_line_that_cut_the_graph_is_named(source, line, said, tmp_path, monkeypatch):
    (cause,) = ran(f"model, x = nn.Linear(2, 2), torch.ones(1, 2)\n\n{source}", tmp_path, monkeypatch)
    assert cause.what == "loss does not depend on any parameter that requires gradients"
    assert line in cause.why
    assert said in cause.why


def test_gradients_that_were_switched_off_elsewhere_are_noticed(tmp_path, monkeypatch):
    source = """
def evaluate(model, x):
    torch.set_grad_enabled(False)
    return model(x)

model = nn.Linear(2, 2)
evaluate(model, torch.ones(1, 2))
loss = model(torch.ones(1, 2)).sum()
loss.backward()
"""
    (cause,) = ran(source, tmp_path, monkeypatch)
    assert cause.what == "gradients are switched off for the whole program, so that no loss has a graph"
    assert cause.fix[0] == "torch.set_grad_enabled(True)"


def test_tensors_of_inference_mode_are_a_case_of_their_own(tmp_path, monkeypatch):
    source = "with torch.inference_mode():\n    x = torch.ones(1, 2) * 2\nnn.Linear(2, 2)(x)\n"
    (cause,) = ran(source, tmp_path, monkeypatch)
    assert cause.what == "a tensor made under inference_mode is used where gradients are recorded"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("w = torch.ones(3, requires_grad=True)\nw += 1\n", "w"),
        ("w = torch.ones(3, requires_grad=True)\nw[0] = 1\n", "a piece of w"),
        ("layer = nn.Linear(2, 2)\nlayer.weight.fill_(0)\n", "layer.weight"),
    ],
)
def test_the_parameter_changed_in_place_is_named(source, name, tmp_path, monkeypatch):
    (cause,) = ran(source, tmp_path, monkeypatch)
    assert cause.what == f"{name} is changed in place while gradients are recorded"
    assert cause.fix[0].startswith("with torch.no_grad(): ")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("model = nn.Linear(2, 2)\nprint(model.weight.grad.norm())\n", "no backward() ran in front of this line"),
        (
            (
                "model = nn.Linear(2, 2)\nmodel(torch.ones(1,"
                " 2)).sum().backward()\nmodel.zero_grad()\nprint(-model.weight.grad)\n"
            ),
            (
                "zero_grad() (line 5: model.zero_grad()) sets gradients to None, and stands between backward() and"
                " this line"
            ),
        ),
        (
            "x = torch.ones(2)\nnn.Linear(2, 2)(x).sum().backward()\nprint(0.1 * x.grad)\n",
            "x does not require gradients: it is frozen, or was made without requires_grad=True",
        ),
    ],
)
def test_why_there_is_no_gradient_is_read_from_the_lines_before(source, why, tmp_path, monkeypatch):
    (cause,) = ran(source, tmp_path, monkeypatch)
    assert cause.code == "RK-GRAD-13"
    assert cause.why == why


@pytest.mark.parametrize(
    "text",
    [
        "AttributeError: 'NoneType' object has no attribute 'data'",
        "TypeError: unsupported operand type(s) for *: 'float' and 'NoneType'",
        "TypeError: '<=' not supported between instances of 'float' and 'str'",
        "NotImplementedError: the derivative for ",
    ],
)
def test_ordinary_mistakes_of_python_are_left_alone(text):
    assert causes_of(event_of(text), strict=True) == []


@pytest.mark.parametrize(("setting", "value"), [("lr", "1e-3"), ("weight_decay", "1e-4")])
def test_the_setting_that_is_a_text_is_named(setting, value, tmp_path, monkeypatch):
    (cause,) = ran(f"torch.optim.AdamW(nn.Linear(2, 2).parameters(), {setting}='{value}')\n", tmp_path, monkeypatch)
    assert cause.what == f"{setting} is the text '{value}', not a number"
    assert cause.fix[1] == f"{setting}: 1.0e-3   # in YAML, with the dot"


def test_a_generator_that_was_read_before_is_told_from_layers_in_a_list(tmp_path, monkeypatch):
    source = (
        "model = nn.Linear(2, 2)\nparams ="
        " model.parameters()\nprint(len(list(params)))\ntorch.optim.SGD(params, lr=0.1)\n"
    )
    (cause,) = ran(source, tmp_path, monkeypatch)
    assert cause.what == "params gave no parameters"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "RuntimeError: Function 'LogBackward0' returned nan values in its 0th output.",
            "the gradient of log is not a number",
        ),
        (
            (
                "ValueError: Expected parameter loc (Tensor of shape (1,)) of distribution Normal(loc:"
                " tensor([nan]), scale:"
                " tensor([1.])) to satisfy the constraint Real(), but found invalid values:\ntensor([nan])"
            ),
            "loc of the distribution Normal, of shape [1], holds nan",
        ),
        (
            (
                "RuntimeError: The total norm of order 2.0 for gradients from `parameters` is non-finite, so it"
                " cannot be clipped."
            ),
            "the gradients hold inf or nan, so that they cannot be clipped",
        ),
        ("epoch 3 step 120 loss=nan lr=0.1", "the loss is nan"),
        ("Loss is nan, stopping training", "the loss is nan"),
    ],
)
def test_numbers_that_ran_away_are_found_where_they_are_noticed(text, what):
    assert explain_text(text, strict=True).causes[0].what == what


def test_invalid_values_that_are_no_nan_are_not_called_so():
    text = (
        "ValueError: Expected parameter scale (Tensor of shape (1,)) of distribution Normal(loc: 0, scale:"
        " -1) to satisfy the constraint GreaterThan(lower_bound=0.0), but found invalid"
        " values:\ntensor([-1.])"
    )
    assert causes_of(event_of(text), strict=True) == []


@pytest.mark.parametrize(
    ("source", "swapped"),
    [
        ("pred, target = nn.Linear(2, 1)(x), torch.ones(1, 1)", True),
        ("pred, target = torch.ones(1, 1), nn.Linear(2, 1)(x)", False),
    ],
)
def test_input_and_target_that_were_swapped_are_noticed(source, swapped, tmp_path, monkeypatch):
    call = "target, pred" if swapped else "nn.Linear(2, 1)(x), target"
    (cause,) = ran(f"x = torch.ones(1, 2)\n{source}\nnn.functional.soft_margin_loss({call})\n", tmp_path, monkeypatch)
    assert ("swapped" in cause.why) is swapped
