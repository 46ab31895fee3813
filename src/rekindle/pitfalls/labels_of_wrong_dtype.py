"""Labels in a dtype that the loss takes for something else."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.finding import Finding, Severity
from rekindle.pitfalls._seen import Seen, found

CODE, NAME, SINCE = "RK-PIT-06", "labels-of-wrong-dtype", "0.2"
WHY = "{loss} takes {wanted}; {dtype} targets of shape {shape} are taken for something else or refused"
DO = "{remedy}"

_BINARY = {"binary_cross_entropy", "binary_cross_entropy_with_logits"}
_DISTANCES = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}


def check(seen: Seen) -> Iterator[Finding]:
    """Look at the targets of each loss function."""
    for call in seen.calls:
        is_whole = "float" not in call.target_dtype and call.target_dtype != "complex64"
        if call.function in {"cross_entropy", "nll_loss"}:
            if call.target_dtype == "int64" and call.target == call.scores and len(call.scores) > 1:
                yield _finding(
                    call.target_dtype,
                    call.target,
                    "cross entropy",
                    "class numbers, or probabilities as float",
                    "labels = labels.argmax(1) for one-hot labels, or labels.float() for probabilities",
                )
            elif call.target != call.scores and call.target_dtype not in {"int64", "uint8"}:
                yield _finding(
                    call.target_dtype, call.target, "cross entropy", "class numbers as int64", "labels = labels.long()"
                )
        elif is_whole and call.function in _BINARY | _DISTANCES:
            yield _finding(
                call.target_dtype,
                call.target,
                call.function,
                "targets in the dtype of the scores",
                "targets = targets.float()",
            )


def _finding(dtype: str, shape: tuple[int, ...], loss: str, wanted: str, remedy: str) -> Finding:
    return found(
        (CODE, NAME),
        f"{loss} is given targets of dtype {dtype} and shape {list(shape)}",
        why=WHY.format(loss=loss, wanted=wanted, dtype=dtype, shape=list(shape)),
        do=DO.format(remedy=remedy),
        severity=Severity.ERROR,
    )
