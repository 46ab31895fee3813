"""Weights of somebody else's model into one's own."""

from __future__ import annotations

import copy
import os

import pytest
import small_networks
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from torch import nn

import rekindle as rk
from rekindle.errors import ConfigError, StateMismatch, UnreadableFile

SmallResNet = small_networks.SmallResNet


def equal(model: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    mine = model.state_dict()
    return mine.keys() == state.keys() and all(torch.equal(mine[key], value) for key, value in state.items())


@pytest.fixture
def theirs() -> nn.Module:
    torch.manual_seed(1)
    model = SmallResNet()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, 16, 16))  # BatchNorm statistics of its own
    return model


def test_a_state_dict_of_the_same_network_fits_as_load_state_dict_loads_it(tmp_path, theirs):
    path = tmp_path / "theirs.pth"
    torch.save(theirs.state_dict(), path)
    model = SmallResNet()
    report = rk.fit(model, path)
    assert equal(model, theirs.state_dict())
    assert report.whole
    assert len(report.loaded) == len(theirs.state_dict())
    assert str(report).splitlines()[0].startswith(f"{path} -> SmallResNet: 122 of 122 tensors loaded (")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("prefix", ["module.", "module._orig_mod.", "backbone.", "model.encoder."])
def test_prefixes_of_wrappers_and_of_larger_models_are_taken_off(tmp_path, theirs, prefix, suffix):
    path = str(tmp_path / f"theirs.{suffix}")
    rk.save({prefix + key: value for key, value in theirs.state_dict().items()}, path)
    model = SmallResNet()
    report = rk.fit(model, path)
    assert equal(model, theirs.state_dict())
    assert report.renamed["fc.weight"] == (f"{prefix}fc.weight",)


def test_a_bare_backbone_fits_into_a_model_that_holds_one(theirs):
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = SmallResNet()
            self.box = nn.Linear(3, 4)

    model = Detector()
    report = rk.fit(model, theirs.state_dict())
    assert equal(model.backbone, theirs.state_dict())
    assert report.missing == ("box.weight", "box.bias")
    assert "with `backbone.`" in str(report)


