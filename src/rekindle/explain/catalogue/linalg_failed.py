"""A matrix is singular, not positive definite, or holds nan."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-34", "linalg-failed", "0.2"
TITLE = "torch._C._LinAlgError: linalg.inv: The diagonal element 1 is zero, the inversion could not be completed because the input matrix is singular."
RAISES = ("_LinAlgError", "LinAlgError", "RuntimeError")
NEEDLES = (
    "input matrix is singular",
    "input is not positive-definite",
    "the input matrix contained non-finite values",
    "failed to converge because the input matrix",
)
PATTERNS = (
    r"(?P<call>(?:torch\.)?linalg\.\w{1,40}): (?:\(Batch element (?P<batch>\d+)\): )?The (?:diagonal element \d+ is zero|solver failed)[^\n]{0,80}input matrix is (?P<kind>singular)",
    r"(?P<call>(?:torch\.)?linalg\.\w{1,40}): (?:\(Batch element (?P<batch>\d+)\): )?[^\n]{0,80}because the input is (?P<kind>not positive-definite)",
    r"(?P<call>(?:torch\.)?linalg\.\w{1,40}): (?:\(Batch element (?P<batch>\d+)\): )?[^\n]{0,80}input matrix contained (?P<kind>non-finite) values",
    r"(?P<call>(?:torch\.)?linalg\.\w{1,40}): (?:\(Batch element (?P<batch>\d+)\): )?[^\n]{0,80}failed to converge because the input matrix is (?P<kind>ill-conditioned)",
)
OLD: tuple[str, ...] = ()
WHY = "A singular matrix has no inverse: two of its rows say the same. A covariance of fewer samples than features is singular, and rounding makes a matrix that is positive definite on paper miss it by a little. `nan` comes from an earlier step."
CHECK = "`torch.isfinite(a).all()`, then `torch.linalg.cond(a)`; try float64."


def explain(event: Event) -> Iterator[Cause]:
    """Which of the four, and the matrix of the batch."""
    call, kind = event.facts["call"], event.facts["kind"]
    batch = event.facts.get("batch")
    which = f"matrix {batch} of the batch" if batch else "the matrix"
    fix: tuple[str, ...] = ("torch.isfinite(a).all()   # in front of each step before: where does it begin?",)
    why = "nan or inf was made in an earlier step"
    if kind != "non-finite":
        why = "rows depend on each other (fewer samples than features), or rounding took the last bit of it"
        fix = (
            "a = a + 1e-6 * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)   # a little on the diagonal",
            "a = a.double()   # float64: more digits",
            "torch.linalg.lstsq(a, b).solution   # a solution also where there is no inverse",
        )
    yield Cause(
        CODE,
        NAME,
        what=f"{which} given to {call} {'holds nan or inf' if kind == 'non-finite' else f'is {kind}'}",
        why=why,
        fix=fix,
        likelihood="certain",
    )


EXAMPLE = """
import torch

x = torch.ones(3, 4)
torch.linalg.inv(x.T @ x)
"""
MENDED = """
import torch

x = torch.ones(3, 4)
torch.linalg.inv(x.T @ x + 1e-3 * torch.eye(4))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
