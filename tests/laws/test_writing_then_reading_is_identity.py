"""Law: what is written is what is read back, by torch and by us, whatever the object."""

import collections
import io

import torch
from alike import assert_alike
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zoo import FLOATS, INTEGERS, of_dtype

from rekindle.load import load
from rekindle.save import tree_of
from rekindle.verbs.convert import convert
from rekindle.writers import torch_stream, torch_zip

NAMES = (*FLOATS, *INTEGERS, "complex64", "complex128", "float8_e4m3fn")
TEXTS = st.text(max_size=8)
KEYS = st.one_of(TEXTS, st.integers(-(2**70), 2**70), st.none(), st.booleans(), st.tuples(TEXTS, st.integers()))
PLAIN = st.one_of(KEYS, st.floats(), st.complex_numbers(), st.binary(max_size=9))


@st.composite
def objects(draw):
    """Nested containers whose tensors look into a few storages in different ways."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    bases = [of_dtype(draw(st.sampled_from(NAMES)), (draw(st.integers(0, 4)), 6)) for _ in range(3)]

    def view(base, how, offset):
        match how:
            case 0:
                return base
            case 1:
                return base.t()
            case 2:
                return base[offset:, ::2]
            case 3:
                return base.reshape(-1)[offset:].clone()
            case _:
                return base.unsqueeze(0).expand(2, *base.shape)

    tensors = st.builds(view, st.sampled_from(bases), st.integers(0, 4), st.integers(0, 2))
    shared = draw(st.lists(PLAIN, max_size=3))
    leaves = st.one_of(PLAIN, tensors, tensors, st.just(shared))
    return draw(
        st.recursive(
            leaves,
            lambda inner: st.one_of(
                st.lists(inner, max_size=4),
                st.lists(inner, max_size=4).map(tuple),
                st.dictionaries(KEYS, inner, max_size=4),
                st.dictionaries(TEXTS, inner, max_size=4).map(collections.OrderedDict),
            ),
            max_leaves=12,
        )
    )


CALM = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@CALM
@given(objects())
def test_torch_reads_our_archive_as_the_object_that_was_written(obj):
    out = io.BytesIO()
    torch_zip.write_tree(tree_of(obj), out)
    for weights_only in (True, False):
        out.seek(0)
        assert_alike(obj, torch.load(out, weights_only=weights_only))


@CALM
@given(objects())
def test_torch_reads_our_stream_as_the_object_that_was_written(obj):
    out = io.BytesIO()
    torch_stream.write_tree(tree_of(obj), out)
    out.seek(0)
    assert_alike(obj, torch.load(out, weights_only=True))


@CALM
@given(obj=objects(), stream=st.booleans(), mmap=st.booleans())
def test_we_read_our_own_files_as_the_object_that_was_written(tmp_path_factory, obj, stream, mmap):
    path = tmp_path_factory.mktemp("law") / "a.pth"
    with path.open("wb") as out:
        (torch_stream if stream else torch_zip).write_tree(tree_of(obj), out)
    assert_alike(obj, load(path, mmap=mmap))


@CALM
@given(objects())
def test_there_and_back_through_the_old_stream_is_the_same_object(tmp_path_factory, obj):
    folder = tmp_path_factory.mktemp("law")
    with (folder / "a.pth").open("wb") as out:
        torch_zip.write_tree(tree_of(obj), out)
    convert(folder / "a.pth", folder / "b.pth", to="torch-stream")
    convert(folder / "b.pth", folder / "c.pth")
    assert_alike(obj, torch.load(folder / "c.pth"))
