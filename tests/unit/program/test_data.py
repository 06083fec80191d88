"""Sets of graphs laid side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnnexport.errors import DataError
from gnnexport.program.data import GraphData, labelled_rows
from gnnexport.program.generated import generate
from gnnexport.program.inputs import NUM_EDGES, NUM_GRAPHS, NUM_NODES, Input, Level, Role

INPUTS = (
    Input("x", Role.NODE_FEATURES, "float32", (NUM_NODES, 3)),
    Input("edge_index", Role.EDGE_INDEX, "int64", (2, NUM_EDGES)),
    Input("edge_attr", Role.EDGE_FEATURES, "float32", (NUM_EDGES, 2)),
    Input("batch", Role.GRAPH_IDS, "int64", (NUM_NODES,)),
    Input(NUM_GRAPHS, Role.NUM_GRAPHS, "int64", ()),
)
sizes = st.lists(st.integers(0, 6), min_size=1, max_size=8)


def graph_set(counts: list[int], level: Level = "graph") -> GraphData:
    """Make a set whose labels are its row numbers."""
    inputs = generate(INPUTS, counts, seed=sum(counts))
    rows = len(counts) if level == "graph" else sum(counts)
    return GraphData("set", inputs, y=torch.arange(rows), masks={"test": torch.arange(rows) % 2 == 0}, level=level)


@given(sizes, st.randoms(use_true_random=False), st.sampled_from(["graph", "node"]))
def test_a_selection_is_the_graphs_themselves(counts: list[int], random, level: Level) -> None:
    """Each graph selected has its own nodes, edges, edge features and labels, in the order asked for."""
    data = graph_set(counts, level)
    chosen = random.sample(range(len(counts)), random.randint(0, len(counts)))
    found = data.select(torch.tensor(chosen, dtype=torch.int64))
    assert found.num_graphs == len(chosen)
    batch, edges = data.inputs["batch"], data.inputs["edge_index"]
    for place, graph in enumerate(chosen):
        nodes, own = torch.nonzero(batch == graph)[:, 0], torch.nonzero(found.inputs["batch"] == place)[:, 0]
        assert torch.equal(found.inputs["x"][own], data.inputs["x"][nodes])
        old, new = batch[edges[0]] == graph, found.inputs["batch"][found.inputs["edge_index"][0]] == place
        shifts = [int(item[0]) if len(item) else 0 for item in (nodes, own)]
        assert torch.equal(found.inputs["edge_index"][:, new] - shifts[1], edges[:, old] - shifts[0])
        assert torch.equal(found.inputs["edge_attr"][new], data.inputs["edge_attr"][old])
        assert found.y is not None
        assert torch.equal(found.y[own], nodes) if level == "node" else int(found.y[place]) == graph


def test_one_graph_has_nothing_to_select() -> None:
    """Selecting needs a set."""
    inputs = generate(INPUTS[:2], [4])
    with pytest.raises(ValueError, match="one graph, not a set"):
        GraphData("graph", inputs).select(torch.tensor([0]))


@pytest.mark.parametrize("reverse", [False, True])
def test_edges_between_graphs_are_refused(reverse: bool) -> None:
    """An edge from a graph selected to another, or back, is no edge of the selection, and is not lost in silence."""
    data = graph_set([2, 3])
    edges = torch.tensor([[0], [4]])
    inputs = {**data.inputs, "edge_index": edges.flip(0) if reverse else edges, "edge_attr": torch.ones(1, 2)}
    crossed = replace(data, inputs=inputs)
    words = "from graph 1 to graph 0" if reverse else "from graph 0 to graph 1"
    with pytest.raises(DataError, match=f"set: edge 0 leads {words}"):
        crossed.select(torch.tensor([0]))


@pytest.mark.parametrize("graph", [-1, 2])
def test_graphs_that_are_not_there(graph: int) -> None:
    """A number of a graph that the set has not is refused."""
    with pytest.raises(DataError, match=f"has 2 graphs, but graph {graph} is asked for"):
        graph_set([2, 3]).select(torch.tensor([0, graph]))


def test_hidden_labels_are_unknown() -> None:
    """Labels of a hidden split are -1 for classes and NaN for numbers; the data given keeps them."""
    data = graph_set([2, 2, 2])
    hidden = data.hide("test")
    assert hidden.y is not None
    assert hidden.y.tolist() == [-1, 1, -1]
    assert not hidden.masks["test"].any()
    numbers = GraphData("set", data.inputs, torch.ones(3), data.masks, "graph").hide("test")
    assert numbers.y is not None
    assert labelled_rows(numbers.y).tolist() == [False, True, False]
    assert data.y is not None
    assert data.y.tolist() == [0, 1, 2]


def test_a_row_counts_with_the_labels_it_has() -> None:
    """Of several labels one that is known is enough; a row of none is unlabelled."""
    unknown = float("nan")
    y = torch.tensor([[0.0, 1.0], [unknown, 1.0], [unknown, unknown]])
    assert labelled_rows(y).tolist() == [True, True, False]


@pytest.mark.parametrize("counts", [[1], [0, 3, 0], [300], [2] * 50])
def test_generated_graphs_are_sound(counts: list[int]) -> None:
    """Edges stay inside their graph, and every size is what was asked for."""
    made = generate(INPUTS, counts)
    batch, (source, destination) = made["batch"], made["edge_index"]
    assert torch.equal(batch[source], batch[destination])
    assert torch.bincount(batch, minlength=len(counts)).tolist() == counts
    assert int(made[NUM_GRAPHS]) == len(counts)
    assert generate(INPUTS, counts, edges=False)["edge_index"].shape == (2, 0)
