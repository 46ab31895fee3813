"""A sample is of a kind that no batch can be made of, mostly None."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DATA-15", "data-collate-type", "0.2"
TITLE = "TypeError: default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found <class 'NoneType'>"
RAISES = ("TypeError", "RuntimeError")
NEEDLES = (
    "batch must contain tensors",
    "Could not infer dtype of NoneType",
    "object of type 'NoneType' has no len()",
    "'NoneType' object is not subscriptable",
    "'NoneType' object is not iterable",
)
PATTERNS = (
    r"Could not infer dtype of (?P<got>NoneType)",
    r"(?P<inside>)(?:object of type )?'(?P<got>NoneType)' (?:has no len\(\)|object is not (?:subscriptable|iterable))",
    r"batch must contain tensors, (?:numpy arrays, )?numbers, dicts or lists; found <(?:class|type) '(?P<got>[\w.]+)'>",
    r"batch must contain tensors, (?:numpy arrays, )?numbers, dicts or lists; found (?P<got><U\d{1,9}|\w+)",
)
OLD = ("TypeError: batch must contain tensors, numbers, dicts or lists; found <class 'NoneType'>",)
WHY = (
    "The default `collate_fn` stacks tensors, arrays and numbers, and goes into dicts, lists and tuples. `None` comes from a"
    " `__getitem__` without `return`, or from one that swallows the error of a file that cannot be read. Objects of other"
    " classes (PIL images, dataclasses, dates) have to be made into tensors first."
)
CHECK = "`[i for i in range(len(dataset)) if dataset[i] is None]`; `type(dataset[0])`, and of each of its parts."


def explain(event: Event) -> Iterator[Cause]:
    """None, an image, or a class of the user's own."""
    got = event.facts["got"]
    if ("inside" in event.facts or event.kind == "RuntimeError") and not is_in(
        event, "torch/utils/data/_utils/collate.py"
    ):
        return  # torch.tensor([1, None]) of the user's own
    if got == "NoneType":
        what, why = (
            "the data set gave None for a sample, or for a part of one",
            "__getitem__ ends without a return, or an error while reading is swallowed there",
        )
        fix: tuple[str, ...] = (
            "return image, label   # at the end of __getitem__, on every way through it",
            "def collate(samples): return default_collate([s for s in samples if s is not None])   # drops what could not be read; from torch.utils.data",
        )
    elif got.startswith("<U"):
        what, why = (
            "a sample holds a NumPy array of texts",
            "texts have no dtype in torch; they are collated as a list of str",
        )
        fix = ("str(...)   # of it, in __getitem__: or the number of the class in its place",)
    elif "PIL" in got:
        what, why = (
            f"a sample holds a PIL image ({got.rpartition('.')[2]})",
            "images become tensors before they can be stacked",
        )
        fix = ("transforms.Compose([..., transforms.ToTensor()])   # in __getitem__; from torchvision",)
    else:
        what, why = (
            f"a sample holds an object of the class {got}",
            "the default collate_fn knows tensors, arrays, numbers, texts, dicts and lists",
        )
        fix = (
            'return {"x": tensor, "y": number}   # from __getitem__: parts that can be stacked',
            "DataLoader(dataset, batch_size=32, collate_fn=lambda samples: samples)   # if the objects are to stay as they are",
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
from torch.utils.data import DataLoader, Dataset

class Records(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index > 0:
            return index

next(iter(DataLoader(Records(), batch_size=4)))
"""
MENDED = """
from torch.utils.data import DataLoader, Dataset, default_collate

class Records(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index > 0:
            return index

def known(samples):
    return default_collate([sample for sample in samples if sample is not None])

next(iter(DataLoader(Records(), batch_size=4, collate_fn=known)))
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
