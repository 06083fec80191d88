from __future__ import annotations

import pytest

from gnnexport.passes.fold_norms import FoldNorms
from gnnexport.passes.order_propagation import OrderPropagation
from tests.passes.checks import apply
from tests.small_models import ops, split


@pytest.mark.parametrize("name", ["GCN batch norm", "GCN batch norm without affine", "GIN", "shared_norm"])
def test_norm_moves_into_weights(name: str) -> None:
    """Scale and shift of an inference-time batch normalisation end up in the parameters before it."""
    before, _ = apply(OrderPropagation(), split(name))
    assert "aten.batch_norm" in ops(before)
    _, notes = apply(FoldNorms(), before, has={"aten.batch_norm": 0, "aten.dropout": 0})
    assert notes[0].startswith("folded ")


def test_norm_by_the_batch_stays() -> None:
    """Without running statistics the scale is known only once the features are."""
    _, notes = apply(FoldNorms(), split("GCN batch norm of the batch"), has={"aten.batch_norm": 1})
    assert notes == []


def test_layer_norm_stays() -> None:
    """A layer normalisation's scale depends on the node."""
    _, notes = apply(FoldNorms(), split("GCN layer norm"), has={"aten.layer_norm": 1})
    assert notes == []


def test_folding_does_not_touch_a_shared_weight() -> None:
    """Two folds from one shared normalisation give each layer parameters of its own."""
    after, _ = apply(FoldNorms(), split("shared_norm"))
    assert sum("folded_weight" in name for name, _ in after.named_parameters()) == 2
