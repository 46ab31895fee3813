"""Weights that lie one level down."""

from __future__ import annotations

import torch
from doctoring import found, shown
from torch import nn


def test_a_training_checkpoint_is_a_note_that_says_where_the_weights_are():
    model = nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.save({"epoch": 3, "model_state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, "m.pth")
    assert shown("m.pth", "wrapped-state-dict") == (
        "note  m.pth: the weights (2 tensors) lie under ['model_state_dict'], beside epoch, optimizer  [RK-FILE-66]\n"
        "  why     a checkpoint for going on with a training; load_state_dict wants what is under "
        "['model_state_dict'] and calls the rest unexpected\n"
        "  do      rekindle convert m.pth m.weights.pth --take model_state_dict"
    )
    assert not any(nn.Linear(2, 3).load_state_dict(torch.load("m.weights.pth")))


def test_averaged_weights_beside_them_are_named():
    state = nn.Linear(2, 3).state_dict()
    torch.save({"model": state, "ema": state, "epoch": 1}, "m.pth")
    (finding,) = found("m.pth", "wrapped-state-dict")
    assert "lie under ['model'], beside ema, epoch; more weights lie under ema" in finding.what


def test_two_levels_down_is_found_too():
    torch.save({"payload": {"state_dict": nn.Linear(2, 3).state_dict()}, "step": 1}, "m.pth")
    (finding,) = found("m.pth", "wrapped-state-dict")
    assert "under ['payload']['state_dict']" in finding.what
    assert set(torch.load("m.weights.pth")) == {"weight", "bias"}


def test_a_state_dict_by_itself_is_fine_also_with_a_number_among_its_tensors():
    torch.save(nn.Linear(2, 3).state_dict(), "m.pth")
    assert found("m.pth", "wrapped-state-dict") == []
    torch.save({**nn.Linear(2, 3).state_dict(), "epoch": 3}, "m.pth")
    assert found("m.pth", "wrapped-state-dict") == []


def test_of_several_models_without_telling_names_none_is_guessed():
    torch.save({"one": nn.Linear(2, 3).state_dict(), "two": nn.Linear(2, 3).state_dict()}, "m.pth")
    assert found("m.pth", "wrapped-state-dict") == []
