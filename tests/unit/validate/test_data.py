"""The test data of a bundle, read without torch, is what the frontend reads with it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnexport.bundle.evaluation import EvalData, read_eval, write_eval
from gnnexport.bundle.matrix import pack_matrix
from gnnexport.errors import DataError
from gnnexport.frontends.data import load_data
from gnnexport.frontends.hetero import by_type
from gnnexport.program.data import GraphData
from gnnexport.validate.data import read_test_data

REAL = Path(__file__).resolve().parents[4] / "shared" / "data"
COUNTS = np.array([2, 3, 1, 4])
POINTERS = np.concatenate([[0], np.cumsum(COUNTS)])
EDGES = np.array([[0, 1, 2, 4, 6, 9, 8], [1, 0, 3, 2, 9, 6, 8]], np.int32)
ARRAYS = {
    "x": np.random.default_rng(0).normal(size=(10, 3)),
    "edge_index": EDGES,
    "edge_attr": np.arange(7),
    "edge_weight": np.ones((7, 1)),
    "y": np.array([0, 1, 1, 0]),
    "node_ptr": POINTERS,
    "test_mask": np.array([False, True, False, True]),
    "train_mask": np.array([True, False, True, False]),
}


def save(path, **changes):
    """Write a set of four graphs, changed."""
    arrays = {**ARRAYS, **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def stored(path, data: GraphData, graphs=None, rows=None, metric="accuracy") -> EvalData:
    """Write what a bundle keeps of a test split over the limit, and read it back."""
    chosen = data if graphs is None else data.select(graphs)
    rows = torch.arange(len(chosen.y)) if rows is None else rows
    inputs = {name: value.numpy() for name, value in chosen.inputs.items()}
    whole = EvalData(
        metric, rows.numpy(), np.zeros(len(rows)), y=chosen.y[rows].numpy(), inputs=inputs,
        graphs=None if graphs is None else graphs.numpy(), level=data.level, target=data.target,
    )  # fmt: skip
    write_eval(path, whole, limit_bytes=0)
    kept = read_eval(path)
    assert kept.inputs is kept.y is None
    return replace(kept, split=whole.split), whole


def same(found: EvalData, wanted: EvalData) -> bool:
    """Tell whether two splits hold the same request and labels, types included."""
    assert set(found.inputs) == set(wanted.inputs)
    for name, array in wanted.inputs.items():
        np.testing.assert_array_equal(found.inputs[name], array)
        assert found.inputs[name].dtype == array.dtype
    np.testing.assert_array_equal(found.y, wanted.y)
    return True


@pytest.mark.parametrize("pointer", ["node_ptr", "ptr", "batch"])
def test_graphs_of_the_test(tmp_path, pointer):
    """Graphs are found by their numbers, however the set says where they start."""
    value = np.repeat(np.arange(4), COUNTS) if pointer == "batch" else POINTERS
    path = save(tmp_path / "set.npz", **{"node_ptr": None, pointer: value})
    data, _ = load_data(path)
    kept, whole = stored(tmp_path / "eval.npz", data, torch.tensor([1, 3]))
    assert same(read_test_data(path, kept, None), whole)


def test_a_whole_set(tmp_path):
    """Without numbers of graphs the whole set is the request."""
    path = save(tmp_path / "set.npz")
    data, _ = load_data(path)
    kept, whole = stored(tmp_path / "eval.npz", data, rows=torch.tensor([1, 3]))
    assert same(read_test_data(path, kept, None), whole)


def test_nodes_of_a_set(tmp_path):
    """Where labels are of nodes, those of the graphs chosen are taken, in their order."""
    masks = dict.fromkeys(("test_mask", "train_mask"))
    path = save(tmp_path / "set.npz", y=np.arange(10) % 2, **masks)
    data, _ = load_data(path)
    assert data.level == "node"
    kept, whole = stored(tmp_path / "eval.npz", data, torch.tensor([1, 3]), rows=torch.tensor([0, 2, 5]))
    assert same(read_test_data(path, kept, None), whole)


def test_several_labels_and_targets(tmp_path):
    """Labels of several columns become 0, 1 and NaN, and targets stay numbers."""
    labels = np.array([[0, 1], [1, -1], [0, 0], [1, 1]])
    path = save(tmp_path / "set.npz", y=labels)
    data, _ = load_data(path)
    kept, whole = stored(tmp_path / "eval.npz", data, torch.tensor([0, 1]), metric="roc-auc")
    assert same(read_test_data(path, kept, None), whole)
    path = save(tmp_path / "set.npz", y=np.array([0.5, 1.5, -2.0, 3.0]))
    data, _ = load_data(path)
    kept, whole = stored(tmp_path / "eval.npz", data, torch.tensor([0, 1]), metric="rmse")
    assert same(read_test_data(path, kept, None), whole)


@pytest.mark.parametrize("y", [np.array([0, np.nan, 1, np.nan]), np.array([[0.0], [1], [1], [np.nan]])])
def test_classes_as_floats(y, tmp_path):
    """Classes may come as floats, NaN where unknown, as many chemical sets have them."""
    path = save(tmp_path / "set.npz", y=y, test_mask=None, train_mask=None)
    data, _ = load_data(path, kind="graph-classification")
    assert data.y.dtype is torch.int64
    kept, whole = stored(tmp_path / "eval.npz", data)
    assert same(read_test_data(path, kept, None), whole)


def test_the_label_of_one_graph(tmp_path):
    """A graph of its own may have its label as a plain number."""
    path = save(tmp_path / "one.npz", node_ptr=None, test_mask=None, train_mask=None, y=np.array(1))
    data, _ = load_data(path, kind="graph-classification")
    kept, whole = stored(tmp_path / "eval.npz", data)
    assert same(read_test_data(path, kept, None), whole)


def test_pairs_of_nodes(tmp_path):
    """Pairs come from the file, with their own labels."""
    pairs = np.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    masks = {name: np.arange(5) % 2 == index for index, name in enumerate(("train_mask", "test_mask"))}
    path = save(tmp_path / "pairs.npz", node_ptr=None, y=None, edge_label_index=pairs,
                edge_label=np.array([1, 0, 1, 0, 1]), **masks)  # fmt: skip
    data, _ = load_data(path, kind="link-prediction")
    assert data.level == "pair"
    kept, whole = stored(tmp_path / "eval.npz", data, rows=torch.tensor([1, 3]), metric="roc-auc")
    assert same(read_test_data(path, kept, None), whole)
    with pytest.raises(DataError, match="has no 'edge_label_index'"):
        read_test_data(save(tmp_path / "less.npz"), kept, None)


@pytest.mark.parametrize(
    "counts",
    [
        {"num_nodes": np.array(10)},
        {"num_nodes": None},
        {"node_ptr": None, "ptr": POINTERS},
        {"node_ptr": None, "batch": np.repeat(np.arange(4), COUNTS)},
    ],
    ids=["num_nodes", "node_ptr", "ptr", "batch"],
)
def test_degrees_stand_in_for_features(counts, tmp_path):
    """Data without features has the in-degrees, as when it was compressed, whatever tells how many nodes there are."""
    path = save(tmp_path / "set.npz", x=None, **counts)
    data, _ = load_data(path)
    kept, whole = stored(tmp_path / "eval.npz", data, torch.tensor([1, 3]))
    assert same(read_test_data(path, kept, None), whole)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": ARRAYS["x"] + 1}, "its x is not the one the original model was judged on"),
        ({"edge_index": EDGES[::-1]}, "its edge_index is not the one"),
        ({"edge_index": None}, "has no 'edge_index'"),
        ({"edge_attr": None}, "has no 'edge_attr'"),
        ({"edge_index": EDGES.astype(float)}, r"edge_index is float64 \(2, 7\)"),
        ({"edge_index": EDGES + 5}, "edge_index holds 14, which is none of its 10 nodes"),
        ({"edge_attr": np.arange(6)}, r"edge_attr is int64 \(6,\) for 7 edges"),
        ({"x": None, "num_nodes": np.array(10), "edge_index": EDGES - 5}, "edge_index holds -5"),
        ({"node_ptr": np.array([0, 5, 10])}, "has 2 graphs, but graph 3 is asked for"),
        ({"edge_index": np.concatenate([EDGES[:, :6], [[8], [5]]], 1)}, "edge 6 leads from graph 3 to graph 2"),
        ({"node_ptr": np.array([0, 5])}, "node_ptr does not ascend from 0 to the 10 nodes"),
        ({"node_ptr": None, "batch": np.arange(10)[::-1]}, "batch is not ascending"),
        ({"y": np.array([0, 1, 1])}, r"labels 'y' are int64 \(3,\) for 4 graphs"),
        ({"y": np.array([0.5, 1, 1, 0])}, "wants one class a row"),
        ({"y": np.array([np.inf, 1, 1, 0])}, "wants one class a row"),
        ({"y": np.array(["a", "b", "c", "d"])}, "Give one label a graph, as a number"),
        ({"x": None}, "its x is not the one the original model was judged on"),
        ({"x": None, "node_ptr": None}, "has no features 'x'"),
    ],
)
def test_other_data_is_refused(tmp_path, changes, words):
    """Data that the bundle was not made from is named by what is wrong with it."""
    data, _ = load_data(save(tmp_path / "set.npz"))
    kept, _ = stored(tmp_path / "eval.npz", data, torch.tensor([1, 3]))
    with pytest.raises(DataError, match=words):
        read_test_data(save(tmp_path / "other.npz", **changes), kept, None)


@pytest.mark.parametrize("name", ["tu_mutag", "mol_esol"])
def test_real_sets(tmp_path, name):
    """Sparse features, split columns and all: a real set is read alike with torch and without."""
    path = REAL / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    data, _ = load_data(path)
    graphs = torch.nonzero(data.masks["test"]).flatten()
    kept, whole = stored(tmp_path / "eval.npz", data, graphs, metric="rmse" if name == "mol_esol" else "accuracy")
    assert same(read_test_data(path, kept, None), whole)


def test_sparse_features(tmp_path):
    """Features in CSR parts are the same features."""
    x = np.eye(10, 30, dtype=np.float32)
    data, _ = load_data(save(tmp_path / "set.npz", x=x))
    kept, whole = stored(tmp_path / "eval.npz", data, torch.tensor([1, 3]))
    parts = pack_matrix(x)
    assert "x" not in parts
    assert same(read_test_data(save(tmp_path / "csr.npz", x=None, **parts), kept, None), whole)


def flipped(path: Path, start: int, count: int = 1) -> Path:
    """Damage some bytes of a file."""
    text = bytearray(path.read_bytes())
    text[start : start + count] = bytes(255 - byte for byte in text[start : start + count])
    path.write_bytes(text)
    return path


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_damaged_files(tmp_path, write):
    """A file with a damaged byte is read or refused, whatever the byte; never is there an error of another kind."""
    data, _ = load_data(save(tmp_path / "set.npz"))
    kept, _ = stored(tmp_path / "eval.npz", data, torch.tensor([1, 3]))
    path = tmp_path / "other.npz"
    write(path, **ARRAYS)
    whole, refused = path.read_bytes(), 0
    for start in range(0, len(whole), 7):
        path.write_bytes(whole)
        try:
            read_test_data(flipped(path, start), kept, None)
        except DataError:
            refused += 1
    assert refused > 50


ODD = {
    "negative": -1,
    "fraction": 0.5,
    "text": np.array(["a", "b"]),
    "nothing": np.zeros(0),
    "nothing whole": np.zeros(0, np.int64),
    "no rows": np.zeros((0, 3), np.float32),
    "starts below": np.concatenate([[-1], np.zeros(9, np.int64)]),
    "huge": np.full(10, 2**62),
    "huge unsigned": np.full(10, 2**64 - 1, np.uint64),
    "one huge": np.array(2**62),
    "cube": np.zeros((2, 2, 2)),
    "complex": np.ones((10, 3), np.complex64),
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
@pytest.mark.parametrize("name", ["x", "y", "edge_index", "edge_attr", "node_ptr", "batch", "num_graphs", "num_nodes"])
def test_odd_arrays_are_refused(tmp_path, name, value):
    """An array of another type, shape or size than belongs there is a mistake in the data, and told as one."""
    changes = {"batch": {"node_ptr": None}, "num_graphs": {"node_ptr": None, "batch": np.repeat(np.arange(4), COUNTS)}}
    changes["num_nodes"] = {"x": None}
    data, _ = load_data(save(tmp_path / "set.npz"))
    kept, _ = stored(tmp_path / "eval.npz", data, torch.tensor([1, 3]))
    with pytest.raises(DataError, match=r"other\.npz"):
        read_test_data(save(tmp_path / "other.npz", **{**changes.get(name, {}), name: value}), kept, None)


def test_types_of_edges_and_nodes(tmp_path):
    """They go with their edges and nodes, as int64, of a whole set and of some of its graphs."""
    types = {"edge_type": np.arange(7, dtype=np.int8)[:, None], "node_type": np.arange(10, dtype=np.int16)}
    path = save(tmp_path / "data.npz", **types)
    data, _ = load_data(path)
    for graphs in (None, torch.tensor([1, 3])):
        kept, whole = stored(tmp_path / "eval.npz", data, graphs)
        assert same(read_test_data(path, kept, None), whole)


def hetero(path, **changes):
    """Write a graph of several kinds of nodes, changed."""
    arrays = {
        "x__paper": np.ones((3, 2), np.float32),
        "x__author": np.zeros((2, 1)),
        "edge_index__author__writes__paper": np.array([[0, 1], [2, 0]], np.int32),
        "y__paper": np.array([0, 1, 1]),
        **changes,
    }
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


WRITES = "author__writes__paper"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {f"edge_attr__{WRITES}": np.arange(2), f"edge_weight__{WRITES}": np.ones((2, 1))},
        {"y__author": np.array([0, 1]), "test_mask__paper": np.array([True, False, True])},
    ],
    ids=["plain", "one column", "two with labels"],
)
def test_several_kinds_of_nodes(changes, tmp_path):
    """Arrays are called as the inputs of the bundle are, and take the shapes of these; other labels are left alone."""
    path = hetero(tmp_path / "data.npz", **changes)
    data, _ = load_data(path)
    assert data.target == "__paper"
    kept, whole = stored(tmp_path / "eval.npz", data)
    assert same(read_test_data(path, kept, None), whole)


def test_a_bundle_that_does_not_say_which_kind_it_is_judged_on(tmp_path):
    """One made before that was kept takes the only kind with labels; of several it has to be made again."""
    path = hetero(tmp_path / "data.npz")
    kept, whole = stored(tmp_path / "eval.npz", load_data(path)[0])
    older = replace(kept, target="")
    assert same(read_test_data(path, older, None), whole)
    hetero(path, y__author=np.array([0, 1]))
    with pytest.raises(DataError, match=r"labels for 2 kinds of nodes.* make the bundle again"):
        read_test_data(path, older, None)


def typed(path, **changes):
    """Write one graph with types of nodes and edges as numbers, changed."""
    arrays = {
        "x": np.arange(10).reshape(5, 2),
        "node_type": np.array([[1], [0], [1], [0], [0]], np.int8),
        "edge_index": np.array([[1, 3, 0, 2], [0, 2, 3, 4]], np.int32),
        "edge_type": np.array([0, 0, 1, 1]),
        "edge_weight": np.arange(4.0)[:, None],
        "edge_attr": np.arange(4),
        "y": np.array([2, -1, 0, -1, -1]),
        **changes,
    }
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize("y", [np.array([2, -1, 0, -1, -1]), np.array([2.5, np.nan, 0, np.nan, np.nan])])
def test_types_that_became_kinds(y, tmp_path):
    """The file that types were read from is read for the kinds they became, edges and labels with them."""
    path = typed(tmp_path / "data.npz", y=y)
    data = by_type(load_data(path)[0])
    kept, whole = stored(tmp_path / "eval.npz", data, metric="accuracy" if y.dtype.kind == "i" else "mae")
    assert {"x__0", "edge_index__1__1__0", "edge_weight__0__0__1", "edge_attr__0__0__1"} <= set(whole.inputs)
    assert same(read_test_data(path, kept, None), whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"node_type": None}, "has no 'node_type'"),
        ({"x": np.ones((5, 2))}, "its x__0 is not the one the original model was judged on"),
        ({"node_type": np.zeros(5, np.int64)}, "has no 'edge_attr__0__0__1'"),
        ({"edge_type": np.array([0, 0, 2, 2])}, "has no 'edge_attr__1__1__0'"),
        ({"edge_index": np.array([[3, 1, 0, 2], [0, 2, 3, 4]])}, "its edge_index__0__0__1 is not the one"),
        ({"y": np.array([2, 0])}, r"labels 'y' are int64 \(2,\) for 5 nodes"),
        ({"edge_weight": None}, "has no 'edge_weight__0__0__1'"),
    ],
)
def test_other_types_are_refused(changes, message, tmp_path):
    """Types that make other kinds than those of the bundle are refused by the first array that differs."""
    kept, _ = stored(tmp_path / "eval.npz", by_type(load_data(typed(tmp_path / "data.npz"))[0]))
    with pytest.raises(DataError, match=message):
        read_test_data(typed(tmp_path / "other.npz", **changes), kept, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x__author": None}, "has no 'x__author'"),
        ({"x__author": np.ones((2, 1))}, "its x__author is not the one the original model was judged on"),
        ({"x__author": np.array([["a"], ["b"]])}, r"x__author is <U1 \(2, 1\), not rows of real numbers"),
        ({"x__author": np.array(1.0)}, r"x__author is float64 \(\), not rows of real numbers"),
        ({"y__paper": None, "y__author": np.array([0, 1])}, "has no labels 'y__paper'"),
        ({"y__paper": np.array([0, 1])}, r"labels 'y__paper' are int64 \(2,\) for 3 nodes"),
        ({"edge_index": np.zeros((2, 1), np.int64), "x": np.ones((3, 2)), "y": np.zeros(3)}, "has no 'edge_type'"),
    ],
)
def test_other_data_of_several_kinds_is_refused(tmp_path, changes, message):
    """Each message names the array."""
    kept, _ = stored(tmp_path / "eval.npz", load_data(hetero(tmp_path / "data.npz"))[0])
    with pytest.raises(DataError, match=message):
        read_test_data(hetero(tmp_path / "other.npz", **changes), kept, None)


KINDS = {
    hetero: ["x__paper", f"edge_index__{WRITES}", f"edge_attr__{WRITES}", f"edge_weight__{WRITES}", "y__paper"],
    typed: ["x", "node_type", "edge_type", "edge_index", "edge_attr", "edge_weight", "y"],
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
@pytest.mark.parametrize(("write", "name"), [(write, name) for write, names in KINDS.items() for name in names])
def test_odd_arrays_of_kinds_are_refused(tmp_path, write, name, value):
    """They are told as those of one kind are."""
    given = {f"edge_attr__{WRITES}": np.arange(2), f"edge_weight__{WRITES}": np.ones(2)} if write is hetero else {}
    data, _ = load_data(write(tmp_path / "data.npz", **given))
    kept, _ = stored(tmp_path / "eval.npz", data if data.keys else by_type(data))
    with pytest.raises(DataError, match=r"other\.npz"):
        read_test_data(write(tmp_path / "other.npz", **{**given, name: value}), kept, None)
