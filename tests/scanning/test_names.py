"""What is known of names: the harmless ones are exact and torch's own; the dangerous ones are found by any spelling."""

from __future__ import annotations

import attacks
import pytest

from rekindle.scanning.names import CHECKPOINT_NAMES, HARMLESS, Level, judge


def test_the_harmless_names_are_those_that_torch_takes_by_default():
    only = pytest.importorskip("torch._weights_only_unpickler")
    allowed = set(only._get_allowed_globals())
    assert {f"{module}.{name}" for module, name in HARMLESS} <= allowed


def test_every_harmless_name_has_a_reason_and_no_dot():
    for (module, name), reason in {**HARMLESS, **CHECKPOINT_NAMES}.items():
        assert reason
        assert name.isidentifier()
        assert module


def test_names_of_a_checkpoint_folder_are_harmless_there_only():
    for pair in CHECKPOINT_NAMES:
        assert judge(*pair, checkpoint=True).level is Level.HARMLESS
        assert judge(*pair).level is Level.UNKNOWN


@pytest.mark.parametrize(("module", "name"), attacks.NAMES)
def test_a_dangerous_name_is_dangerous(module, name):
    assert judge(module, name).level is Level.DANGEROUS
    assert judge(module, name, checkpoint=True).level is Level.DANGEROUS


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("mymodels", "Net"),
        ("torch.nn.modules.linear", "Linear"),
        ("torch._utils", "_rebuild_tensor_v99"),
        ("torch", "Size.count"),
        ("collections", "deque"),
        ("numpy", "dtype"),
        ("builtins", "frozenset"),
        ("collections ", "OrderedDict"),
        ("Collections", "OrderedDict"),
        ("torch._utils._rebuild_tensor_v2", ""),
        ("", ""),
    ],
)
def test_a_name_in_neither_list_is_unknown_never_harmless(module, name):
    assert judge(module, name).level is Level.UNKNOWN


@pytest.mark.parametrize("pair", list(HARMLESS))
def test_a_harmless_name_is_so_exactly_as_it_is_spelled(pair):
    module, name = pair
    assert judge(module, name).level is Level.HARMLESS
    for other in ((module, name + "_"), (module + "x", name), (module, f"x.{name}"), (module, f"{name}.os")):
        assert judge(*other).level is not Level.HARMLESS


def test_python_2_spells_the_same_names_otherwise():
    assert judge("__builtin__", "set").level is Level.HARMLESS
    assert judge("__builtin__", "reduce").level is Level.DANGEROUS
    assert judge("itertools", "imap").level is Level.DANGEROUS
