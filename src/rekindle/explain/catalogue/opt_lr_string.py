"""The learning rate is a text."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-GRAD-18", "opt-lr-string", "0.2"
TITLE = "TypeError: '<=' not supported between instances of 'float' and 'str' (in an optimizer)"
RAISES = ("TypeError",)
NEEDLES = ("not supported between instances of",)
PATTERNS = (
    r"'[<>]=?' not supported between instances of '(?:float|int)' and '(?P<kind>str)'",
    r"'[<>]=?' not supported between instances of '(?P<kind>str)' and '(?:float|int)'",
)
OLD: tuple[str, ...] = ()
WHY = (
    "YAML reads `1e-3` as a text: a number there needs a dot, `1.0e-3`. Command lines give texts too, unless `type=float` is"
    " said. The optimizer compares the number with 0, which is where it is noticed."
)
CHECK = '`print(repr(cfg["lr"]))`: with quotes it is a text.'
_SETTINGS = ("lr", "weight_decay", "momentum", "eps", "lr_decay", "initial_accumulator_value", "alpha", "dampening")


def explain(event: Event) -> Iterator[Cause]:
    """Only in an optimizer's constructor; which setting is read from its frame."""
    if not is_in(event, "torch/optim/"):
        return
    frame = (
        next((frame for frame in reversed(event.live.frames) if frame.frame.function == "__init__"), None)
        if event.live
        else None
    )
    wrong = [(name, frame.plain[name]) for name in _SETTINGS if isinstance(frame.plain.get(name), str)] if frame else []
    name, value = wrong[0] if wrong else ("lr", "")
    yield Cause(
        CODE,
        NAME,
        what=f"{name} is the text {value!r}, not a number"
        if wrong
        else "a setting of the optimizer (mostly lr) is a text, not a number",
        why="YAML reads 1e-3 without a dot as a text, and a command line gives texts unless type=float is said",
        fix=(
            f'{name}=float(cfg["{name}"])',
            f"{name}: 1.0e-3   # in YAML, with the dot",
            f'parser.add_argument("--{name.replace("_", "-")}", type=float)',
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

config = {"lr": "1e-3"}
torch.optim.Adam(nn.Linear(2, 2).parameters(), lr=config["lr"])
"""
MENDED = """
import torch
from torch import nn

config = {"lr": "1e-3"}
torch.optim.Adam(nn.Linear(2, 2).parameters(), lr=float(config["lr"]))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
