"""Capturing what is tracked and putting it back: the same bits, in place, or a table of what differs."""

from __future__ import annotations

import copy
import json
import math
import os
import random
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from rekindle.errors import SnapshotDamaged, StateMismatch
from rekindle.run.snapshot import capture, kind_of_tracked, read, restore
from rekindle.store.commit import commit
from rekindle.store.lock import hold

pytestmark = pytest.mark.filterwarnings(
    "ignore:ComplexHalf support is experimental:UserWarning",  # torch says so about complex32, once a process
    "ignore:torch.quantize_per_tensor:UserWarning",  # deprecated, and still in people's files
    "ignore:Sparse invariant checks are implicitly disabled:UserWarning",
    "ignore:Sparse (CSR|CSC|BSR) tensor support is in beta state:UserWarning",
)

STRIDED_DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
    torch.complex128,
    torch.complex64,
    torch.complex32,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
]


def bits(tensor: torch.Tensor) -> bytes:
    """The elements of a tensor in row-major order, as bytes."""
    whole = tensor.detach().contiguous()
    if whole.is_complex():
        whole = torch.view_as_real(whole.resolve_conj())
    return whole.reshape(-1).view(torch.uint8).numpy().tobytes()


def any_bits(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """A tensor of random bits: NaN payloads, infinities, subnormals and negative zeros among them."""
    count = math.prod(shape) * torch.empty((), dtype=dtype).element_size()
    data = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8)
    return data.view(dtype).reshape(shape)


@pytest.fixture
def save(tmp_path):
    """A function that captures and commits, and returns the snapshot's path."""
    lock = hold(tmp_path / "run")
    steps = iter(range(1, 1000))

    def commit_capture(tracked, extra=None, **options):
        captured = capture(tracked, extra or {}, **options)
        done = commit(lock, next(steps), captured.files, {}, need_bytes=captured.size_bytes)
        assert captured.size_bytes >= done.size_bytes * 0.9
        return done.path

    yield commit_capture
    lock.release()


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """What is durable is the business of tests/crash."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Everything(nn.Module):
    """A parameter or buffer of every kind that a module may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.tied = self.layer  # one module under two names
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.wide = nn.Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
        for dtype in STRIDED_DTYPES:
            self.register_buffer(f"b_{str(dtype)[6:]}", any_bits(dtype, 3, 2))
        self.register_buffer("cache", any_bits(torch.float32, 5), persistent=False)
        self.register_buffer("nothing", None)
        self.counter = 0

    def get_extra_state(self):
        return {"counter": self.counter, "seen": torch.tensor([self.counter])}

    def set_extra_state(self, state):
        self.counter = state["counter"]
        assert state["seen"].item() == self.counter


def test_every_tensor_of_a_module_comes_back_with_the_same_bits_in_the_same_memory(save):
    torch.manual_seed(0)
    model = Everything()
    model.counter = 7
    path = save({"model": model})
    torch.manual_seed(1)
    other = Everything()
    wide_stride = other.wide.stride()
    places = {key: value.data_ptr() for key, value in other.state_dict().items() if isinstance(value, torch.Tensor)}

    restore(path, {"model": other})

    for key, value in model.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert bits(other.state_dict()[key]) == bits(value), key
            assert other.state_dict()[key].data_ptr() == places[key], key
    assert bits(other.cache) == bits(model.cache)
    assert other.counter == 7
    assert other.wide.stride() == wide_stride == (60, 1, 15, 3)
    assert other.tied is other.layer


def test_the_model_file_is_plain_safetensors_with_plain_keys(save):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    path = save({"model": nn.DataParallel(model), "discriminator": model[0]})
    loaded = safetensors.torch.load_file(os.path.join(path, "model.safetensors"))
    assert loaded.keys() == model.state_dict().keys()
    model.load_state_dict(loaded)
    assert set(safetensors.torch.load_file(os.path.join(path, "discriminator.safetensors"))) == {"weight", "bias"}


def test_a_wrapped_module_is_restored_into_a_bare_one_and_back(save):
    wrapped, bare = nn.DataParallel(nn.Linear(3, 2)), nn.Linear(3, 2)
    restore(save({"model": wrapped}), {"model": bare})
    assert bits(bare.weight) == bits(wrapped.module.weight)
    again = nn.DataParallel(nn.Linear(3, 2))
    restore(save({"model": bare}), {"model": again})
    assert bits(again.module.weight) == bits(bare.weight)


