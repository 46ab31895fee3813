"""`rk.check` names each mistake, where it is and what to write, and is silent about what only looks like it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import rekindle as rk
from rekindle.pitfalls import find_pitfalls, page_of, pitfall_modules

X, Y = torch.linspace(-2, 2, 64).reshape(16, 4), torch.arange(16) % 3


def net(*more: nn.Module, outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs), *more)


def sgd(model: nn.Module, lr: float = 0.1, **settings: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, **settings)


def names(report: Any) -> list[str]:
    return [finding.name for finding in report.findings]


def only(report: Any) -> str:
    assert len(report.findings) == 1, str(report)
    return str(report)


CROSS = nn.CrossEntropyLoss()


def test_a_relu_after_the_last_layer():
    assert only(rk.check(net(nn.ReLU()), CROSS, (X, Y))) == (
        "warning  cross entropy is given the output of ReLU, not that of model[2]  [RK-PIT-01]\n"
        "  why     the loss wants scores of any size and sign; ReLU cuts them, and where it cuts, no gradient passes\n"
        "  do      end the model with model[2] itself, and apply ReLU only to what is predicted"
    )
    assert names(rk.check(net(nn.LeakyReLU()), CROSS, (X, Y))) == []


def test_a_bounded_output_for_targets_beyond_the_bound():
    report = rk.check(net(nn.Tanh(), outputs=1), nn.MSELoss(), (X, torch.linspace(-30, 50, 16)[:, None]))
    assert only(report).splitlines()[0] == (
        "warning  targets reach from -30 to 50, and Tanh after model[2] gives -1 to 1  [RK-PIT-01]"
    )
    assert names(rk.check(net(nn.Tanh(), outputs=1), nn.MSELoss(), (X, torch.linspace(-1, 1, 16)[:, None]))) == []


class Shows(nn.Module):
    """Softmax in `forward`, so that there is a line to point at."""

    def __init__(self, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body, self.how = net(), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.how(self.body(x))


def test_softmax_before_cross_entropy():
    line = test_softmax_before_cross_entropy.__code__.co_firstlineno + 2
    report = rk.check(Shows(lambda scores: scores.softmax(1)), CROSS, (X, Y))
    what, why, do = only(report).splitlines()
    assert what.startswith("warning  cross entropy is given probabilities: softmax was applied after model.body[2] (")
    assert what.endswith(f"test_check.py:{line})  [RK-PIT-02]")
    assert why == (
        "  why     cross entropy applies log_softmax itself; of probabilities, which lie between 0 and 1, it "
        "cannot come "
        "near 0, and gradients are small: training is slow or stuck"
    )
    assert do == (
        "  do      loss_fn(scores, labels) with the output of model.body[2]; softmax only to show probabilities: "
        "scores.softmax(1)"
    )
    assert report.findings[0].where.key == "body.2"


def test_softmax_inside_the_model_is_no_softmax_before_the_loss():
    gate = Shows(lambda scores: scores * scores.softmax(1))
    assert names(rk.check(gate, CROSS, (X, Y))) == []


def test_log_softmax_twice_is_only_a_note():
    report = rk.check(net(nn.LogSoftmax(1)), CROSS, (X, Y))
    assert only(report).startswith("note  cross entropy is given log-probabilities")


def test_a_sigmoid_before_bce_with_logits():
    targets = (Y[:, None] > 0).float()
    report = rk.check(net(nn.Sigmoid(), outputs=1), nn.BCEWithLogitsLoss(), (X, targets))
    assert only(report) == (
        "warning  BCEWithLogitsLoss is given the output of a sigmoid after model[2]  [RK-PIT-03]\n"
        "  why     the loss applies the sigmoid itself; of a sigmoid's output it sees probabilities between "
        "0.5 and 0.73 "
        "only\n"
        "  do      give BCEWithLogitsLoss the output of model[2], or keep the sigmoid and use nn.BCELoss()"
    )
    assert names(rk.check(net(nn.Sigmoid(), outputs=1), nn.BCELoss(), (X, targets))) == []


def test_scores_into_nll_loss():
    assert only(rk.check(net(), nn.NLLLoss(), (X, Y))) == (
        "warning  NLLLoss is given the scores of model[2]  [RK-PIT-04]\n"
        "  why     NLLLoss takes log-probabilities as they are; of anything else it falls without end and "
        "means nothing\n"
        "  do      loss_fn = nn.CrossEntropyLoss(), or loss_fn(scores.log_softmax(1), labels)"
    )
    assert "probabilities of model[2]" in only(rk.check(net(nn.Softmax(1)), nn.NLLLoss(), (X, Y)))
    assert names(rk.check(net(nn.LogSoftmax(1)), nn.NLLLoss(), (X, Y))) == []


def test_labels_that_begin_with_1():
    assert only(rk.check(net(), CROSS, (X, Y + 1))) == (
        "error  the batch has the label 3, and the model 3 scores per sample  [RK-PIT-05]\n"
        "  why     3 scores are for the labels 0 to 2; on a GPU this ends in a device-side assert, far from the cause\n"
        "  do      labels = labels - 1, if they begin with 1; else give the last layer 4 outputs"
    )


def test_labels_below_0_are_outside_unless_the_loss_ignores_them():
    marked = Y.clone()
    marked[3] = -1
    assert "nn.CrossEntropyLoss(ignore_index=-1)" in only(rk.check(net(), CROSS, (X, marked)))
    assert names(rk.check(net(), nn.CrossEntropyLoss(ignore_index=-1), (X, marked))) == []


def test_a_label_outside_that_only_the_data_set_has():
    labels = Y.clone()
    labels[-1] = 7
    report = rk.check(net(), CROSS, (X[:4], Y[:4]), dataset=TensorDataset(X, labels))
    assert "the data set has the label 7, and the model 3 scores per sample" in only(report)


def test_targets_of_binary_cross_entropy_beyond_1():
    report = rk.check(net(outputs=1), nn.BCEWithLogitsLoss(), (X, 2.0 * torch.ones(16, 1)))
    assert only(report).splitlines()[0] == "error  targets of binary cross entropy reach from 2 to 2  [RK-PIT-05]"


@pytest.mark.parametrize(
    ("loss_fn", "outputs", "targets", "remedy"),
    [
        (CROSS, 3, Y.float(), "labels = labels.long()"),
        (CROSS, 3, Y.int(), "labels = labels.long()"),
        (CROSS, 3, functional.one_hot(Y, 3), "labels = labels.argmax(1) for one-hot labels"),
        (nn.BCEWithLogitsLoss(), 1, (Y[:, None] > 0).long(), "targets = targets.float()"),
        (nn.MSELoss(), 1, Y[:, None], "targets = targets.float()"),
    ],
)
def test_labels_of_a_dtype_that_the_loss_takes_for_something_else(loss_fn, outputs, targets, remedy):
    report = rk.check(net(outputs=outputs), loss_fn, (X, targets))
    assert names(report)[0] == "labels-of-wrong-dtype"
    assert remedy in str(report)
    assert str(targets.dtype).removeprefix("torch.") in str(report).splitlines()[0]


def test_labels_of_uint8_are_taken_as_they_are():
    assert names(rk.check(net(), CROSS, (X, Y.to(torch.uint8)))) == []


def test_scores_of_a_column_against_targets_of_a_row():
    line = test_scores_of_a_column_against_targets_of_a_row.__code__.co_firstlineno + 2
    what, why, do = only(rk.check(net(outputs=1), lambda y, t: ((y - t) ** 2).mean(), (X, X[:, 0]))).splitlines()
    assert what.startswith("warning  scores of shape [16, 1] meet targets of shape [16] (")
    assert what.endswith(f"test_check.py:{line})  [RK-PIT-07]")
    assert why == (
        "  why     shapes are stretched to [16, 16]: each sample meets every other one's target, and the "
        "model learns the "
        "mean"
    )
    assert do == "  do      loss_fn(scores.squeeze(1), targets), or targets.unsqueeze(1)"
    assert names(rk.check(net(outputs=1), lambda y, t: ((y - t) ** 2).mean(), (X, X[:, :1]))) == []


def test_an_optimizer_that_misses_parameters():
    model = net()
    assert only(rk.check(model, CROSS, (X, Y), optimizer=sgd(model[2]))) == (
        "warning  2 of 4 trained parameters are in no optimizer: 0.weight, 0.bias  [RK-PIT-08]\n"
        "  why     only what an optimizer holds is updated; these keep the values that they began with\n"
        "  do      torch.optim.SGD(model.parameters(), ...), or model.0.requires_grad_(False) if they are to stay"
    ).replace("model.0.", "model[0].")
    model[0].requires_grad_(False)
    assert names(rk.check(model, CROSS, (X, Y), optimizer=sgd(model[2]))) == []


def test_an_optimizer_that_holds_what_the_model_has_lost():
    model = net()
    model.aux = nn.Linear(8, 5)
    optimizer = sgd(model)
    del model.aux
    assert only(rk.check(model, CROSS, (X, Y), optimizer=optimizer)) == (
        "note  the optimizer holds 2 parameters that model does not have, of shape [5, 8], [5]  [RK-PIT-09]\n"
        "  why     a layer was replaced or removed after the optimizer was built, or they belong to another model\n"
        "  do      optimizer = torch.optim.SGD(model.parameters(), ...)    # after the last change of the model"
    )


def test_a_head_that_was_replaced_after_the_optimizer_was_built():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    model[2] = nn.Linear(8, 3)
    assert only(rk.check(model, CROSS, (X, Y), optimizer=optimizer)) == (
        "warning  the optimizer holds other tensors than model has now: 2.weight, 2.bias  [RK-PIT-10]\n"
        "  why     a replaced head, load_state_dict(assign=True), or a move that makes new parameters: the optimizer "
        "updates the old ones, which no model uses\n"
        "  do      optimizer = torch.optim.AdamW(model.parameters(), ...)    # after the last change of the model"
    )


def test_optimizer_state_on_another_device():
    model = net()
    optimizer = sgd(model, momentum=0.9)
    optimizer.state[model[0].weight]["momentum_buffer"] = torch.empty(8, 4, device="meta")
    report = rk.check(model, CROSS, (X, Y), optimizer=optimizer)
    assert only(report).splitlines()[0] == (
        "warning  the optimizer's state is on another device than the parameters: 0.weight  [RK-PIT-10]"
    )


def test_a_frozen_batchnorm_that_drifts():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    model[1].requires_grad_(False)
    assert only(rk.check(model, CROSS, (X, Y))) == (
        "warning  1 frozen norm in training mode: 1  [RK-PIT-13]\n"
        "  why     requires_grad=False stops gradients; running_mean and running_var move in every pass in "
        "training mode "
        "all the same\n"
        '  do      rk.freeze(model, patterns="1")    # or model[1].eval() after each model.train()'
    )
    rk.freeze(model, patterns="1")
    assert names(rk.check(model.train(), CROSS, (X, Y))) == []


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).detach().relu())


def test_a_bias_whose_gradient_cancels_out_is_no_alarm():
    """Half of the batch is of each class, and the scores are even: the bias stays, the weight learns."""
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.fill_(0.25)
        model.bias.zero_()
    x, y = torch.tensor([[1.0, 2.0, 0.5, 0.0], [0.0, 1.0, 2.0, 3.0]]), torch.tensor([0, 1])
    nn.functional.cross_entropy(model(x), y).backward()
    assert not model.bias.grad.any()
    assert model.weight.grad.any()
    assert "RK-PIT-14" not in str(rk.check(model, CROSS, (x, y)))


def test_a_layer_that_no_gradient_reaches():
    model = Detached()
    assert only(rk.check(model, CROSS, (X, Y))) == (
        "warning  no gradient reaches 2 trained parameters: body.weight, body.bias  [RK-PIT-14]\n"
        "  why     the layer is not used in forward, its output is detached or made in no_grad, or what "
        "comes after it is "
        "dead\n"
        "  do      use model.body in forward, without .detach(), .item(), .data or no_grad behind it; or "
        "model.body.requires_grad_(False)"
    )
    model.body.requires_grad_(False)
    assert names(rk.check(model, CROSS, (X, Y))) == []


def test_a_loss_without_any_graph():
    report = rk.check(net(), lambda scores, labels: CROSS(scores.detach(), labels), (X, Y))
    assert "no gradient reaches 4 trained parameters" in only(report)


def test_gradients_that_vanish_and_gradients_that_explode():
    deep = [layer for _ in range(14) for layer in (nn.Linear(8, 8), nn.Sigmoid())]
    torch.manual_seed(0)
    fading = nn.Sequential(nn.Linear(4, 8), *deep, nn.Linear(8, 3))
    report = rk.check(fading, CROSS, (X, Y))
    assert names(report) == ["vanishing-gradients"]
    assert str(report).startswith("warning  gradients fade from ")
    assert " at 0.weight  [RK-PIT-17]\n  why     each saturated or badly scaled layer makes them smaller" in str(report)
    growing = nn.Sequential(nn.Linear(4, 8), *[nn.Linear(8, 8, bias=False) for _ in range(10)], nn.Linear(8, 3))
    with torch.no_grad():
        for layer in growing[1:-1]:
            layer.weight.mul_(20)
        growing[-1].weight.mul_(1e-6)
    assert names(rk.check(growing, CROSS, (X, Y), optimizer=sgd(growing, 1e-3))) == ["exploding-gradients"]


def test_an_update_larger_than_the_weights():
    model = net(outputs=1)
    report = rk.check(model, nn.MSELoss(), (X, 1e4 * X[:, :1]), optimizer=sgd(model))
    assert names(report) == ["exploding-gradients"]
    assert "times as large as the weights  [RK-PIT-16]" in str(report).splitlines()[0]
    assert names(rk.check(model, nn.MSELoss(), (X, 1e4 * X[:, :1]), optimizer=sgd(model, 1e-6))) == []


def test_gradients_that_are_no_numbers():
    report = rk.check(net(), lambda scores, _: (scores * 0).sqrt().sum(), (X, Y))
    assert "gradients are NaN or infinite: 0.weight, 0.bias, 2.weight and 1 more" in only(report)


def test_a_learning_rate_of_zero():
    model = net()
    assert only(rk.check(model, CROSS, (X, Y), optimizer=sgd(model, 0.0))) == (
        "warning  the learning rate of optimizer is 0 (4 parameters)  [RK-PIT-18]\n"
        "  why     nothing is learned by the model; norms and the clock move on, so it looks like training\n"
        '  do      look at the schedule and at optimizer.param_groups[0]["lr"]; to hold parameters, rk.freeze them'
    )


def test_a_warmup_that_begins_at_zero_is_no_learning_rate_of_zero():
    model = net()
    optimizer = sgd(model)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert optimizer.param_groups[0]["lr"] == 0
    assert names(rk.check(model, CROSS, (X, Y), optimizer=optimizer)) == []


def test_a_learning_rate_that_nobody_means():
    model = net()
    assert only(rk.check(model, CROSS, (X, Y), optimizer=torch.optim.Adam(model.parameters(), lr=1.0))) == (
        "warning  the learning rate of optimizer (Adam) is 1  [RK-PIT-19]\n"
        "  why     Adam moves every weight by about the rate in each update, whatever the gradient\n"
        "  do      lr=0.001 is where to begin with Adam"
    )
    assert names(rk.check(model, CROSS, (X, Y), optimizer=sgd(model, 1.0))) == []


def conv(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = conv(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x / 127.5 - 1)


def test_pictures_from_0_to_255():
    pictures = torch.arange(2 * 3 * 64).reshape(2, 3, 8, 8) % 256 * 1.0
    what, why, do = only(rk.check(conv(3), CROSS, (pictures, Y[:2]))).splitlines()
    assert what.startswith("warning  inputs of model[0] reach from 0 to 255 (mean ")
    assert why.startswith("  why     layers start out for inputs around 0 with a spread of about 1")
    assert do == "  do      inputs = inputs.float() / 255, then (inputs - mean) / std of the training set"
    assert names(rk.check(Scaled(), CROSS, (pictures, Y[:2]))) == []


def test_features_far_from_0():
    report = rk.check(net(), CROSS, (X * 700, Y))
    assert "of each feature, over the training set" in only(report)


def test_channels_last_even_where_the_shape_fits():
    assert only(rk.check(conv(28), CROSS, (torch.rand(4, 28, 28, 1), Y[:4]))) != ""
    report = rk.check(conv(28), CROSS, (torch.rand(4, 28, 28, 3), Y[:4]))
    assert only(report) == (
        "warning  model[0] (Conv2d) is given [4, 28, 28, 3]: the channels seem to stand last  [RK-PIT-21]\n"
        "  why     a Conv2d takes [batch, channels, height, width]; rows of pixels are taken for channels, "
        "and it can even "
        "fit\n"
        "  do      inputs = inputs.permute(0, 3, 1, 2)"
    )
    assert names(rk.check(conv(3), CROSS, (torch.rand(4, 3, 28, 28), Y[:4]))) == []


class Augmented(Dataset):
    def __init__(self, generator: Any = None) -> None:
        self.transforms = [self.jitter] if generator is None else [generator]

    def jitter(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return X[index], Y[index]


@pytest.mark.parametrize(
    "generator", [np.random.default_rng(0), random.Random(0), torch.Generator()], ids=["numpy", "python", "torch"]
)
def test_a_generator_that_every_worker_gets_a_copy_of(generator):
    loader = DataLoader(Augmented(generator), batch_size=4, num_workers=2)
    assert only(rk.check(net(), CROSS, (X, Y), dataset=loader)) == (
        "warning  dataset.transforms[0]: a generator kept in the data set, and 2 workers  [RK-PIT-22]\n"
        "  why     each worker process gets a copy in the same state, and again in each epoch: the same "
        "numbers are drawn "
        "everywhere\n"
        "  do      draw from the global generators (torch, random, numpy.random), which each worker seeds for itself"
    )
    for fine in (
        DataLoader(Augmented(generator), batch_size=4),
        DataLoader(Augmented(), batch_size=4, num_workers=2),
        DataLoader(Augmented(generator), batch_size=4, num_workers=2, worker_init_fn=print),
    ):
        assert names(rk.check(net(), CROSS, (X, Y), dataset=fine)) == []


def test_two_workers_with_such_a_generator_really_draw_the_same():
    class Draws(Augmented):
        def __getitem__(self, index: int) -> float:
            return self.transforms[0].random()

    drawn = torch.cat(list(DataLoader(Draws(random.Random(0)), batch_size=4, num_workers=2)))
    assert torch.equal(drawn[:4], drawn[4:8])


def test_validation_samples_that_are_trained_on():
    whole = TensorDataset(torch.randn(200, 4), torch.arange(200) % 3)
    train = Subset(whole, range(150))
    report = rk.check(net(), CROSS, (X, Y), dataset=train, validation=Subset(whole, range(100, 200)))
    assert only(report) == (
        "warning  50 of 100 validation samples are trained on as well  [RK-PIT-23]\n"
        "  why     what was learned by heart counts as known: the validation looks better than new data will\n"
        "  do      train, validation = torch.utils.data.random_split(dataset, [0.8, 0.2], "
        "torch.Generator().manual_seed(0))"
    )
    copied = TensorDataset(whole.tensors[0][140:190].clone(), whole.tensors[1][140:190])
    report = rk.check(net(), CROSS, (X, Y), dataset=train, validation=copied)
    assert only(report).startswith("warning  10 of 50 validation samples")
    assert names(rk.check(net(), CROSS, (X, Y), dataset=train, validation=Subset(whole, range(150, 200)))) == []


def test_a_dropout_that_drops_everything():
    assert "dropout-of-everything" in names(rk.check(net(nn.Dropout(1.0), nn.Linear(3, 3)), CROSS, (X, Y)))
    assert names(rk.check(net(nn.Dropout(0.0), nn.Linear(3, 3)), CROSS, (X, Y))) == []


def test_a_dropout_that_the_mode_does_not_reach():
    line = test_a_dropout_that_the_mode_does_not_reach.__code__.co_firstlineno + 2
    report = rk.check(Shows(lambda x: functional.dropout(x, 0.5)), CROSS, (X, Y))
    what, why, do = only(report).splitlines()
    assert what.startswith("warning  model drops values in eval mode (")
    assert what.endswith(f"test_check.py:{line})  [RK-PIT-28]")
    assert (
        why
        == "  why     F.dropout drops wherever it is called, unless it is told the mode; model.eval() does not reach it"
    )
    assert do == "  do      F.dropout(x, p, training=self.training), or a layer: self.dropout = nn.Dropout(p)"
    model = Shows(lambda x: functional.dropout(x, 0.5, training=model.training))
    assert names(rk.check(model, CROSS, (X, Y))) == []


def test_a_batch_of_one_with_batchnorm():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    assert only(rk.check(model, CROSS, (torch.randn(1, 3, 8, 8), Y[:1]))) == (
        "warning  batches of 1 sample with 1 batch norm in training mode: 1  [RK-PIT-29]\n"
        "  why     it normalises with the batch's mean and variance; those of one sample say nothing about the others\n"
        "  do      a larger batch_size (and drop_last=True), or nn.GroupNorm, which needs no batch"
    )
    assert names(rk.check(model, CROSS, (torch.randn(2, 3, 8, 8), Y[:2]))) == []


def test_more_outputs_than_classes():
    data = TensorDataset(X, Y)
    report = rk.check(net(outputs=1000), CROSS, (X, Y), dataset=data)
    assert only(report) == (
        "note  the last layer gives 1000 scores, and the data set has 3 classes  [RK-PIT-30]\n"
        "  why     scores that are never right only learn to be low, and may win where the model is unsure\n"
        "  do      rk.replace_head(model, 3)    # or a last layer with 3 outputs"
    )
    assert names(rk.check(net(), CROSS, (X, Y), dataset=data)) == []


def test_a_batch_that_does_not_pass_is_explained():
    report = rk.check(net(), CROSS, (torch.randn(4, 6), Y[:4]))
    assert only(report).splitlines()[0] == (
        "error  the batch does not pass: 0 (Linear) takes 4 features and got 6 (RK-SHAPE-01)  [RK-PIT-31]"
    )
    assert report.loss is None
    report = rk.check(net(), lambda *_: 1 / 0, (X, Y))
    assert "the batch does not pass: ZeroDivisionError: division by zero" in only(report)
    assert "the loss is of shape [16], not one number" in only(
        rk.check(net(), nn.CrossEntropyLoss(reduction="none"), (X, Y))
    )


def test_what_is_no_model_and_no_batch_is_a_mistake_of_the_call():
    with pytest.raises(TypeError, match=r"rk.check\(model, ...\): a torch.nn.Module, not str"):
        rk.check("model", CROSS, (X, Y))
    with pytest.raises(TypeError, match=r"\(inputs, targets\), a tensor or a dict, not int"):
        rk.check(net(), CROSS, 3)
    for empty in ((), [], {}):
        with pytest.raises(TypeError, match=rf"not an empty {type(empty).__name__}; batch = next\(iter\(loader\)\)"):
            rk.check(net(), CROSS, empty)


def test_wrappers_are_looked_through():
    model = nn.DataParallel(net(nn.Softmax(1)))
    assert "after model[2]" in only(rk.check(model, CROSS, (X, Y)))


def test_every_pitfall_has_its_parts_and_its_page():
    modules = pitfall_modules()
    assert len(modules) > 25
    assert len({one.CODE for one in modules}) == len({one.NAME for one in modules}) == len(modules)
    for one in modules:
        assert one.__name__.rpartition(".")[2].replace("_", "-") == one.NAME
        assert one.CODE.startswith("RK-PIT-")
        for word in (one.CODE, one.NAME):
            assert page_of(word).startswith("# ")
    assert page_of("no-such-pitfall") == ""


def test_nothing_seen_is_nothing_found():
    from rekindle.pitfalls._seen import Seen

    assert find_pitfalls(Seen()) == []
