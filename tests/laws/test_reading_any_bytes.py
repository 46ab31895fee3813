"""Law: whatever the bytes, reading gives a table and findings or our one error, soon; never another exception."""

from __future__ import annotations

import gzip
import io
import random
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import zoo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors

from rekindle.errors import UnreadableFile
from rekindle.render import inspection_json, inspection_lines, to_json
from rekindle.verbs.inspect import inspect


def saved(value: object, *, new: bool = True, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    with zoo.quiet():
        torch.save(value, buffer, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    return buffer.getvalue()


SMALL = {"w": torch.arange(6.0).reshape(2, 3).t(), "h": torch.ones(2, dtype=torch.half), "n": [1, "x", None]}


def seeds() -> dict[str, bytes]:
    import pickle

    with zoo.quiet():
        sparse = {"s": torch.eye(2).to_sparse(), "q": torch.quantize_per_tensor(torch.ones(2), 0.5, 1, torch.quint8)}
    return {
        "zip": saved(SMALL),
        "zip of everything": saved(zoo.complete(("float32", "bool"))),
        "zip of a module": saved(torch.nn.Linear(2, 2), protocol=4),
        "stream": saved(SMALL, new=False),
        "stream of a module": saved(torch.nn.Linear(2, 2), new=False),
        "stream of parts": saved(sparse, new=False),
        "safetensors": save_safetensors({"a": torch.ones(2, 2), "b": torch.ones(1, dtype=torch.int64)}),
        "pickle": pickle.dumps({"w": torch.ones(2)}),
        "gzip": gzip.compress(saved(SMALL)),
    }


SEEDS = seeds()


def holds(path: Path) -> None:
    """Inspect a file in every way; anything but a value or our error fails the test."""
    start = time.monotonic()
    with suppress(UnreadableFile):
        found = inspect(path, digest=True)
        assert found.listed or found.findings
        text = "\n".join([*inspection_lines(found), *inspection_lines(found, tree=True)])
        assert not set(text) & set("\x00\x1b\x7f\r")
        assert to_json(inspection_json(found)).isascii()
        for entry in found.table:
            assert entry.numel >= 0
    assert time.monotonic() - start < 20


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes(tmp_path: Path, data: bytes):
    path = tmp_path / "any"
    path.write_bytes(data)
    holds(path)


STARTS = [
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
    b"\x80\x04",
    b"(",
    b"\x02\0\0\0\0\0\0\0{",
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(STARTS), st.binary(max_size=200))
def test_any_bytes_behind_a_known_start(tmp_path: Path, start: bytes, data: bytes):
    path = tmp_path / "any"
    path.write_bytes(start + data)
    holds(path)


@pytest.mark.parametrize("name", SEEDS)
def test_one_flipped_byte(tmp_path: Path, name: str):
    data = SEEDS[name]
    path = tmp_path / "flipped"
    rng = random.Random(name)
    for at in rng.sample(range(len(data)), min(len(data), 400)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        holds(path)


@pytest.mark.parametrize("name", SEEDS)
def test_many_changes_at_once(tmp_path: Path, name: str):
    data = SEEDS[name]
    path = tmp_path / "changed"
    rng = random.Random(name)
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 12)):
            at = rng.randrange(len(damaged))
            match rng.randrange(4):
                case 0:
                    damaged[at] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))
                case 1:
                    damaged[at : at + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
                case 2:
                    damaged[at : at + 8] = (1 << rng.randrange(64)).to_bytes(8, "little")
                case _:
                    del damaged[at : at + rng.randrange(40)]
            if not damaged:
                damaged = bytearray(b"x")
        path.write_bytes(damaged)
        holds(path)


@pytest.mark.parametrize("name", SEEDS)
def test_cut_anywhere_and_followed_by_anything(tmp_path: Path, name: str):
    data = SEEDS[name]
    path = tmp_path / "cut"
    rng = random.Random(name)
    for _ in range(150):
        cut = rng.randrange(len(data))
        path.write_bytes(data[:cut] + rng.choice((b"", rng.randbytes(20), bytes(5000), data[:300])))
        holds(path)