def test_the_weights_inside_a_checkpoint_are_found_and_the_path_is_said(tmp_path, theirs):
    path = tmp_path / "last.ckpt"
    optimizer = torch.optim.AdamW(theirs.parameters())
    theirs(torch.randn(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    torch.save({"epoch": 3, "state_dict": theirs.state_dict(), "optimizer": optimizer.state_dict()}, path)
    model = SmallResNet()
    assert rk.fit(model, path).taken == ("state_dict",)
    assert equal(model, theirs.state_dict())


def test_of_several_networks_in_a_file_the_one_that_suits_the_model_is_taken(tmp_path, theirs):
    path = tmp_path / "gan.pth"
    torch.save({"generator": nn.Linear(3, 4).state_dict(), "discriminator": theirs.state_dict()}, path)
    model = SmallResNet()
    assert rk.fit(model, path).taken == ("discriminator",)
    assert rk.fit(nn.Linear(3, 4), path).taken == ("generator",)


def test_two_branches_that_fit_equally_are_named_and_take_decides(theirs):
    other = SmallResNet()
    both = {f"student.{key}": value for key, value in theirs.state_dict().items()}
    both |= {f"teacher.{key}": value for key, value in other.state_dict().items()}
    model = SmallResNet()
    with pytest.raises(StateMismatch, match=r"`student\.` and `teacher\.` fit equally well.*take='student' decides"):
        rk.fit(model, both)
    rk.fit(model, both, take="teacher")
    assert equal(model, other.state_dict())


def test_a_whole_module_without_its_class_fits(tmp_path, theirs):
    path = tmp_path / "whole.pth"
    torch.save(theirs, path)
    model = SmallResNet()
    rk.fit(model, path)
    assert equal(model, theirs.state_dict())


def test_a_module_and_a_run_folder_are_sources_too(tmp_path, theirs):
    model = SmallResNet()
    rk.fit(model, theirs)
    assert equal(model, theirs.state_dict())
    with rk.Run(tmp_path / "run", seed=0, tensorboard=False) as run:
        run.track(model=theirs)
        for _ in run.epochs(1):
            run.step()
    model = SmallResNet()
    rk.fit(model, tmp_path / "run")
    assert equal(model, theirs.state_dict())


def test_old_names_and_names_of_ones_own_are_renamed(theirs):
    old = {}
    for key, value in theirs.state_dict().items():
        norm = "bn" in key or "downsample.1" in key
        name = key.replace("weight", "gamma").replace("bias", "beta") if norm else key
        old[name.replace("layer", "stage")] = value
    model = SmallResNet()
    report = rk.fit(model, old, rename="/^stage/layer/")
    assert equal(model, theirs.state_dict())
    assert "renamed as asked" in str(report)
    assert "an old name" in str(report)


def test_the_names_of_hugging_face_fit_into_timms_and_back():
    torch.manual_seed(2)
    theirs = small_networks.SmallViT()
    model = small_networks.SmallViT()
    report = rk.fit(model, small_networks.hugging_face_names(theirs.state_dict()))
    assert equal(model, theirs.state_dict())
    assert len(report.renamed["blocks.0.attn.qkv.weight"]) == 3
    assert not report.unexpected


def test_another_number_of_classes_is_only_reported_unless_rows_are_wished(theirs):
    model = SmallResNet(classes=4)
    before = copy.deepcopy(model.state_dict())
    report = rk.fit(model, theirs.state_dict())
    assert report.other_shape == ("fc.weight", "fc.bias")
    assert torch.equal(model.fc.weight, before["fc.weight"])
    assert "[4, 32] here, [10, 32] there; partial_rows=True takes the rows that both have" in str(report)
    rk.fit(model, theirs.state_dict(), partial_rows=True)
    assert torch.equal(model.fc.weight, theirs.fc.weight[:4])


def test_rows_are_matched_by_the_names_of_their_classes(theirs):
    model = SmallResNet(classes=3)
    before = model.fc.weight.detach().clone()
    names = [f"c{number}" for number in range(10)]
    report = rk.fit(model, theirs.state_dict(), classes=(["c7", "new", "c2"], names))
    assert torch.equal(model.fc.weight[0], theirs.fc.weight[7])
    assert torch.equal(model.fc.weight[1], before[1])
    assert torch.equal(model.fc.bias[2], theirs.fc.bias[2])
    assert "2 of 3 rows by class name" in str(report)


def test_the_same_number_of_other_classes_is_matched_by_name_too(theirs):
    names = [f"c{number}" for number in range(10)]
    model = SmallResNet()
    report = rk.fit(model, theirs.state_dict(), classes=(names[::-1], names))
    assert torch.equal(model.fc.weight, theirs.fc.weight.flip(0))
    assert torch.equal(model.fc.bias, theirs.fc.bias.flip(0))
    assert report.of("adapted")[0].change == "10 of 10 rows by class name"
    assert torch.equal(model.conv1.weight, theirs.conv1.weight)
    rk.fit(model, theirs.state_dict(), classes=(names, names))
    assert equal(model, theirs.state_dict())
    strangers = rk.fit(SmallResNet(), theirs.state_dict(), classes=([f"d{number}" for number in range(10)], names))
    assert strangers.other_shape == ("fc.weight", "fc.bias")


def test_a_grey_model_answers_as_the_coloured_one_does_for_a_grey_picture(theirs):
    model = SmallResNet(channels=1)
    assert rk.fit(model, theirs.state_dict()).other_shape == ("conv1.weight",)
    rk.fit(model, theirs.state_dict(), adapt_channels=True)
    grey = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(model.eval()(grey), theirs.eval()(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_position_embeddings_of_another_length_are_interpolated_on_wish():
    theirs = small_networks.SmallViT(patches=16)
    model = small_networks.SmallViT(patches=36)
    assert rk.fit(model, theirs.state_dict()).other_shape == ("pos_embed",)
    report = rk.fit(model, theirs.state_dict(), resize_positions=True)
    assert torch.equal(model.pos_embed[:, 0], theirs.pos_embed[:, 0])
    assert "positions interpolated from 17 to 37" in str(report)


def test_only_a_layer_or_the_first_layers_are_loaded_where_that_is_asked(theirs):
    model = SmallResNet()
    before = copy.deepcopy(model.state_dict())
    report = rk.fit(model, theirs.state_dict(), only="layer2.0")
    loaded = set(report.loaded)
    assert loaded == {key for key in before if key.startswith("layer2.0.")}
    for key, value in model.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key] if key in loaded else before[key])
    report = rk.fit(SmallResNet(), theirs.state_dict(), first_layers=2)
    assert {key.partition(".")[0] for key in report.loaded} == {"conv1", "bn1"}


def test_other_names_in_the_same_order_fit_by_structure(theirs):
    strange = {f"t{index}": value for index, value in enumerate(theirs.state_dict().values())}
    model = SmallResNet()
    with pytest.raises(StateMismatch, match="no tensor of dict fits SmallResNet"):
        rk.fit(model, strange)
    report = rk.fit(model, strange, match="structure")
    assert equal(model, theirs.state_dict())
    assert report.confidence == 1.0


def test_structure_leaves_out_what_could_align_in_two_ways(theirs):
    deeper = SmallResNet(blocks=3)
    strange = {f"t{index}": value for index, value in enumerate(deeper.state_dict().values())}
    with pytest.raises(StateMismatch, match="does not have the structure of the model"):
        rk.fit(SmallResNet(), strange, match="structure")


def test_strict_raises_with_the_table_and_changes_nothing(theirs):
    model = SmallResNet(classes=4)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(StateMismatch) as caught:
        rk.fit(model, theirs.state_dict(), strict=True)
    assert "other shape  fc.weight" in str(caught.value)
    assert equal(model, before)


def test_a_damaged_file_changes_nothing(tmp_path, theirs):
    path = tmp_path / "cut.pth"
    torch.save(theirs.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-3000])
    model = SmallResNet()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnreadableFile):
        rk.fit(model, path)
    assert equal(model, before)


