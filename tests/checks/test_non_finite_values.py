"""NaN and infinities, in every type that has them, found without NumPy and compared with torch."""

from __future__ import annotations

import pytest
import torch
import zoo
from doctoring import found, shown

from rekindle.checks._values import facts_of_values
from rekindle.formats import open_path

FLOATS = (*zoo.FLOATS, "complex128", "complex64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


def test_a_nan_is_an_error_that_says_where():
    weight = torch.ones(10, 10)
    weight[3, 5] = float("nan")
    torch.save({"a": torch.ones(2), "w": weight}, "m.pth")
    assert shown("m.pth", "non-finite-values", values=True) == (
        "error  m.pth: 1 tensor holds NaN: w; the first is element 35 of w  [RK-FILE-75]\n"
        "  why     the training diverged before this file was saved, or its bytes are damaged; a model that holds NaN "
        "answers NaN\n"
        "  do      take an earlier checkpoint of the same run"
    )


def test_an_infinity_is_a_warning():
    torch.save({"mask": torch.tensor([0.0, float("-inf")])}, "m.pth")
    (finding,) = found("m.pth", "non-finite-values", values=True)
    assert (finding.severity.value, finding.what) == (
        "warning",
        "1 tensor holds infinities: mask; the first is element 1 of mask",
    )


def test_the_largest_finite_numbers_are_fine_and_without_values_nobody_looks():
    torch.save({name: torch.full((5,), torch.finfo(getattr(torch, name)).max, dtype=getattr(torch, name))
                for name in zoo.FLOATS}, "m.pth")  # fmt: skip
    assert found("m.pth", "non-finite-values", values=True) == []
    torch.save({"w": torch.tensor([float("nan")])}, "m.pth")
    assert found("m.pth", "non-finite-values") == []


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("seed", range(3))
def test_the_first_places_are_those_that_torch_sees(name: str, seed: int):
    torch.manual_seed(seed)
    tensor = zoo.of_dtype(name, (7, 300)).t()[seed:]
    torch.save({"w": tensor}, "m.pth")
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64).reshape(-1)
    nan, infinite = wide.isnan(), wide.isinf()
    if tensor.is_complex():
        parts = torch.view_as_real(wide)
        nan, infinite = parts.isnan().any(-1), parts.isinf().any(-1)
    with open_path("m.pth") as opened:
        facts = facts_of_values(opened)["w"]
    assert facts.nan_at == (int(nan.nonzero()[0]) if nan.any() else None)
    if not name.startswith("float8"):
        assert facts.infinite_at == (int(infinite.nonzero()[0]) if infinite.any() else None)
