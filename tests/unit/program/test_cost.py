from __future__ import annotations

import torch

from gnnexport.passes.contract import PassContext
from gnnexport.passes.order_propagation import OrderPropagation
from gnnexport.program.cost import cost_of, largest_gathered, measure_cost
from tests.small_models import CLASSES, HIDDEN, WIDTH, split

NODES = 10
EDGE_INDEX = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7]])
INPUTS = {"x": torch.ones(NODES, WIDTH), "edge_index": EDGE_INDEX}
EDGES = EDGE_INDEX.shape[1]


def test_gcn_counts_self_loops() -> None:
    """A GCN multiplies every node and sums edges and self-loops at the layer's output width."""
    cost = measure_cost(split("GCN"), INPUTS)
    assert cost.macs("linear") == NODES * (WIDTH * HIDDEN + HIDDEN * CLASSES)
    assert cost.macs("aggregation") == (EDGES + NODES) * (HIDDEN + CLASSES)
    assert cost.macs() == cost.macs("linear") + cost.macs("aggregation") + cost.macs("other")
    assert cost.parameters == WIDTH * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES
    assert cost.parameter_bytes == 4 * cost.parameters


def test_sage_counts_both_branches() -> None:
    """GraphSAGE multiplies neighbours and self; its mean runs over the given edges at the input width."""
    cost = measure_cost(split("GraphSAGE"), INPUTS)
    assert cost.macs("linear") == 2 * NODES * (WIDTH * HIDDEN + HIDDEN * CLASSES)
    assert cost.macs("aggregation") == EDGES * (WIDTH + HIDDEN)


def test_gat_counts_heads() -> None:
    """Attention sums each head's channels over the edges, and normalises one logit per head and edge."""
    slots = EDGES + NODES
    aggregations = [op.macs for op in measure_cost(split("GAT"), INPUTS).ops if op.kind == "aggregation"]
    assert sorted(aggregations) == sorted([slots * 2, slots * HIDDEN, slots * 2, slots * CLASSES * 2])


def test_gathered_rows_count_once_per_edge() -> None:
    """The bytes of a mean: one row per edge, the pointers, the columns, and the result."""
    (first, _) = [op for op in measure_cost(split("GraphSAGE"), INPUTS).ops if op.kind == "aggregation"]
    assert first.bytes_moved == 4 * (EDGES * WIDTH + (NODES + 1) + EDGES + NODES * WIDTH)


def test_reordering_shows_in_the_cost() -> None:
    """The second layer of GraphSAGE sums three channels instead of sixteen."""
    after = measure_cost(OrderPropagation().run(split("GraphSAGE"), PassContext()), INPUTS)
    assert after.macs("aggregation") == EDGES * (WIDTH + CLASSES)
    assert after.macs("linear") == 2 * NODES * (WIDTH * HIDDEN + HIDDEN * CLASSES)


def test_counts_do_not_overflow() -> None:
    """Costs are Python integers, counted from shapes: nothing is multiplied."""
    x = torch.empty(1, WIDTH).expand(200_000, WIDTH)
    cost = measure_cost(split("GCN"), {"x": x, "edge_index": EDGE_INDEX})
    assert cost.macs("linear") == 200_000 * (WIDTH * HIDDEN + HIDDEN * CLASSES)


def test_rows_are_gathered_from_the_widest_value() -> None:
    """Each row counts once, however many edges read it: GCN gathers sixteen channels, then three."""
    assert largest_gathered(split("GCN"), INPUTS) == 4 * NODES * HIDDEN


def test_counts_of_large_graphs_do_not_wrap() -> None:
    """Shapes alone tell what a graph of billions of edges costs: counts go beyond 32 and 64 bits of a counter."""
    program = split("GCN not normalised")
    nodes, edges = 2**31, 2**60
    sizes = {"x": (nodes, WIDTH), "rowptr_0": (nodes + 1,), "col_0": (edges,)}
    given = [(name, sizes[name]) for name in ("x", *program.structure_names)]
    values = [torch.zeros(1, dtype=torch.float32 if name == "x" else torch.int64).expand(size) if len(size) == 1 else
              torch.zeros(1, 1).expand(size) for name, size in given]  # fmt: skip
    cost = cost_of(program.body, values)
    assert cost.macs("aggregation") == edges * (HIDDEN + CLASSES) > 2**64
    assert cost.macs("linear") == nodes * (WIDTH * HIDDEN + HIDDEN * CLASSES) > 2**32
