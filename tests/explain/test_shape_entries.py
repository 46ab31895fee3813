"""Shapes and indices: the right sizes, layers and lines, from each wording and from live frames."""

from __future__ import annotations

from pathlib import Path

import pytest
from explaining import run_example

from rekindle.explain.catalogue._matrices import is_other_backbone, is_unflattened, maps_of
from rekindle.explain.catalogue._words import attribute
from rekindle.explain.event import Event, Frame, event_of
from rekindle.explain.match import causes_of
from rekindle.explain.report import explain_events


def told(text: str, code: str = "", *calls: str):
    """What is said of a message that was raised by this line of the user's, inside these functions of torch's."""
    frames = [Frame("train.py", 7, "main", code)] if code else []
    frames += [Frame(f"site-packages/torch/{call}", 1, call.rpartition(":")[2], "", is_users=False) for call in calls]
    event = event_of(text)
    causes = causes_of(Event(event.raised, event.message, tuple(frames)), strict=True)
    return [cause for cause in causes if cause.code.startswith("RK-SHAPE")]  # others may have more to say


CONV = (
    "RuntimeError: Given {}=1, weight of size {}, expected input[{}] to have {} channels, but got {} channels instead"
)
TEXTS = [
    (
        CONV.format("groups", "[6, 1, 5, 5]", "16, 3, 32, 32", 1, 3),
        "RK-SHAPE-03",
        "takes 1 channel and got 3",
        "Grayscale()",
    ),
    (
        CONV.format("groups", "[64, 3, 7, 7]", "8, 1, 28, 28", 3, 1),
        "RK-SHAPE-03",
        "takes 3 channels and got 1",
        'convert("RGB")',
    ),
    (
        CONV.format("groups", "[6, 8, 5, 5]", "16, 12, 9, 9", 8, 12),
        "RK-SHAPE-03",
        "takes 8 channels",
        "nn.Conv2d(12, 6, 5)",
    ),
    (
        CONV.format("groups", "[6, 1, 5, 5]", "1, 16, 28, 28", 1, 16),
        "RK-SHAPE-03",
        "takes 1 channel",
        "images.unsqueeze(1)",
    ),
    (
        CONV.format("transposed", "[4, 6, 5, 5]", "2, 3, 8, 8", 4, 3),
        "RK-SHAPE-03",
        "got 3",
        "nn.ConvTranspose2d(3, ...)",
    ),
    (
        CONV.format("groups", "[6, 3, 5, 5]", "8, 224, 224, 3", 3, 224),
        "RK-SHAPE-04",
        "stand last",
        "permute(0, 3, 1, 2)",
    ),
    (
        CONV.format("groups", "[6, 3, 5, 5]", "1, 32, 32, 3", 3, 32),
        "RK-SHAPE-04",
        "stand last",
        "image.permute(2, 0, 1)",
    ),
    (
        "RuntimeError: running_mean should contain 4 elements not 3",
        "RK-SHAPE-03",
        "made for 3 channels and got 4",
        "nn.BatchNorm2d(4)",
    ),
    (
        (
            "RuntimeError: permute(sparse_coo): number of dimensions in the tensor"
            " input does not match the length of the"
            " desired ordering of dimensions i.e. input.dim() = 3 is not equal to len(dims) = 4"
        ),
        "RK-SHAPE-05",
        "has 3 dimensions and 4 were named",
        "image.permute(2, 0, 1)",
    ),
    (
        "RuntimeError: Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [28, 28]",
        "RK-SHAPE-06",
        "conv2d takes 3 or 4 dimensions and got [28, 28]",
        "unsqueeze(0).unsqueeze(0)",
    ),
    ("ValueError: expected 4D input (got 2D input)", "RK-SHAPE-06", "4 dimensions and got 2", "nn.BatchNorm1d(...)"),
    (
        (
            "RuntimeError: Calculated padded input size per channel: (2 x 2). Kernel"
            " size: (5 x 5). Kernel size can't be greater"
            " than actual input size"
        ),
        "RK-SHAPE-07",
        "2x2 in front of it, smaller than its kernel 5x5",
        "Resize",
    ),
    (
        "RuntimeError: Given input size: (3x1x1). Calculated output size: (3x0x0). Output size is too small",
        "RK-SHAPE-07",
        "3x1x1 in front of it",
        "Resize",
    ),
    (
        "RuntimeError: The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 1",
        "RK-SHAPE-08",
        "3 and 4 in dimension 1",
        "print(a.shape, b.shape)",
    ),
    (
        "RuntimeError: output with shape [3] doesn't match the broadcast shape [2, 3]",
        "RK-SHAPE-08",
        "[3] into [2, 3]",
        "x = x + y",
    ),
    (
        (
            "RuntimeError: Sizes of tensors must match except in dimension 1. Expected"
            " size 36 but got size 37 for tensor number"
            " 1 in the list."
        ),
        "RK-SHAPE-09",
        "36 and 37 (tensor 1 of the list)",
        "F.interpolate",
    ),
    (
        (
            "RuntimeError: Sizes of tensors must match except in dimension 0. Expected"
            " size 3 but got size 8 for tensor number 1"
            " in the list."
        ),
        "RK-SHAPE-09",
        "3 and 8",
        "dim=1",
    ),
    (
        (
            "RuntimeError: stack expects each tensor to be equal size, but got [3, 224,"
            " 200] at entry 0 and [3, 180, 224] at entry 1"
        ),
        "RK-SHAPE-10",
        "[3, 224, 200] at 0 and [3, 180, 224] at 1",
        "Resize((256, 256))",
    ),
    (
        "RuntimeError: stack expects each tensor to be equal size, but got [93] at entry 0 and [89] at entry 1",
        "RK-SHAPE-10",
        "[93] at 0 and [89] at 1",
        "pad_sequence",
    ),
    (
        "RuntimeError: shape '[16, 400]' is invalid for input of size 9216",
        "RK-SHAPE-12",
        "9,216 elements",
        "nn.Linear(576, ...)",
    ),
    (
        "RuntimeError: shape '[16, 400]' is invalid for input of size 2800",
        "RK-SHAPE-12",
        "2,800 elements",
        "x.view(x.size(0), 400)",
    ),
    ("RuntimeError: shape '[-1, 3]' is invalid for input of size 10", "RK-SHAPE-12", "10 elements", "a multiple of 3"),
    (
        "IndexError: Dimension out of range (expected to be in range of [-2, 1], but got 2)",
        "RK-SHAPE-13",
        "has 2 dimensions",
        "dim=-1",
    ),
    (
        "ValueError: Expected more than 1 value per channel when training, got input size torch.Size([1, 16])",
        "RK-SHAPE-14",
        "[1, 16]",
        "drop_last=True",
    ),
    (
        "RuntimeError: input.size(-1) must be equal to input_size. Expected 10, got 5",
        "RK-SHAPE-15",
        "takes 10 features",
        "nn.LSTM(5, ...)",
    ),
    (
        "AssertionError: was expecting embedding dimension of 8, but got 9",
        "RK-SHAPE-16",
        "width of 8 and got 9",
        "embed_dim=9",
    ),
    (
        "ValueError: embed_dim must be divisible by num_heads (got `embed_dim`: 10 and `num_heads`: 3).",
        "RK-SHAPE-16",
        "10 / 3",
        "num_heads=2",
    ),
    ("IndexError: index 10 is out of bounds for dimension 0 with size 10", "RK-SHAPE-18", "(0 to 9)", "index - 1"),
    (
        "RuntimeError: Index 1 of input takes value 12 which is not in the valid range [0, 10)",
        "RK-SHAPE-19",
        "10 rows (0 to 9) and was given 12",
        "resize_token",
    ),
    (
        (
            "RuntimeError: shape mismatch: value tensor of shape [3] cannot be"
            " broadcast to indexing result of shape [2, 4]"
        ),
        "RK-SHAPE-20",
        "[3] does not fit into [2, 4]",
        "print(x[...].shape",
    ),
    (
        "RuntimeError: Expected hidden[0] size (1, 4, 20), got [1, 8, 20]",
        "RK-SHAPE-23",
        "batch of 4 in front of it and a hidden state for 8",
        "drop_last",
    ),
    (
        "RuntimeError: Expected hidden size (2, 4, 20), got [4, 2, 20]",
        "RK-SHAPE-23",
        "needs a hidden state [2, 4, 20]",
        "torch.zeros(layers",
    ),
    (
        "RuntimeError: Expected hidden size (2, 4, 20), got [1, 4, 20]",
        "RK-SHAPE-23",
        "got [1, 4, 20]",
        "torch.zeros(layers",
    ),
]


