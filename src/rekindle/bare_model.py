"""The model inside the wrappers that torch puts around one: DataParallel and DDP, `torch.compile`."""

from __future__ import annotations

from torch import nn

__all__ = ["bare_model"]

_INSIDE = ("_orig_mod", "module")  # what `torch.compile` calls the model inside, and DataParallel and DDP


def bare_model(model: nn.Module) -> nn.Module:
    """Return a model without wrappers of torch's own; the model itself where it has none.

    A ``module`` of the user's own class is a layer like any other and stays.
    """
    while type(model).__module__.startswith("torch."):
        inside = next((found for name in _INSIDE if isinstance(found := getattr(model, name, None), nn.Module)), None)
        if inside is None:
            break
        model = inside
    return model
