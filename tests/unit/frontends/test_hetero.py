"""Graphs with several kinds of nodes and edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from gnnexport.errors import DataError, UnsafeFileError, UnsupportedError
from gnnexport.frontends.data import load_data
from gnnexport.frontends.hetero import by_type, suffix_for

WRITES = ("author", "writes", "paper")


def graph() -> HeteroData:
    """Make two authors and three papers, of which only the papers have labels."""
    made = HeteroData()
    made["paper"].x = torch.arange(6.0).reshape(3, 2)
    made["paper"].y = torch.tensor([0, 1, -1])
    for place, name in enumerate(("train", "val", "test")):
        made["paper"][f"{name}_mask"] = torch.arange(3) == place
    made["author"].x = torch.ones(2, 4)
    made["author"].born = torch.tensor([1970, 1980])
    made[WRITES].edge_index = torch.tensor([[0, 1, 1], [1, 2, 2]])
    made["paper", "by-hand", "author"].edge_index = torch.tensor([[0], [1]])
    return made


def saved(folder: Path, made: Any) -> Path:
    """Write a graph as PyG users do."""
    torch.save(made, folder / "graph.pt")
    return folder / "graph.pt"


@pytest.mark.parametrize("trust", [False, True], ids=["safe", "trusted"])
def test_every_array_is_named_with_its_kind(trust: bool, tmp_path: Path) -> None:
    """The kind with labels is the one judged; PyG's names of kinds are kept, whatever they are made of."""
    data, notes = load_data(saved(tmp_path, graph()), trust=trust)
    names = ["x__paper", "x__author", "edge_index__author__writes__paper", "edge_index__paper__by_hand__author"]
    assert list(data.inputs) == names
    assert [data.keys[name] for name in names] == ["paper", "author", WRITES, ("paper", "by-hand", "author")]
    assert (data.target, data.level, data.num_nodes, data.num_edges) == ("__paper", "node", 5, 4)
    assert data.sizes["num_edges__author__writes__paper"] == 3
    assert data.y is not None
    assert data.y.tolist() == [0, 1, -1]
    assert {name: int(mask.sum()) for name, mask in data.masks.items()} == {"train": 1, "val": 1, "test": 0}
    assert notes == ["data: 1 unlabelled nodes left out of the test mask", "data: not used: 'born__author'"]


def test_an_npz_names_its_arrays_alike(tmp_path: Path) -> None:
    """The names say which kind an array is of."""
    read, _ = load_data(saved(tmp_path, graph()))
    arrays = {name: value.numpy() for name, value in read.inputs.items()}
    np.savez(tmp_path / "graph.npz", y__paper=np.array([0, 1, -1]), other=np.ones(2), **arrays)
    data, notes = load_data(tmp_path / "graph.npz")
    assert data.keys["edge_index__paper__by_hand__author"] == ("paper", "by_hand", "author")
    assert all(torch.equal(data.inputs[name], value) for name, value in read.inputs.items())
    assert (data.target, notes) == ("__paper", ["data: not used: 'other'"])