def test_keys_that_would_become_one_stay_as_they_are(save):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)
            self.weight = nn.Parameter(torch.randn(3))
            self.bias = nn.Parameter(torch.randn(3))

    odd, other = Odd(), Odd()
    restore(save({"model": odd}), {"model": other})
    assert bits(other.weight) == bits(odd.weight)
    assert bits(other.module.weight) == bits(odd.module.weight)


def test_an_averaged_model_keeps_its_counter(save):
    model = nn.Linear(2, 2)
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for _ in range(3):
        ema.update_parameters(model)
    other = torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2))
    restore(save({"ema": ema}), {"ema": other})
    assert other.n_averaged == 3
    assert bits(other.module.weight) == bits(ema.module.weight)


def test_tied_weights_are_written_under_each_key_and_stay_tied(save):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(3, 3), nn.Linear(3, 3)
            self.decoder.weight = self.encoder.weight

    model, other = Tied(), Tied()
    path = save({"model": model})
    loaded = safetensors.torch.load_file(os.path.join(path, "model.safetensors"))
    assert torch.equal(loaded["encoder.weight"], loaded["decoder.weight"])
    restore(path, {"model": other})
    assert other.decoder.weight is other.encoder.weight
    assert bits(other.decoder.weight) == bits(model.encoder.weight)


def test_two_values_are_not_written_into_one_tied_tensor(save):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    other = copy.deepcopy(model)
    other[1].weight = other[0].weight
    with pytest.raises(StateMismatch, match=r"0\.weight and 1\.weight are one tensor in the script"):
        restore(save({"model": model}), {"model": other})


def test_what_does_not_fit_is_a_table_and_changes_nothing(save):
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 6, 5), fc=nn.Linear(84, 10), gone=nn.Linear(1, 1)))
    path = save({"model": model})
    other = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 6, 5), fc=nn.Linear(84, 12), gome=nn.Linear(1, 1)))
    before = {key: bits(value) for key, value in other.state_dict().items()}
    with pytest.raises(StateMismatch) as caught:
        restore(path, {"model": other})
    assert str(caught.value) == (
        "model: what was saved does not fit: 2 missing, 2 unexpected, 2 of another shape or type\n"
        "  why     missing     gome.weight: float32 [1, 1] in the script, not in the snapshot; "
        "nearest there: gone.weight\n"
        "          missing     gome.bias: float32 [1] in the script, not in the snapshot; nearest there: gone.bias\n"
        "          unexpected  gone.weight: float32 [1, 1] in the snapshot, not in the script\n"
        "          unexpected  gone.bias: float32 [1] in the snapshot, not in the script\n"
        "          other       fc.weight: float32 [10, 84] in the snapshot, float32 [12, 84] in the script\n"
        "          other       fc.bias: float32 [10] in the snapshot, float32 [12] in the script\n"
        "  do      run the script with the model it had, or begin a new run in another folder"
    )
    assert {key: bits(value) for key, value in other.state_dict().items()} == before


def test_nothing_is_changed_when_a_later_object_does_not_fit(save):
    model, scheduler_like = nn.Linear(2, 2), nn.Linear(3, 3)
    path = save({"model": model, "other": scheduler_like})
    live = nn.Linear(2, 2)
    before = bits(live.weight)
    with pytest.raises(StateMismatch, match="other: what was saved does not fit"):
        restore(path, {"model": live, "other": nn.Linear(4, 3)})
    assert bits(live.weight) == before


def test_another_dtype_is_never_cast_in_silence(save):
    path = save({"model": nn.Linear(2, 2)})
    with pytest.raises(StateMismatch, match=r"weight: float32 \[2, 2\] in the snapshot, bfloat16 \[2, 2\]"):
        restore(path, {"model": nn.Linear(2, 2).bfloat16()})


def test_a_frozen_parameter_that_is_trained_now_is_said(save):
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    notes = restore(save({"model": model}), {"model": nn.Linear(2, 2)}).notes
    assert notes == ("model.bias: trained now, frozen when it was saved",)


