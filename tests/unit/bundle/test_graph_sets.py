import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnnexport.bundle.graph_sets import select
from gnnexport.errors import DataError


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.integers(0, 99))
def test_a_selection_is_the_graphs_themselves(counts, seed):
    """Graph by graph in the order asked for, nodes and edges in their own order; graphs may be empty."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    pairs = [
        (start + rng.integers(0, n), start + rng.integers(0, n)) for start, n in zip(starts, counts, strict=True) if n
    ] * 2
    edges = rng.permutation(np.array(pairs, np.int64).reshape(-1, 2)).T
    graphs = rng.permutation(len(counts))[: rng.integers(0, len(counts) + 1)]
    found = select("set", owner, edges, len(counts), graphs)
    assert found.nodes.tolist() == [int(node) for graph in graphs for node in np.flatnonzero(owner == graph)]
    wanted = [int(edge) for graph in graphs for edge in np.flatnonzero(owner[edges[0]] == graph)]
    assert found.edges.tolist() == wanted
    np.testing.assert_array_equal(found.nodes[found.edge_index], edges[:, wanted])
    np.testing.assert_array_equal(graphs[found.batch], owner[found.nodes])


def test_what_is_no_set_of_graphs():
    """An edge between graphs, and a graph that is not there, are named."""
    owner = np.array([0, 0, 1])
    with pytest.raises(DataError, match="set: edge 1 leads from graph 0 to graph 1"):
        select("set", owner, np.array([[0, 1], [1, 2]]), 2, np.array([0]))
    with pytest.raises(DataError, match="set: has 2 graphs, but graph 2 is asked for"):
        select("set", owner, np.array([[0], [1]]), 2, np.array([0, 2]))
