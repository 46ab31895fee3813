"""Keys that carry a wrapper's name, in every order that wrappers nest."""

from __future__ import annotations

import pytest
import torch
from doctoring import found, shown
from torch import nn

from rekindle.keys import plain_keys, plain_prefix


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_data_parallel_is_named_and_the_fixed_file_loads_into_the_plain_model():
    torch.save(nn.DataParallel(net()).state_dict(), "m.pth")
    assert shown("m.pth", "wrapper-prefix") == (
        "warning  m.pth: all 7 keys carry the name of a wrapper: module.0.weight  [RK-FILE-65]\n"
        "  why     the state dict was taken from DataParallel or DistributedDataParallel, not from the model "
        "inside it; "
        "load_state_dict of the plain model then calls every key missing and every other one unexpected\n"
        "  do      rekindle doctor m.pth --fix m.fixed.pth"
    )
    fixed = torch.load("m.fixed.pth")
    model = net()
    assert not any(model.load_state_dict(fixed))
    assert fixed._metadata == net().state_dict()._metadata


def test_compiled_parts_inside_a_model_are_named():
    model = net()
    model[0] = torch.compile(model[0], backend="eager")
    torch.save(model.state_dict(), "m.pth")
    text = shown("m.pth", "wrapper-prefix")
    assert "2 of 7 keys carry the name of a wrapper: 0._orig_mod.weight" in text
    assert "the module that torch.compile returns" in text
    assert not any(net().load_state_dict(torch.load("m.fixed.pth")))


def test_a_part_that_is_called_module_by_its_author_is_left_alone():
    torch.save({"module.weight": torch.ones(2), "head.weight": torch.ones(2), "x.module.y": torch.ones(1)}, "m.pth")
    assert found("m.pth", "wrapper-prefix") == []


def test_nothing_is_offered_where_two_keys_would_become_one():
    torch.save({"fc._orig_mod.weight": torch.ones(2), "fc.weight": torch.ones(2)}, "m.pth")
    (finding,) = found("m.pth", "wrapper-prefix")
    assert "some would have the same name" in finding.what
    assert finding.do == ""


@pytest.mark.parametrize(
    ("keys", "plain"),
    [
        (["module._orig_mod.a.b", "module._orig_mod.c"], ["a.b", "c"]),
        (["_orig_mod.module.a.b", "_orig_mod.module.c"], ["a.b", "c"]),
        (["module.module.a", "module.module.b"], ["a", "b"]),
        (["module.a", "b"], ["module.a", "b"]),
        (["layers.0._checkpoint_wrapped_module.a"], ["layers.0.a"]),
        (["module"], ["module"]),
    ],
)
def test_wrappers_leave_keys_in_every_order(keys: list[str], plain: list[str]):
    assert list(plain_keys(keys).values()) == plain


def test_paths_of_modules_follow_their_keys():
    plain = plain_prefix(["module._orig_mod.fc.weight"])
    assert [plain(path) for path in ("", "module", "module._orig_mod", "module._orig_mod.fc")] == ["", "", "", "fc"]