def test_a_cache_that_grew_comes_back_in_its_size(save):
    class Cached(nn.Module):
        def __init__(self, size) -> None:
            super().__init__()
            self.register_buffer("mask", torch.ones(size), persistent=False)

    model, other = Cached(5), Cached(2)
    restore(save({"model": model}), {"model": other})
    assert other.mask.shape == (5,)
    assert "mask" not in other.state_dict()


def test_a_name_that_was_not_tracked_is_named_with_the_nearest(save):
    path = save({"model": nn.Linear(1, 1), "optimiser": {"a": 1}})
    with pytest.raises(StateMismatch) as caught:
        restore(path, {"optimizer": {"a": 2}})
    assert "optimizer: tracked now, and not in the snapshot of step" in str(caught.value)
    assert "track it under the name it had: optimiser=optimizer" in caught.value.do


def test_another_kind_of_object_under_a_name_is_refused(save):
    path = save({"model": nn.Linear(1, 1)})
    with pytest.raises(StateMismatch, match="model: the snapshot holds a module"):
        restore(path, {"model": {"a": 1}})


# --- optimizers -------------------------------------------------------------------------------------------------------


def trained(optimizer_class, model=None, steps=3, **settings):
    """A model and an optimizer after a few updates."""
    torch.manual_seed(3)
    model = model or nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    optimizer = optimizer_class(model.parameters(), **settings)
    train(model, optimizer, steps)
    return model, optimizer


def train(model, optimizer, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        inputs = torch.randn(6, 4, generator=generator)

        def closure(inputs=inputs):
            optimizer.zero_grad()
            loss = model(inputs.to(next(model.parameters()).dtype)).float().square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)


OPTIMIZERS = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (torch.optim.Adam, {"lr": 1e-3, "amsgrad": True}),
    (torch.optim.AdamW, {"lr": torch.tensor(1e-3), "foreach": False, "capturable": False}),
    (torch.optim.Adagrad, {"lr": 0.1}),
    (torch.optim.Adadelta, {}),
    (torch.optim.RMSprop, {"centered": True, "momentum": 0.1}),
    (torch.optim.Rprop, {}),
    (torch.optim.NAdam, {}),
    (torch.optim.RAdam, {}),
    (torch.optim.ASGD, {}),
    (torch.optim.Adamax, {}),
    (torch.optim.LBFGS, {"history_size": 3, "max_iter": 2}),
]


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS, ids=lambda value: getattr(value, "__name__", ""))
def test_training_goes_on_to_the_same_bits(save, kind, settings):
    model, optimizer = trained(kind, **settings)
    path = save({"model": model, "optimizer": optimizer})
    train(model, optimizer, 3, seed=9)
    other, other_optimizer = trained(kind, steps=1, **copy.deepcopy(settings))
    restore(path, {"model": other, "optimizer": other_optimizer})
    train(other, other_optimizer, 3, seed=9)
    for key, value in model.state_dict().items():
        assert bits(other.state_dict()[key]) == bits(value), key


def test_float32_moments_of_bfloat16_parameters_stay_float32(save):
    model = nn.Linear(4, 2).bfloat16()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, 2)
    for state in optimizer.state.values():  # as optimizers with master state keep them
        for key in ("exp_avg", "exp_avg_sq"):
            state[key] = state[key].float() + 1e-6
    other = nn.Linear(4, 2).bfloat16()
    other_optimizer = torch.optim.AdamW(other.parameters())
    restore(save({"model": model, "optimizer": optimizer}), {"model": other, "optimizer": other_optimizer})
    for mine, theirs in zip(optimizer.state.values(), other_optimizer.state.values(), strict=True):
        for key, value in mine.items():
            assert theirs[key].dtype == value.dtype
            assert bits(theirs[key]) == bits(value)


def test_torch_itself_would_have_cast_them():
    """The reason for the test above: should torch stop casting, `_undo_casts` can go."""
    model = nn.Linear(4, 2).bfloat16()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, 1)
    state = optimizer.state_dict()
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"].float()
    optimizer.load_state_dict(state)
    assert optimizer.state[model.weight]["exp_avg"].dtype == torch.bfloat16


