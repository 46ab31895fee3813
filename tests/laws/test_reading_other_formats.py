"""Law: whatever the bytes, an archive, a tar or a folder is a table and findings, or our one error.

Archives with the names of each kind and any content, folders with the names of each kind and any content: what a
reader sees after it was chosen, and what random bytes alone never reach.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from checkpoint_laws import drained, names_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rekindle.errors import UnreadableFile
from rekindle.formats import open_path

# A few ways in which contents begin rightly, so that what follows is read at all.
STARTS = st.sampled_from(
    [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95", b"\x93NUMPY\x01\x00", b"{", b'{"config": {', b'{"weight_map": {']
)
PICKLES = st.sampled_from(
    [
        b"\x80\x02}.",
        b"\x80\x02].",
        b"\x80\x02)\x81.",
        b"\x80\x02c__torch__\nM\n)\x81}X\x01\x00\x00\x00wctorch\nSize\n)Rsb.",
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ.",
        b'{"config": {"w": {"path_name": "weight_0", "tensor_meta": {"dtype": 7, "layout": 7}}}}',
        b'{"mainModule": {"parameters": [{"name": "w"}]}, "tensors": [{}]}',
        b'{"weight_map": {"w": "model.safetensors", "v": "__0_0.distcp"}}',
    ]
)
CONTENT = st.one_of(PICKLES, st.builds(lambda start, rest: start + rest, STARTS, st.binary(max_size=80)))

ARCHIVES = {
    "torchscript": ["constants.pkl", "data.pkl", "data/0", "code/__torch__.py", "bytecode.pkl", "byteorder"],
    "torchscript of 1.0": ["model.json", "tensors/0", "attributes.pkl"],
    "export": ["archive_format", "data/weights/m_weights_config.json", "data/weights/weight_0", "models/m.json"],
    "old export": ["serialized_exported_program.json", "serialized_state_dict.pt", "version"],
    "package": [".data/extern_modules", "p/a.pkl", "p/data.pkl", ".data/0.storage", "m.py"],
    "numpy": ["a.npy", "b.npy"],
}
FOLDERS = {
    "distcp": [".metadata", "__0_0.distcp", "__1.metadata"],
    "hub distcp": ["shard-00001-model-00001-of-00001.safetensors", "shard-00002-model-00001-of-00001.safetensors"],
    "hub": ["model.safetensors.index.json", "model.safetensors", "a-00001-of-00002.bin"],
    "fsdp ranks": ["model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt", "optim_world_size_2_rank_1.pt"],
    "deepspeed": ["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt", "latest"],
}
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def opened_or_refused(path: Path) -> None:
    try:
        with open_path(path) as opened:
            drained(opened)
            assert isinstance(names_of(opened), list)
            for entry in opened.table:
                assert opened.table[entry.key] is entry
    except UnreadableFile as refused:
        assert refused.what  # noqa: PT017 - either outcome is right; an error must say something


@pytest.mark.parametrize("kind", sorted(ARCHIVES))
@FEW
@given(data=st.data())
def test_an_archive_with_any_content(tmp_path: Path, kind: str, data: st.DataObject):
    path = tmp_path / "any.zip"
    root = data.draw(st.sampled_from(["", "r/", "a/b/"]))
    with zipfile.ZipFile(path, "w") as archive:
        for name in ARCHIVES[kind]:
            if data.draw(st.integers(0, 9)):  # one in ten is missing
                archive.writestr(root + name, data.draw(CONTENT))
    opened_or_refused(path)


@pytest.mark.parametrize("kind", sorted(FOLDERS))
@FEW
@given(data=st.data())
def test_a_folder_with_any_content(tmp_path: Path, kind: str, data: st.DataObject):
    for name in FOLDERS[kind]:
        path = tmp_path / name
        path.unlink(missing_ok=True)
        if data.draw(st.integers(0, 9)):
            path.write_bytes(data.draw(CONTENT))
    opened_or_refused(tmp_path)


@FEW
@given(contents=st.lists(CONTENT, min_size=4, max_size=4))
def test_a_tar_of_torch_with_any_content(tmp_path: Path, contents: list[bytes]):
    import io
    import tarfile

    path = tmp_path / "any.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in zip(("sys_info", "pickle", "tensors", "storages"), contents, strict=True):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with open_path(path) as opened:
        assert opened.format == "torch-tar"
        drained(opened)