def test_weights_of_another_network_are_called_by_their_name(theirs):
    with pytest.raises(StateMismatch, match=r"the weights look like a ResNet; its keys look like conv1\.weight"):
        rk.fit(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7)), theirs.state_dict())


def test_names_that_agree_are_shown_with_the_shapes_that_do_not(theirs):
    with pytest.raises(StateMismatch, match=r"fc\.bias is \[10\] there and \[7\] here"):
        rk.fit(nn.ModuleDict({"fc": nn.Linear(5, 7)}), {"fc.bias": torch.zeros(10)})


def test_dtypes_devices_and_identities_of_the_model_stay(theirs):
    model = SmallResNet().to(torch.bfloat16)
    weight = model.fc.weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = rk.fit(model, theirs.state_dict())
    assert model.fc.weight is weight
    assert any(parameter is weight for parameter in optimizer.param_groups[0]["params"])
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, theirs.fc.weight.to(torch.bfloat16))
    assert "float32 to bfloat16" in str(report)


def test_a_model_on_the_meta_device_is_given_the_tensors(tmp_path, theirs):
    path = tmp_path / "theirs.safetensors"
    rk.save(theirs.state_dict(), path)
    with torch.device("meta"):
        model = SmallResNet()
    rk.fit(model, path)
    assert equal(model, theirs.state_dict())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.eval()(torch.ones(1, 3, 16, 16)), theirs.eval()(torch.ones(1, 3, 16, 16)))


def test_tied_tensors_are_loaded_once_and_stay_tied():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.out = nn.Linear(3, 5, bias=False)
            self.out.weight = self.embed.weight

    theirs = Tied()
    slim = {"embed.weight": theirs.embed.weight.detach()}
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = Tied()
        report = rk.fit(model, slim)
        assert report.of("tied")[0].key == "out.weight"
        assert model.out.weight is model.embed.weight
        assert torch.equal(model.out.weight, theirs.embed.weight)


def test_lazy_layers_take_the_shape_of_the_weights():
    model = nn.Sequential(nn.LazyLinear(4))
    theirs = nn.Sequential(nn.Linear(7, 4))
    rk.fit(model, theirs.state_dict())
    x = torch.randn(2, 7)
    assert torch.equal(model(x), theirs(x))


def test_compiled_models_and_data_parallel_ones_fit_under_plain_names(theirs):
    model = torch.nn.DataParallel(SmallResNet())
    report = rk.fit(model, theirs.state_dict())
    assert report.rows[0].key == "conv1.weight"
    assert equal(model.module, theirs.state_dict())


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"only": "layr2"}, "'layr2' fits no key of the model"),
        ({"rename": {"gama": "weight"}}, "rename gama=weight changed no key"),
        ({"first_layers": 0}, "first_layers=0 is not a number of at least 1"),
        ({"match": "order"}, "match='order' is neither 'name' nor 'structure'"),
        ({"classes": (["a", "a"], ["a"])}, "'a' is named twice"),
    ],
)
def test_requests_that_cannot_be_meant_are_refused(theirs, wish, words):
    with pytest.raises(ConfigError, match=words):
        rk.fit(SmallResNet(), theirs.state_dict(), **wish)


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(TypeError, match="a path, a state dict or a module is wanted, not int"):
        rk.fit(nn.Linear(1, 1), 3)
    with pytest.raises(ConfigError, match="nothing in it has the shape of a state dict"):
        rk.fit(nn.Linear(1, 1), {"epoch": 3})
    with pytest.raises(FileNotFoundError):
        rk.fit(nn.Linear(1, 1), os.path.join(tmp_path, "none.pth"))


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(8)), drop=st.sets(st.integers(0, 7), max_size=4))
def test_every_tensor_of_both_sides_is_accounted_for_once(order, drop):
    model = nn.Sequential(*[nn.Linear(size, 3) for size in (2, 3, 4, 5)])
    state = list(copy.deepcopy(model).state_dict().items())
    source = {state[index][0]: state[index][1] for index in order if index not in drop}
    source["extra.weight"] = torch.zeros(9)
    if drop == set(range(8)):
        return
    report = rk.fit(model, source)
    assert sorted(row.key for row in report.rows) == sorted(key for key, _ in state)
    used = [key for row in report.rows for key in row.sources] + [row.key for row in report.unexpected]
    assert sorted(used) == sorted(source)
    again = rk.fit(model, model.state_dict())
    assert again.whole
