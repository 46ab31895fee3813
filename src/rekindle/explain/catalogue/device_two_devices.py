"""Tensors on two devices meet in one operation."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._devices import new_layer, seen_devices
from rekindle.explain.catalogue._modules import called, is_in, running
from rekindle.explain.catalogue._words import listed
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event, TensorFact

CODE, NAME, SINCE = "RK-DEV-02", "device-two-devices", "0.2"
TITLE = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
RAISES = ("RuntimeError", "FakeTensorDeviceMismatchError", "ValueError")
NEEDLES = (
    "Expected all tensors to be on the same device",
    "but expected it to be on GPU",
    "but expected it to be on CPU",
    "but expected them to be on GPU",
    "Expected object of backend",
    "expected device cuda",
    "expected device cpu",
    "indices should be either on cpu or on the same device",
    "Unhandled FakeTensor Device Propagation",
    "to be on the same device, but found",
    "to be on same device, but",
)
PATTERNS = (
    r"Expected all tensors to be on the same device, but got (?P<name>\w+) is on (?P<a>[\w:]+), different from other tensors on (?P<b>[\w:]+)(?: \(when checking argument in method (?P<method>\w+)\))?",
    r"Expected all tensors to be on the same device, but found at least two devices, (?P<b>[\w:]+) and (?P<a>[\w:]+)!(?: \(when checking (?:argument for )?argument (?P<name>\w+) in method (?P<method>\w+)\))?",
    r"Expected all tensors to be on the same device",
    r"Unhandled FakeTensor Device Propagation for (?P<method>[\w.]+), found two different devices (?P<b>[\w:]+), (?P<a>[\w:]+)",
    r"Tensor for (?:argument #\d+ )?'(?P<name>\w+)' is on (?P<a>\w+), but expected (?:it|them) to be on (?P<b>\w+)(?: \(while checking arguments for (?P<method>\w+)\))?",
    r"Expected object of backend (?P<b>\w+) but got backend (?P<a>\w+) for (?:argument|sequence element) #?\d+(?: '(?P<name>\w+)')?",
    r"to be on (?:the )?same device, but (?:found )?(?P<name>\w+) (?:is )?on (?P<a>[\w:]+) and \w+ (?:is )?on (?P<b>[\w:]+)",
    r"expected device (?P<b>[\w:]+) and dtype \w+ but got device (?P<a>[\w:]+) and dtype \w+",
    r"expected device (?P<b>[\w:]+) but got device (?P<a>[\w:]+)",
    r"indices should be either on cpu or on the same device as the indexed tensor \((?P<b>[\w:]+)\)",
)
OLD = (
    (
        "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (when"
        " checking argument for argument mat2 in method wrapper_CUDA_mm)"
    ),
    "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
    "RuntimeError: grid_sampler(): expected input and grid to be on same device, but input is on cuda:0 and grid is on cpu",
    "RuntimeError: Expected b and A to be on the same device, but found b on cpu and A on cuda:0 instead.",
    "RuntimeError: expected device cuda:0 and dtype Long but got device cpu and dtype Long",
    "RuntimeError: Expected object of backend CPU but got backend CUDA for argument #2 'weight'",
    "RuntimeError: Tensor for argument #3 'mat2' is on CPU, but expected it to be on GPU (while checking arguments for addmm)",
    "RuntimeError: Unhandled FakeTensor Device Propagation for aten.mm.default, found two different devices cuda:0, cpu",
    (
        "FakeTensorDeviceMismatchError: Expected all tensors to be on the same device, but found at least two devices, cuda:0"
        " and cpu!"
    ),
)
WHY = (
    "An operation runs on one device, and its tensors have to be there (only a single number on the CPU may join). What stays"
    " behind is mostly a tensor made in `forward` (`torch.zeros(...)` makes it on the CPU), a tensor kept as a plain attribute,"
    " which `model.to(device)` does not know, a hidden state, the class weights of a loss, the labels or an index. With a model"
    " that is spread over several GPUs it is the result of one part that the next part gets."
)
CHECK = (
    "`.device` of each tensor in the line. Plain attributes: `[k for k, v in vars(module).items() if isinstance(v,"
    " torch.Tensor)]`."
)
_PRODUCT = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "cudnn_convolution",
    "_slow_conv2d_forward",
    "native_layer_norm",
    "native_batch_norm",
)


def explain(event: Event) -> Iterator[Cause]:
    """Names the tensor that stayed behind where it is known; the optimizer's state and new layers have their own."""
    a, b = event.facts.get("a", "").lower(), event.facts.get("b", "").lower()
    if a == b and "device" not in event.message:
        return
    met = seen_devices(event)
    behind, rest = _odd_one(met, event.facts.get("name", ""))
    method = event.facts.get("method", "").removeprefix("wrapper_").removeprefix("CUDA_").strip("_")
    where = f" in {called(running(event), '')}" if running(event) else f" in {method}" if method else ""
    if behind is not None:
        what = f"{behind} meets {rest}{where}"
        name = behind.name
    elif a and b:
        argument = f" (argument {event.facts['name']})" if event.facts.get("name") else ""
        what = f"a tensor on {a}{argument} meets tensors on {b}{where}"
        name = ""
    else:
        what, name = f"tensors on two devices met{where}", ""
    fix = list(_fixes(event, name, method, event.facts.get("name", "")))
    yield Cause(
        CODE,
        NAME,
        what=what,
        why="an operation runs where its tensors are, and moves none of them; model.to(device) moves parameters and buffers,"
        " not tensors made in forward or kept as plain attributes",
        fix=tuple(fix),
        likelihood="possible" if is_in(event, "torch/optim/") or new_layer(event) else "likely",
    )