def test_state_follows_the_parameters_name_not_its_position(save):
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    optimizer = torch.optim.SGD([model[0].weight, model[1].weight], lr=0.1, momentum=0.9)
    train(model, optimizer, 2)
    path = save({"model": model, "optimizer": optimizer})
    loaded = safetensors.torch.load_file(os.path.join(path, "optimizer.safetensors"))
    assert set(loaded) == {"model.0.weight.momentum_buffer", "model.1.weight.momentum_buffer"}

    other = copy.deepcopy(model)
    swapped = torch.optim.SGD([other[1].weight, other[0].weight], lr=0.1, momentum=0.9)
    restore(path, {"model": other, "optimizer": swapped})
    for live, was in ((other[0], model[0]), (other[1], model[1])):
        mine, theirs = swapped.state[live.weight], optimizer.state[was.weight]
        assert bits(mine["momentum_buffer"]) == bits(theirs["momentum_buffer"])


def test_an_optimizer_tracked_later_finds_the_names_in_the_context(save):
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    optimizer = torch.optim.SGD([model[0].weight, model[1].weight], lr=0.1, momentum=0.9)
    train(model, optimizer, 1)
    saved = read(save({"model": model, "optimizer": optimizer}))
    other = copy.deepcopy(model)
    swapped = torch.optim.SGD([other[1].weight, other[0].weight], lr=0.1, momentum=0.9)
    restore(saved, {"model": other})
    restore(saved, {"optimizer": swapped}, context={"model": other})
    mine = swapped.state[other[0].weight]["momentum_buffer"]
    assert bits(mine) == bits(optimizer.state[model[0].weight]["momentum_buffer"])


def test_parameters_of_nothing_tracked_are_said_and_found_by_position(save):
    loose = nn.Parameter(torch.randn(3))
    optimizer = torch.optim.SGD([loose], lr=0.1, momentum=0.9)
    loose.grad = torch.ones(3)
    optimizer.step()
    captured = capture({"optimizer": optimizer}, {})
    assert captured.notes == (
        (
            "optimizer: 1 of its parameters belong to nothing that is tracked, so their values are not saved; "
            "track the module they belong to"
        ),
    )
    other = nn.Parameter(torch.randn(3))
    other_optimizer = torch.optim.SGD([other], lr=0.1, momentum=0.9)
    restore(save({"optimizer": optimizer}), {"optimizer": other_optimizer})
    assert bits(other_optimizer.state[other]["momentum_buffer"]) == bits(optimizer.state[loose]["momentum_buffer"])


def test_other_parameters_are_a_table(save):
    model, optimizer = trained(torch.optim.SGD, lr=0.1, momentum=0.9)
    path = save({"model": model, "optimizer": optimizer})
    frozen = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(StateMismatch) as caught:
        restore(path, {"model": model, "optimizer": frozen})
    assert caught.value.what == "optimizer, group 0: what was saved does not fit its parameters"
    assert "unexpected  model.1.weight: in the snapshot, not in the script" in caught.value.why


def test_another_number_of_groups_and_another_class_are_refused(save):
    model, optimizer = trained(torch.optim.SGD, lr=0.1)
    path = save({"model": model, "optimizer": optimizer})
    two = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[1].parameters()}], lr=0.1)
    with pytest.raises(StateMismatch, match="1 parameter groups in the snapshot, 2 in the script"):
        restore(path, {"model": model, "optimizer": two})
    with pytest.raises(
        StateMismatch, match=r"saved by torch\.optim\.sgd\.SGD, tracked now is torch\.optim\.adam\.Adam"
    ):
        restore(path, {"model": model, "optimizer": torch.optim.Adam(model.parameters())})


def test_settings_that_the_script_changed_are_said_and_the_saved_ones_gone_on_with(save):
    model, optimizer = trained(torch.optim.AdamW, weight_decay=0.01)
    path = save({"model": model, "optimizer": optimizer})
    changed = torch.optim.AdamW(model.parameters(), weight_decay=0.1, foreach=False)
    notes = restore(path, {"model": model, "optimizer": changed}).notes
    assert notes == (
        "optimizer: foreach was None when it was saved, the script says False; going on with None",
        "optimizer: weight_decay was 0.01 when it was saved, the script says 0.1; going on with 0.01",
    )
    assert changed.param_groups[0]["weight_decay"] == 0.01


