from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.real_data import ROOT
from benchmarks.review_stream import DEGREE, OF_PRODUCT, OF_USER, Stream
from benchmarks.spam_stream import error_at_the_end

REVIEWS, USERS, PRODUCTS, FEATURES = 600, 150, 12, 9


@pytest.fixture
def arrays():
    """Return reviews by some users about some products, as `yelpchi_reviews` has them."""
    random = np.random.default_rng(0)
    reviews = np.arange(REVIEWS)
    partners = [REVIEWS + random.integers(0, USERS, REVIEWS), REVIEWS + USERS + random.integers(0, PRODUCTS, REVIEWS)]
    ends = np.stack([np.tile(reviews, 2), np.concatenate(partners)])
    kinds = np.repeat([0, 1, 2], [REVIEWS, USERS, PRODUCTS]).astype(np.int8)
    y = np.where(kinds == 0, random.integers(0, 2, len(kinds)), -1)
    x = random.standard_normal((len(kinds), FEATURES)).astype(np.float32)
    edge_index = np.concatenate([ends, ends[::-1]], 1)[:, random.permutation(4 * REVIEWS)]
    return {"node_type": kinds, "edge_index": edge_index.astype(np.int32), "x": x, "y": y}


def test_a_node_comes_with_the_first_review_that_names_it(arrays):
    """Chunk by chunk edges lead to nodes that are there by then, and in the end there are those of the data."""
    stream = Stream(arrays, None, 0.5)
    there, edges = stream.nodes_before(stream.first), [stream.edges(0, stream.first)]
    assert edges[0].max() == there - 1
    for begin in range(stream.first, REVIEWS, 70):
        growth = stream.growth(begin, min(begin + 70, REVIEWS))
        there += len(growth.nodes)
        edges.append(growth.edges)
        assert growth.edges.max() < there == stream.nodes_before(begin + 70)
        assert set(growth.reviews) <= set(growth.edges[0])
    grown, given = np.concatenate(edges, 1), arrays["edge_index"]
    assert grown.shape == given.shape
    np.testing.assert_array_equal(np.sort(np.bincount(grown[0])), np.sort(np.bincount(given[0])[np.unique(given[0])]))
    np.testing.assert_array_equal(np.bincount(grown[0])[stream.reviews], 2)
    np.testing.assert_array_equal(stream.y[stream.reviews], arrays["y"][:REVIEWS])


def test_features_count_what_had_come_by_then(arrays):
    """A review knows how many its user and its product had with it, a user or product that it has one."""
    stream = Stream(arrays, None, 1.0)
    for column, kind in ((OF_USER, 1), (OF_PRODUCT, 2)):
        of = np.full(REVIEWS, -1)
        for review, partner in arrays["edge_index"].T:
            if arrays["node_type"][partner] == kind:
                of[review] = partner
        so_far = [int((of[: review + 1] == of[review]).sum()) for review in range(REVIEWS)]
        found = stream.x[stream.reviews, column]
        assert np.corrcoef(found, np.log1p(so_far))[0, 1] == pytest.approx(1, abs=1e-6)
    others = np.setdiff1d(np.arange(len(stream.x)), stream.reviews)
    assert np.ptp(stream.x[others, DEGREE]) == 0


def test_labels_are_split_among_the_first_reviews(arrays):
    """Nothing that comes later is learned from, and no review is both learned from and selected by."""
    stream = Stream(arrays, 400, 0.5)
    y, masks = stream.first_labels()
    assert len(y) == stream.nodes_before(200)
    assert not (masks["train"] & masks["val"]).any()
    assert (masks["train"].sum(), masks["val"].sum()) == (160, 40)
    assert (y[masks["train"] | masks["val"]] >= 0).all()


def test_another_answer_ends_the_benchmark():
    """A contender that differs from the whole graph when the stream is over is no contender."""
    whole = np.eye(4, 2, dtype=np.float32)
    server = SimpleNamespace(answers=lambda nodes: whole[nodes], setting="some")
    assert error_at_the_end(server, np.arange(4), whole) == 0
    server.answers = lambda nodes: whole[nodes] * 1.01
    with pytest.raises(SystemExit, match="some: answers differ"):
        error_at_the_end(server, np.arange(4), whole)


def test_the_stream_is_followed(arrays, tmp_path):
    """Every contender answers as the whole graph does at the end; a store changes no answer, and takes less pruned."""
    np.savez(tmp_path / "yelpchi_reviews.npz", **arrays)
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.spam_stream", "--quick", "--threads=1", f"--output={path}"]
    environment = {**os.environ, "GNNEXPORT_DATA": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert [(row["setting"]["keep"], row["setting"]["staleness"]) for row in rows] == [
        (1, 0), (1, 0), (1, 3), (0.25, 0), (0.25, 0), (0.25, 3),
    ]  # fmt: skip
    assert all(row["max_rel_error"] < 1e-4 for row in rows)
    for off, stored, stale in (rows[:3], rows[3:]):
        assert (off["store_bytes"], off["found_share"]) == (0, 0)
        assert off["auc"] == pytest.approx(stored["auc"], abs=1e-3)
        assert stale["found_share"] > stored["found_share"] > 0
    assert rows[4]["store_bytes"] < rows[1]["store_bytes"]
