"""What a new file does not hold, as `convert` and `salvage` tell it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rekindle.converting.result import Lost

_SHOWN = 12


def losses_json(lost: Iterable[Lost]) -> list[dict[str, object]]:
    """Return the losses as the contract of ``--json`` has them."""
    return [{"key": loss.key, "why": loss.why, "tensor": loss.is_tensor} for loss in lost]


def print_losses(title: str, lost: Sequence[Lost]) -> None:
    """Print a title and the first losses; nothing where there are none."""
    from rekindle.render import escape

    if not lost:
        return
    print(title)
    for loss in lost[:_SHOWN]:
        print(f"  {escape(loss.key) or '(the whole object)'}  {escape(loss.why)}")
    if len(lost) > _SHOWN:
        print(f"  ... and {len(lost) - _SHOWN:,} more: --json lists them all")
