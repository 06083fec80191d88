from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from gnnexport.bundle.golden import GoldenCase, LawCheck
from gnnexport.bundle.manifest import Tensor
from gnnexport.conformance.graphs import MIXED, Topology, adversarial_graphs, many_nodes, shuffled
from gnnexport.conformance.laws import LAWS, derive

X = Tensor(name="x", dtype="float32", shape=("num_nodes", 2), role="node_features")
EDGES = Tensor(name="edge_index", dtype="int64", shape=(2, "num_edges"), role="edge_index")
WEIGHT = Tensor(name="edge_weight", dtype="float32", shape=("num_edges",), role="edge_weight")
IDS = Tensor(name="batch", dtype="int64", shape=("num_nodes",), role="graph_ids")
COUNT = Tensor(name="num_graphs", dtype="int64", shape=(), role="num_graphs")
PAIRS = Tensor(name="edge_label_index", dtype="int64", shape=(2, "num_pairs"), role="label_edges")
INPUTS = (X, EDGES, WEIGHT, IDS, COUNT, PAIRS)

Arrays = Mapping[str, NDArray[np.generic]]
Model = Callable[[Arrays], NDArray[np.generic]]


def case() -> GoldenCase:
    """A request about the graphs in which everything stands side by side."""
    graph = adversarial_graphs()[MIXED]
    random = np.random.default_rng(0)
    nodes, edges = graph.num_nodes, graph.edges.shape[1]
    inputs = {
        "x": random.normal(size=(nodes, 2)).astype(np.float32),
        "edge_index": graph.edges,
        "edge_weight": random.random(edges).astype(np.float32),
        "batch": np.repeat(np.arange(len(graph.sizes)), graph.sizes),
        "num_graphs": np.array(len(graph.sizes)),
        "edge_label_index": random.integers(0, nodes, (2, 9)),
    }
    return GoldenCase(MIXED, inputs, {}, None, graph.sizes)


def summed(request: Arrays) -> NDArray[np.generic]:
    """Sum weighted neighbours."""
    out = np.zeros_like(request["x"], dtype=np.float64)
    source, destination = request["edge_index"]
    np.add.at(out, destination, request["x"][source] * request["edge_weight"][:, None])
    return out


def read_out(request: Arrays) -> NDArray[np.generic]:
    """Sum the nodes of each graph."""
    out = np.zeros((int(request["num_graphs"]), 2))
    np.add.at(out, request["batch"], summed(request) ** 2)
    return out


def paired(request: Arrays) -> NDArray[np.generic]:
    """Multiply the rows of each pair."""
    rows = summed(request)[request["edge_label_index"]]
    return rows[0] * rows[1]


def last_edge(request: Arrays) -> NDArray[np.generic]:
    """Keep of each node the last message: edges in another order answer otherwise."""
    out = np.zeros_like(request["x"])
    out[request["edge_index"][1]] = request["x"][request["edge_index"][0]]
    return out


def numbered(request: Arrays) -> NDArray[np.generic]:
    """Add to each node its number."""
    return request["x"] + np.arange(len(request["x"]))[:, None]


def batch_wide(request: Arrays) -> NDArray[np.generic]:
    """Take the mean of all graphs away."""
    return request["x"] - request["x"].mean(0)


def largest_error(law: str, model: Model, rows: str) -> float:
    """Run a law on a model; returns how far answers are apart that have to be the same."""
    check, given = LawCheck(law, MIXED, seed=4), case()
    base, worst = model(given.feeds()), 0.0
    for changed in derive(check, given, INPUTS, rows):
        answer = model(changed.feeds)
        wanted = base if changed.base is None else base[changed.base]
        found = answer if changed.rows is None else answer[changed.rows]
        assert wanted.shape == found.shape
        worst = max(worst, float(np.abs(wanted - found).max()))
    return worst


@pytest.mark.parametrize("law", ["node-permutation", "edge-order", "graphs-alone", "pair-order", "int32-indices"])
@pytest.mark.parametrize(("model", "rows"), [(summed, "num_nodes"), (read_out, "num_graphs"), (paired, "num_pairs")])
def test_message_passing_obeys_the_laws(law: str, model: Model, rows: str) -> None:
    """Sums over neighbours, readouts and pairs of them obey every law; graphs with pairs between them stay together."""
    if (law, rows) != ("graphs-alone", "num_pairs"):
        assert largest_error(law, model, rows) < 1e-5


