"""shards: sizes, names and the index, as Hugging Face has them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.errors import CannotWrite
from rekindle.writers.shards import bytes_of_text, index_name, index_text, shard_name, split


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("500 mb", 500 * 10**6), ("1.5k", 1500), ("1GiB", 2**30), ("7", 7), ("1b", 1)],
)
def test_a_size_is_read_as_people_write_it(text, size):
    assert bytes_of_text(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1PB", "2 G B", "0", "1e9", "nan", "0.1"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(CannotWrite, match="is not a size"):
        bytes_of_text(text)


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 60))
def test_files_keep_the_order_and_are_as_full_as_may_be(sizes, most):
    groups = split(((at, size) for at, size in enumerate(sizes)), most)
    assert [at for group in groups for at in group] == list(range(len(sizes)))
    filled = [sum(sizes[at] for at in group) for group in groups]
    assert all(len(group) == 1 or total <= most for group, total in zip(groups, filled, strict=True))
    for group, total, after in zip(groups, filled, groups[1:], strict=False):
        assert group
        assert total + sizes[after[0]] > most


def test_more_files_than_can_be_open_are_refused_with_a_size_that_works():
    sizes = [(at, 10) for at in range(1001)]
    with pytest.raises(CannotWrite, match="1,001 files") as caught:
        split(sizes, 10)
    assert len(split(sizes, int(caught.value.do.split()[-1].replace(",", "")))) <= 500


def test_names_and_the_index():
    assert shard_name("out/model.safetensors", 1, 12) == "out/model-00001-of-00012.safetensors"
    assert index_name("out/model.safetensors") == "out/model.safetensors.index.json"
    assert json.loads(index_text(7, {"b": "x", "a": "y"})) == {
        "metadata": {"total_size": 7},
        "weight_map": {"a": "y", "b": "x"},
    }
