"""Keys without what wrappers add, and near names."""

from __future__ import annotations

import pytest

from rekindle.keys import canonical_key, near_names


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        ("layer1.weight", "layer1.weight"),
        ("module.layer1.weight", "layer1.weight"),
        ("_orig_mod.module.w", "w"),
        ("module._orig_mod.w", "w"),
        ("layers.0._checkpoint_wrapped_module.w", "layers.0.w"),
        ("a._fsdp_wrapped_module.b._orig_mod.c", "a.b.c"),
        ("encoder.module.w", "encoder.module.w"),
        ("module", "module"),
        ("", ""),
    ],
)
def test_wrappers_leave_no_trace(key: str, plain: str):
    assert canonical_key(key) == plain


def test_near_names_are_few_and_the_nearest_first():
    assert near_names("fc.wieght", ["fc.weight", "fc.bias", "conv.weight"])[0] == "fc.weight"
    assert near_names("zzz", ["fc.weight"]) == []
    assert len(near_names("a1", [f"a{index}" for index in range(100)])) <= 4