@pytest.mark.parametrize(
    ("text", "code", "what", "fix"), TEXTS, ids=[f"{code}-{n}" for n, (_, code, *_) in enumerate(TEXTS)]
)
def test_the_message_alone_gives_its_own_sizes_and_a_fix_made_of_them(text, code, what, fix):
    causes = told(text)
    assert [cause.code for cause in causes] == [code]
    assert what in causes[0].what, causes[0].what
    assert any(fix in line for line in causes[0].fix), causes[0].fix


@pytest.mark.parametrize(
    ("numbers", "codes"),
    [
        ("16x576 and 400x120", ["RK-SHAPE-01"]),
        ("1x512 and 2048x2", ["RK-SHAPE-02", "RK-SHAPE-01"]),
        ("416x26 and 5408x10", ["RK-SHAPE-22", "RK-SHAPE-01"]),
        ("16x576 and 1152x10", ["RK-SHAPE-01"]),
        ("128x10 and 20x5", ["RK-SHAPE-01"]),
    ],
)
def test_from_four_numbers_alone_the_likely_causes_stand_side_by_side(numbers, codes):
    causes = told(f"RuntimeError: mat1 and mat2 shapes cannot be multiplied ({numbers})")
    assert [cause.code for cause in causes] == codes
    assert all(cause.likelihood != "certain" for cause in causes)


