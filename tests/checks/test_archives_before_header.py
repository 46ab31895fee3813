"""What torch's Hugging Face checkpoint writer makes of values that are no tensors."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from doctoring import found, shown
from safetensors.torch import save

GOLDEN = Path(__file__).parent.parent / "golden/distcp/hub_damaged"


def archive(value: object) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def test_archives_in_front_of_a_header_are_named_with_the_command_that_takes_the_tensors_out():
    weights = save({"w": torch.arange(50_000.0)})
    objects = archive({"lr": 0.1})
    Path("m.safetensors").write_bytes(objects + weights)
    assert shown("m.safetensors", "archives-before-header") == (
        f"error  m.safetensors: 1 archive stands in front of a safetensors header, which begins at byte "
        f"{len(objects):,} of {len(objects) + len(weights):,}  [RK-FILE-88]\n"
        "  why     HuggingFaceStorageWriter of torch was given values that are no tensors: it reports success and "
        "writes an archive per value in front of the header, so that nothing opens the file\n"
        "  do      rekindle salvage m.safetensors -o m.rescued.safetensors"
    )


def test_a_shard_that_the_writer_of_torch_made_is_named(tmp_path):
    path = tmp_path / "shard.safetensors"
    path.write_bytes((GOLDEN / "shard-00002-model-00001-of-00001.safetensors").read_bytes())
    assert len(found(str(path), "archives-before-header")) == 1


def test_other_bytes_behind_an_archive_are_no_header():
    data = archive({"w": torch.ones(3)})
    for name, tail in (("a.pth", b"x" * 100), ("b.pth", bytes(100)), ("c.pth", data), ("d.pth", b"")):
        Path(name).write_bytes(data + tail)
        assert found(name, "archives-before-header") == []
