"""Data sets: the split, the augmentation, and what cannot be learnt from."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

import rekindle as rk
from rekindle.errors import ConfigError
from rekindle.recipes.config import settings_of
from rekindle.recipes.data import Moved, _check, load_data


@pytest.fixture
def own(tmp_path):
    """Load tensors of one's own with these settings."""

    def load(inputs, labels, **settings):
        path = tmp_path / "own.pth"
        torch.save({"inputs": inputs, "labels": labels}, path)
        named = {"data." + name: value for name, value in settings.items()}
        return load_data(settings_of("digits", {"data.name": f"tensors:{path}", **named}))

    return load


def refusal(own, *data, **settings) -> str:
    with pytest.raises(ConfigError) as caught:
        own(*data, **settings)
    return str(caught.value).partition("own.pth: ")[2]


def all_rows(data) -> list[tuple[float, ...]]:
    parts = [data.train[:][0], data.validation.tensors[0], data.test.tensors[0]]
    return [tuple(row) for part in parts for row in part.tolist()]


def test_the_three_parts_hold_each_sample_once_and_do_not_depend_on_the_seed(own):
    inputs, labels = torch.arange(200.0).view(100, 2), torch.arange(100) % 2
    data = own(inputs, labels)
    assert (len(data.train), len(data.validation), len(data.test)) == (70, 10, 20)
    assert len(set(all_rows(data))) == 100
    assert all_rows(own(inputs, labels, split=1)) != all_rows(data)
    assert all_rows(own(inputs, labels)) == all_rows(data)


def test_inputs_have_mean_0_and_deviation_1_over_the_training_part(own):
    data = own(torch.arange(200.0).view(100, 2) * 1e3 + 7, torch.arange(100) % 2)
    known = data.train[:][0]
    assert abs(known.mean()) < 1e-6
    assert abs(known.std(unbiased=False) - 1) < 1e-6


def test_the_digits_are_all_there():
    pytest.importorskip("sklearn")
    data = load_data(settings_of("digits"))
    assert (len(data.train), len(data.validation), len(data.test)) == (1258, 180, 359)
    assert (data.shape, data.classes) == ((1, 8, 8), 10)


def test_a_picture_is_moved_by_what_pythons_generator_draws():
    pictures = torch.arange(1.0, 10).view(1, 1, 3, 3)
    moved = Moved(pictures, torch.tensor([5]), shift=1, fill=-1.0)
    seen = set()
    for seed in range(60):
        random.seed(seed)
        picture, label = moved[0]
        random.seed(seed)
        assert torch.equal(moved[0][0], picture)
        assert picture.shape == (1, 3, 3)
        assert label == 5
        seen.add(tuple(picture.flatten().tolist()))
    assert len(seen) == 9
    assert tuple(pictures.flatten().tolist()) in seen
    assert (-1, -1, -1, -1, 1, 2, -1, 4, 5) in seen  # down and right


def test_bytes_are_pictures_from_0_to_1(own):
    data = own(torch.full((20, 1, 4, 4), 255, dtype=torch.uint8), torch.arange(20) % 2, shift=0)
    assert torch.equal(data.train[:][0].unique(), torch.zeros(1))  # all the same: nothing but the mean


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_whole_type_will_do(own, dtype):
    data = own(torch.randn(20, 3), (torch.arange(20) % 4).to(dtype))
    assert data.classes == 4
    assert data.train[:][1].dtype == torch.int64


REFUSED = [
    (
        lambda: (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)),
        {},
        "the data set is empty\n  why     `inputs` holds 0 samples\n",
    ),
    (
        lambda: (torch.zeros(10, 3), torch.tensor([0, 1] * 4 + [-1, -100])),
        {},
        "2 of 10 labels are out of range\n  why     labels go from -100 to 1, with 2 classes they may be 0 and up\n",
    ),
    (
        lambda: (torch.zeros(10, 3), torch.arange(10) % 5),
        {"classes": 3},
        "4 of 10 labels are out of range\n  why     labels go from 0 to 4, with 3 classes they may be 0 to 2\n",
    ),
    (
        lambda: (torch.zeros(9, 3), torch.arange(9) % 3 + 1),
        {"classes": 3},
        (
            "3 of 9 labels are out of range\n  why     labels go from 1 to 3, with 3 classes they may be 0 to 2\n"
            "  do      labels = labels - 1"
        ),
    ),
    (lambda: (torch.zeros(10, 3), torch.zeros(9, dtype=torch.int64)), {}, "10 inputs and labels of shape (9,)\n"),
    (lambda: (torch.zeros(10, 3), torch.eye(10)), {}, "10 inputs and labels of shape (10, 10)\n"),
    (lambda: (torch.zeros(10, 3), torch.zeros(10)), {}, "the labels are float32\n"),
    (lambda: (torch.zeros(10, 3, 3), torch.arange(10)), {}, "the inputs have shape (10, 3, 3)\n"),
    (lambda: (torch.zeros(3, 3), torch.arange(3)), {}, "3 samples cannot be split into three parts\n"),
    (
        lambda: (torch.tensor([[1.0, float("nan")], [float("inf"), 0]] + [[0.0, 0]] * 8), torch.arange(10)),
        {},
        "2 of 10 inputs hold NaN or infinity\n",
    ),
    (lambda: (torch.eye(10).to_sparse(), torch.arange(10)), {}, "`inputs` is sparse (sparse_coo)\n"),
    (lambda: (torch.eye(10), torch.arange(10).to_sparse()), {}, "`labels` is sparse (sparse_coo)\n"),
    (lambda: (torch.zeros(10, 3, dtype=torch.complex64), torch.arange(10)), {}, "`inputs` is complex64\n"),
    (
        lambda: (torch.tensor(3.0), torch.arange(10)),
        {},
        "`inputs` is a single number, without a dimension of samples\n",
    ),
    (lambda: ("pictures", torch.arange(10)), {}, "`inputs` is there, but a text\n"),
    (lambda: ([[1.0], [2.0]], torch.arange(10)), {}, "`inputs` is there, but a list of 2\n"),
    (
        lambda: (torch.zeros(10, 3), torch.tensor([0] * 9 + [10**12])),
        {},
        "1,000,000,000,001 classes, and 10 samples\n  why     the largest label is 1,000,000,000,000, and",
    ),
    (lambda: (torch.zeros(10, 3), torch.arange(10)), {"classes": 11}, "11 classes, and 10 samples\n"),
]


@pytest.mark.parametrize(("make", "settings", "words"), REFUSED, ids=[words.splitlines()[0] for *_, words in REFUSED])
def test_what_cannot_be_learnt_from_is_refused_with_counts(own, make, settings, words):
    assert refusal(own, *make(), **settings).startswith(words)


def test_a_file_without_the_two_tensors_says_what_it_has(tmp_path):
    path = tmp_path / "other.safetensors"
    rk.save({"input": torch.zeros(3), "label": torch.zeros(3)}, path)
    with pytest.raises(ConfigError, match=r"no tensor named `inputs`\n  why     nearest: input\n"):
        load_data(settings_of("digits", {"data.name": f"tensors:{path}"}))


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")  # torch will drop them; files remain
def test_quantized_inputs_are_refused_with_the_way_to_plain_ones():
    inputs = torch.quantize_per_tensor(torch.zeros(10, 3), 0.1, 0, torch.qint8)
    with pytest.raises(ConfigError, match=r"`inputs` is quantized \(qint8\)\n(?s:.*)inputs = inputs.dequantize\(\)"):
        _check("own.pth", inputs, torch.arange(10), None)
