"""Networks: their shapes, and what a factory of one's own is told when it does not fit."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from rekindle.errors import ConfigError
from rekindle.factories import UserCodeFailed
from rekindle.recipes.config import Settings, settings_of
from rekindle.recipes.networks import build_model


def settings(name: str, arguments: dict[str, object] | None = None) -> Settings:
    chosen = settings_of("digits", {"model.name": name})
    return Settings(chosen.values, arguments or {})


@pytest.mark.parametrize(("shape", "classes"), [((1, 8, 8), 10), ((3, 28, 31), 2), ((1, 4, 4), 3)])
@pytest.mark.parametrize("name", ["lenet", "mlp"])
def test_the_networks_give_a_score_for_each_class(name, shape, classes):
    model = build_model(settings(name), shape, classes)
    assert model(torch.randn(5, *shape)).shape == (5, classes)
    assert model.training


def test_the_keys_of_lenet_are_plain():
    model = build_model(settings("lenet"), (1, 8, 8), 10)
    assert list(model.state_dict())[:4] == ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]


def test_trying_a_model_draws_nothing_from_the_generators():
    torch.manual_seed(3)
    build_model(settings("mlp"), (5,), 2)
    after = torch.rand(1)
    torch.manual_seed(3)
    for features, width in ((5, 64), (64, 64), (64, 2)):
        torch.nn.Linear(features, width)
    assert torch.equal(torch.rand(1), after)


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """Write a module `nets_N` with this body and return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    count = iter(range(100))

    def write(body: str) -> str:
        name = f"nets_{tmp_path.name}_{next(count)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(f"from torch import nn\n{body}\n")
        return name

    return write


def refusal(name: str, arguments: dict[str, object] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        build_model(settings(name, arguments), (4,), 3)
    return str(caught.value)


def test_a_function_of_ones_own_gets_its_arguments(factory):
    name = factory("def build(width): return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))")
    model = build_model(settings(f"{name}:build", {"width": 7}), (4,), 3)
    assert model[0].out_features == 7


def test_what_is_wrong_with_a_function_of_ones_own_is_said(factory, tmp_path):
    name = factory("def build(width): return nn.Linear(4, width)\ndef text(): return 'a net'")
    assert refusal("nowhere.nets:build").startswith("model `nowhere.nets:build`: there is no module `nowhere`\n")
    assert "nearest: build\n" in refusal(f"{name}:buildd")
    assert "missing 1 required positional argument: 'width'" in refusal(f"{name}:build")
    assert f"model `{name}:text` returned str\n" in refusal(f"{name}:text")
    assert "returns scores of shape (2, 2) for 2 inputs and 3 classes\n" in refusal(f"{name}:build", {"width": 2})
    other = factory("def build(): return nn.Linear(9, 3)")
    assert f"model `{other}:build` does not take inputs of shape (4,)\n" in refusal(f"{other}:build")


def test_a_fault_inside_the_users_function_keeps_its_own_traceback(factory):
    name = factory("def build(): return len(3)")
    with pytest.raises(UserCodeFailed, match=f"`{name}:build`: `build` raised TypeError") as caught:
        build_model(settings(f"{name}:build"), (4,), 3)
    assert isinstance(caught.value.__cause__, TypeError)
    assert caught.value.trace.splitlines()[1].endswith(f'{name}.py", line 2, in build')
    name = factory("import a_module_that_is_not_there")
    with pytest.raises(UserCodeFailed, match=f"importing `{name}` failed") as caught:
        build_model(settings(f"{name}:build"), (4,), 3)
    assert caught.value.trace.splitlines()[1].endswith(f'{name}.py", line 2, in <module>')
    assert "a_module_that_is_not_there" in caught.value.why


def test_lenet_wants_pictures():
    assert refusal("lenet").startswith("the model `lenet` does not fit inputs of shape (4,)\n")
