"""Frozen parts of a model: no gradients, and norms that keep their statistics."""

from __future__ import annotations

import copy
import io

import pytest
import small_networks

torch = pytest.importorskip("torch")
from torch import nn

import rekindle as rk
from rekindle.errors import ConfigError


def train_a_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    optimizer.step()


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


def test_all_but_the_head_is_frozen_and_only_the_head_changes():
    model = small_networks.SmallResNet()
    before = copy.deepcopy(model.state_dict())
    frozen = rk.freeze(model, but="fc")
    train_a_step(model)
    assert changed(model, before) == {"fc.weight", "fc.bias"}
    assert str(frozen).splitlines()[0] == "60 of 62 parameters frozen (44,292 of 44,622 values)"
    assert "  fc      trained  (330 values)" in str(frozen)


def test_torch_alone_moves_the_statistics_of_a_frozen_norm():
    """What `freeze` is for: without it this is what happens."""
    model = small_networks.SmallResNet()
    before = copy.deepcopy(model.state_dict())
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key.startswith("fc"))
    train_a_step(model)
    assert "bn1.running_mean" in changed(model, before)


def test_everything_up_to_a_layer_is_frozen_and_what_comes_after_is_trained():
    model = small_networks.SmallResNet()
    before = copy.deepcopy(model.state_dict())
    rk.freeze(model, until="layer2")
    train_a_step(model)
    parts = {key.partition(".")[0] for key in changed(model, before)}
    assert parts == {"layer3", "layer4", "fc"}


def test_a_layer_without_parameters_can_be_the_last_that_is_frozen():
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 4), nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()), nn.Linear(4, 2))
    assert list(rk.freeze(model, until="2.1").trained) == ["3.weight", "3.bias"]
    rk.unfreeze(model)
    with pytest.raises(ConfigError, match="neither '0' nor what comes before it has parameters"):
        rk.freeze(model, until="0")
    assert not rk.describe_frozen(model).frozen


@pytest.fixture
def one_process(tmp_path):
    """This process as the whole of a gloo group."""
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("order", ["frozen, then wrapped", "wrapped, then frozen"])
def test_frozen_norms_keep_their_statistics_under_ddp(order, one_process):
    model = small_networks.SmallResNet()
    ddp = nn.parallel.DistributedDataParallel
    if order == "frozen, then wrapped":
        rk.freeze(model, but="fc")
        wrapped = ddp(model)
    else:  # what is frozen afterwards is unused for DDP, which must look for it
        wrapped = ddp(model, find_unused_parameters=True)
        assert next(iter(rk.freeze(wrapped, but="fc").frozen)) == "conv1.weight"
    before = copy.deepcopy(model.state_dict())
    train_a_step(wrapped)
    train_a_step(wrapped)
    assert changed(model, before) == {"fc.weight", "fc.bias"}
    assert not model.layer3[0].bn1.training


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_norms_stay_in_eval_below_wrappers(wrap):
    model = small_networks.SmallResNet()
    rk.freeze(model, patterns=["conv1", "bn1"])
    before = copy.deepcopy(model.state_dict())
    train_a_step(wrap(model))
    assert not model.bn1.training
    assert not any(key.startswith("bn1") for key in changed(model, before))


def test_a_wrapped_model_can_be_frozen_by_plain_names():
    model = nn.DataParallel(small_networks.SmallResNet())
    frozen = rk.freeze(model, until="layer1")
    assert next(iter(frozen.frozen)) == "conv1.weight"
    assert not model.train().module.bn1.training


def test_frozen_norms_stay_frozen_in_copies_and_saved_modules():
    model = small_networks.SmallResNet()
    rk.freeze(model, but="fc")
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        before = copy.deepcopy(twin.state_dict())
        train_a_step(twin)
        assert changed(twin, before) == {"fc.weight", "fc.bias"}
        assert model.bn1 is not twin.bn1


def test_unfreezing_gives_the_norms_back_to_train_and_eval():
    model = small_networks.SmallResNet()
    rk.freeze(model)
    assert not model.train().bn1.training
    rk.unfreeze(model)
    assert model.train().bn1.training
    assert not model.eval().bn1.training
    assert not rk.describe_frozen(model).frozen
    assert "train" not in vars(model.bn1)


def test_norms_without_parameters_go_with_the_part_they_stand_in():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), nn.Flatten(), nn.LazyLinear(2)
    )
    model(torch.randn(2, 3, 8, 8))
    rk.freeze(model, patterns="0")
    mean = model[0][1].running_mean.clone()
    model.train()(torch.randn(2, 3, 8, 8))
    assert torch.equal(model[0][1].running_mean, mean)


def test_a_gradient_from_before_is_not_applied_to_a_frozen_parameter():
    model = small_networks.SmallResNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    rk.freeze(model)
    optimizer.step()
    assert not changed(model, before)


def test_a_thaw_is_a_function_of_the_epoch():
    model = small_networks.SmallResNet()
    rk.freeze(model, but="fc")
    thaw = rk.Thaw(model, {1: "layer4", 2: ["layer3", "layer2"]})
    for epoch, parts in [(0, {"fc"}), (2, {"fc", "layer4", "layer3", "layer2"}), (1, {"fc", "layer4"})]:
        thaw(epoch)
        assert {key.partition(".")[0] for key in rk.describe_frozen(model).trained} == parts
    assert model.train().layer4[0].bn1.training
    assert not model.layer3[0].bn1.training


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"until": "layer9"}, "the model has no layer 'layer9'\n  why     nearest: layer4, layer3"),
        ({"patterns": "lyer2.*"}, r"'lyer2.\*' fits no parameter of the model\n  why     nearest: layer2"),
        ({"but": "head"}, "'head' fits no parameter of the model\n  why     its parts are conv1, bn1, layer1"),
    ],
)
def test_names_that_do_not_exist_are_answered_with_near_ones_and_nothing_is_frozen(wish, words):
    model = small_networks.SmallResNet()
    with pytest.raises(ConfigError, match=words):
        rk.freeze(model, **wish)
    assert not rk.describe_frozen(model).frozen


def test_a_run_with_a_frozen_backbone_resumes_to_the_same_bits(tmp_path):
    def train(folder, epochs: int) -> dict[str, torch.Tensor]:
        run = rk.Run(folder, seed=3, save_every="1 epoch", tensorboard=False)
        model = small_networks.SmallResNet()
        rk.freeze(model, but="fc")
        thaw = rk.Thaw(model, {1: "layer4"})
        optimizer = torch.optim.AdamW(rk.param_groups(model, 1e-2, backbone_lr=1e-3, weight_decay=0.05))
        run.track(model=model, optimizer=optimizer)
        data = torch.utils.data.TensorDataset(torch.randn(12, 3, 8, 8), torch.randint(0, 10, (12,)))
        batches = run.loader(data, batch_size=4)
        with run:
            for epoch in run.epochs(epochs):
                thaw(epoch)
                model.train()
                for pictures, labels in run.batches(batches):
                    nn.functional.cross_entropy(model(pictures), labels).backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    run.step()
        return model.state_dict()

    torch.manual_seed(0)
    straight = train(tmp_path / "straight", 3)
    train(tmp_path / "twice", 2)
    resumed = train(tmp_path / "twice", 3)
    assert all(torch.equal(straight[key], value) for key, value in resumed.items())
