"""The old launcher passes --local-rank to a script that does not know it."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-02", "ddp-local-rank-argument", "0.2"
TITLE = "error: unrecognized arguments: --local-rank=0"
RAISES = ()
NEEDLES = ("unrecognized arguments: --local", "the following arguments are required: --local")
PATTERNS = (
    r"(?P<script>[\w.-]{1,60}\.py): error: unrecognized arguments: (?:[^\n]{0,500} )?(?P<option>--local[-_]rank)(?:=(?P<rank>\d+))?",
    r"error: unrecognized arguments: (?:[^\n]{0,500} )?(?P<option>--local[-_]rank)(?:=(?P<rank>\d+))?",
    r"error: the following arguments are required: (?:[^\n]{0,200} )?(?P<wanted>--local[-_]rank)",
)
OLD = (
    "train.py: error: unrecognized arguments: --local_rank=0",
    "train.py: error: the following arguments are required: --local_rank",
)
WHY = (
    "`python -m torch.distributed.launch` (deprecated) starts each process with `--local-rank=N`, with a hyphen since 2.0 and"
    " with an underscore before. A script whose parser does not know the option, or knows the other spelling, ends with exit"
    " code 2 in every rank. `torchrun` passes nothing: the number stands in the variable `LOCAL_RANK`."
)
CHECK = "Which launcher the command uses; the spelling in `add_argument`."


def explain(event: Event) -> Iterator[Cause]:
    """The script, and both ways out."""
    option, wanted = event.facts.get("option", ""), event.facts.get("wanted", "")
    script = event.facts.get("script", "") or "train.py"
    what = (
        f"{script} does not know {option}, which the launcher passes"
        if option
        else f"{script} wants {wanted}, which torchrun does not pass"
    )
    yield Cause(
        CODE,
        NAME,
        what=what,
        why="torch.distributed.launch passes --local-rank (before 2.0 --local_rank) to the script; torchrun sets LOCAL_RANK instead",
        fix=(
            f'torchrun --nproc_per_node=4 {script}   # and in the script: local_rank = int(os.environ["LOCAL_RANK"])',
            f"rekindle launch --gpus 4 {script}   # the same, and says which rank failed first",
            'parser.add_argument("--local-rank", "--local_rank", type=int, default=int(os.environ.get("LOCAL_RANK", 0)))   # knows both spellings',
        ),
        likelihood="certain",
    )


EXAMPLE = """
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int)
parser.parse_args(["--local-rank=0"])  # what torch.distributed.launch adds
"""
MENDED = """
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--local-rank", "--local_rank", type=int)
parser.parse_args(["--local-rank=0"])
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
