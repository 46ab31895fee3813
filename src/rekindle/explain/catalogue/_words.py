"""Small words that many entries say: lists of names, shapes, dtypes under one spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["attribute", "dtype_name", "listed", "numbers", "product", "shape_text"]

# Names under which messages of torch speak of a dtype: legacy tensor types, C++ types, scalar types.
_DTYPES = {
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "c10::half": "float16",
    "bfloat16": "bfloat16",
    "c10::bfloat16": "bfloat16",
    "long": "int64",
    "long int": "int64",
    "int64_t": "int64",
    "int": "int32",
    "short": "int16",
    "short int": "int16",
    "char": "int8",
    "signed char": "int8",
    "byte": "uint8",
    "unsigned char": "uint8",
    "bool": "bool",
    "complexfloat": "complex64",
    "c10::complex<float>": "complex64",
    "complexdouble": "complex128",
    "c10::complex<double>": "complex128",
}
_NUMBER = re.compile(r"-?\d+")


def attribute(path: str) -> str:
    """Return a module's qualified name as Python takes it.

    Example:
        >>> attribute("classifier.3")
        'classifier[3]'
    """
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".")).removeprefix(".")


def dtype_name(word: str) -> str:
    """Return torch's name of a dtype for any word that its messages use for it.

    Example:
        >>> dtype_name("Double"), dtype_name("unsigned char"), dtype_name("torch.cuda.FloatTensor")
        ('float64', 'uint8', 'float32')
    """
    plain = word.strip().removeprefix("torch.").removeprefix("cuda.").removesuffix("Tensor")
    if plain.endswith("Type"):  # CUDAFloatType and CPUFloatType, of releases about 1.0
        plain = plain.removeprefix("CUDA").removeprefix("CPU").removesuffix("Type")
    return _DTYPES.get(plain.lower(), plain.lower() if plain.startswith("Float8") else plain)


def numbers(text: str) -> tuple[int, ...]:
    """Return the whole numbers in a text: ``[16, 3, 32, 32]`` or ``16 x 3``."""
    return tuple(int(number) for number in _NUMBER.findall(text))


def product(sizes: Iterable[int]) -> int:
    """Return the number of elements of these sizes."""
    result = 1
    for size in sizes:
        result *= size
    return result


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as torch prints it: ``[16, 576]``."""
    return f"[{', '.join(map(str, shape))}]"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return names in one line: ``a, b, c and 4 more``."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
