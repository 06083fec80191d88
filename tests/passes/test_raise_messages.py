from __future__ import annotations

import pytest

from gnnexport.passes.raise_messages import RaiseMessages
from tests.passes.checks import apply
from tests.small_models import captured, ops


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("GCN", {"gnn.csr": 1, "gnn.aggregate": 2}),
        ("GCN weighted", {"gnn.csr": 1, "gnn.aggregate": 2}),
        ("GraphSAGE", {"gnn.csr": 1, "gnn.aggregate": 2, "gnn.reduce_edges": 0}),
        ("GraphSAGE max", {"gnn.csr": 1, "gnn.aggregate": 2}),
        ("GIN", {"gnn.csr": 1, "gnn.aggregate": 2}),
        ("GAT", {"gnn.csr": 1, "gnn.edge_softmax": 2, "gnn.aggregate": 2, "gnn.reduce_edges": 0}),
        ("GATv2", {"gnn.csr": 1, "gnn.edge_softmax": 2, "gnn.aggregate": 2, "gnn.gather_destination": 2}),
        ("PNA", {"gnn.csr": 1, "gnn.reduce_edges": 0 + 8}),
        ("index_add", {"gnn.csr": 1, "gnn.aggregate": 1}),
        ("zeros_like", {"gnn.csr": 1, "gnn.aggregate": 1, "aten.zeros_like": 0}),
        ("views", {"gnn.csr": 1, "gnn.aggregate": 1}),
        ("multiplied", {"gnn.csr": 1, "gnn.aggregate": 1, "gnn.reduce_edges": 0}),
        ("switched", {"gnn.csr": 1, "gnn.reduce_edges": 1}),
        ("stacked", {"gnn.csr": 1, "gnn.aggregate": 1, "gnn.reduce_edges": 0}),
        ("stacked_max", {"gnn.csr": 1, "gnn.aggregate": 1, "gnn.reduce_edges": 0}),
        ("attended", {"gnn.gather_source": 1, "gnn.gather_destination": 1, "gnn.reduce_edges": 1}),
        ("masked", {"gnn.csr": 1, "gnn.reduce_edges": 1}),
    ],
)
def test_message_passing_is_raised(name: str, has: dict[str, int]) -> None:
    """Gathers and scatters become ops over one structure, with the same numbers."""
    after, _ = apply(RaiseMessages(), captured(name), has=has)
    body = {op for op in ops(after) if "scatter" in op or "index_add" in op}
    normalised = {"aten.scatter_add"} if name.startswith(("GCN", "GAT", "PNA")) else set()
    assert body <= normalised, "only degrees, which belong to the graph, may stay scatters"


def test_mean_is_recognised() -> None:
    """A sum divided by the clamped number of edges is a mean."""
    after, _ = apply(RaiseMessages(), captured("GraphSAGE"))
    reduces = [node.args[4] for node in after.body.graph.nodes if str(node.target) == "gnn.aggregate.default"]
    assert reduces == ["mean", "mean"]


def test_softmax_by_source_stays_apart_from_sums_by_destination() -> None:
    """A softmax over one structure inside a sum over another is raised over two structures."""
    after, _ = apply(RaiseMessages(), captured("two_structures"), has={"gnn.csr": 2})
    assert "aten.scatter_add" not in ops(after)


def test_narrow_index_is_left_alone() -> None:
    """An index one wide scatters one channel only; that is no sum over edges, and the note says it stays."""
    _, notes = apply(RaiseMessages(), captured("narrow_index"), has={"gnn.reduce_edges": 0, "aten.scatter_add": 1})
    assert "left 1" in notes[0]


def test_only_ops_on_rows_are_computed_in_another_order() -> None:
    """A running sum over the edges stays in their order; only its result is reordered."""
    after, _ = apply(RaiseMessages(), captured("sorted_channels"), has={"gnn.reduce_edges": 1, "aten.cumsum": 1})
    (running,) = (node for node in after.body.graph.nodes if str(node.target) == "aten.cumsum.default")
    assert [str(user.target) for user in running.users] == ["aten.index_select.default"]


def test_mask_is_no_index() -> None:
    """Rows picked by a mask are permuted as they are, though the mask kept all edges of the examples."""
    after, _ = apply(RaiseMessages(), captured("masked"), has={"gnn.gather_source": 0})
    assert ops(after).count("aten.index.Tensor") >= 1