def test_a_learning_rate_that_is_a_tensor_keeps_its_identity(save):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.5))
    path = save({"model": model, "optimizer": optimizer})
    rate = torch.tensor(0.25)
    other = torch.optim.Adam(model.parameters(), lr=rate)
    restore(path, {"model": model, "optimizer": other})
    assert other.param_groups[0]["lr"] is rate
    assert rate.item() == 0.5


def test_channels_last_state_keeps_its_strides(save):
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    other = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    other_optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    restore(save({"model": model, "optimizer": optimizer}), {"model": other, "optimizer": other_optimizer})
    mine = optimizer.state[model.weight]["momentum_buffer"]
    theirs = other_optimizer.state[other.weight]["momentum_buffer"]
    assert (theirs.stride(), bits(theirs)) == (mine.stride(), bits(mine))


# --- schedulers, scalers, dicts, generators ---------------------------------------------------------------------------


def schedulers(optimizer):
    rates = torch.optim.lr_scheduler
    return [
        rates.CosineAnnealingLR(optimizer, T_max=10),
        rates.MultiStepLR(optimizer, milestones=[2, 2, 5]),
        rates.LambdaLR(optimizer, lambda step: 0.9**step),
        rates.OneCycleLR(optimizer, max_lr=0.5, total_steps=20),
        rates.ReduceLROnPlateau(optimizer),
        rates.SequentialLR(optimizer, [rates.LinearLR(optimizer), rates.ExponentialLR(optimizer, 0.9)], milestones=[3]),
    ]


@pytest.mark.parametrize("index", range(6))
def test_a_scheduler_goes_on_with_the_same_rates(save, index):
    def make():
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, schedulers(optimizer)[index]

    def advance(optimizer, scheduler, count):
        rates = []
        for _ in range(count):
            optimizer.step()
            plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            scheduler.step(1.0) if plateau else scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    model, optimizer, scheduler = make()
    advance(optimizer, scheduler, 4)
    path = save({"model": model, "optimizer": optimizer, "scheduler": scheduler})
    other, other_optimizer, other_scheduler = make()
    restore(path, {"model": other, "optimizer": other_optimizer, "scheduler": other_scheduler})
    assert advance(other_optimizer, other_scheduler, 10) == advance(optimizer, scheduler, 10)


def test_a_scheduler_of_another_class_is_refused_and_another_setting_is_said(save):
    _, optimizer = trained(torch.optim.SGD, lr=0.1)
    rates = torch.optim.lr_scheduler
    path = save({"scheduler": rates.CosineAnnealingLR(optimizer, T_max=10)})
    with pytest.raises(StateMismatch, match=r"scheduler: saved by .*CosineAnnealingLR, tracked now is .*StepLR"):
        restore(path, {"scheduler": rates.StepLR(optimizer, 3)})
    notes = restore(path, {"scheduler": rates.CosineAnnealingLR(optimizer, T_max=20)}).notes
    assert notes == ("scheduler: T_max was 10 when it was saved, the script says 20; going on with 10",)


def test_a_function_in_a_state_is_named_by_its_path():
    class Odd:
        def state_dict(self):
            return {"lr_lambdas": [0.5, lambda step: step]}

        def load_state_dict(self, state):
            raise NotImplementedError

    with pytest.raises(StateMismatch) as caught:
        capture({"scheduler": Odd()}, {})
    assert caught.value.what.startswith("scheduler['lr_lambdas'][1]: a function (")


def test_a_scaler_comes_back(save):
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    other = torch.amp.GradScaler("cpu", init_scale=2.0)
    notes = restore(save({"scaler": scaler}), {"scaler": other}).notes
    assert other.get_scale() == 8.0
    assert other.state_dict() == scaler.state_dict()
    assert notes == ()


PLAIN = {
    "text": "\ud800 \x00 é",
    "big": 2**200,
    "small": -(2**53),
    "floats": [0.1, -0.0, math.inf, -math.inf, 5e-324],
    "bytes": b"\x00\xff",
    "nested": ({"a": [1, (2, {3})]}, frozenset({"x"}), deque([1, 2], maxlen=4)),
    "$tensor": "not a reference",
    3: {None: True, (1, 2): 1j},
    "kinds": [OrderedDict(b=1, a=2), Counter("aab"), torch.Size([2, 3]), torch.bfloat16, torch.device("cpu"), range(3)],
}


