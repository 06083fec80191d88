import numpy as np
import pytest

from gnnexport.bundle.arrays import write_arrays
from gnnexport.bundle.evaluation import EvalData, input_digest, read_eval, write_eval
from gnnexport.bundle.matrix import pack_matrix, unpack_matrix
from gnnexport.errors import DataError, UsageError

ROWS = np.array([1, 2])


def make(x):
    """A split of two nodes."""
    return EvalData("accuracy", ROWS, baseline=np.array([0, 1]), y=np.array([0, 0]), inputs={"x": x})


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_round_trip(tmp_path, share):
    """Dense, sparse and empty features come back equal."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(40, 60)) * (rng.random((40, 60)) < share)).astype(np.float32)
    kept = write_eval(tmp_path / "eval.npz", make(x))
    data = read_eval(tmp_path / "eval.npz")
    np.testing.assert_array_equal(data.inputs["x"], x)
    np.testing.assert_array_equal(data.y, kept.y)
    np.testing.assert_array_equal(data.baseline, [0, 1])
    assert (data.metric, data.split, data.level, data.graphs) == ("accuracy", "test", "node", None)


def test_a_request_of_graphs(tmp_path):
    """Every input of a request comes back with its type and shape, scalars and empty arrays too."""
    inputs = {
        "x": np.eye(30, 40, dtype=np.float32),
        "edge_index": np.zeros((2, 0), np.int64),
        "edge_attr": np.ones((0, 3), np.float32),
        "batch": np.repeat(np.arange(3), 10),
        "num_graphs": np.array(4),
    }
    scores = np.array([[0.5], [np.nan]], np.float32)
    given = EvalData("mae", ROWS, scores, np.array([1.5, 2.5], np.float32), inputs, np.array([7, 2, 9, 4]), "graph")
    write_eval(tmp_path / "eval.npz", given)
    data = read_eval(tmp_path / "eval.npz")
    assert list(data.inputs) == list(inputs)
    for name, array in inputs.items():
        np.testing.assert_array_equal(data.inputs[name], array)
        assert (data.inputs[name].dtype, data.inputs[name].shape) == (array.dtype, array.shape)
        assert data.digests[name] == input_digest(array)
    np.testing.assert_array_equal(data.baseline, scores)
    np.testing.assert_array_equal(data.graphs, [7, 2, 9, 4])
    assert data.level == "graph"


def test_data_over_the_limit_stays_out(tmp_path):
    """Above the limit only row ids, the original's predictions and digests are kept; all arrays count."""
    x, edges = np.ones((5, 4), np.float32), np.zeros((2, 1000), np.int64)
    given = EvalData("accuracy", ROWS, np.array([0, 1]), np.array([0, 0]), {"x": x, "edge_index": edges})
    kept = write_eval(tmp_path / "eval.npz", given, limit_bytes=10_000)
    data = read_eval(tmp_path / "eval.npz")
    assert kept.inputs is kept.y is data.inputs is data.y is None
    np.testing.assert_array_equal(data.rows, ROWS)
    assert data.digests == {"x": input_digest(x), "edge_index": input_digest(edges)}


def test_baked_in_features_leave_an_empty_request(tmp_path):
    """A model without inputs has labels and a request with nothing in it."""
    write_eval(tmp_path / "eval.npz", EvalData("accuracy", ROWS, np.array([0, 1]), np.array([0, 0]), {}))
    assert read_eval(tmp_path / "eval.npz").inputs == {}


@pytest.mark.parametrize(
    ("arrays", "inputs"),
    [({"x": np.ones((2, 3)), "y": ROWS}, {"x"}), ({"y": ROWS}, set()), ({}, None)],
)
def test_files_of_the_first_release_are_read(tmp_path, arrays, inputs):
    """A file without names of inputs holds features, or none because they are baked in, or nothing."""
    description = {"schema": 1, "metric": "accuracy", "split": "test"}
    write_arrays(tmp_path / "eval.npz", description, {"rows": ROWS, "baseline": ROWS, **arrays})
    data = read_eval(tmp_path / "eval.npz")
    assert (data.inputs if data.inputs is None else set(data.inputs)) == inputs
    assert (data.level, data.digests) == ("node", {})


def test_an_input_that_is_named_but_absent(tmp_path):
    """A file that lists an input and has it not is refused by its path."""
    description = {"metric": "mae", "split": "test", "inputs": ["edge_index"]}
    write_arrays(tmp_path / "eval.npz", description, {"rows": ROWS, "baseline": ROWS})
    with pytest.raises(UsageError, match="lacks 'input_edge_index'"):
        read_eval(tmp_path / "eval.npz")


def test_digests_tell_arrays_apart():
    """Values, types and shapes all count."""
    array = np.arange(6, dtype=np.int64)
    others = [array + 1, array.astype(np.int32), array.reshape(2, 3)]
    assert len({input_digest(item) for item in (array, *others)}) == 4
    assert input_digest(array.reshape(2, 3)) == input_digest(np.asfortranarray(array.reshape(2, 3)))


def test_sparse_features_are_stored_sparse():
    """The smaller of the two forms is taken."""
    assert set(pack_matrix(np.eye(50, dtype=np.float32))) == {"x_data", "x_indices", "x_indptr", "x_shape"}
    assert set(pack_matrix(np.ones((5, 5), np.float32))) == {"x"}


@pytest.mark.parametrize(("part", "value"), [("x_indices", [9]), ("x_indptr", [0, 2]), ("x_shape", [2, 3])])
def test_csr_parts_that_do_not_fit(part, value):
    """Parts of CSR that contradict one another are refused."""
    parts = {"x_data": [1.0], "x_indices": [0], "x_indptr": [0, 1], "x_shape": [1, 3], part: value}
    with pytest.raises(DataError, match="do not fit together"):
        unpack_matrix({name: np.array(array) for name, array in parts.items()}, "data.npz")
