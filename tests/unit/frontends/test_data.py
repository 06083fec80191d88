from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch_geometric.data import Data

from gnnexport.errors import DataError
from gnnexport.frontends.data import check_task, load_data
from gnnexport.frontends.task import kind_of

TRAIN = np.array([True, True, False, False, False, False])
VAL = np.array([False, False, True, False, False, False])
TEST = np.array([False, False, False, True, True, False])


def arrays(**changes: Any) -> dict[str, Any]:
    """Make the arrays of a good small graph, with changes; `None` leaves one out."""
    good = {
        "x": np.arange(12, dtype=np.float32).reshape(6, 2),
        "edge_index": np.array([[0, 1, 2, 3], [1, 2, 3, 4]], dtype=np.int32),
        "y": np.array([0, 1, 0, 1, 0, -1]),
        "train_mask": TRAIN,
        "val_mask": VAL,
        "test_mask": TEST,
        **changes,
    }
    return {name: value for name, value in good.items() if value is not None}


def write(folder: Path, **changes: Any) -> Path:
    """Write the arrays as `.npz`."""
    np.savez(folder / "graph.npz", **arrays(**changes))
    return folder / "graph.npz"


def test_an_npz_becomes_a_graph(tmp_path: Path) -> None:
    """Types are widened to what models take, and nothing needs a note."""
    data, notes = load_data(write(tmp_path, edge_weight=np.ones(4), edge_attr=np.ones(4, dtype=np.float16)))
    assert (data.name, data.num_nodes, data.num_edges, notes) == ("graph", 6, 4, [])
    assert data.inputs["edge_index"].dtype is torch.int64
    assert data.inputs["edge_weight"].dtype is torch.float32
    assert data.inputs["edge_attr"].shape == (4, 1)
    assert data.y is not None
    assert data.masks["test"].tolist() == TEST.tolist()
    assert check_task(data) == []


def test_sparse_features_come_dense(tmp_path: Path) -> None:
    """CSR arrays give the same features as the dense array they stand for."""
    dense = np.array([[0, 1, 0], [2, 0, 3]] * 3, dtype=np.float32)
    csr = sparse.csr_matrix(dense)
    parts = {"x_data": csr.data, "x_indices": csr.indices, "x_indptr": csr.indptr, "x_shape": np.array(csr.shape)}
    data, _ = load_data(write(tmp_path, x=None, **parts))
    assert data.inputs["x"].tolist() == dense.tolist()
    parts["x_indices"] = parts["x_indices"] + 7
    with pytest.raises(DataError, match="not a CSR matrix"):
        load_data(write(tmp_path, x=None, **parts))


def test_a_pyg_data_is_the_same_graph(tmp_path: Path) -> None:
    """The same arrays as a PyG `Data` give the same graph; trusted or not makes no difference."""
    tensors = {name: torch.from_numpy(value) for name, value in arrays(edge_index=arrays()["edge_index"]).items()}
    torch.save(Data(**tensors), tmp_path / "graph.pt")
    expected, _ = load_data(write(tmp_path))
    for trust in (False, True):
        data, _ = load_data(tmp_path / "graph.pt", trust=trust)
        assert all(torch.equal(data.inputs[name], expected.inputs[name]) for name in expected.inputs)
        assert data.y is not None
        assert expected.y is not None
        assert torch.equal(data.y, expected.y)
        assert all(torch.equal(data.masks[split], expected.masks[split]) for split in ("train", "val", "test"))


def test_one_of_several_splits_is_chosen(tmp_path: Path) -> None:
    """Masks of shape [nodes, splits] give the column asked for."""
    masks = {f"{name}_mask": np.stack([mask, mask[::-1]], axis=1) for name, mask in
             (("train", TRAIN), ("val", VAL), ("test", TEST))}  # fmt: skip
    path = write(tmp_path, y=np.zeros(6, dtype=np.int64), **masks)
    data, _ = load_data(path, split=1)
    assert data.masks["test"].tolist() == TEST[::-1].tolist()
    with pytest.raises(DataError, match=r"no split 2 in train_mask.*Choose a split from 0 to 1"):
        load_data(path, split=2)


