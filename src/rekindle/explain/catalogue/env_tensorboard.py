"""TensorBoard is not installed; torch does not bring it."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-19", "env-tensorboard", "0.2"
TITLE = "ModuleNotFoundError: No module named 'tensorboard'"
RAISES = ("ModuleNotFoundError", "ImportError")
NEEDLES = ("No module named 'tensorboard", "TensorBoard logging requires TensorBoard")
PATTERNS = (r"No module named 'tensorboard(?:X)?(?P<part>\.[\w.]+)?'", r"TensorBoard logging requires TensorBoard")
OLD = (
    "ImportError: TensorBoard logging requires TensorBoard with Python summary writer installed. This should be available in 1.14 or above.",
)
WHY = "`torch.utils.tensorboard` writes files for TensorBoard with TensorBoard's own package, which torch does not install."
CHECK = "`pip show tensorboard`, with the Python that runs the script: `python -m pip show tensorboard`."


def explain(event: Event) -> Iterator[Cause]:
    """TensorboardX is another package."""
    x = "tensorboardX" in event.message
    yield Cause(
        CODE,
        NAME,
        what=f"{'tensorboardX' if x else 'tensorboard'} is not installed for this Python",
        why="torch can write for TensorBoard and does not bring it"
        if not x
        else "it is a package of its own; torch has the same class in torch.utils.tensorboard",
        fix=("python -m pip install tensorboard   # for the Python that runs the script",)
        + (("from torch.utils.tensorboard import SummaryWriter   # in place of tensorboardX",) if x else ()),
        likelihood="certain",
    )


EXAMPLE = """
from torch.utils.tensorboard import SummaryWriter

SummaryWriter("runs").close()
"""
MENDED = EXAMPLE
REQUIRES = ("python without tensorboard",)
MESSAGE = """Traceback (most recent call last):
  File "/home/ada/project/train.py", line 1, in <module>
    from torch.utils.tensorboard import SummaryWriter
  File "/opt/venv/lib/python3.11/site-packages/torch/utils/tensorboard/__init__.py", line 1, in <module>
    import tensorboard
ModuleNotFoundError: No module named 'tensorboard'
"""
