from __future__ import annotations

import pytest

from gnnexport.passes.order_propagation import OrderPropagation
from gnnexport.program.cost import measure_cost
from gnnexport.program.graphs import args_of
from gnnexport.program.program import Program
from tests.passes.checks import apply
from tests.small_models import CLASSES, HIDDEN, WIDTH, split


def aggregated_widths(program: Program) -> list[int]:
    """List the width of each aggregation."""
    program = program.clone()
    program.annotate()
    return [
        args_of(node)[0].meta["shapes"][0][-1]
        for node in program.body.graph.nodes
        if str(node.target) == "gnn.aggregate.default"
    ]


@pytest.mark.parametrize("name", ["GCN", "GraphSAGE", "GIN"])
def test_each_layer_aggregates_its_narrower_side(name: str) -> None:
    """Six features aggregate before they become sixteen, sixteen channels after they become three."""
    before = split(name)
    after, notes = apply(OrderPropagation(), before)
    assert aggregated_widths(after) == [WIDTH, CLASSES]
    assert f"aggregates {CLASSES} channels" in " ".join(notes) or name == "GCN"
    inputs = before.example()
    assert measure_cost(after, inputs).macs("aggregation") < measure_cost(before, inputs).macs("aggregation")


def test_bias_is_added_once() -> None:
    """A bias moves behind the sum: nodes without neighbours get it, hubs get it once."""
    apply(OrderPropagation(), split("GIN"))


def test_max_does_not_commute() -> None:
    """A maximum is taken where the model takes it."""
    after, notes = apply(OrderPropagation(), split("GraphSAGE max"))
    assert aggregated_widths(after) == aggregated_widths(split("GraphSAGE max"))
    assert notes == []


def test_margin_keeps_small_gains_out() -> None:
    """A layer is swapped only when its width falls by more than the margin."""
    after, _ = apply(OrderPropagation(margin=4), split("GraphSAGE"))
    assert aggregated_widths(after) == [WIDTH, CLASSES]
    after, _ = apply(OrderPropagation(margin=6), split("GraphSAGE"))
    assert aggregated_widths(after) == [WIDTH, HIDDEN]


def test_margin_below_one_is_an_error() -> None:
    """A margin below one would swap a layer to and fro."""
    with pytest.raises(ValueError, match="margin must be at least 1"):
        OrderPropagation(margin=0.5)
