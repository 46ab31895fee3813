"""Metrics from a confusion matrix: as scikit-learn's, and drawn."""

from __future__ import annotations

import random

import pytest

from rekindle.recipes.metrics import draw_confusion, metrics_of


def test_metrics_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    draw = random.Random(0)
    for classes in (2, 3, 7):
        labels = [draw.randrange(classes) for _ in range(200)]
        answers = [label if draw.random() < 0.6 else draw.randrange(classes) for label in labels]
        confusion = sklearn.confusion_matrix(labels, answers, labels=range(classes)).tolist()
        found = metrics_of(confusion, [f"class {number}" for number in range(classes)], 0.5)
        precision, recall, f1, count = sklearn.precision_recall_fscore_support(labels, answers)
        assert [row.precision for row in found.classes] == pytest.approx(precision.tolist())
        assert [row.recall for row in found.classes] == pytest.approx(recall.tolist())
        assert [row.f1 for row in found.classes] == pytest.approx(f1.tolist())
        assert [row.count for row in found.classes] == count.tolist()
        assert found.accuracy == pytest.approx(sklearn.accuracy_score(labels, answers))
        assert found.macro_f1 == pytest.approx(sklearn.f1_score(labels, answers, average="macro"))


def test_a_class_without_pictures_has_no_recall_and_does_not_count_for_the_mean():
    found = metrics_of([[3, 1, 0], [0, 4, 0], [0, 0, 0]], ["ants", "bees", "wasps"], 0.1)
    assert "\n".join(found.lines()) == (
        "class  pictures  precision   recall       F1\n"
        "ants          4    100.0 %   75.0 %   85.7 %\n"
        "bees          4     80.0 %  100.0 %   88.9 %\n"
        "wasps         0          -        -        -"
    )
    assert found.macro_f1 == pytest.approx((6 / 7 + 8 / 9) / 2)
    assert (found.right, found.count, found.accuracy) == (7, 8, 7 / 8)
    assert found.to_json()["per_class"][2] == {
        "class": "wasps",
        "count": 0,
        "precision": None,
        "recall": None,
        "f1": None,
    }


def test_a_name_from_a_disk_cannot_colour_the_terminal():
    found = metrics_of([[1, 0], [0, 1]], ["\x1b[31mred", "b"], 0.1)
    assert "\x1b" not in "".join(found.lines())


def test_the_picture_shows_shares_by_colour(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    def colours(confusion, names):
        path = tmp_path / "confusion.png"
        assert draw_confusion(metrics_of(confusion, names, 0.0), path, title="100 % of $these$ are right")
        with Image.open(path) as image:
            return image.convert("RGB").tobytes()

    right = colours([[9, 0], [0, 9]], ["a", "$b$"])
    assert right == colours([[9, 0], [0, 9]], ["a", "$b$"])
    assert right != colours([[0, 9], [9, 0]], ["a", "$b$"])
    assert colours([[int(row == column) for row in range(50)] for column in range(50)], [str(n) for n in range(50)])