def test_plain_values_come_back_exactly_in_extra_and_in_a_dict(save):
    state = {"old": 1, "kept": 2}
    path = save({"state": {**PLAIN, "kept": 3}}, {"plain": PLAIN, "default": defaultdict(list, a=[1])})
    restored = restore(path, {"state": state})
    assert state == {**PLAIN, "kept": 3}
    assert restored.extra["plain"] == PLAIN
    assert math.copysign(1, restored.extra["plain"]["floats"][1]) == -1
    assert [type(value) for value in restored.extra["plain"]["kinds"]] == [type(value) for value in PLAIN["kinds"]]
    restored.extra["default"]["new"].append(1)


def test_tensors_and_arrays_in_a_dict_keep_type_stride_and_bits(save):
    tensors = {str(dtype): any_bits(dtype, 2, 3) for dtype in STRIDED_DTYPES}
    tensors["transposed"] = any_bits(torch.float32, 3, 4).t()
    tensors["scalar"], tensors["empty"] = torch.tensor(math.nan), torch.empty(0, 2)
    tensors["expanded"] = torch.tensor([1.0]).expand(3)
    tensors["sliced"] = torch.arange(10)[::3]
    tensors["conj"] = torch.tensor([1 + 2j]).conj()
    arrays = {
        "array": np.arange(6, dtype=">i4").reshape(2, 3),
        "scalar": np.float32(0.1),
        "text": np.array(["ab", "c"]),
        "zero": np.array(3.0),
    }
    path = save({"state": {"tensors": tensors, "arrays": arrays}})
    state = {}
    restore(path, {"state": state})
    for key, value in tensors.items():
        assert state["tensors"][key].dtype == value.dtype
        assert bits(state["tensors"][key]) == bits(value), key
    assert state["tensors"]["transposed"].stride() == (1, 4)
    for key, value in arrays.items():
        assert state["arrays"][key].dtype == value.dtype
        assert type(state["arrays"][key]) is type(value)
        assert np.array_equal(state["arrays"][key], value)


def test_sparse_quantized_and_trainable_tensors_come_back(save):
    coo = torch.sparse_coo_tensor(torch.tensor([[0, 0], [1, 1]]), torch.tensor([1.0, 2.0]), (2, 2))
    per_tensor = torch.quantize_per_tensor(torch.randn(3, 2), 0.1, 3, torch.qint8)
    per_channel = torch.quantize_per_channel(
        torch.randn(3, 2), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 2]), 0, torch.quint8
    )
    saved = {
        "coo": coo,
        "csr": torch.eye(3).to_sparse_csr(),
        "csc": torch.eye(3).to_sparse_csc(),
        "bsr": torch.eye(4).to_sparse_bsr((2, 2)),
        "per_tensor": per_tensor,
        "per_channel": per_channel,
        "parameter": nn.Parameter(torch.ones(2)),
        "leaf": torch.ones(2, requires_grad=True),
    }
    state = {}
    restore(save({"state": saved}), {"state": state})
    assert not state["coo"].is_coalesced()
    for key in ("coo", "csr", "csc", "bsr"):
        assert state[key].layout == saved[key].layout
        assert torch.equal(state[key].to_dense(), saved[key].to_dense())
    for key in ("per_tensor", "per_channel"):
        assert state[key].dtype == saved[key].dtype
        assert state[key].qscheme() == saved[key].qscheme()
        assert torch.equal(state[key].dequantize(), saved[key].dequantize())
    assert isinstance(state["parameter"], nn.Parameter)
    assert state["leaf"].requires_grad


def test_a_tensor_in_a_tracked_dict_keeps_its_memory(save):
    live = {"mean": torch.zeros(3)}
    mean = live["mean"]
    path = save({"state": {"mean": torch.tensor([1.0, 2.0, math.nan])}})
    restore(path, {"state": live})
    assert live["mean"] is mean
    assert bits(mean) == bits(torch.tensor([1.0, 2.0, math.nan]))


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        (lambda: torch.Generator().manual_seed(1), lambda g: torch.randn(5, generator=g).tolist()),
        (lambda: np.random.default_rng(1), lambda g: g.normal(size=5).tolist()),
        (lambda: np.random.Generator(np.random.MT19937(1)), lambda g: g.normal(size=5).tolist()),
        (lambda: np.random.Generator(np.random.Philox(1)), lambda g: g.integers(0, 2**32, size=5).tolist()),
        (lambda: np.random.RandomState(1), lambda g: g.normal(size=5).tolist()),
        (lambda: random.Random(1), lambda g: [g.gauss(0, 1) for _ in range(5)]),
    ],
)
def test_a_generator_goes_on_drawing_the_same_numbers(save, make, draw):
    generator, other = make(), make()
    draw(generator)
    path = save({"generator": generator})
    expected = draw(generator)
    draw(other)
    draw(other)
    restore(path, {"generator": other})
    assert draw(other) == expected