def test_the_arithmetic_of_a_missing_flatten_needs_every_part_to_fit():
    assert is_unflattened(2 * 8 * 26, 26, 8 * 26 * 26)
    assert not is_unflattened(2 * 8 * 26 + 1, 26, 8 * 26 * 26)
    assert not is_unflattened(16, 576, 400)
    assert is_other_backbone(512, 2048)
    assert not is_other_backbone(512, 512)
    assert not is_other_backbone(576, 400)


LIVE = [
    (
        "net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Linear(8 * 26 * 26, 10))\nnet(torch.ones(2, 1, 28, 28))",
        "RK-SHAPE-22",
        "1 (Linear) was given a feature map [2, 8, 26, 26]",
        "nn.Flatten()",
    ),
    (
        "queries, keys = torch.ones(5, 3, 4), torch.ones(5, 3, 4)\nqueries @ keys",
        "RK-SHAPE-01",
        "a product of matrices in two batches: 4 columns meet 3 rows (queries [5, 3, 4] and keys [5, 3, 4])",
        "keys.transpose(-2, -1)",
    ),
    (
        "scores, weights = torch.ones(4, 3), torch.ones(4)\nscores * weights",
        "RK-SHAPE-08",
        "scores [4, 3] and weights [4] meet in one operation: 3 and 4 in dimension 1",
        "weights.unsqueeze(-1)",
    ),
    (
        (
            "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.words = nn.Embedding(10, 3)\n"
            "        self.positions = nn.Embedding(4, 3)\n    def forward(self, ids):\n"
            "        at = torch.arange(ids.shape[1])\n"
            "        return self.words(ids) + self.positions(at)\nNet()(torch.ones(1, 6, dtype=torch.long))"
        ),
        "RK-SHAPE-19",
        "positions (Embedding) has 4 rows (0 to 3) and was given 5",
        "truncation=True",
    ),
    (
        "nn.Embedding(10, 3)(torch.tensor([2, -1]))",
        "RK-SHAPE-19",
        "the Embedding has 10 rows (0 to 9) and was given -1",
        "masked_fill",
    ),
    (
        "names = torch.arange(10)\nids = torch.tensor([3, 10])\nnames[ids]",
        "RK-SHAPE-18",
        "index 10 is not among the 10 of dimension 0 (0 to 9); ids goes from 3 to 10",
        "ids - 1",
    ),
    (
        "images = torch.ones(3, 8, 8)\nb, c, h, w = images.shape",
        "RK-SHAPE-17",
        "images has 3 dimensions, and its shape is taken apart into 4: [3, 8, 8]",
        "images = images.unsqueeze(0)",
    ),
    (
        "scores = torch.ones(10)\nn = scores.shape[1]",
        "RK-SHAPE-13",
        "the size of dimension 1 was asked for, and the tensor has fewer dimensions (scores [10])",
        "x.unsqueeze(0)",
    ),
    (
        "nn.LSTM(10, 20)(torch.ones(5, 4, 10), torch.ones(1, 4, 20))",
        "RK-SHAPE-23",
        "the LSTM wants a pair (h, c)",
        "lstm(x, (h, c))",
    ),
    (
        "nn.LSTM(10, 20, batch_first=True)(torch.ones(8, 10, 50))",
        "RK-SHAPE-15",
        "the LSTM takes 10 features at each step and got 50 (input [8, 10, 50])",
        "x.transpose(1, -1)",
    ),
]


