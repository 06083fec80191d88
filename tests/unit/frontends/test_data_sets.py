from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data, InMemoryDataset, TemporalData
from torch_geometric.transforms import ToSparseTensor

from gnnexport.errors import DataError, GnnExportError, UnsupportedError
from gnnexport.frontends import memory
from gnnexport.frontends.data import check_task, load_data
from gnnexport.frontends.task import kind_of
from gnnexport.program.data import GraphData

SIZES = (3, 1, 4, 2)
"""Nodes of the graphs of the set; the second has no edges."""


def graphs(labels: str = "graph", **changes: Any) -> list[Data]:
    """Make a set of small graphs, rings of different sizes; a change is a function of a graph's size."""
    generator = torch.Generator().manual_seed(7)
    made = []
    for number, size in enumerate(SIZES):
        nodes = torch.arange(size) if size > 1 else torch.zeros(0, dtype=torch.int64)
        parts: dict[str, Any] = {
            "x": torch.rand(size, 2, generator=generator),
            "edge_index": torch.stack([nodes, (nodes + 1) % max(size, 1)]),
            "y": torch.tensor([number % 2]) if labels == "graph" else torch.arange(size) % 2,
        }
        parts.update({name: change(size) for name, change in changes.items()})
        made.append(Data(**{name: value for name, value in parts.items() if value is not None}))
    return made


def arrays(**changes: Any) -> dict[str, Any]:
    """Make the same set as arrays over all graphs, with changes; `None` leaves one out."""
    batch = Batch.from_data_list(graphs())
    edges = [graph.num_edges for graph in graphs()]
    good = {
        "x": batch.x.numpy(),
        "edge_index": batch.edge_index.numpy(),
        "y": batch.y.numpy(),
        "node_ptr": batch.ptr.numpy(),
        "edge_ptr": np.cumsum([0, *edges]),
        "train_mask": np.array([True, True, False, False]),
        "val_mask": np.array([False, False, True, False]),
        "test_mask": np.array([False, False, False, True]),
        **changes,
    }
    return {name: value for name, value in good.items() if value is not None}


def load(folder: Path, thing: Any, **options: Any) -> tuple[GraphData, list[str]]:
    """Write arrays as `.npz` or anything else as `.pt`, and load it."""
    if isinstance(thing, dict) and all(isinstance(value, np.ndarray) for value in thing.values()):
        np.savez(folder / "set.npz", **thing)
        return load_data(folder / "set.npz", **options)
    torch.save(thing, folder / "set.pt")
    return load_data(folder / "set.pt", **options)


def assert_same_set(data: GraphData, expected: GraphData) -> None:
    """Two sets have the same graphs and labels."""
    assert (data.level, data.num_graphs) == (expected.level, expected.num_graphs)
    assert data.inputs.keys() == expected.inputs.keys()
    assert all(torch.equal(data.inputs[name], value) for name, value in expected.inputs.items())
    assert data.y is not None
    assert expected.y is not None
    assert torch.equal(data.y, expected.y)


def test_a_set_as_arrays_is_one_disjoint_union(tmp_path: Path) -> None:
    """Pointers become the graph of each node, an empty graph stays, masks are per graph."""
    data, notes = load(tmp_path, arrays())
    assert (data.level, data.num_nodes, data.num_edges, data.num_graphs, notes) == ("graph", 10, 9, 4, [])
    assert data.inputs["batch"].tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3]
    assert data.inputs["num_graphs"].dtype is torch.int64
    assert data.inputs["num_graphs"].shape == ()
    assert check_task(data, "graph-classification") == []
    empty = arrays(
        node_ptr=np.array([0, 3, 3, 4, 8, 10]),
        edge_ptr=np.array([0, 3, 3, 3, 7, 9]),
        y=np.zeros(5, dtype=np.int64),
        **{f"{name}_mask": None for name in ("train", "val", "test")},
    )
    assert load(tmp_path, empty)[0].num_graphs == 5
    last = arrays(
        node_ptr=None, edge_ptr=None, batch=np.repeat(np.arange(4), SIZES), num_graphs=np.array(6),
        y=np.zeros(6, dtype=np.int64), **{f"{name}_mask": None for name in ("train", "val", "test")},
    )  # fmt: skip
    assert load(tmp_path, last)[0].num_graphs == 6


