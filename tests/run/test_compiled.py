"""Models that `torch.compile` made: plain names on disk, and the same bits after a resume."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk

DATA = TensorDataset(torch.randn(48, 4, generator=torch.Generator().manual_seed(0)))


class Killed(Exception):
    """Stands for kill -9."""


def train(folder, backend, *, die_at=None, precision="bf16"):
    torch.compiler.reset()
    run = rk.Run(folder, seed=3, save_every="3 steps", precision=precision, tensorboard=False, progress=False)
    try:
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        model = torch.compile(net, backend=backend) if backend else net
        model, _ = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
        for _ in run.epochs(2):
            model.train()
            for (inputs,) in run.batches(run.loader(DATA, batch_size=8)):
                with run.autocast():
                    loss = model(inputs).square().mean()
                run.backward(loss)
                run.update()
                run.step()
                if run.steps_done == die_at:
                    raise Killed
            with run.evaluating(model):
                run.log(output=model(DATA.tensors[0]).mean())
        run.close()
    finally:
        run._shut()
    return {key: value.clone() for key, value in net.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # inductor imports what torch itself gave up
@pytest.mark.parametrize(
    ("backend", "precision"),
    [("eager", "O2"), ("aot_eager", "bf16"), pytest.param("inductor", "fp32", marks=pytest.mark.soak)],
)
def test_a_compiled_model_resumes_to_the_same_bits_under_plain_names(tmp_path, backend, precision):
    if backend == "inductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("inductor needs a C++ compiler")
    whole = train(tmp_path / "whole", backend, precision=precision)
    for death in (5, 8):
        with pytest.raises(Killed):
            train(tmp_path / "cut", backend, die_at=death, precision=precision)
    assert same(whole, train(tmp_path / "cut", backend, precision=precision))
    newest = max((tmp_path / "cut" / "snapshots").iterdir())
    assert same(rk.load(newest / "model.safetensors"), whole)


def test_a_run_may_be_compiled_in_a_later_life_and_plain_again(tmp_path):
    for backend, death in (("eager", 4), (None, 7)):
        with pytest.raises(Killed):
            train(tmp_path / "run", backend, die_at=death)
    assert same(train(tmp_path / "run", "eager"), train(tmp_path / "plain", None))
