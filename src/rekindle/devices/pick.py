"""Which device a process uses, in words, before anything of CUDA is started and without torch.

Law: choosing asks the operating system and the environment only; `resolve` says what the choice needs.
"""

from __future__ import annotations

import re

from rekindle.errors import ConfigError

__all__ = ["parse_device"]

_NAME = re.compile(r"(auto|cpu|cuda|mps|xpu)(?::([0-9]{1,4}))?")


def parse_device(name: str) -> tuple[str, int | None]:
    """Return the kind and the number of a device's name: ``("cuda", 1)`` of ``"cuda:1"``; None for "any".

    Raises:
        ConfigError: no device is called so.
    """
    found = _NAME.fullmatch(name.strip().lower())
    if found is None:
        raise ConfigError(
            f"no device is called {name!r}",
            why="devices are called auto, cpu, cuda, cuda:0, cuda:1, mps",
            do='Run(..., device="auto") takes a GPU where there is one',
        )
    return found[1], None if found[2] is None else int(found[2])
