"""The file names a class that the module found here does not have."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, stem_of
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-13", "load-cant-get-attribute", "0.2"
TITLE = "AttributeError: Can't get attribute 'FooNet2' on <module '__main__' from 'train.py'>"
RAISES = ("AttributeError",)
NEEDLES = ("Can't get attribute '",)
PATTERNS = (r"Can't get attribute '(?P<name>[^'\n]{1,200})' on <module '(?P<module>[^'\n]{1,200})'",)
OLD = ("AttributeError: Can't get attribute 'FooNet2' on <module '__main__' (built-in)>",)
WHY = (
    "`torch.save(model, path)` saves the whole object, and a pickle keeps of its class only the module and the name. To"
    " load it, Python imports that module and looks the class up: it has to be there under the same name. A class that was"
    " defined in the script that trained (`__main__`) is looked for in the script that loads."
)
CHECK = "`rekindle inspect FILE --tree` shows the classes that the file names and the weights beside them, without those classes."


def explain(event: Event) -> Iterator[Cause]:
    """The class and the module; a worker of multiprocessing that cannot find one is something else."""
    calls = [frame.path.replace("\\", "/") for frame in event.frames]
    if any("multiprocessing/" in path for path in calls) and not any(
        "torch/serialization.py" in path for path in calls
    ):
        return
    name, module = event.facts["name"], event.facts["module"]
    file, stem = checkpoint_of(event), stem_of(event)
    last = name.rpartition(".")[2]
    home = "the script that saved it" if module == "__main__" else f"the module {module}"
    define = (
        f"from model import {last}   # above torch.load: import it into the script that loads, from where it is defined"
        if module == "__main__"
        else f"import {module}; {module}.{last} = ...   # give it the class under its old name, or use the version that has it"
    )
    yield Cause(
        CODE,
        NAME,
        what=f"the file needs the class {name} of {module}, and it is not there",
        why=f"the whole model was saved; its pickle names {name} in {home}, and the {module} of this process has none",
        fix=(
            define,
            f"rekindle convert {file} {stem}.weights.pth --data-only   # the weights without the class; runs nothing of the file",
            "torch.save(model.state_dict(), path)   # where it is written: then no class is needed",
        ),
        likelihood="certain",
    )


EXAMPLE = """
import torch
from torch import nn

class FooNet2(nn.Module):
    pass

torch.save(FooNet2(), "net.pt")
del FooNet2
torch.load("net.pt", weights_only=False)  # runs code from the file: our own
"""
MENDED = """
import torch
from torch import nn

class FooNet2(nn.Module):
    pass

torch.save(FooNet2().state_dict(), "net.pt")
model = FooNet2()
model.load_state_dict(torch.load("net.pt"))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