def test_a_missing_validation_mask_is_taken_from_training(tmp_path: Path) -> None:
    """A seeded quarter of the training nodes validates, every time the same, and a note says so."""
    train = np.arange(40) < 20
    path = write(
        tmp_path,
        x=np.ones((40, 2)),
        y=np.zeros(40, dtype=np.int64),
        train_mask=train,
        val_mask=None,
        test_mask=~train,
    )
    data, notes = load_data(path)
    again, _ = load_data(path)
    assert notes == ["data: no validation mask; 5 of 20 training nodes validate (seed 0)"]
    assert (int(data.masks["train"].sum()), int(data.masks["val"].sum())) == (15, 5)
    assert not (data.masks["train"] & data.masks["val"]).any()
    assert torch.equal(data.masks["val"], again.masks["val"])


def test_unlabelled_nodes_and_other_arrays_are_noted(tmp_path: Path) -> None:
    """A mask does not select unlabelled nodes, and what is not used is named."""
    data, notes = load_data(write(tmp_path, test_mask=TEST | (np.arange(6) == 5), pos=np.zeros((6, 3))))
    assert notes == ["data: 1 unlabelled nodes left out of the test mask", "data: not used: 'pos'"]
    assert data.masks["test"].tolist() == TEST.tolist()


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"x": np.array([[0, np.nan]] * 6)}, r"x holds 6 values that are NaN or infinite, the first at \[0, 1\]"),
    "one_dimension": ({"x": np.ones(6)}, r"x has shape \[6\].*\[num_nodes, channels\]"),
    "empty": ({"x": np.ones((0, 2))}, "the graph is empty"),
    "no_features": ({"x": None}, r"no node features 'x'.*Add x"),
    "no_edges": ({"edge_index": None}, r"no edges 'edge_index'.*row 0 source"),
    "edges_float": ({"edge_index": np.ones((2, 3))}, "edge_index is float64, not an integer type"),
    "edges_turned": ({"edge_index": np.ones((3, 2), dtype=np.int64)}, r"shape \[3, 2\]. Transpose it"),
    "too_large": ({"edge_index": np.array([[0], [12]])}, "edge index 12 out of range for 6 nodes.*from 0 to 5"),
    "negative": ({"edge_index": np.array([[0], [-1]])}, "edge index -1 out of range for 6 nodes"),
    "num_nodes": ({"num_nodes": np.array(7)}, "num_nodes does not agree"),
    "weights": ({"edge_weight": np.ones(3)}, r"edge_weight has shape \[3\] for 4 edges"),
    "weight_inf": ({"edge_weight": np.full(4, np.inf)}, "edge_weight holds 4 values that are NaN or infinite"),
    "labels_short": ({"y": np.zeros(5, dtype=np.int64)}, r"y has shape \[5\] for 6 nodes"),
    "labels_negative": ({"y": np.full(6, -2)}, "y holds the label -2"),
    "mask_short": ({"train_mask": TRAIN[:5]}, r"train_mask has shape \[5\]"),
    "mask_values": ({"train_mask": np.arange(6)}, "values besides 0 and 1"),
    "mask_deep": ({"train_mask": np.zeros((6, 1, 1), dtype=bool)}, r"train_mask has shape \[6, 1, 1\]"),
    "mask_no_column": ({"train_mask": np.zeros((6, 0), dtype=bool)}, "no split 0 in train_mask.*Give it a column"),
    "inf": ({"x": np.full((6, 1), -np.inf)}, "x holds 6 values that are NaN or infinite"),
    "too_large_for_float": ({"x": np.full((6, 1), 1e300)}, "x holds 6 values that are too large for float32"),
    "complex": ({"x": np.ones((6, 1), dtype=complex)}, "x is complex.*float32"),
    "text": ({"x": np.array([["a"]] * 6)}, "x holds text, not numbers"),
    "bytes": ({"y": np.array([b"a"] * 6)}, "y holds text, not numbers"),
    "dates": ({"y": np.array(["2020-01-01"] * 6, dtype="datetime64[D]")}, "y holds dates, not numbers"),
    "records": ({"x": np.zeros(6, dtype=[("a", "f4")])}, "x holds records, not numbers"),
    "no_channels": ({"x": np.ones((6, 0))}, "the graph is empty"),
    "edges_bool": ({"edge_index": np.ones((2, 3), dtype=bool)}, "edge_index is bool, not an integer type"),
    "edges_complex": ({"edge_index": np.ones((2, 3), dtype=complex)}, "edge_index is complex128"),
    "edges_flat": ({"edge_index": np.array([0, 1])}, r"edge_index has shape \[2\]. Give it as \[2, num_edges\]"),
    "edges_uint64": (
        {"edge_index": np.full((2, 1), 2**63, dtype=np.uint64)},
        "9223372036854775808, which int64 cannot",
    ),
    "swapped": ({"x": np.zeros((2, 6), dtype=int), "edge_index": np.ones((6, 2))}, "x and edge_index look swapped"),
    "attr_rows": ({"edge_attr": np.ones((3, 2))}, r"edge_attr has shape \[3, 2\] for 4 edges"),
    "attr_deep": ({"edge_attr": np.ones((4, 2, 2))}, r"edge_attr has shape \[4, 2, 2\]"),
    "attr_empty": ({"edge_attr": np.ones((4, 0))}, "edge_attr has no channels"),
    "attr_nan": ({"edge_attr": np.full((4, 1), np.nan)}, "edge_attr holds 4 values that are NaN"),
    "weight_complex": ({"edge_weight": np.ones(4, dtype=complex)}, "edge_weight is complex"),
    "labels_complex": ({"y": np.ones(6, dtype=complex)}, "y is complex"),
    "num_nodes_many": ({"num_nodes": np.array([6, 6])}, "num_nodes does not agree"),
    "leak": ({"train_mask": TRAIN | TEST}, "2 nodes are in both the train and the test mask"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_data_is_named_with_its_mend(name: str, tmp_path: Path) -> None:
    """Each fault of a data file is an error that names the file, the fault and the way to mend it."""
    changes, words = FAULTS[name]
    with pytest.raises(DataError, match=words) as caught:
        load_data(write(tmp_path, **changes))
    assert str(caught.value).startswith(str(tmp_path / "graph.npz"))
    assert caught.value.problems[0].mend


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", ">i4", "uint64", "int64"])
def test_edges_of_every_integer_type_are_taken(dtype: str, tmp_path: Path) -> None:
    """Integers of any width and byte order are widened to int64."""
    edges = arrays()["edge_index"]
    data, _ = load_data(write(tmp_path, edge_index=edges.astype(dtype)))
    assert data.inputs["edge_index"].dtype is torch.int64
    assert data.inputs["edge_index"].tolist() == edges.tolist()


@pytest.mark.parametrize("dtype", ["float64", ">f8", "float16", "longdouble", "int64", "uint8", "bool"])
def test_features_of_every_real_type_are_taken(dtype: str, tmp_path: Path) -> None:
    """Numbers of any type become float32, whatever the order in memory."""
    x = np.asfortranarray((np.arange(12).reshape(6, 2) % 2).astype(dtype))
    data, _ = load_data(write(tmp_path, x=x))
    assert data.inputs["x"].dtype is torch.float32
    assert data.inputs["x"].tolist() == x.tolist()


def test_small_graphs_are_graphs(tmp_path: Path) -> None:
    """No edges, and one node with or without an edge to itself, are nothing wrong."""
    none = np.zeros((2, 0), dtype=np.int64)
    assert load_data(write(tmp_path, edge_index=none, edge_attr=np.zeros((0, 3))))[0].num_edges == 0
    for edges in (none, np.zeros((2, 1), dtype=np.int64)):
        np.savez(tmp_path / "one.npz", x=np.ones((1, 1)), edge_index=edges, y=np.array([0]))
        data, _ = load_data(tmp_path / "one.npz")
        assert (data.num_nodes, data.level, data.num_graphs) == (1, "node", None)


def test_several_labels_and_targets_of_nodes(tmp_path: Path) -> None:
    """Columns of 0 and 1 are several labels, floats are targets, unless the kind of task says otherwise."""
    data, _ = load_data(write(tmp_path, y=np.ones((6, 3), dtype=np.int8)))
    assert data.y is not None
    assert (kind_of(data), data.y.dtype, list(data.y.shape)) == ("node-classification", torch.float32, [6, 3])
    path = write(tmp_path, y=np.arange(6, dtype=np.float64))
    assert kind_of(load_data(path)[0]) == "node-regression"
    assert kind_of(load_data(path, kind="node-classification")[0]) == "node-classification"
    path = write(tmp_path, y=np.array([0, 1, 0, 1, 0, np.nan]))
    classes, _ = load_data(path, kind="node-classification")
    assert classes.y is not None
    assert classes.y.tolist() == [0, 1, 0, 1, 0, -1]


def test_damaged_and_unknown_files_are_data_errors(tmp_path: Path) -> None:
    """A truncated `.npz`, Python objects in it, another suffix, and no file at all."""
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="truncated or damaged"):
        load_data(path)
    np.savez(path, x=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"holds Python objects.*Convert"):
        load_data(path)
    (tmp_path / "graph.csv").write_text("1")
    with pytest.raises(DataError, match=r"unknown kind of data file '.csv'"):
        load_data(tmp_path / "graph.csv")
    with pytest.raises(DataError, match="no such file"):
        load_data(tmp_path / "absent.npz")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y": None}, r"has no labels.*Add y"),
        ({"test_mask": None}, r"has no test mask.*Add test_mask"),
        ({"train_mask": None}, r"has no train mask.*Add train_mask"),
        ({"val_mask": np.zeros(6, dtype=bool)}, "val mask selects no labelled node"),
    ],
)
def test_a_task_needs_labels_and_masks(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    """Node classification says which of its needs the data lacks."""
    data, _ = load_data(write(tmp_path, **changes))
    with pytest.raises(DataError, match=words):
        check_task(data)


def test_classes_that_are_never_trained_are_noted(tmp_path: Path) -> None:
    """A class in the test nodes that training never sees is worth a note."""
    data, _ = load_data(write(tmp_path, y=np.array([0, 1, 0, 5, 0, -1])))
    assert check_task(data) == ["data: classes [5] are tested but never trained"]


def test_types_of_edges_and_nodes(tmp_path: Path) -> None:
    """Types come in any integer type, also as a column, and go with their edges and nodes."""
    types = {"edge_type": np.array([[0], [2], [1], [0]], np.int8), "node_type": np.array([0, 1, 1, 0, 1, 0], np.int16)}
    data, notes = load_data(write(tmp_path, **types))
    assert data.inputs["edge_type"].tolist() == [0, 2, 1, 0]
    assert data.inputs["node_type"].tolist() == [0, 1, 1, 0, 1, 0]
    assert {data.inputs[name].dtype for name in types} == {torch.int64}
    assert notes == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("edge_type", np.zeros(3, np.int64), r"edge_type has shape \[3\] for 4 edges. Give one number per column"),
        ("edge_type", np.array([0, -1, 0, 0]), "edge_type holds -1. Number the types from 0"),
        ("edge_type", np.zeros(4), "edge_type is float64, not an integer type"),
        ("node_type", np.zeros(5, np.int64), r"node_type has shape \[5\] for 6 nodes. Give one number per node"),
    ],
)
def test_types_that_are_none(name: str, value: np.ndarray, message: str, tmp_path: Path) -> None:
    """Types of another number, below zero or not whole are refused."""
    with pytest.raises(DataError, match=message):
        load_data(write(tmp_path, **{name: value}))


def test_types_survive_a_list_of_graphs(tmp_path: Path) -> None:
    """Graphs laid side by side, and a choice of them, keep the types of their edges."""
    graphs = [
        Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0, 1], [1, 0]]), edge_type=torch.tensor([i, 0]), y=i % 2)
        for i in range(4)
    ]
    torch.save(graphs, tmp_path / "graphs.pt")
    data, _ = load_data(tmp_path / "graphs.pt")
    assert data.inputs["edge_type"].tolist() == [0, 0, 1, 0, 2, 0, 3, 0]
    assert data.select(torch.tensor([2, 1])).inputs["edge_type"].tolist() == [2, 0, 1, 0]


def test_a_name_with_two_underscores_does_not_make_several_kinds(tmp_path: Path) -> None:
    """Beside plain edges, an array that is named as one of a kind of nodes is one of those that are not used."""
    data, notes = load_data(write(tmp_path, x__raw=np.ones((6, 2), np.float32)))
    assert data.num_nodes == 6
    assert notes == ["data: not used: 'x__raw'"]
