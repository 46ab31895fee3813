"""Views that drag storages along, and cutting them loose."""

import torch
from alike import bits

from rekindle.gather import gather_elements
from rekindle.save import tree_of
from rekindle.tree import Tensor, distinct_nodes
from rekindle.writers.sharing import dragged_storages, untie


def test_five_numbers_of_a_thousand_drag_them_all():
    (dragged,) = dragged_storages(tree_of({"small": torch.arange(1000.0)[:5]}))
    assert (dragged.used_bytes, dragged.storage.size_bytes, dragged.tensors) == (20, 4000, 1)


def test_views_that_cover_their_storage_together_drag_nothing():
    base = torch.arange(4000.0)
    assert dragged_storages(tree_of([base[:1500], base[1500:]])) == []
    assert dragged_storages(tree_of([base[:10], base])) == []
    assert dragged_storages(tree_of([base[:10], base.untyped_storage()])) == []


def test_overlapping_views_are_counted_once():
    base = torch.arange(1000.0)
    (dragged,) = dragged_storages(tree_of([base[:10], base[5:15], base[100:105]]))
    assert (dragged.used_bytes, dragged.tensors) == (80, 3)


def test_untied_tensors_have_their_own_elements_only_and_the_same_values():
    base = torch.randn(6, 8)
    complexes = torch.randn(3, 4, dtype=torch.complex64)
    views = [base[1:3], base.t(), base[:, ::2], base.expand(2, 6, 8), complexes.conj(), complexes[:, 1:3].conj(), base]
    tree = tree_of(views)
    untie(tree)
    nodes = [node for node in distinct_nodes(tree) if isinstance(node, Tensor)]
    assert len({id(node.storage) for node in nodes}) == len(views)
    for node, view in zip(nodes, views, strict=True):
        assert node.storage.size_bytes == node.storage.data.size == view.numel() * view.element_size()
        data = gather_elements(
            node.storage, node.dtype, node.offset, node.shape, node.stride, conj=node.conj, neg=node.neg
        )
        assert b"".join(data.chunks()) == bits(view)
    assert nodes[1].stride == base.t().stride()
