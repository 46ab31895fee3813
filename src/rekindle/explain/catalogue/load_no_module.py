"""The file names a class of a package that cannot be imported here."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, is_loading, stem_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-14", "load-no-module", "0.2"
TITLE = "ModuleNotFoundError: No module named 'models' (inside torch.load)"
RAISES = ("ModuleNotFoundError",)
NEEDLES = ("No module named '",)
PATTERNS = (r"No module named '(?P<module>[\w.]{1,200})'",)
OLD: tuple[str, ...] = ()
WHY = (
    "A whole model was saved (`torch.save(model, path)`, or a checkpoint that holds the model object), and its class lives"
    " in a package of the repository that trained it: `models`, `utils`, `nets`. Loading imports that package. Installing"
    " a package of that name from the index brings an unrelated one."
)
CHECK = "`rekindle inspect FILE --tree` shows the classes that the file names and the weights beside them, without those classes."


def explain(event: Event) -> Iterator[Cause]:
    """Only inside torch.load; NumPy's renamed package has its own entry."""
    module = event.facts["module"]
    if not is_loading(event) or module.startswith("numpy") or not _is_named_by_file(event):
        return
    file, stem = checkpoint_of(event), stem_of(event)
    top = module.partition(".")[0]
    yield Cause(
        CODE,
        NAME,
        what=f"the file names a class of the package {module}, which cannot be imported here",
        why="a model object was saved, not its weights alone; its class lives in the repository that trained it",
        fix=(
            f"rekindle convert {file} {stem}.weights.pth --data-only   # the weights without the package; runs nothing of the file",
            f"PYTHONPATH=/path/to/that/repository python ...   # the folder that has {top}/ or {top}.py in it",
            'torch.save(checkpoint["model"].state_dict(), "weights.pth")   # there, once: then nobody needs the package',
        ),
        likelihood="certain",
    )


def _is_named_by_file(event: Event) -> bool:
    # The import was asked by the unpickler itself: a package that is there and misses another one is not of the file.
    inner = [frame for frame in event.frames if not frame.path.startswith("<frozen") and "importlib" not in frame.path]
    if not inner:
        return True
    path = inner[-1].path.replace("\\", "/")
    return "torch/serialization.py" in path or path.endswith("/pickle.py") or "torch.load(" in inner[-1].code


EXAMPLE = """
import sys
import types

import torch
from torch import nn

models = types.ModuleType("models_of_the_repository")
exec("from torch import nn\\nclass Net(nn.Module): pass", models.__dict__)
sys.modules[models.__name__] = models
models.Net.__module__ = models.__name__
torch.save(models.Net(), "yolo.pt")
del sys.modules[models.__name__]

torch.load("yolo.pt", weights_only=False)  # runs code from the file: our own
"""
MENDED = """
import torch
from torch import nn

class Net(nn.Module):
    pass

torch.save(Net().state_dict(), "yolo.pt")
Net().load_state_dict(torch.load("yolo.pt"))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
