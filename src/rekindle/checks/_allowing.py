"""The line that allows what torch refuses: ``torch.serialization.add_safe_globals([...])``, right to the letter.

torch compares names, and looks them up on the object that it is given. An object that was moved since the file was
written answers with its new name, so it is given together with the old one.
"""

from __future__ import annotations

from collections.abc import Iterable

from rekindle.scanning.names import Level, judge

__all__ = ["allowing_line", "is_dangerous"]


def is_dangerous(module: str, name: str) -> bool:
    """Tell whether a class or function can do more than make a value; such a one is never to be allowed."""
    return judge(module, name).level is Level.DANGEROUS


def allowing_line(paths: Iterable[str]) -> str:
    """Return the line for these dotted paths."""
    return f"torch.serialization.add_safe_globals([{', '.join(map(_item, paths))}])"


def _item(path: str) -> str:
    if path.startswith("numpy.core."):
        return f'({path.replace("numpy.core.", "numpy._core.", 1)}, "{path}")'
    if path.startswith(("pathlib.", "pathlib._local.")):
        return f'(pathlib.{path.rpartition(".")[2]}, "{path}")'
    return path.removeprefix("builtins.")