def test_another_bit_generator_is_refused(save):
    path = save({"generator": np.random.default_rng(1)})
    with pytest.raises(StateMismatch, match="the state of a PCG64 was saved, tracked now is a MT19937"):
        restore(path, {"generator": np.random.Generator(np.random.MT19937(1))})


@pytest.mark.parametrize(
    ("generator", "change"),
    [
        (np.random.Generator(np.random.MT19937(1)), ('"pos": 623', '"pos": 100000000')),
        (np.random.RandomState(1), ('"pos": 624', '"pos": -1')),
        (np.random.Generator(np.random.Philox(1)), ('"buffer_pos": 4', '"buffer_pos": 4000')),
    ],
)
def test_a_position_that_numpy_would_read_outside_its_memory_with_is_refused(tmp_path, generator, change):
    if change[0].endswith("623"):
        generator.bit_generator.state = {
            **generator.bit_generator.state,
            "state": {**generator.bit_generator.state["state"], "pos": 623},
        }
    captured = capture({"generator": generator}, {})
    with hold(tmp_path / "run") as lock:
        good = commit(lock, 1, captured.files, {}).path
        with open(os.path.join(good, "state.json"), encoding="ascii") as file:
            text = file.read()
        assert change[0] in text
        data = text.replace(*change).encode()
        path = commit(lock, 2, {**captured.files, "state.json": lambda out: out.write(data)}, {}).path
    restore(good, {"generator": generator})
    with pytest.raises(SnapshotDamaged, match="the state of a generator points outside it"):
        restore(path, {"generator": generator})


def test_a_tracked_tensor_is_filled_in_place(save):
    tensor = torch.zeros(3)
    restore(save({"average": torch.arange(3.0)}), {"average": tensor})
    assert tensor.tolist() == [0, 1, 2]
    with pytest.raises(StateMismatch, match=r"average: float32 \[3\] in the snapshot, float32 \[4\]"):
        restore(save({"average": torch.arange(3.0)}), {"average": torch.zeros(4)})


def test_what_cannot_be_tracked_has_no_kind_and_is_refused_by_name():
    assert kind_of_tracked(3) is None
    assert kind_of_tracked(random.SystemRandom()) is None
    with pytest.raises(StateMismatch, match=r"sampler: a builtins\.list cannot be tracked"):
        capture({"sampler": []}, {})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.empty(3, device="meta"), "is on the meta device"),
        (nn.LazyLinear(3).weight, "has no shape yet"),
        (np.array([object()]), "a NumPy array of object cannot be saved"),
        (object(), "a object cannot be saved"),
    ],
)
def test_what_has_no_bytes_is_refused_by_path(value, words):
    with pytest.raises(StateMismatch) as caught:
        capture({"state": {"a": [value]}}, {})
    assert caught.value.what.startswith("state['a'][0]: ")
    assert words in caught.value.what


def test_names_that_cannot_be_files_get_others(save):
    tracked = {name: nn.Linear(1, 1) for name in ("state", "State", "модель", "a b")}
    path = save(tracked)
    other = {name: nn.Linear(1, 1) for name in tracked}
    restore(path, other)
    for name, module in tracked.items():
        assert bits(other[name].weight) == bits(module.weight)
    assert sorted(os.listdir(path)) == [
        "State-3.safetensors",
        "linear-2.safetensors",
        "linear.safetensors",
        "manifest.json",
        "state-2.safetensors",
        "state.json",
    ]


# --- the copy ---------------------------------------------------------------------------------------------------------


