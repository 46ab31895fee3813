"""Keys of the file and of the model agree, and their shapes do not."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._files import checkpoint_of, stem_of
from rekindle.explain.catalogue._state_dicts import Size, fault_of, refused_of
from rekindle.explain.catalogue._words import attribute, listed, shape_text
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-LOAD-10", "load-size-mismatch", "0.2"
TITLE = "size mismatch for fc.weight: copying a param with shape torch.Size([1000, 512]) from checkpoint, the shape in current model is torch.Size([10, 512])"
RAISES = ("RuntimeError",)
NEEDLES = ("size mismatch for ", "hile copying the parameter named")
PATTERNS = (
    r"Error\(s\) in loading state_dict for (?P<model>[\w.]+):",
    r"[Ww]hile copying the parameter named \"?(?P<key>[^\s\",]+)\"?, whose dimensions in the model are",
)
OLD = (
    (
        'RuntimeError: While copying the parameter named "fc.weight", whose dimensions in the model are torch.Size([10, 512])'
        " and whose dimensions in the checkpoint are torch.Size([1000, 512]), an exception occured"
    ),
)
WHY = (
    "The same name, another shape. Mostly the last layer was made for another number of classes (1000 of ImageNet, 10"
    " here); else it is the vocabulary of an embedding, the channels of the first convolution, or position embeddings of"
    " another image size. `strict=False` does not help: it forgives missing and unexpected keys, never other shapes."
)
CHECK = "`rekindle inspect FILE` lists the shapes in the file; `print(model)` shows what the model was built with."


def explain(event: Event) -> Iterator[Cause]:
    """Names the layer that differs: the head, the first convolution, an embedding, or many."""
    refused = refused_of(event)
    if not refused.sizes or fault_of(refused) in {"wrapper", "compiled"}:
        return
    first = refused.sizes[0]
    layers = list(dict.fromkeys(size.key.rpartition(".")[0] or size.key for size in refused.sizes))
    file, stem = checkpoint_of(event), stem_of(event)
    layer = layers[0]
    own = "." in first.key
    test = f'not key.startswith("{layer}.")' if own else f'key != "{layer}"'
    kept = f"{{key: value for key, value in state.items() if {test}}}"
    alone = len(layers) == 1
    kind, why = _kind(first) if alone else ("", "the model was built with other sizes than the one that was saved")
    what = f"{first.key} is {shape_text(first.file)} in the file and {shape_text(first.model)} in the model"
    if not alone:
        what += f"; {len(refused.sizes)} keys differ, in {listed(layers)}"
    fix: tuple[str, ...]
    if kind == "head":
        old, new = first.file[0], first.model[0]
        fix = (
            f"{refused.model or 'Net'}({old})   # build it with {old} outputs, load, then: model.{attribute(layer)} = nn.Linear({first.model[1] if len(first.model) > 1 else 'in_features'}, {new})",
            f"state = {kept}   # or leave {layer} out, then load_state_dict(state, strict=False)",
            f"rekindle convert {file} {stem}.body.pth --drop '{layer}{'.*' if own else ''}'   # the same, once, in the file",
        )
    elif alone:
        fix = (
            f"print(model.{attribute(layer)}{'' if own else '.shape'})   # and build it with the file's size: {shape_text(first.file)}",
            f"state = {kept}   # or leave {layer} out, then load_state_dict(state, strict=False); it starts untrained",
        )
    else:
        fix = (
            f"rekindle inspect {file}   # the sizes the file was made with; build the model with them",
            (
                "own = model.state_dict(); state = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}"
                "   # or keep what fits, then load_state_dict(state, strict=False)"
            ),
        )
    if "ignore_mismatched_sizes" in event.message:  # Transformers, which offers it itself
        fix = (f"from_pretrained(..., ignore_mismatched_sizes=True)   # {layer} starts untrained", *fix[-1:])
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain" if not refused.missing else "likely")


_HEADS = (
    "fc",
    "classifier",
    "head",
    "heads",
    "linear",
    "out",
    "output",
    "final",
    "logits",
    "last_linear",
    "lm_head",
    "proj",
)


def _kind(size: Size) -> tuple[str, str]:
    parts = size.key.split(".")
    old, new = size.file, size.model
    if len(old) == len(new) and old[1:] == new[1:] and (any(part in _HEADS for part in parts) or parts[-1] == "bias"):
        return (
            "head",
            f"only the head {'.'.join(parts[:-1])} differs: the file was trained with {old[0]} outputs, the model has {new[0]}",
        )
    if len(old) == len(new) == 4 and old[0] == new[0] and old[2:] == new[2:]:
        return "channels", f"the layer takes {new[1]} channels here and took {old[1]} in the file"
    if len(old) == len(new) == 2 and old[1] == new[1]:
        return "rows", f"the file has {old[0]} rows (classes, or words of a vocabulary), the model {new[0]}"
    if "pos" in size.key:
        return (
            "positions",
            "position embeddings count the patches or tokens; the model was built for another image size or length",
        )
    return "", "the layer was built with another size than the one that was saved"


EXAMPLE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(512, classes)

torch.save(Net(1000).state_dict(), "net.pt")
model = Net(10)
model.load_state_dict(torch.load("net.pt"))
"""
MENDED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(512, classes)

torch.save(Net(1000).state_dict(), "net.pt")
model = Net(1000)
model.load_state_dict(torch.load("net.pt"))
model.fc = nn.Linear(512, 10)
"""
REQUIRES: tuple[str, ...] = ()
MESSAGE = ""
