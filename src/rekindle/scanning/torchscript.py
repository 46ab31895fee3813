r"""TorchScript code: which operators it calls, and whether one of them leaves the tensors for files or connections.

The language looks like Python and is not: it has no imports, and all that it can reach are operators (``torch.add``,
``ops.image.read_file``), functions of the same archive and remote calls. A few operators write and read files. They are
found by name, after line joins, comments and spaces are taken out, as the compiler does it. A name can be hidden
(``t = torch``, ``getattr(torch, "save")``): no printer of TorchScript writes that, so it is said, and where the file
also has the name of such an operator anywhere it is a danger.

Facts: PyTorch 2.13 `torch/csrc/jit/serialization/import_source.cpp` (`torch` means the operators `aten::`, `ops` all
namespaces, `rpc_*`), `torch/csrc/jit/frontend/lexer.h`, the operators' schemas (`aten::save`, `aten::from_file`,
`image::write_file`); `bytecode.pkl` of a mobile archive lists the operators by their full names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Code", "Reach", "mobile_operators", "read_code"]

_WRITES = "it writes the file that it is given the name of"
_MAPS = "it opens a file by name, and makes or changes it where it is asked to share it"
_READS = "it reads the file that it is given the name of"
_REMOTE = "it calls functions on other machines"
_REACHING = {
    "aten::save": _WRITES,
    "aten::from_file": _MAPS,
    "image::write_file": _WRITES,
    "image::read_file": _READS,
    "torchaudio::sox_io_save_audio_file": _WRITES,
    "torchaudio::sox_io_load_audio_file": _READS,
    "torchaudio::sox_io_get_info": _READS,
    "torchaudio::sox_effects_apply_effects_file": _READS,
    "video_reader::read_video_from_file": _READS,
    "video_reader::probe_video_from_file": _READS,
    "rpc_sync": _REMOTE,
    "rpc_async": _REMOTE,
    "rpc_remote": _REMOTE,
}
_TELLTALE = {name.rpartition("::")[2]: reason for name, reason in _REACHING.items()}
# Namespaces that every torch has.
_OWN = frozenset(
    {"aten", "prim", "prims", "quantized", "_quantized", "prepacked", "mkldnn", "mkldnn_prepacked", "cuda"}
)

# What may stand between two tokens.
_GAP = rb"(?:\s|\\\r?\n|#[^\n]*(?:\n|$))*"
_TOKEN = re.compile(
    # A text without an end reaches to the end of its line or of the file: nothing is looked at twice.
    rb'#[^\n]*|"""(?:[^\\]|\\.)*?(?:"""|\\?\Z)|\'\'\'(?:[^\\]|\\.)*?(?:\'\'\'|\\?\Z)'
    rb'|"(?:[^"\\\n]|\\.)*(?:"|\\?\Z|(?=\n))|\'(?:[^\'\\\n]|\\.)*(?:\'|\\?\Z|(?=\n))'
    rb"|(?P<name>[A-Za-z_\x80-\xff][\w\x80-\xff]*(?:" + _GAP + rb"\." + _GAP + rb"[A-Za-z_\x80-\xff][\w\x80-\xff]*)*)"
    rb"|[0-9][\w.]*|\.|[^\w\s.]",
    re.DOTALL,
)
_NOISE = re.compile(rb"\\\r?\n|#[^\n]*(?:\n|$)|\s")
_ASSIGNED = re.compile(rb"\s*(?:=(?!=)|:)")


@dataclass(frozen=True, slots=True)
class Reach:
    """An operator that reaches beyond tensors.

    Attributes:
        name: in full, ``aten::save``.
        reason: what it does.
        text: how the code spells it, with what follows on its line.
        offset: of the name in the file.
    """

    name: str
    reason: str
    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class Code:
    """What a file of TorchScript code calls.

    Attributes:
        operators: full names, in the order met, each once.
        custom: those of them that a library must bring.
        reaches: what reaches beyond tensors.
        hidden: offset of a name that hides which operator is meant; None where there is none.
    """

    operators: tuple[str, ...]
    custom: tuple[str, ...]
    reaches: tuple[Reach, ...]
    hidden: int | None


def read_code(source: bytes) -> Code:
    r"""Return what a file of TorchScript code calls, by its names; nothing is compiled.

    Example:
        >>> [reach.name for reach in read_code(b'def f(x: Tensor):\n  torch.save(x, "a")').reaches]
        ['aten::save']
    """
    operators: dict[str, None] = {}
    reaches: list[Reach] = []
    telltales: list[tuple[str, int]] = []
    hidden = []
    behind_dot = False
    for token in _TOKEN.finditer(source):
        chain = token["name"]
        if chain is None:
            word = token[0]
            behind_dot = word == b"."
            quoted = word.strip(b"\"'").decode("latin-1")
            if word[:1] in {b'"', b"'"} and quoted in _TELLTALE:
                telltales.append((quoted, token.start()))
            continue
        parts = _NOISE.sub(b"", chain).decode("latin-1").split(".")
        telltales += [(part, token.start()) for part in parts[1 - behind_dot :] if part in _TELLTALE]
        if not behind_dot:
            name = _operator(parts)
            if name is not None:
                operators.setdefault(name)
                if name in _REACHING:
                    reaches.append(Reach(name, _REACHING[name], _line(source, token.start()), token.start()))
            elif parts[0] in {"torch", "ops"} and not _ASSIGNED.match(source, token.end()):
                hidden.append(token.start())
        behind_dot = False
    if hidden:
        known = {reach.offset for reach in reaches}
        reaches += [
            Reach(f"?::{part}", f"{_TELLTALE[part]}, and which object is asked for it is hidden", _line(source, at), at)
            for part, at in telltales
            if at not in known
        ]
    custom = tuple(name for name in operators if "::" in name and name.partition("::")[0] not in _OWN)
    return Code(tuple(operators), custom, tuple(reaches), hidden[0] if hidden else None)


def mobile_operators(bytecode: bytes) -> Iterator[Reach]:
    """Yield the operators of a mobile archive's ``bytecode.pkl`` that reach beyond tensors."""
    for name, reason in _REACHING.items():
        text = name.encode()
        # A pickled text has its length in front, and what follows may look like more of the name.
        for start in (b"X" + len(text).to_bytes(4, "little"), b"\x8c" + bytes([len(text)])):
            at = bytecode.find(start + text)
            if at >= 0:
                yield Reach(name, reason, name, at)


def _operator(parts: list[str]) -> str | None:
    """Return the full name of the operator that a chain of names means; None where it means something else."""
    if parts[0] == "torch" and len(parts) > 1:
        return f"aten::{parts[1]}"
    if parts[0] == "ops" and len(parts) > 2:
        return f"{parts[1]}::{parts[2]}"
    return parts[0] if parts[0] in _REACHING else None


def _line(source: bytes, at: int) -> str:
    end = source.find(b"\n", at)
    return source[at : min(end if end >= 0 else len(source), at + 160)].decode("utf-8", "replace").strip()
