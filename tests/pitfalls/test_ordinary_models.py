"""No false alarm: ordinary models are passed over in silence, by `rk.check` and by a run that trains them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")
from ordinary_models import CASES, Case

import rekindle as rk

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3),
}


def test_there_are_many_kinds_of_models():
    assert len(CASES) >= 20


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_nothing_is_found_in_an_ordinary_model(make: Callable[[], Case]):
    torch.manual_seed(0)
    model, loss_fn, batch = make()
    for build in OPTIMIZERS.values():
        report = rk.check(model, loss_fn, batch, optimizer=build(model))
        assert report.findings == (), str(report)
        assert str(report).startswith("none of 32 pitfalls found; the loss of this batch is ")


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_a_run_that_trains_an_ordinary_model_says_nothing(make: Callable[[], Case], tmp_path, capfd):
    torch.manual_seed(0)
    model, loss_fn, batch = make()
    parts = tuple(batch.values()) if isinstance(batch, dict) else batch if isinstance(batch, tuple) else (batch,)
    optimizer = OPTIMIZERS["AdamW"](model)
    with rk.Run(tmp_path / "run", seed=0, save_every=None, tensorboard=False) as run:
        run.track(model=model, optimizer=optimizer)
        batches = run.loader(torch.utils.data.TensorDataset(*parts), batch_size=max(2, len(parts[0]) // 2))
        for _ in run.epochs(2):
            model.train()
            for given in run.batches(batches):
                if loss_fn is None:
                    loss = model(*given)["loss"]
                else:
                    inputs = given[:-1] if len(given) > 1 else given
                    loss = loss_fn(model(*inputs), given[-1])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.step()
            with run.evaluating(model):
                model(*(parts[:-1] if loss_fn is not None and len(parts) > 1 else parts))
    assert run._core.pitfalls.failed is None
    assert capfd.readouterr().err == ""
