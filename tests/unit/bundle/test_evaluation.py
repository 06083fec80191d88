import numpy as np
import pytest

from gnnexport.bundle.evaluation import EvalData, read_eval, write_eval
from gnnexport.bundle.matrix import pack_matrix, unpack_matrix
from gnnexport.errors import DataError

ROWS = np.array([1, 2])


def make(x):
    """A split of two nodes."""
    return EvalData("accuracy", ROWS, baseline=np.array([0, 1]), y=np.array([0, 0]), x=x)


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_round_trip(tmp_path, share):
    """Dense, sparse and empty features come back equal."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(40, 60)) * (rng.random((40, 60)) < share)).astype(np.float32)
    kept = write_eval(tmp_path / "eval.npz", make(x))
    data = read_eval(tmp_path / "eval.npz")
    np.testing.assert_array_equal(data.x, x)
    np.testing.assert_array_equal(data.y, kept.y)
    np.testing.assert_array_equal(data.baseline, [0, 1])
    assert (data.metric, data.split) == ("accuracy", "test")


def test_features_over_the_limit_stay_out(tmp_path):
    """Above the limit only row ids and the original's predictions are kept."""
    kept = write_eval(tmp_path / "eval.npz", make(np.ones((40, 60), np.float32)), limit_bytes=1000)
    data = read_eval(tmp_path / "eval.npz")
    assert kept.x is kept.y is data.x is data.y is None
    np.testing.assert_array_equal(data.rows, ROWS)


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
