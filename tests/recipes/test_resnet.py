"""ResNets: torchvision's names, shapes and numbers, and its weight files as they are."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import rekindle as rk
from rekindle.recipes.resnet import RESNETS, resnet

# Parameters of torchvision's models with 1,000 classes, and entries of their state dicts.
KNOWN = {"resnet18": (11_689_512, 122), "resnet34": (21_797_672, 218), "resnet50": (25_557_032, 320)}


@pytest.mark.parametrize("name", RESNETS)
def test_parameters_and_entries_are_as_many_as_torchvisions(name):
    with torch.device("meta"):
        model = resnet(name)
    assert (sum(p.numel() for p in model.parameters()), len(model.state_dict())) == KNOWN[name]


def torchvision_keys(blocks: tuple[int, ...], convolutions: int) -> list[str]:
    """The keys of torchvision's ResNets in their order, from its published layout."""

    def norm(name: str) -> list[str]:
        return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    keys = ["conv1.weight", *norm("bn1")]
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            here = f"layer{stage}.{block}"
            for number in range(1, convolutions + 1):
                keys += [f"{here}.conv{number}.weight", *norm(f"{here}.bn{number}")]
            if block == 0 and (stage > 1 or convolutions == 3):
                keys += [f"{here}.downsample.0.weight", *norm(f"{here}.downsample.1")]
    return [*keys, "fc.weight", "fc.bias"]


@pytest.mark.parametrize("name", RESNETS)
def test_keys_are_torchvisions_in_its_order(name):
    blocks, bottleneck = RESNETS[name]
    with torch.device("meta"):
        keys = list(resnet(name).state_dict())
    assert keys == torchvision_keys(blocks, 3 if bottleneck else 2)


def test_a_file_with_torchvisions_keys_and_shapes_loads_unchanged(tmp_path):
    """As `resnet18-f37072fd.pth`: 122 entries, 1,000 classes, written by torch.save."""
    torch.manual_seed(0)
    like = resnet("resnet18").state_dict()
    given = {key: torch.randn(v.shape) if v.is_floating_point() else torch.tensor(7) for key, v in like.items()}
    torch.save(given, tmp_path / "resnet18.pth")
    model = resnet("resnet18")
    report = rk.fit(model, tmp_path / "resnet18.pth", strict=True)
    assert len(report.loaded) == 122
    assert all(torch.equal(value, given[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_it_takes_pictures_of_any_size_and_gives_a_score_for_each_class(name):
    model = resnet(name, classes=5, channels=1).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 1, 33, 47)).shape == (2, 5)


def test_it_computes_what_torchvisions_does():
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    ours, theirs = resnet("resnet18").eval(), torchvision.models.resnet18().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
