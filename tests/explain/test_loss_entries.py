"""Losses, mixed precision and compiled models: shapes and labels of this case, the call that came twice, the branch."""

from __future__ import annotations

from pathlib import Path

import pytest
from explaining import run_example

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event, Frame, event_of
from rekindle.explain.match import causes_of
from rekindle.explain.report import explain_events

IMPORTS = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"


def ran(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Cause]:
    monkeypatch.chdir(folder)
    done = run_example(IMPORTS + source, folder)
    assert done.events, done.printed
    return list(explain_events(done.events, strict=True).causes)


def told(text: str, code: str = "") -> list[Cause]:
    event = event_of(text)
    frames = (Frame("train.py", 1, "train", code),) if code else ()
    return causes_of(Event(event.raised, event.message, frames), strict=True)


@pytest.mark.parametrize(
    ("labels", "loss", "fix"),
    [
        ("torch.zeros(2, 1, dtype=torch.long)", "F.cross_entropy(output, y)", "y.squeeze(1)"),
        ("torch.eye(2, 10, dtype=torch.long)", "F.nll_loss(output, y)", "y.argmax(1)"),
        ("torch.zeros(2, 1, dtype=torch.long)", "F.multi_margin_loss(output, y)", "y.squeeze(1)"),
    ],
)
def test_labels_with_a_dimension_too_many_are_told_apart(labels, loss, fix, tmp_path, monkeypatch):
    (cause,) = ran(f"output = torch.zeros(2, 10)\ny = {labels}\n{loss}\n", tmp_path, monkeypatch)
    assert cause.code == "RK-LOSS-02"
    assert cause.fix[0].startswith(fix)


def test_a_map_of_labels_with_a_dimension_of_channels_is_of_images(tmp_path, monkeypatch):
    source = (
        "output = torch.zeros(2, 3, 4, 4)\nmasks = torch.zeros(2, 1, 4, 4,"
        " dtype=torch.long)\nF.cross_entropy(output, masks)\n"
    )
    (cause,) = ran(source, tmp_path, monkeypatch)
    assert (
        cause.what
        == "the labels of shape [2, 1, 4, 4] beside an output of [2, 3, 4, 4] are not one class number per sample"
    )
    assert cause.fix[0] == "masks.squeeze(1)   # [N, 1, H, W] to [N, H, W]"


@pytest.mark.parametrize(
    ("scores", "what"),
    [
        ("[1.5, -0.25]", "BCELoss was given values that are not probabilities: they go from -0.25 to 1.5"),
        ("[float('nan'), 0.5]", "BCELoss was given values that are not probabilities: they hold nan or inf"),
    ],
)
def test_a_missing_sigmoid_is_told_from_nan(scores, what, tmp_path, monkeypatch):
    source = f"scores, labels = torch.tensor({scores}), torch.ones(2)\nF.binary_cross_entropy(scores, labels)\n"
    (cause,) = ran(source, tmp_path, monkeypatch)
    assert cause.what == what
    assert ("grad-explosion-nan" in cause.fix[0]) is ("nan" in scores)


def test_targets_outside_of_0_and_1_are_the_targets_fault(tmp_path, monkeypatch):
    source = "scores, labels = torch.tensor([0.5]), torch.tensor([-1.0])\nF.binary_cross_entropy(scores, labels)\n"
    (cause,) = ran(source, tmp_path, monkeypatch)
    assert cause.what == "the targets of a binary loss are not between 0 and 1: they go from -1 to -1"


@pytest.mark.parametrize(
    ("have", "want", "said"),
    [
        (8, 4, "moved features into the batch"),
        (4, 48, "a label for each token"),
        (7, 4, "only one of both was filtered or cut"),
    ],
)
def test_the_ratio_of_outputs_and_labels_tells_which_mistake_it_is(have, want, said):
    (cause,) = told(f"ValueError: Expected input batch_size ({have}) to match target batch_size ({want}).")
    assert cause.what == f"{have} outputs meet {want} labels"
    assert said in cause.why


def test_the_warning_of_mse_says_what_is_broadcast():
    (cause,) = told(
        "UserWarning: Using a target size (torch.Size([8])) that is different to the input size"
        " (torch.Size([8, 1])). This will"
        " likely lead to incorrect results due to broadcasting. Please ensure they have the same size.",
        "loss = mse(pred, y)",
    )
    assert "broadcast to [8, 8]" in cause.why
    assert cause.fix == ("pred.squeeze(-1)   # [8, 1] to [8]", "y.unsqueeze(-1)   # or the labels to [8, 1]")


def test_several_outputs_against_class_numbers_ask_for_another_loss():
    (cause,) = told("ValueError: Target size (torch.Size([8])) must be the same as input size (torch.Size([8, 3]))")
    assert cause.fix[0].startswith("F.cross_entropy(")


@pytest.mark.parametrize(
    ("kind", "fix"),
    [
        ("dict", 'output["out"]'),
        ("tuple", "output[0]"),
        ("SequenceClassifierOutput", "output.logits"),
        ("GoogLeNetOutputs", "criterion(output.logits, target) + 0.4 * criterion(output.aux_logits1"),
    ],
)
def test_the_field_with_the_scores_is_named_by_the_class_of_the_output(kind, fix):
    cause = told(f"TypeError: cross_entropy_loss(): argument 'input' (position 1) must be Tensor, not {kind}")[0]
    assert cause.code == "RK-LOSS-06"
    assert cause.fix[0].startswith(fix)