def test_training_on_after_the_capture_does_not_reach_the_snapshot(tmp_path):
    model, optimizer = trained(torch.optim.Adam)
    state = {"mean": torch.zeros(2)}
    before = {key: bits(value) for key, value in model.state_dict().items()}
    captured = capture({"model": model, "optimizer": optimizer, "state": state}, {})
    train(model, optimizer, 2)
    state["mean"] += 1
    with hold(tmp_path / "run") as lock:
        path = commit(lock, 1, captured.files, {}).path
    other, fresh = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)), {}
    restore(path, {"model": other, "state": fresh})
    assert {key: bits(value) for key, value in other.state_dict().items()} == before
    assert fresh["mean"].tolist() == [0, 0]


def test_buffers_of_an_earlier_capture_are_used_again():
    model, optimizer = trained(torch.optim.Adam)
    first = capture({"model": model, "optimizer": optimizer}, {})
    places = {key: value.data_ptr() for key, value in first.buffers.items()}
    train(model, optimizer, 1)
    second = capture({"model": model, "optimizer": optimizer}, {}, reuse=first)
    assert {key: value.data_ptr() for key, value in second.buffers.items()} == places
    assert bits(second.buffers["model.safetensors", "0.weight"]) == bits(model[0].weight)


# --- damage and strangers ---------------------------------------------------------------------------------------------


def test_no_byte_of_any_file_can_change_unnoticed(save):
    path = save({"model": nn.Linear(2, 2), "state": {"a": torch.ones(2)}}, {"step": 3})
    rng = random.Random(0)
    for name in sorted(os.listdir(path)):
        file = os.path.join(path, name)
        with open(file, "rb") as opened:
            whole = opened.read()
        for _ in range(25):
            at = rng.randrange(len(whole))
            damaged = bytearray(whole)
            damaged[at] ^= 1 << rng.randrange(8)
            with open(file, "wb") as opened:
                opened.write(damaged)
            live = nn.Linear(2, 2)
            before = bits(live.weight)
            with pytest.raises(SnapshotDamaged):
                restore(path, {"model": live, "state": {}})
            assert bits(live.weight) == before
        with open(file, "wb") as opened:
            opened.write(whole)
    restore(path, {"model": nn.Linear(2, 2), "state": {}})


def mutations(value, rng):
    """Yield a JSON value again and again with one leaf or container replaced by something odd."""
    odd = [None, True, -1, 2**70, 1.5, "", "$tensor", "x.safetensors#y", [], [[]], {}, {"$tensor": 3}, {"$weird": 1}]
    odd += [{"$tensor": "state.safetensors#nothing"}, {"$set": [[]]}, {"$range": [0, 1, 0]}, {"$dtype": "load"}]
    odd += [{"$sparse": "sparse_coo", "parts": {}, "shape": [2**62, 2**62]}, {"$array": "a#b", "dtype": "O"}]
    paths = []
    stack = [((), value)]
    while stack:
        path, node = stack.pop()
        paths.append(path)
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        stack.extend(((*path, key), child) for key, child in children)
    for path in paths:
        if path:
            for replacement in rng.sample(odd, 4):
                changed = copy.deepcopy(value)
                node = changed
                for key in path[:-1]:
                    node = node[key]
                node[path[-1]] = replacement
                yield changed


def test_a_state_by_a_stranger_with_right_digests_ends_in_our_errors(tmp_path):
    """Digests only show accidents: whoever writes the manifest can write any state.json."""
    model, optimizer = trained(torch.optim.Adam)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    extras = {"a": torch.ones(2).to_sparse(), "b": (1, {2}), "c": np.arange(3), "d": torch.Size([1])}
    tracked = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "state": extras}
    captured = capture(tracked, {"step": 3})
    with hold(tmp_path / "run") as lock:
        good = commit(lock, 0, captured.files, {}).path
        with open(os.path.join(good, "state.json"), "rb") as file:
            state = json.load(file)
        rng = random.Random(5)
        refused = 0
        for step, changed in enumerate(mutations(state, rng), start=1):
            data = json.dumps(changed).encode()
            files = {**captured.files, "state.json": lambda out, data=data: out.write(data)}
            path = commit(lock, step, files, {}).path
            try:
                restore(path, tracked)
            except (SnapshotDamaged, StateMismatch):
                refused += 1
        assert step > 500
        assert refused > step / 3