def spoiled(**changes: Any) -> HeteroData:
    """Return the graph with other attributes of papers, or other edges."""
    made = graph()
    for name, value in changes.items():
        store = made[WRITES] if name.startswith("edge") else made["paper"]
        store[name] = value
    return made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(3)}, r"paper: x has shape \[3\]"),
        ({"edge_index": torch.tensor([[0], [3]])}, "edge index 3 out of range for 3 nodes of the kind 'paper'"),
        ({"edge_index": torch.tensor([[2], [0]])}, "edge index 2 out of range for 2 nodes of the kind 'author'"),
        ({"edge_index": torch.ones(2, 1)}, "author__writes__paper: edge_index is float32, not an integer type"),
        ({"edge_index": torch.ones(3, 2, dtype=torch.int64)}, r"edge_index has shape \[3, 2\]"),
        ({"edge_attr": torch.ones(2, 1)}, r"edge_attr has shape \[2, 1\] for 3 edges"),
        ({"y": torch.tensor([0, 1])}, r"paper: y has shape \[2\] for 3 nodes"),
    ],
)
def test_faults_name_their_kind(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A message says at which kind of nodes or edges to look."""
    with pytest.raises(DataError, match=message):
        load_data(saved(tmp_path, spoiled(**changes)))


def test_labels_of_several_kinds_and_kinds_without_features(tmp_path: Path) -> None:
    """One kind is judged, and every kind that edges join has features."""
    made = graph()
    made["author"].y = torch.tensor([0, 1])
    data, notes = load_data(saved(tmp_path, made))
    assert data.target == "__paper"
    assert "data: labels of the kind 'author' are not used: it has no masks" in notes
    made["author"].train_mask = torch.tensor([True, False])
    with pytest.raises(DataError, match="labels for several kinds of nodes: paper and author"):
        load_data(saved(tmp_path, made))
    made = graph()
    del made["author"].x
    made["author"].num_nodes = 2
    with pytest.raises(DataError, match="author: has no node features 'x'"):
        load_data(saved(tmp_path, made))
    made = graph()
    made["author", "in", "town"].edge_index = torch.tensor([[0], [0]])
    with pytest.raises(DataError, match=r"nodes of the kind 'town', of which there are no features.*Add x__town"):
        load_data(saved(tmp_path, made))


def test_kinds_that_names_cannot_tell_apart(tmp_path: Path) -> None:
    """Two kinds of one name after what cannot stand in a name is taken out are refused, as is a kind of no letters."""
    assert suffix_for(("a b", "c-d", "e__f")) == "__a_b__c_d__e_f"
    assert suffix_for("--") is suffix_for(7) is suffix_for(("a", "b")) is None
    made = graph()
    made["author", "by_hand", "paper"].edge_index = torch.tensor([[0], [0]])
    made["author", "by-hand", "paper"].edge_index = torch.tensor([[0], [0]])
    with pytest.raises(DataError, match=r"by.hand.*Give every kind a name of its own"):
        load_data(saved(tmp_path, made))


def test_several_such_graphs_are_refused(tmp_path: Path) -> None:
    """One in a list is read; a set of them is not supported, and the message says what is."""
    assert load_data(saved(tmp_path, [graph()]))[0].num_nodes == 5
    with pytest.raises(UnsupportedError, match=r"several graphs of several kinds of nodes.*to_homogeneous"):
        load_data(saved(tmp_path, [graph(), graph()]))


@pytest.mark.parametrize("place", ["_global_store", "to_dict"])
def test_what_stands_in_front_of_methods_is_refused(place: str, tmp_path: Path) -> None:
    """A file may not bring attributes of its own for what PyG's classes define."""
    made = graph()
    vars(made if place == "to_dict" else made["paper"])[place] = 1
    with pytest.raises(UnsafeFileError, match="stands in front of its methods"):
        load_data(saved(tmp_path, made))


def typed(folder: Path, **changes: Any) -> Path:
    """Write the graph of authors and papers with types as numbers; two kinds lie mixed."""
    arrays = {
        "x": np.arange(10, dtype=np.float32).reshape(5, 2),
        "node_type": np.array([1, 0, 1, 0, 0]),
        "edge_index": np.array([[1, 3, 0, 2], [0, 2, 3, 4]]),
        "edge_type": np.array([0, 0, 1, 1]),
        "edge_weight": np.arange(4, dtype=np.float32),
        "y": np.array([2, -1, 0, -1, -1]),
        "test_mask": np.array([False, False, True, False, False]),
        **changes,
    }
    np.savez(folder / "typed.npz", **arrays)
    return folder / "typed.npz"


def test_types_become_kinds(tmp_path: Path) -> None:
    """Nodes are counted within their type, edges and labels follow them."""
    data = by_type(load_data(typed(tmp_path))[0])
    assert {name: value.tolist() for name, value in data.inputs.items()} == {
        "x__0": [[2, 3], [6, 7], [8, 9]],
        "x__1": [[0, 1], [4, 5]],
        "edge_index__0__0__1": [[0, 1], [0, 1]],
        "edge_weight__0__0__1": [0, 1],
        "edge_index__1__1__0": [[0, 1], [1, 2]],
        "edge_weight__1__1__0": [2, 3],
    }
    assert data.keys["x__0"] == "0"
    assert data.keys["edge_weight__1__1__0"] == ("1", "1", "0")
    assert data.y is not None
    assert (data.target, data.y.tolist(), data.masks["test"].tolist()) == ("__1", [2, 0], [False, True])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edge_type": np.zeros(4, np.int64)}, "edges of type 0 join nodes of several types"),
        ({"y": np.array([2, 1, 0, -1, -1])}, r"nodes of the types \[0, 1\] have labels"),
    ],
)
def test_types_that_are_no_kinds(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Each type of edges joins one kind of nodes with one, and one kind has labels."""
    with pytest.raises(DataError, match=message):
        by_type(load_data(typed(tmp_path, **changes))[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": np.zeros(5, np.int64), "num_graphs": np.array(2)},
        {"num_graphs": np.array(2), "batch": np.zeros(5, np.int64), "y": np.array([0, 1]), "test_mask": np.ones(2)},
        {"edge_label_index": np.array([[0], [1]]), "edge_label": np.array([1]), "test_mask": np.array([True])},
    ],
    ids=["graphs", "labels of graphs", "pairs"],
)
def test_types_of_several_graphs_or_pairs_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    """Kinds are those of one graph and its nodes; a model that takes the types themselves takes the rest too."""
    data, _ = load_data(typed(tmp_path, **changes))
    with pytest.raises(UnsupportedError, match=r"typed: is a set of graphs, or judged by graphs or pairs.*node_type"):
        by_type(data)
