"""A name that torch does not have: misspelled, of another version, or hidden by a file of one's own."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event
from rekindle.keys import near_names

CODE, NAME, SINCE = "RK-MISC-04", "module-typo-names", "0.2"
TITLE = "AttributeError: module 'torch.nn' has no attribute 'DataParaller'"
RAISES = ("AttributeError", "NameError", "ImportError")
NEEDLES = (
    "module 'torch",
    "name 'true' is not defined",
    "name 'false' is not defined",
    "name 'null' is not defined",
    "name 'none' is not defined",
    "from 'torch",
    "partially initialized module 'torch",
)
PATTERNS = (
    r"partially initialized module '(?P<hidden>torch\w*)[\w.]*' has no attribute '(?P<name>\w+)'",
    r"module '(?P<module>torch(?:\.[\w.]+)?)' has no attribute '(?P<name>\w+)'(?:\. Did you mean: '(?P<near>[^'\n]+)')?",
    r"cannot import name '(?P<name>\w+)' from '(?P<module>torch(?:\.[\w.]+)?)' \((?P<path>[^)\n]*)\)",
    r"^NameError: name '(?P<word>true|false|null|none)' is not defined",
)
OLD = ("AttributeError: module 'torch' has no attribute 'set_num_threds'",)
WHY = "The name is misspelled, belongs to another version of torch, or a file of one's own is called `torch.py` and is imported in place of it. `true`, `false` and `null` are JSON; Python writes `True`, `False` and `None`."
CHECK = '`torch.__version__`, `torch.__file__`, and `[n for n in dir(torch.nn) if n.startswith("Data")]`.'
_KNOWN = {
    "torch": (
        "set_num_threads",
        "LongTensor",
        "FloatTensor",
        "get_num_threads",
        "manual_seed",
        "from_numpy",
        "no_grad",
        "inference_mode",
        "load",
        "save",
        "device",
        "Tensor",
        "tensor",
        "cuda",
        "argmax",
        "softmax",
        "sigmoid",
        "optim",
        "autocast",
        "compile",
        "float16",
        "float32",
        "int64",
    ),
    "torch.nn": (
        "DataParallel",
        "CrossEntropyLoss",
        "BatchNorm2d",
        "Conv2d",
        "Linear",
        "ReLU",
        "Sequential",
        "Module",
        "ModuleList",
        "MaxPool2d",
        "AdaptiveAvgPool2d",
        "Dropout",
        "Embedding",
        "LSTM",
        "MultiheadAttention",
        "Parameter",
        "BCEWithLogitsLoss",
        "MSELoss",
        "Flatten",
        "Softmax",
        "LayerNorm",
    ),
    "torch.optim": ("Adam", "AdamW", "SGD", "RMSprop", "lr_scheduler", "LBFGS", "Adagrad"),
}
_MOVED = {
    "six": "collections.abc",
    "long": "torch.int64",
    "symeig": "torch.linalg.eigh",
    "solve": "torch.linalg.solve",
    "lstsq": "torch.linalg.lstsq",
    "qr": "torch.linalg.qr",
    "rfft": "torch.fft.rfft",
    "irfft": "torch.fft.irfft",
    "ger": "torch.outer",
    "DataParaller": "torch.nn.DataParallel",
}


def explain(event: Event) -> Iterator[Cause]:
    """The nearest names of the module as it is loaded here, or of a small list."""
    facts = event.facts
    if facts.get("word"):
        right = {"true": "True", "false": "False"}.get(facts["word"], "None")
        yield Cause(
            CODE,
            NAME,
            what=f"{facts['word']} is no name in Python",
            why="it is written so in JSON and in other languages",
            fix=(f"{right}   # in place of {facts['word']}",),
            likelihood="certain",
        )
        return
    name = facts["name"]
    if facts.get("hidden"):
        yield Cause(
            CODE,
            NAME,
            what=f"a file of your own hides the package {facts['hidden']}, or imports it in a circle",
            why=f"{facts['hidden']} is still being imported while {name} is asked of it; a script called {facts['hidden']}.py is found first",
            fix=(
                f'python -c "import {facts["hidden"]}; print({facts["hidden"]}.__file__)"   # is it your own file? rename it, and remove its __pycache__',
            ),
            likelihood="certain",
        )
        return
    module = facts["module"]
    if not module.startswith(("torch.", "torch")) or (
        module != "torch" and not module.startswith(("torch.", "torchvision", "torchaudio"))
    ):
        return
    near = [facts["near"]] if facts.get("near") else _near(event, module, name)
    full = f"{module}.{name}"
    if near:
        yield Cause(
            CODE,
            NAME,
            what=f"{module} has no {name}",
            why=f"nearest names: {', '.join(near)}",
            fix=(f"{module}.{near[0]}",),
            likelihood="certain" if near[0].lower() == name.lower() or not event.live else "likely",
        )
        return
    moved = _MOVED.get(name, "") if module == "torch" else ""
    yield Cause(
        CODE,
        NAME,
        what=f"{full} does not exist in this version of torch",
        why=f"{'it moved: ' + moved if moved else 'it is newer than this torch, was removed since, or needs an import of its own (import ' + full + ')'}",
        fix=((f"{moved}   # in place of {full}",) if moved else ())
        + (
            'python -c "import torch; print(torch.__version__, torch.__file__)"   # which one runs here; pip install -U torch',
        ),
        likelihood="likely",
    )


def _near(event: Event, module: str, name: str) -> list[str]:
    loaded = sys.modules.get(module) if event.live else None
    names = (
        [one for one in dir(loaded) if not one.startswith("_")] if loaded is not None else list(_KNOWN.get(module, ()))
    )
    lower: dict[str, str] = {}
    for one in sorted(names):  # classes before what is spelled the same in small letters
        lower.setdefault(one.lower(), one)
    return [lower[found] for found in near_names(re.sub(r"_+$", "", name).lower(), list(lower), 3)]


EXAMPLE = """
from torch import nn

nn.DataParaller(nn.Linear(1, 1))
"""
MENDED = """
from torch import nn

nn.DataParallel(nn.Linear(1, 1))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
