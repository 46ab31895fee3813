"""The page about the layout says what the code does."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

from rekindle.run import capture, snapshot_files
from rekindle.store import layout, manifest, plain, state

PAGE = (Path(__file__).parents[2] / "docs" / "on-disk.md").read_text(encoding="utf-8")


def test_every_name_of_the_layout_stands_on_it():
    names = [value for name, value in vars(layout).items() if name.endswith(("_NAME", "_PREFIX")) and name[0] != "_"]
    assert len(names) == 9
    for name in names:
        assert name in PAGE, name


def test_every_tag_and_every_kind_stands_on_it():
    sources = "".join(map(inspect.getsource, (plain, capture, snapshot_files)))
    tags = set(re.findall(r'"(\$[A-Za-z]+)"', sources)) | {"$bytes", "$bytearray", "$set", "$frozenset"}
    assert len(tags) >= 20
    for tag in sorted(tags):
        assert tag in PAGE, tag
    for kind in ("module", "optimizer", *state.OBJECT_KINDS):
        assert f"`{kind}`" in PAGE, kind


def test_its_manifest_has_the_fields_of_a_real_one():
    shown = json.loads(PAGE.split("## manifest.json")[1].split("```json\n")[1].split("```")[0])
    real = json.loads(manifest.encode_manifest(400, {"a": manifest.FileFacts(1, ("0" * 64,))}, {}))
    assert list(shown) == list(real)
    assert (shown["format"], shown["format_version"]) == (real["format"], real["format_version"])
