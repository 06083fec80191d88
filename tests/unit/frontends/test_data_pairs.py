from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import RandomLinkSplit

from gnnexport.errors import DataError
from gnnexport.frontends.data import check_task, load_data
from gnnexport.frontends.task import kind_of
from gnnexport.program.data import GraphData


def ring(size: int = 40) -> Data:
    """Make a ring with labels of nodes, both directions of every edge."""
    nodes = torch.arange(size)
    there = torch.stack([nodes, (nodes + 1) % size])
    edges = torch.cat([there, there.flip(0)], dim=1)
    features = torch.rand(size, 3, generator=torch.Generator().manual_seed(0))
    return Data(x=features, edge_index=edges, y=nodes % 2)


def parts(**options: Any) -> tuple[Data, Data, Data]:
    """Split the ring's edges as PyG does."""
    torch.manual_seed(1)
    return RandomLinkSplit(is_undirected=True, num_val=0.2, num_test=0.2, **options)(ring())


def load(folder: Path, thing: Any, **options: Any) -> tuple[GraphData, list[str]]:
    """Save and load."""
    torch.save(thing, folder / "pairs.pt")
    return load_data(folder / "pairs.pt", **options)


@pytest.mark.parametrize("trust", [False, True], ids=["safe", "trusted"])
@pytest.mark.parametrize("form", ["tuple", "list", "dict", "apart"])
def test_the_parts_of_a_random_link_split_are_one_graph(form: str, trust: bool, tmp_path: Path) -> None:
    """Pairs of all parts under masks; all are predicted from the training edges, and a note says so."""
    train, val, test = parts(split_labels=form == "apart")
    forms = {"list": [train, val, test], "dict": {"test": test, "train": train, "val": val}}
    data, notes = load(tmp_path, forms.get(form, (train, val, test)), trust=trust)
    assert (data.level, kind_of(data)) == ("pair", "link-prediction")
    assert torch.equal(data.inputs["edge_index"], train.edge_index)
    assert notes[0].startswith("data: the test graph has other edges; its pairs are predicted from the training edges")
    for name, part in (("train", train), ("val", val), ("test", test)):
        mask = data.masks[name]
        assert data.y is not None
        if form == "apart":
            pairs = torch.cat([part.pos_edge_label_index, part.neg_edge_label_index], dim=1)
            assert int(data.y[mask].sum()) == part.pos_edge_label_index.shape[1]
        else:
            pairs = part.edge_label_index
            assert torch.equal(data.y[mask], part.edge_label.to(torch.int64))
        assert torch.equal(data.inputs["edge_label_index"][:, mask], pairs)
    assert check_task(data, "link-prediction") == []


def one(**changes: Any) -> dict[str, Any]:
    """Make the arrays of a ring with pairs under masks."""
    graph = ring(6)
    pairs = np.array([[0, 1, 2, 3, 4, 5], [1, 3, 3, 5, 5, 2]])
    place = np.array([0, 0, 1, 1, 2, 2])
    good: dict[str, Any] = {
        "x": graph.x.numpy(),
        "edge_index": graph.edge_index.numpy(),
        "edge_label_index": pairs,
        "edge_label": np.array([1.0, 0, 1, 0, 1, 0]),
        **{f"{name}_mask": place == number for number, name in enumerate(("train", "val", "test"))},
        **changes,
    }
    return {name: value for name, value in good.items() if value is not None}


def load_arrays(folder: Path, **changes: Any) -> GraphData:
    """Write the arrays and load them."""
    np.savez(folder / "pairs.npz", **one(**changes))
    return load_data(folder / "pairs.npz")[0]


