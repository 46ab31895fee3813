"""Labels: one-hot, and which of them are no classes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import rekindle as rk
from rekindle.errors import ConfigError


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_one_hot_agrees_with_torch_for_every_integer(dtype):
    labels = torch.tensor([[2, 0], [1, 2]], dtype=dtype)
    wanted = torch.nn.functional.one_hot(labels.long(), 3)
    assert torch.equal(rk.one_hot(labels, 3), wanted.float())
    assert torch.equal(rk.one_hot(labels, 3, dim=1), wanted.movedim(-1, 1).float())
    assert rk.one_hot(labels, 3, dtype=torch.bool).dtype == torch.bool


def test_an_ignored_label_has_no_one():
    found = rk.one_hot(torch.tensor([1, -100]), 2, ignore_index=-100)
    assert found.tolist() == [[0.0, 1.0], [0.0, 0.0]]
    with pytest.raises(ConfigError, match="outside of the classes 0 to 1: -100"):
        rk.one_hot(torch.tensor([1, -100]), 2)


def test_one_label_without_axes_and_none_at_all():
    assert rk.one_hot(torch.tensor(1), 3).tolist() == [0.0, 1.0, 0.0]
    assert rk.one_hot(torch.empty(0, dtype=torch.long), 3).shape == (0, 3)


def test_good_labels_are_counted_without_the_ignored_ones():
    assert rk.check_labels(torch.tensor([0, 2, 2, -100], dtype=torch.int16), 4).tolist() == [1, 0, 2, 0]
    assert rk.check_labels(torch.empty(0, dtype=torch.long), 2).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            torch.tensor([[1, 2], [3, 1]]),
            (
                "1 of 4 labels are outside of the classes 0 to 2: 3\n"
                "  why     the first of them is labels[1, 0]; all labels lie from 1 to 3\n"
                "  do      labels - 1: these count from 1, and classes count from 0"
            ),
        ),
        (
            torch.tensor([0, 9]),
            (
                "1 of 2 labels are outside of the classes 0 to 2: 9\n"
                "  why     the first of them is labels[1]; all labels lie from 0 to 9\n"
                "  do      give the model 10 classes, or correct the labels"
            ),
        ),
        (
            torch.tensor([-1, -1, 0]),
            (
                "2 of 3 labels are outside of the classes 0 to 2: -1\n"
                "  why     the first of them is labels[0]; all labels lie from -1 to 0\n"
                "  do      correct the labels; one that the loss shall leave out is named by ignore_index"
            ),
        ),
        (
            torch.tensor([1.0]),
            (
                "the labels have dtype float32\n"
                "  why     class numbers are integers; floats are probabilities to a loss, one for each class\n"
                "  do      labels.long(), if these are class numbers"
            ),
        ),
    ],
)
def test_wrong_labels_are_named_with_their_place_and_the_remedy(labels, words):
    with pytest.raises(ConfigError) as caught:
        rk.check_labels(labels, 3)
    assert str(caught.value) == words