@pytest.mark.parametrize(
    ("source", "code", "what", "fix"), LIVE, ids=[f"{code}-{n}" for n, (_, code, *_) in enumerate(LIVE)]
)
def test_live_frames_add_names_and_decide_between_causes(source, code, what, fix, tmp_path: Path):
    ran = run_example(f"import torch\nfrom torch import nn\n\n{source}\n", tmp_path)
    causes = explain_events(ran.events, strict=True).causes
    assert causes[0].code == code
    assert causes[0].what.startswith(what), causes[0].what
    assert any(fix in line for line in causes[0].fix), causes[0].fix


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("ValueError: not enough values to unpack (expected 2, got 1)", "name, value = line.split('=')"),
        ("ValueError: too many values to unpack (expected 2)", "for key, value in table:"),
        ("IndexError: tuple index out of range", "last = row[3]"),
        ("IndexError: list index out of range", "x = items[5]"),
        ("IndexError: index 12 is out of bounds for axis 0 with size 10", "x = array[12]"),
        ("ValueError: operands could not be broadcast together with shapes (2,3) (2,4)", "a + b"),
    ],
)
def test_the_same_errors_of_ordinary_python_are_left_alone(text, code):
    assert told(text, code) == []


def test_a_loop_over_a_loader_is_told_from_a_loop_over_anything_else():
    text = "ValueError: not enough values to unpack (expected 2, got 1)"
    (cause,) = told(text, "for images, labels in train_loader:")
    assert cause.what == "a batch has 1 thing, and the loop takes it apart into 2"
    assert told(text, "for name, value in pairs:") == []


def test_a_stack_of_the_users_own_is_not_called_a_batch():
    text = "RuntimeError: stack expects each tensor to be equal size, but got [3] at entry 0 and [4] at entry 1"
    (own,) = told(text, "torch.stack(rows)")
    assert own.what == "tensors that are to be stacked differ: [3] at 0 and [4] at 1"
    (batch,) = told(text, "for batch in loader:", "utils/data/_utils/collate.py:default_collate")
    assert batch.what == "the samples of a batch differ: [3] at 0 and [4] at 1"


@pytest.mark.parametrize(
    ("have", "want", "maps"),
    [(576, 400, (16, 6, 5)), (2704, 3600, (16, 13, 15)), (25088, 512 * 49 * 4, (512, 7, 14)), (577, 400, None)],
)
def test_two_flattened_sizes_tell_the_channels_and_both_sides_of_the_map(have, want, maps):
    assert maps_of(have, want) == maps


def test_a_linear_behind_another_image_size_says_so_with_the_numbers_of_both():
    (cause,) = told("RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x576 and 400x120)")
    assert "576 = 16 * 6 * 6 and 400 = 16 * 5 * 5" in cause.why


def test_a_module_in_a_sequential_is_named_as_python_takes_it():
    assert attribute("classifier.3") == "classifier[3]"
    assert attribute("layer3.0.conv2") == "layer3[0].conv2"
    assert attribute("fc") == "fc"
    assert attribute("0.weight") == "[0].weight"
