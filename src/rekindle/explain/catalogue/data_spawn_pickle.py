"""What a worker needs cannot be pickled: a lambda, a local function, an open file."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._loaders import start_method
from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-17", "data-spawn-pickle", "0.2"
TITLE = "_pickle.PicklingError: Can't pickle <function <lambda>>: attribute lookup <lambda> on __main__ failed (DataLoader with workers)"
RAISES = ("PicklingError", "AttributeError", "TypeError")
NEEDLES = ("Can't pickle ", "Can't get local object", "cannot pickle '", "can't pickle ")
PATTERNS = (
    r"[Cc]an't pickle <(?P<what>function|class) '?(?P<name>[^\s'>]+(?:<lambda>)?)[^\n]*attribute lookup",
    r"Can't (?:pickle|get) local object (?:<function )?'?(?P<local>[\w.<>]+)",
    r"^TypeError: (?:cannot|can't) pickle '?(?P<object>[\w.]+)'? objects?",
)
OLD = ()
WHY = (
    "A worker that is not forked (start method `spawn`, or `forkserver`, the default on Linux from Python 3.14 on) gets the"
    " data set, `collate_fn` and `worker_init_fn` as a pickle. Functions and classes are pickled by name, so a lambda, or one"
    " that is defined inside a function, cannot be found again; open files, locks and connections have no pickle at all."
)
CHECK = "`multiprocessing.get_start_method()`; `pickle.dumps(dataset)` and `pickle.dumps(collate_fn)` say which of them it is."


def explain(event: Event) -> Iterator[Cause]:
    """Only where a process was being started; which function, class or object it was."""
    if not is_in(
        event,
        "torch/utils/data/dataloader.py",
        "multiprocessing/popen_spawn_posix.py",
        "multiprocessing/popen_forkserver.py",
        "multiprocessing/popen_spawn_win32.py",
    ):
        return
    facts = event.facts
    how = start_method(event)
    name = facts.get("name") or facts.get("local") or ""
    if facts.get("object"):
        what = f"an object of the class {facts['object']} cannot be sent to a worker"
        fix = (
            "def __getitem__(self, index): self.file = self.file or open(...)   # open files and connections in the worker, on first use",
            'def __getstate__(self): return {**self.__dict__, "file": None}   # leave them out of the pickle',
        )
    else:
        is_lambda = "<lambda>" in name or "lambda" in event.message
        short = name.rpartition(".")[2] if name and not is_lambda else ""
        what = (
            "a lambda cannot be sent to a worker"
            if is_lambda
            else f"{short or 'a function or class inside another one'} cannot be sent to a worker"
        )
        fix = (
            "def collate(samples): ...   # at the top level of a module, in place of the lambda; functools.partial(collate, pad=0) gives it arguments"
            if is_lambda
            else f"move {short or 'it'} to the top level of a module   # it is looked up there by its name",
            'DataLoader(..., multiprocessing_context="fork")   # on Linux, if the workers do not use CUDA',
        )
    yield Cause(
        CODE,
        NAME,
        what=what,
        why=f"workers that are not forked{f' ({how})' if how and how != 'fork' else ''} get the data set and its functions as a pickle",
        fix=fix,
        likelihood="certain",
    )


EXAMPLE = """
from torch.utils.data import DataLoader

loader = DataLoader(
    list(range(8)), batch_size=4, num_workers=1, multiprocessing_context="spawn", collate_fn=lambda samples: samples
)
if __name__ == "__main__":
    next(iter(loader))
"""
MENDED = """
from torch.utils.data import DataLoader, default_collate

loader = DataLoader(
    list(range(8)), batch_size=4, num_workers=1, multiprocessing_context="spawn", collate_fn=default_collate
)
if __name__ == "__main__":
    next(iter(loader))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