def test_one_graph_with_pairs(tmp_path: Path) -> None:
    """Pairs with labels and masks in one file; `y` may hold the labels too, and node labels step back."""
    data = load_arrays(tmp_path)
    assert data.y is not None
    assert (data.level, data.y.dtype, data.y.tolist()) == ("pair", torch.int64, [1, 0, 1, 0, 1, 0])
    assert check_task(data, "link-prediction") == []
    longer = {"edge_label_index": np.zeros((2, 8), dtype=np.int64), "edge_label": None, "y": np.arange(8) % 2}
    assert load_arrays(tmp_path, **longer, train_mask=None, val_mask=None, test_mask=None).level == "pair"
    np.savez(tmp_path / "pairs.npz", **one(y=np.arange(6)))
    assert load_data(tmp_path / "pairs.npz", kind="node-classification")[0].level == "node"


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "none": (
        {"edge_label_index": np.zeros((2, 0), int), "edge_label": None}
        | dict.fromkeys(("train_mask", "val_mask", "test_mask")),
        "edge_label_index holds no pairs. Give the pairs",
    ),
    "outside": ({"edge_label_index": np.full((2, 6), 6)}, "edge_label_index: node 6 out of range for 6 nodes"),
    "float": ({"edge_label_index": np.zeros((2, 6))}, "edge_label_index is float64, not an integer type"),
    "turned": ({"edge_label_index": np.zeros((6, 2), dtype=np.int64)}, r"shape \[6, 2\]. Transpose it"),
    "labels": ({"edge_label": np.zeros(5)}, r"edge_label has shape \[5\] for 6 nodes and 6 pairs"),
    "masks": ({"test_mask": np.zeros(4, dtype=bool)}, r"test_mask has shape \[4\] for 6 pairs"),
    "shared": ({"test_mask": np.ones(6, dtype=bool)}, "2 pairs are in both the train and the test mask"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_pairs_are_named(name: str, tmp_path: Path) -> None:
    """Each fault of pairs is named with its mend."""
    changes, words = FAULTS[name]
    with pytest.raises(DataError, match=words) as caught:
        load_arrays(tmp_path, **changes)
    assert caught.value.problems[0].mend


def test_parts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """A part whose labels are too few, and pairs of a wrong shape."""
    train, val, test = parts()
    val.edge_label = val.edge_label[:-1]
    with pytest.raises(DataError, match=r"pairs.pt: val: edge_label_index has shape .*one label for each pair"):
        load(tmp_path, (train, val, test))
    train, val, test = parts(split_labels=True)
    val.pos_edge_label_index = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(DataError, match=r"val: pos_edge_label_index has shape \[3\]"):
        load(tmp_path, (train, val, test))
    with pytest.raises(DataError, match="has pairs but no train split"):
        load(tmp_path, {"val": parts()[1], "test": parts()[2]})


@pytest.mark.parametrize("trust", [False, True], ids=["safe", "trusted"])
def test_the_labels_that_a_split_stores_are_kept(trust: bool, tmp_path: Path) -> None:
    """Rated edges whose positive pairs stand apart keep their ratings; so do negative pairs."""
    graph = Data(x=torch.rand(6, 2), edge_index=torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]]))
    graph.edge_label = torch.tensor([0, 1, 2, 3, 4, 4])
    torch.manual_seed(3)
    made = RandomLinkSplit(num_val=0.2, num_test=0.2, split_labels=True)(graph)
    data, _ = load(tmp_path, made, trust=trust)
    expected = [part[f"{sign}_edge_label"] for part in made for sign in ("pos", "neg") if f"{sign}_edge_label" in part]
    assert data.y is not None
    assert data.y.tolist() == torch.cat(expected).tolist()
    assert max(data.y.tolist()) > 1
    made[1].pos_edge_label = torch.ones(7)
    with pytest.raises(DataError, match=r"val: pos_edge_label has shape \[7\] for 1 pairs\. Give one label"):
        load(tmp_path, made, trust=trust)


def test_three_graphs_with_pairs_are_a_set(tmp_path: Path) -> None:
    """Three graphs of different nodes are no split: pairs count over the whole set."""
    graphs = []
    for size in (4, 5, 6):
        graph = ring(size)
        graph.edge_label_index, graph.edge_label = torch.tensor([[0, 1], [1, 3]]), torch.tensor([1, 0])
        graphs.append(graph)
    data, _ = load(tmp_path, graphs)
    assert (data.num_graphs, data.level) == (3, "pair")
    assert data.inputs["edge_label_index"].tolist() == [[0, 1, 4, 5, 9, 10], [1, 3, 5, 7, 10, 12]]


def test_pairs_kept_apart_in_an_npz_are_told(tmp_path: Path) -> None:
    """Arrays are given joined, with `edge_label`; what is left of a split is not lost without a word."""
    train = parts(split_labels=True)[0]
    names = ("x", "edge_index", "pos_edge_label_index", "neg_edge_label_index", "pos_edge_label")
    np.savez(tmp_path / "pairs.npz", **{name: train[name].numpy() for name in names if name in train})
    _, notes = load_data(tmp_path / "pairs.npz")
    assert notes == ["data: not used: 'neg_edge_label_index', 'pos_edge_label', 'pos_edge_label_index'"]
