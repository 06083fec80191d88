import hashlib
import json

import numpy as np
import pytest

from gnnexport.bundle import golden
from gnnexport.bundle.features import Features, noise
from gnnexport.bundle.golden import GoldenCase, make_features, read_golden, sample_rows, write_golden
from gnnexport.errors import UsageError


def test_cases_round_trip(tmp_path):
    """Arrays, recipes and rows come back as they were, an array used twice is stored once."""
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    rows = np.array([0, 4])
    cases = [
        GoldenCase("real", {"x": x}, {"logits": x[rows]}, rows),
        GoldenCase("noise", {"x": Features(kind="normal", shape=(6, 3), seed=4)}, {"logits": x}, None),
    ]
    write_golden(tmp_path / "golden.npz", cases)
    first, second = read_golden(tmp_path / "golden.npz")
    np.testing.assert_array_equal(first.feeds()["x"], x)
    np.testing.assert_array_equal(first.rows, rows)
    np.testing.assert_array_equal(second.feeds()["x"], cases[1].inputs["x"].make())
    np.testing.assert_array_equal(second.expected["logits"], x)
    assert second.rows is None
    assert len(np.load(tmp_path / "golden.npz").files) == 4


def test_kinds_of_features():
    """Each kind is what its name says."""
    cases = {name: value.make() for name, value in make_features((500, 40), seed=3).items()}
    assert list(cases) == ["noise", "zeros", "all-negative", "large", "one-hot"]
    assert all(x.shape == (500, 40) and x.dtype == np.float32 for x in cases.values())
    assert abs(cases["noise"].mean()) < 0.05
    assert abs(cases["noise"].std() - 1) < 0.05
    assert not cases["zeros"].any()
    assert cases["all-negative"].max() <= 0
    assert np.abs(cases["large"]).max() > 1000
    assert ((cases["one-hot"] != 0).sum(axis=1) == 1).all()


def test_features_never_change():
    """The same recipe gives the same bits in every version: expected outputs in old bundles rest on it."""
    x = Features(kind="normal", shape=(64, 9), seed=5).make()
    assert hashlib.sha256(x.astype("<f4").tobytes()).hexdigest()[:16] == "e3c0fde7212778c9"


def test_features_do_not_depend_on_chunks(monkeypatch):
    """A large array is made piece by piece with the same result."""
    whole = Features(kind="negative", shape=(50, 7)).make()
    monkeypatch.setattr("gnnexport.bundle.features._CHUNK", 64)
    np.testing.assert_array_equal(Features(kind="negative", shape=(50, 7)).make(), whole)


def test_noise_of_a_dynamic_shape():
    """A dynamic size counts as one."""
    assert noise(("num_nodes", 4)).shape == (1, 4)


def test_large_real_features_stay_out():
    """Features that do not compress well would fill the file; they are left out."""
    dense = np.random.default_rng(0).normal(size=(4000, 1000)).astype(np.float32)
    assert "real" not in make_features(dense.shape, dense)
    assert "real" in make_features(dense.shape, (dense > 2.5).astype(np.float32))


def test_rows_are_sampled_within_the_room():
    """Many rows are sampled, sorted, without repetition, and those asked for are among them."""
    rows = sample_rows(170_000, 160, 5, always=[169_999, 7, 7])
    assert len(rows) == 4096
    assert (np.diff(rows) > 0).all()
    assert {7, 169_999} <= set(rows.tolist())
    assert sample_rows(170_000, 4 * 100_000, 5).shape == (4,)
    assert sample_rows(2708, 28, 6) is None


def test_a_file_too_large_is_refused(tmp_path, monkeypatch):
    """The bound on the file holds."""
    monkeypatch.setattr(golden, "LIMIT_BYTES", 100)
    with pytest.raises(ValueError, match="keep fewer rows"):
        write_golden(tmp_path / "golden.npz", [GoldenCase("a", {"x": np.zeros(9)}, {"y": np.zeros(9)})])
    assert not (tmp_path / "golden.npz").exists()


def test_damaged_files(tmp_path):
    """A file that is no golden file says so, and a pickle inside is not loaded."""
    path = tmp_path / "golden.npz"
    for content in (b"", b"PK\x03\x04 nothing"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="Make the bundle again"):
            read_golden(path)
    np.savez(path, description=np.array([object()], dtype=object))
    with pytest.raises(UsageError, match="allow_pickle=False"):
        read_golden(path)
    np.savez(path, description=np.array('{"cases": [{}]}'))
    with pytest.raises(UsageError, match="not a golden file"):
        read_golden(path)


CASE = {"name": "a", "inputs": {"x": {"array": "x"}}, "expected": {"y": "y"}, "rows": None}


@pytest.mark.parametrize(
    ("change", "y", "words"),
    [
        ({"expected": {}}, np.zeros(2), "the case 'a' expects nothing"),
        ({}, np.array(["text"]), "y holds no real numbers, but <U4"),
        ({}, np.zeros(2, complex), "y holds no real numbers"),
        ({"rows": "y"}, np.array([0.0, 1.0]), "y holds no numbers of rows"),
        ({"rows": "y"}, np.array([-1]), "y holds no numbers of rows"),
        ({"rows": "y"}, np.array([[0]]), "y holds no numbers of rows"),
        ({"inputs": {"x": {"features": {"kind": "normal", "shape": [-1, 2]}}}}, np.zeros(2), "greater than or equal"),
        ({"inputs": {"x": {"features": {"kind": "normal", "shape": [1, 2], "seed": -1}}}}, np.zeros(2), "seed"),
    ],
)
def test_a_case_that_cannot_be_checked(tmp_path, change, y, words):
    """What a case says of itself is checked when it is read; one that expects nothing would look passed."""
    path = tmp_path / "golden.npz"
    description = {"schema": 1, "cases": [{**CASE, **change}]}
    np.savez(path, description=np.array(json.dumps(description)), x=np.zeros(2), y=y)
    with pytest.raises(UsageError, match=words):
        read_golden(path)


def test_a_newer_schema(tmp_path):
    """A file of a schema that is not known here is refused with the advice to upgrade."""
    np.savez(tmp_path / "golden.npz", description=np.array('{"schema": 9, "cases": []}'))
    with pytest.raises(UsageError, match=r"schema 9 is not 1.*upgrade"):
        read_golden(tmp_path / "golden.npz")
