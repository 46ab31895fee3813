"""States that are out of the ordinary: what cannot be kept is named, what can comes back bit by bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

import rekindle as rk
from rekindle.errors import ConfigError, RunError, StateMismatch


@pytest.fixture
def start(tmp_path):
    lives = []

    def begin(folder="run", **settings):
        settings = {"seed": 1, "save_every": None, "tensorboard": False, "progress": False, "watch": False} | settings
        lives.append(rk.Run(tmp_path / folder, **settings))
        return lives[-1]

    yield begin
    for run in lives:
        run.close()


class Keeps:
    """An object of a user's own with any state."""

    def __init__(self, state=None):
        self.state = state

    def state_dict(self):
        return self.state() if callable(self.state) else self.state

    def load_state_dict(self, state):
        self.state = state


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []


def saved_and_back(start, make):
    """Save what `make` makes, and restore it into what it makes another time."""
    first, other = make(), make()
    run = start()
    run.track(model=first)
    run.save()
    run.close()
    with torch.no_grad():
        for value in other.state_dict().values():
            if value.dtype == torch.float32 and value.layout == torch.strided and 0 not in value.stride():
                value.zero_()
    start().track(model=other)
    return first, other


# ---- what cannot be kept


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: {"deep": [{"f": print}]}, "odd['deep'][0]['f']: a function (print) cannot be saved"),
        (lambda: {"masked": np.ma.array([1, 2], mask=[0, 1])}, "odd['masked']: a numpy.ma.MaskedArray cannot be saved"),
        (lambda: {"packed": torch.ones(4, 4).to_mkldnn()}, "odd['packed']: a tensor of layout torch._mkldnn"),
        (lambda: {"random": random.Random(0)}, "odd['random']: a random.Random cannot be saved"),
    ],
)
def test_what_cannot_be_kept_is_named_by_its_path(make, words, start):
    run = start()
    run.track(odd=Keeps(make()))
    with pytest.raises(StateMismatch) as caught:
        run.save()
    assert caught.value.what.startswith(words)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_named_with_the_way_out(start):
    run = start()
    run.track(odd=Keeps({"parts": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}))
    with pytest.raises(StateMismatch, match=r"odd\['parts'\]: a nested tensor cannot be saved") as caught:
        run.save()
    assert caught.value.do == "keep a list of its parts: tensor.unbind()"


def test_an_object_that_fails_to_give_its_state_is_named(start):
    def fails():
        raise OSError("the other computer does not answer")

    run = start()
    run.track(meter=Keeps(fails))
    with pytest.raises(OSError, match="does not answer") as caught:
        run.save()
    assert caught.value.__notes__ == [f"while asking meter, a {__name__}.Keeps, for its state_dict"]


@pytest.mark.parametrize(("folder", "error"), [("", ConfigError), (b"run", TypeError)])
def test_a_folder_that_is_no_name_is_refused_before_anything_is_made(folder, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match="the folder of "):
        rk.Run(folder)
    assert list(tmp_path.iterdir()) == []


# ---- what can


class Views(nn.Module):
    """Buffers that look into one another, in every way that torch lets one write through."""

    def __init__(self):
        super().__init__()
        base = torch.randn(6, 6)
        for name, value in {
            "base": base,
            "rows": base[1:3],
            "turned": base.t(),
            "diagonal": base.diagonal(),
            "every_other": base[::2],
        }.items():
            self.register_buffer(name, value)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight


def test_views_into_one_tensor_and_tied_weights_stay_what_they_are(start):
    first, other = saved_and_back(start, Views)
    for key, value in first.state_dict().items():
        assert bits(other.state_dict()[key]) == bits(value), key
    assert other.rows.data_ptr() == other.base[1:3].data_ptr()
    assert other.one.weight is other.two.weight


class Expanded(nn.Module):
    """Buffers whose elements share memory, which torch itself refuses to load into."""

    def __init__(self):
        super().__init__()
        self.register_buffer("row", torch.randn(1, 4).expand(3, 4))
        self.register_buffer("number", torch.randn(()).expand(2, 2))
        self.register_buffer("passing", torch.randn(2, 1).expand(2, 5), persistent=False)
        self.layer = nn.Linear(2, 2)


def test_expanded_buffers_come_back(start):
    with pytest.raises(RuntimeError, match="single memory location"):
        Expanded().load_state_dict(Expanded().state_dict())
    first, other = saved_and_back(start, Expanded)
    for name in ("row", "number", "passing"):
        assert bits(getattr(other, name)) == bits(getattr(first, name))
        assert getattr(other, name).stride() == getattr(first, name).stride()
    assert bits(other.layer.weight) == bits(first.layer.weight)


def test_expanded_tensors_in_a_dict_come_back(start):
    kept = {"row": torch.randn(1, 4).expand(3, 4)}
    run = start()
    run.track(kept=kept)
    run.save()
    run.close()
    other = {"row": torch.zeros(1, 4).expand(3, 4)}
    start().track(kept=other)
    assert bits(other["row"]) == bits(kept["row"])


class Many(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.parts = nn.ParameterList(torch.randn(3) for _ in range(count))


@pytest.mark.parametrize("count", [1500, pytest.param(20_000, marks=pytest.mark.soak)])
def test_thousands_of_tiny_tensors_come_back(count, start):
    first, other = saved_and_back(start, lambda: Many(count))
    assert all(bits(mine) == bits(theirs) for mine, theirs in zip(other.parts, first.parts, strict=True))


@pytest.mark.soak
def test_one_tensor_of_three_gigabytes_comes_back(start):
    """Larger than 32 bits can count; about 10 GB of memory."""
    run = start()
    whole = torch.arange(3 * 2**28, dtype=torch.int32)
    run.track(whole=whole)
    run.save()
    run.close()
    other = torch.zeros_like(whole)
    start().track(whole=other)
    assert torch.equal(other, whole)


# ---- small mistakes with a run


def test_a_step_or_an_epoch_that_is_logged_is_left_out_and_said_once(start, capsys):
    run = start()
    run.track(model=nn.Linear(1, 1))
    for _ in run.epochs(2):
        run.step()
        run.log(step=999, epoch=run.epoch, loss=0.5)
    words = capsys.readouterr().err
    assert words.count("run.log(step=...) is left out: a line has the run's own step; give yours another name") == 1
    assert "run.log(epoch=...)" not in words, "it was the run's own"


@pytest.mark.filterwarnings("ignore:Got pickle error")
def test_a_run_that_a_data_set_holds_cannot_be_sent_to_a_spawned_worker_and_is_named(start):
    run = start()
    data = [(torch.ones(1), run)]
    loader = run.loader(data, batch_size=1, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(RunError, match="cannot pickle a Run, which holds its folder"):
        next(run.batches(loader))


def test_a_log_without_any_snapshot_is_said_to_be_begun_anew(start, capsys):
    run = start()
    run.log(loss=0.5)
    run.close()
    capsys.readouterr()
    start()
    assert "has no snapshot, so it begins anew; what was logged is cut away" in capsys.readouterr().err