def _odd_one(met: list[TensorFact], argument: str) -> tuple[TensorFact | None, str]:
    """Return the tensor that is not where the others are (the one on the CPU in doubt), and the others in words."""
    if not met:
        return None, ""
    counts = {device: sum(fact.device == device for fact in met) for device in {fact.device for fact in met}}
    behind = min(
        met, key=lambda fact: (fact.device.partition(":")[0] != "cpu", counts[fact.device], fact.name != argument)
    )
    others = [fact for fact in met if fact.device != behind.device]
    return behind, listed([f"{fact.name} on {fact.device}" for fact in others], 2)


def _fixes(event: Event, name: str, method: str, argument: str) -> Iterator[str]:
    shown = name if name.isidentifier() else "x"
    if name.startswith("self."):
        plain = name.removeprefix("self.")
        yield f'self.register_buffer("{plain}", ...)   # in __init__, in place of {name} = ...; model.to(device) then moves it'
        yield f"{name}.to(x.device)   # or at this line"
        return
    if "nll_loss" in method or argument == "target":
        yield "labels = labels.to(device)   # the labels of each batch, as the images"
    if argument == "weight" and "nll" in method:
        yield "nn.CrossEntropyLoss(weight=weight.to(device))   # the class weights of the loss"
    if argument == "index" or "index" in method or "indices should be" in event.message:
        yield "index = index.to(x.device)   # the ids or the index"
    yield f"{shown} = {shown}.to(device)   # where it enters, as the others"
    yield "torch.zeros(n, device=x.device)   # a tensor made in forward: there"
    yield 'self.register_buffer("pe", pe)   # a constant of a module: then model.to(device) moves it'


EXAMPLE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.offset = torch.ones(2)

    def forward(self, x):
        return self.fc(x) + self.offset

model = Net().to("cuda")
model(torch.ones(1, 2, device="cuda"))
"""
MENDED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("offset", torch.ones(2))

    def forward(self, x):
        return self.fc(x) + self.offset

model = Net().to("cuda")
model(torch.ones(1, 2, device="cuda"))
"""
REQUIRES = ("cuda",)
MESSAGE = (
    "RuntimeError: Expected all tensors to be on the same device, but got mat1 is on cpu, different from other tensors on"
    " cuda:0 (when checking argument in method wrapper_CUDA_addmm)"
)