@pytest.mark.parametrize(
    ("law", "model"), [("edge-order", last_edge), ("node-permutation", numbered), ("graphs-alone", batch_wide)]
)
def test_laws_can_be_broken(law: str, model: Model) -> None:
    """What depends on the order of edges, on the numbers of nodes or on other graphs breaks the law about it."""
    assert largest_error(law, model, "num_nodes") > 0.1


def test_a_changed_node_must_not_reach_further() -> None:
    """Rows that have to stay are compared, and only those."""
    given = case()
    touched = given.feeds()["edge_index"][1][given.feeds()["edge_index"][0] == 9]
    still = np.setdiff1d(np.arange(len(given.feeds()["x"])), touched)
    check = LawCheck("row-locality", MIXED, node=9, still=still)
    (changed,) = derive(check, given, INPUTS, "num_nodes")
    before, after = summed(given.feeds()), summed(changed.feeds)
    assert np.array_equal(before[changed.base], after[changed.rows])
    assert (before[touched] != after[touched]).any()


def test_kinds_of_nodes_and_edges_are_shuffled_apart() -> None:
    """Where there are several kinds, nodes of each are renumbered and edges of each are put in another order."""
    inputs = (
        Tensor(name="x__a", dtype="float32", shape=("num_nodes__a", 1), role="node_features"),
        Tensor(name="x__b", dtype="float32", shape=("num_nodes__b", 1), role="node_features"),
        Tensor(
            name="edge_index__a__to__b", dtype="int64", shape=(2, "num_edges__a__to__b"), role="edge_index",
            ends=("num_nodes__a", "num_nodes__b"),
        ),
    )  # fmt: skip
    random = np.random.default_rng(1)
    edges = np.stack([random.integers(0, 5, 12), random.integers(0, 8, 12)])
    given = GoldenCase(
        "kinds", {"x__a": random.random((5, 1)), "x__b": random.random((8, 1)), inputs[2].name: edges}, {}
    )

    def reached(request: Arrays) -> NDArray[np.generic]:
        out = request["x__b"].copy()
        np.add.at(out, request[inputs[2].name][1], request["x__a"][request[inputs[2].name][0]])
        return out

    for law in ("node-permutation", "edge-order"):
        (changed,) = derive(LawCheck(law, "kinds", seed=2), given, inputs, "num_nodes__b")
        base = reached(given.feeds())
        assert not np.array_equal(changed.feeds[inputs[2].name], edges)
        np.testing.assert_allclose(reached(changed.feeds), base if changed.base is None else base[changed.base])


def test_every_law_says_what_it_is() -> None:
    """Names are those of the table, and each has words for people."""
    assert all(name == law.name and law.what for name, law in LAWS.items())


@pytest.mark.parametrize("name", [*adversarial_graphs(), "many nodes"])
def test_edges_stay_inside_their_graph(name: str) -> None:
    """No made-up edge joins two graphs, or a node that there is not."""
    graph: Topology = many_nodes() if name == "many nodes" else adversarial_graphs()[name]
    owner = np.repeat(np.arange(len(graph.sizes)), graph.sizes)
    assert graph.edges.dtype == np.int64
    assert graph.edges.shape[0] == 2
    assert (owner[graph.edges[0]] == owner[graph.edges[1]]).all()


def test_graphs_hold_what_their_names_say() -> None:
    """Duplicates, loops at some nodes only, isolated nodes, no node at both ends, products beyond 31 bits."""
    graphs = adversarial_graphs()
    assert graphs["one node, no edges"].edges.shape == (2, 0)
    pairs = graphs["duplicate edges"].edges
    assert len(np.unique(pairs, axis=1).T) < pairs.shape[1]
    loops = graphs["self-loops on some nodes"]
    looped = np.unique(loops.edges[0][loops.edges[0] == loops.edges[1]])
    assert 0 < len(looped) < loops.num_nodes
    assert len(np.unique(graphs["isolated nodes"].edges)) < graphs["isolated nodes"].num_nodes - 4
    assert not set(graphs["one-way edges"].edges[0]) & set(graphs["one-way edges"].edges[1])
    many = many_nodes()
    assert many.num_nodes * many.edges.shape[1] > 2**31


def test_orders_are_permutations() -> None:
    """Every number stands in an order once, and another seed gives another order."""
    assert sorted(shuffled(20, 1)) == list(range(20))
    assert not np.array_equal(shuffled(20, 1), shuffled(20, 2))