@pytest.mark.parametrize("trust", [False, True])
def test_every_form_of_a_set_is_the_same_set(trust: bool, tmp_path: Path) -> None:
    """A list, a tuple, a batch, and the file that a PyG data set saves give what the arrays give."""
    expected, _ = load(tmp_path, arrays())
    processed = tmp_path / "processed.pt"
    InMemoryDataset.save(graphs(), str(processed))
    with_sizes = torch.load(processed, weights_only=False)
    forms: list[Any] = [graphs(), tuple(graphs()), Batch.from_data_list(graphs()), with_sizes[:2]]
    forms.append((*with_sizes[:2], {"num_node_labels": 2}, Data))
    for thing in forms:
        assert_same_set(load(tmp_path, thing, trust=trust)[0], expected)
    assert_same_set(load_data(processed, trust=trust)[0], expected)


def test_a_set_without_a_split_gets_a_seeded_one(tmp_path: Path) -> None:
    """80/10/10 over graphs, not in their order, the same every time, and a note says so."""
    many = [Data(x=torch.ones(2, 1), edge_index=torch.zeros(2, 0, dtype=torch.int64), y=torch.tensor([i // 20]))
            for i in range(40)]  # fmt: skip
    data, notes = load(tmp_path, many)
    assert notes == ["data: no split; 32 graphs train, 4 validate, 4 test (80/10/10, seed 0)"]
    assert [int(data.masks[split].sum()) for split in ("train", "val", "test")] == [32, 4, 4]
    assert torch.equal(sum(mask.long() for mask in data.masks.values()), torch.ones(40, dtype=torch.int64))
    assert data.masks["test"].nonzero()[:, 0].tolist() != [36, 37, 38, 39]
    again, _ = load(tmp_path, many)
    assert all(torch.equal(again.masks[split], mask) for split, mask in data.masks.items())


def test_labels_of_nodes_in_a_set_are_split_by_graph(tmp_path: Path) -> None:
    """A set with a label for each node is about nodes, and no graph is both trained and tested."""
    data, _ = load(tmp_path, graphs("node"))
    assert (data.level, kind_of(data)) == ("node", "node-classification")
    for mask in data.masks.values():
        batch = data.inputs["batch"]
        assert all(len(set(mask[batch == graph].tolist())) == 1 for graph in range(4))


@pytest.mark.parametrize("form", ["dict", "tuple", "names"])
def test_lists_by_split_are_the_split(form: str, tmp_path: Path) -> None:
    """Three lists of graphs, by name or in order, keep their split."""
    train, val, test = graphs()[:2], graphs()[2:3], graphs()[3:]
    things: dict[str, Any] = {
        "dict": {"train": train, "val": val, "test": test},
        "tuple": (train, val, test),
        "names": {"test": test, "valid": val, "training": train},
    }
    data, notes = load(tmp_path, things[form])
    assert notes == []
    assert {split: mask.nonzero()[:, 0].tolist() for split, mask in data.masks.items()} == {
        "train": [0, 1],
        "val": [2],
        "test": [3],
    }


def test_missing_features_are_degrees(tmp_path: Path) -> None:
    """A set without node features has the in-degree of each node as its one feature, and a note says so."""
    data, notes = load(tmp_path, arrays(x=None))
    assert data.inputs["x"][:, 0].tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]
    assert notes == ["data: no node features; x is the in-degree of each node, float32 [num_nodes, 1]"]
    data, _ = load(tmp_path, graphs(x=lambda size: None, num_nodes=lambda size: size))
    assert data.inputs["x"].shape == (10, 1)


def test_the_one_graph_of_a_data_set_is_a_graph(tmp_path: Path) -> None:
    """A list of one graph with labels of nodes is that graph, with a label of its own a set of one."""
    one = graphs("node")[:1]
    assert load(tmp_path, one)[0].num_graphs is None
    InMemoryDataset.save(one, str(tmp_path / "data.pt"))
    assert load_data(tmp_path / "data.pt")[0].num_graphs is None
    assert load(tmp_path, graphs()[:1])[0].num_graphs == 1
    single, _ = load(tmp_path, graphs()[0], kind="graph-classification")
    assert (single.level, single.num_graphs) == ("graph", 1)


FORMS: dict[str, tuple[Any, str | None, str, torch.dtype, list[int]]] = {
    "classes": (torch.tensor([1]), None, "graph-classification", torch.int64, [4]),
    "column": (torch.tensor([[1]]), None, "graph-classification", torch.int64, [4]),
    "number": (1, None, "graph-classification", torch.int64, [4]),
    "real": (torch.tensor([0.5]), None, "graph-regression", torch.float32, [4]),
    "whole_real": (torch.tensor([1.0]), None, "graph-regression", torch.float32, [4]),
    "whole_real_classes": (torch.tensor([[1.0]]), "graph-classification", "graph-classification", torch.int64, [4]),
    "integer_targets": (torch.tensor([3]), "graph-regression", "graph-regression", torch.float32, [4]),
    "double": (torch.tensor([0.25], dtype=torch.float64), None, "graph-regression", torch.float32, [4]),
    "several": (torch.tensor([[1, 0, 1]]), None, "graph-classification", torch.float32, [4, 3]),
    "several_bool": (torch.tensor([[True, False]]), None, "graph-classification", torch.float32, [4, 2]),
    "targets": (torch.tensor([[0.5, 2.0]]), None, "graph-regression", torch.float32, [4, 2]),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_form_of_labels_tells_the_task(name: str, tmp_path: Path) -> None:
    """Integers are classes, columns of 0 and 1 several labels, floats targets; the kind decides what is open."""
    y, given, kind, dtype, shape = FORMS[name]
    data, _ = load(tmp_path, graphs(y=lambda size: y), kind=given)
    assert data.y is not None
    assert (data.level, data.y.dtype, list(data.y.shape)) == ("graph", dtype, shape)
    assert (given or kind_of(data)) == kind


def test_unknown_labels_are_in_no_mask(tmp_path: Path) -> None:
    """-1 among several labels and NaN among targets mean unknown; rows of these alone are left out of the masks."""
    for y in (np.array([[1, 0], [-1, -1], [1, -1], [0, 0]]), np.array([0.5, np.nan, 1, 2])):
        data, notes = load(tmp_path, arrays(y=y))
        assert data.masks["train"].tolist() == [True, False, False, False]
        assert notes == ["data: 1 unlabelled graphs left out of the train mask"]


def test_labels_of_nodes_and_of_graphs_are_told_apart_by_the_task(tmp_path: Path) -> None:
    """In a set of graphs of one node the number of labels says nothing; the kind does, else graphs are meant."""
    ones = [Data(x=torch.ones(1, 1), edge_index=torch.zeros(2, 0, dtype=torch.int64), y=torch.tensor([i])) for i in
            range(4)]  # fmt: skip
    levels = [load(tmp_path, ones, kind=kind)[0].level for kind in (None, "graph-classification", "node-regression")]
    assert levels == ["graph", "graph", "node"]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "ptr_down": ({"node_ptr": np.array([0, 4, 3, 8, 10])}, "node_ptr does not ascend from 0"),
    "ptr_start": ({"node_ptr": np.array([1, 3, 4, 8, 10])}, "node_ptr does not ascend from 0"),
    "ptr_negative": ({"node_ptr": np.array([0, -3, 4, 8, 10])}, "node_ptr does not ascend from 0"),
    "ptr_short": ({"node_ptr": np.array([0, 3, 4, 8, 9])}, "node_ptr ends at 9, but there are 10 nodes"),
    "ptr_float": ({"node_ptr": np.array([0.0, 3, 4, 8, 10])}, "node_ptr is float64, not an integer type"),
    "ptr_shape": ({"node_ptr": np.array([[0, 10]])}, r"node_ptr has shape \[1, 2\]"),
    "ptr_scalar": ({"node_ptr": np.array(10)}, r"node_ptr has shape \[\]"),
    "crossing": ({"node_ptr": np.array([0, 2, 4, 8, 10])}, "edge 1 leads from graph 0 to graph 1"),
    "edge_ptr_end": ({"edge_ptr": np.array([0, 3, 3, 7, 8])}, "edge_ptr ends at 8, but there are 9 edges"),
    "edge_ptr_place": ({"edge_ptr": np.array([0, 2, 3, 7, 9])}, "edge 2 stands among those of graph 1 but belongs to"),
    "edge_ptr_short": ({"edge_ptr": np.array([0, 3, 9])}, "edge_ptr is for 2 graphs, there are 4"),
    "edge_ptr_alone": ({"node_ptr": None, "y": None}, "has edge_ptr but neither batch nor node_ptr"),
    "batch_down": ({"batch": np.array([1, 0, 0, 1, 2, 2, 2, 2, 3, 3])}, "batch is not ascending"),
    "batch_long": ({"batch": np.zeros(11, dtype=np.int64)}, r"batch has shape \[11\] for 10 nodes"),
    "batch_negative": ({"batch": np.full(10, -1)}, "batch holds -1"),
    "batch_huge": ({"batch": np.full(10, 2**60)}, "batch holds 1152921504606846976"),
    "batch_float": ({"batch": np.zeros(10)}, "batch is float64"),
    "batch_other": ({"batch": np.zeros(10, dtype=np.int64)}, "batch and node_ptr disagree"),
    "count_small": ({"num_graphs": np.array(3)}, "num_graphs is 3, but the nodes belong to 4 graphs"),
    "count_large": ({"num_graphs": np.array(5)}, "num_graphs is 5, but the nodes belong to 4 graphs"),
    "count_shape": ({"num_graphs": np.array([4, 4])}, "num_graphs is"),
    "labels_short": ({"y": np.zeros(3, dtype=np.int64)}, r"y has shape \[3\] for 10 nodes and 4 graphs"),
    "labels_many": ({"y": np.array([[0, 2]] * 4)}, r"y is int64 \[4, 2\] with the value 2"),
    "labels_deep": ({"y": np.zeros((4, 2, 2))}, r"y has shape \[4, 2, 2\]"),
    "labels_infinite": ({"y": np.full(4, np.inf)}, "y holds infinite values"),
    "labels_huge": ({"y": np.full(4, 2**40)}, "y holds the label 1099511627776"),
    "mask_nodes": ({"train_mask": np.zeros(10, dtype=bool)}, r"train_mask has shape \[10\] for 4 graphs"),
    "attr_rows": ({"edge_attr": np.zeros((8, 2))}, r"edge_attr has shape \[8, 2\] for 9 edges"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_sets_are_named_with_their_mend(name: str, tmp_path: Path) -> None:
    """Each fault of a set as arrays is an error of exit code 2 that names the fault and how to mend it."""
    changes, words = FAULTS[name]
    with pytest.raises(DataError, match=words) as caught:
        load(tmp_path, arrays(**changes))
    assert caught.value.exit_code == 2
    assert caught.value.problems[0].mend


def odd_one(**changes: Any) -> list[Data]:
    """Change only the last graph of the set."""
    made = graphs()
    for name, value in changes.items():
        if value is None:
            del made[-1][name]
        else:
            made[-1][name] = value
    return made


ODD: dict[str, tuple[Any, str]] = {
    "width": (odd_one(x=torch.ones(2, 3)), r"x has shape \[2, 3\] in graph 3 and \[3, 2\] in graph 0"),
    "lacks": (odd_one(y=None), "graph 0 has y, graph 3 has not"),
    "more": (odd_one(edge_weight=torch.ones(2)), "graph 3 has edge_weight, graph 0 has not"),
    "outside": (
        odd_one(edge_index=torch.tensor([[0], [2]])),
        "graph 3: edge_index holds 2 where the graph has 2 nodes",
    ),
    "negative": (odd_one(edge_index=torch.tensor([[0], [-1]])), "graph 3: edge_index holds -1"),
    "float": (odd_one(edge_index=torch.ones(2, 1)), "graph 3: edge_index is float32, not an integer type"),
    "turned": (odd_one(edge_index=torch.ones(3, 2, dtype=torch.int64)), "graph 3: .*Transpose it"),
    "labels": (odd_one(y=torch.tensor([1, 2, 3])), "y has shape"),
    "text": (odd_one(y="one"), "graph 3: y is a str, not a tensor"),
    "nothing": ([], "holds no graph"),
    "numbers": ([1, 2], r"holds several objects, not one graph or a list of graphs \(int\)"),
    "mixed": ([graphs()[0], 1], r"\(graph, int\)"),
    "number": (1, "holds a int, not a graph"),
    "other": ({"a": torch.ones(1)}, "none of its entries is known"),
    "split": ({"train": 1, "test": graphs()}, "its train split is not a list of graphs"),
    "twice": ({"val": graphs(), "valid": graphs()}, "names a split twice"),
    "empty_split": ({"train": [], "test": []}, "holds no graph"),
    "slices": (({"x": torch.ones(4, 1)}, {"x": torch.tensor([0, 3, 2, 4])}), "slices of x do not cut it into 3 graphs"),
    "slices_end": (({"x": torch.ones(4, 1)}, {"x": torch.tensor([0, 3])}), "slices of x do not cut it into 1 graphs"),
    "slices_none": (({"x": torch.ones(4, 1)}, {"x": torch.tensor([0])}), "holds no graph"),
    "slices_float": (({"x": torch.ones(4, 1)}, {"x": torch.tensor([0.0, 4.0])}), "slices of x"),
    "no_edges": ([Data(x=torch.ones(2, 1)), Data(x=torch.ones(2, 1))], "has no edges 'edge_index'"),
    "no_nodes": ([Data(x=torch.ones(0, 1), edge_index=torch.zeros(2, 0).long())] * 2, "the graph is empty"),
    "no_slices": (
        ({"x": torch.ones(4, 1), "y": torch.ones(2)}, {"x": torch.tensor([0, 3, 4])}),
        "no slices for y, so it is not known which part",
    ),
    "endless_edges": ([{"edge_index": torch.full((2, 1), float("inf"))}] * 2, "graph 0: edge_index is float32"),
    "many_counts": (
        [{"num_nodes": torch.ones(2), "pos_edge_label_index": torch.ones(2, 2)}] * 3,
        "num_nodes is not one",
    ),
    "num_nodes": ([Data(num_nodes=-1, edge_index=torch.zeros(2, 0).long())] * 2, "num_nodes is not one number"),
}


@pytest.mark.parametrize("trust", [False, True], ids=["safe", "trusted"])
@pytest.mark.parametrize("name", ODD)
def test_graphs_that_do_not_go_together_are_named(name: str, trust: bool, tmp_path: Path) -> None:
    """A list whose graphs differ says which graph and what, and things that are no graphs are named."""
    thing, words = ODD[name]
    with pytest.raises(DataError, match=words) as caught:
        load(tmp_path, thing, trust=trust)
    assert caught.value.exit_code == 2
    assert caught.value.problems[0].mend


TRUSTED: dict[str, tuple[Any, str]] = {
    "complex": ([{"num_nodes": torch.tensor(2j), "edge_index": torch.zeros(2, 0).long()}] * 2, "num_nodes is not one"),
    "meta": ([{"x": torch.ones(2, 1, device="meta"), "pos_edge_label_index": torch.zeros(2, 0)}] * 3, "no values"),
}


@pytest.mark.parametrize("name", TRUSTED)
def test_odd_tensors_in_a_trusted_list_are_named(name: str, tmp_path: Path) -> None:
    """Only a trusted file can hold these; graphs are compared with one another before they are checked."""
    thing, words = TRUSTED[name]
    with pytest.raises(DataError, match=words):
        load(tmp_path, thing, trust=True)


def test_counts_of_nodes_are_not_believed_beyond_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes can claim any number of nodes: all graphs together are counted before anything is made."""
    edges = torch.tensor([[0], [1]])
    with pytest.raises(DataError, match=r"its graphs have 3298534883328 nodes together\. Correct num_nodes"):
        load(tmp_path, [Data(num_nodes=2**30, edge_index=edges)] * 3072)
    monkeypatch.setattr(memory, "memory_bytes", lambda: 20_000_000)
    with pytest.raises(DataError, match="2000000 nodes in 2 graphs would take"):
        load(tmp_path, [Data(num_nodes=10**6, edge_index=edges)] * 2)


@pytest.mark.parametrize("trust", [False, True], ids=["safe", "trusted"])
def test_graphs_without_features_keep_their_nodes_in_every_form(trust: bool, tmp_path: Path) -> None:
    """Laid side by side by PyG, as a batch or in a data set's file, graphs keep the nodes that no edge touches."""
    made = [Data(edge_index=torch.tensor([[0], [1]]), num_nodes=n, y=torch.tensor([n % 2])) for n in (3, 2, 5)]
    joined, slices = InMemoryDataset.collate(made)
    for thing in (made, Batch.from_data_list(made), (joined, slices), (joined.to_dict(), slices, Data)):
        data, _ = load(tmp_path, thing, trust=trust)
        assert torch.bincount(data.inputs["batch"]).tolist() == [3, 2, 5]


def temporal() -> TemporalData:
    """Make a stream of events."""
    return TemporalData(src=torch.tensor([0]), dst=torch.tensor([1]), t=torch.tensor([3]))


def sparse() -> Data:
    """Make a graph with its edges as a matrix."""
    with warnings.catch_warnings():
        # torch says that its sparse tensors are in beta, once in a process.
        warnings.simplefilter("ignore")
        return ToSparseTensor()(graphs()[0])


def meta() -> Data:
    """Make a graph without values."""
    return Data(x=torch.ones(2, 2, device="meta"), edge_index=torch.tensor([[0], [1]]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (temporal, "TemporalData.*Give a graph of one moment"),
        (sparse, "(sparse tensor|matrix adj_t).*ToSparseTensor"),
        (meta, "values.*on the CPU, not on the device 'meta'"),
    ],
)
@pytest.mark.parametrize("trust", [False, True], ids=["safe", "trusted"])
@pytest.mark.parametrize("listed", [False, True], ids=["one", "list"])
def test_other_kinds_of_graphs_are_refused(make: Any, words: str, trust: bool, listed: bool, tmp_path: Path) -> None:
    """Graphs with times, with a sparse matrix or without values say which way in remains."""
    thing = make()
    with pytest.raises(GnnExportError, match=words) as caught:
        load(tmp_path, [thing, thing] if listed else thing, trust=trust)
    assert isinstance(caught.value, UnsupportedError | DataError)


def test_what_pyg_caches_in_a_graph_is_read_past(tmp_path: Path) -> None:
    """PyG remembers which attributes are of nodes or edges, in a file too; it changes nothing."""
    graph = graphs()[0]
    expected, _ = load(tmp_path, [graph, graph])
    assert graph.is_node_attr("x")
    assert vars(graph._store)["_cached_attr"]
    assert_same_set(load(tmp_path, [graph, graph])[0], expected)