@pytest.mark.parametrize(("kind", "attribute"), [("tuple", "size"), ("str", "item"), ("Parser", "size")])
def test_attributes_of_ordinary_objects_are_no_matter_of_losses(kind, attribute):
    causes = told(f"AttributeError: '{kind}' object has no attribute '{attribute}'")
    assert not [cause for cause in causes if cause.code.startswith("RK-LOSS")]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("loss = torch.ones(1).item()\nloss.backward()\n", "loss is a float (1), not a tensor"),
        ("total = 0\ntotal.backward()\n", "total is a int (0), not a tensor"),
        ("losses = [torch.ones(1)]\nlosses.backward()\n", "losses is a list, not a tensor"),
    ],
)
def test_what_the_loss_is_in_place_of_a_tensor_is_said(source, what, tmp_path, monkeypatch):
    (cause,) = ran(source, tmp_path, monkeypatch)
    assert cause.what == what.replace("a int", "an int")


def test_the_line_that_took_the_number_out_is_named(tmp_path, monkeypatch):
    (cause,) = ran("out = torch.ones(2)\nloss = out.mean().item()\nloss.backward()\n", tmp_path, monkeypatch)
    assert cause.why == "it was taken out of the graph in line 5: loss = out.mean().item()"


def test_labels_of_another_length_are_not_called_a_transpose(tmp_path, monkeypatch):
    source = (
        "output, tags = torch.zeros(4, 50, 12), torch.zeros(4, 11, dtype=torch.long)\nF.cross_entropy(output, tags)\n"
    )
    (cause,) = ran(source, tmp_path, monkeypatch)
    assert cause.what == "an output of [4, 50, 12] wants labels of [4, 12], and they are [4, 11]"


@pytest.mark.parametrize(
    ("probs", "what"),
    [
        ("[-1.0, 2.0]", "probs [2] in float32 holds -1, and a probability is not negative"),
        ("[0.0, 0.0]", "probs [2] in float32 is all 0"),
    ],
)
def test_what_is_wrong_with_the_probabilities_is_looked_up(probs, what, tmp_path, monkeypatch):
    (cause,) = ran(f"probs = torch.tensor({probs})\ntorch.multinomial(probs, 1)\n", tmp_path, monkeypatch)
    assert cause.what == what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "AssertionError: Attempted step but _scale is None.",
            "scaler.step() was called, and scaler.scale(loss) never was",
        ),
        ("RuntimeError: unscale_() is being called after step().", "unscale_() is called after step()"),
        (
            "RuntimeError: step() has already been called since the last update().",
            "scaler.step() is called twice for this optimizer without scaler.update() in between",
        ),
        ("ModuleNotFoundError: No module named 'apex.optimizers'", "apex.optimizers is not installed"),
        (
            "RuntimeError: Found param fc.weight with type torch.FloatTensor, expected torch.cuda.FloatTensor.",
            "amp.initialize wants the model on the GPU, and fc.weight is on the CPU",
        ),
        (
            (
                "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla"
                " T4 GPU has compute capability 7.5."
            ),
            "Tesla T4 (compute capability 7.5) has no bfloat16",
        ),
    ],
)
def test_calls_of_mixed_precision_out_of_order_are_named(text, what):
    (cause,) = told(text)
    assert cause.what == what


def test_where_the_model_was_made_half_is_named(tmp_path, monkeypatch):
    source = """
model = nn.Linear(2, 1).half()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu")
scaler.scale(model(torch.ones(1, 2).half()).float().sum()).backward()
scaler.unscale_(optimizer)
"""
    (cause,) = ran(source, tmp_path, monkeypatch)
    assert cause.what.startswith("the parameters are float16 (line ")


def test_a_branch_inside_compiled_code_is_shown_where_it_stands(tmp_path, monkeypatch):
    source = """
@torch.compile(fullgraph=True, backend="eager")
def shrink(x):
    while x.sum() > 1:
        x = x / 2
    return x

shrink(torch.ones(3))
"""
    (cause,) = ran(source, tmp_path, monkeypatch)
    assert cause.what == "a Python branch on a tensor's value: while x.sum() > 1:"
    assert cause.where.endswith("example.py:7  while x.sum() > 1:")
    assert cause.fix[0].startswith("torch.while_loop(")


def test_a_branch_that_a_trace_followed_once_is_named_too():
    text = (
        "TracerWarning: Converting a tensor to a Python boolean might cause the trace to be incorrect. We"
        " can't record the data flow"
    )
    (cause,) = told(text)
    assert cause.what == "the trace keeps one side of a branch on a tensor's value"


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("RuntimeError: Failed to find C compiler. Please specify via CC environment variable.", "apt-get install gcc"),
        (
            "RuntimeError: Cannot find a working triton installation. Either the package is not installed",
            "pip install --force-reinstall torch",
        ),
        ("InductorError: RuntimeError: Compiler: cl is not found.", "Visual Studio Build Tools"),
    ],
)
def test_what_torch_compile_misses_is_told_apart(text, fix):
    assert told(text)[0].fix[0].startswith(fix)


def test_a_program_that_is_missing_outside_of_torch_compile_is_left_alone():
    assert told("FileNotFoundError: [Errno 2] No such file or directory: 'g++'") == []
