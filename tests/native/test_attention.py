"""Attention and softmax, on every dispatch path, against plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native import calls, twins
from tests.native.strategies import (
    MOST_WIDTH,
    SCORES,
    after,
    chunk_of,
    floats,
    graph_of,
    hub_graph,
    score_terms,
    structures,
    widths,
)
from tests.native.twins import After, Array, Graph


def expected(
    graph: Graph,
    x: Array,
    heads: int,
    score: str,
    terms: dict[str, Any],
    edge_value: Array | None = None,
    after: After | None = None,
) -> twins.Answer:
    """Compute attention in double precision."""
    weights = twins.softmax(graph, twins.scores(graph, heads, score, **terms))
    return twins.attention(graph, x, weights, edge_value, after)


@pytest.mark.parametrize("score", SCORES)
@settings(max_examples=40)
@given(data=st.data())
def test_attention(path: str, score: str, data: st.DataObject) -> None:
    """Each score, with and without values of edges, is what numpy computes."""
    graph, heads = data.draw(structures()), data.draw(st.sampled_from([1, 2, 3, 4, 8]))
    width = data.draw(widths(heads))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    terms = score_terms(rng, graph, width, heads, score, data.draw(st.booleans()))
    edge_value = floats(rng, graph.num_slots, width) if data.draw(st.booleans()) else None
    x, what_follows = floats(rng, graph.num_src, width), after(data.draw, rng, graph.num_rows, width)
    bits, threads = data.draw(st.sampled_from([32, 64])), data.draw(st.sampled_from([1, 2, 3]))
    rest: dict[str, Any] = {"edge_value": edge_value, "after": what_follows}
    got = calls.attention(graph, x, heads, score, terms, bits=bits, threads=threads, **rest)
    expected(graph, x, heads, score, terms, **rest).check(got)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("heads", [1, 3])
def test_every_width(path: str, score: str, heads: int) -> None:
    """Scores and sums are right for each width that the heads share."""
    rng = np.random.default_rng(heads)
    graph = graph_of(rng.integers(0, 5, 12), np.array([0, 0, 0, 1, 3, 3, 3, 3, 3, 3, 3, 0]), 5, 5)
    for width in range(heads, MOST_WIDTH + 1, heads):
        x, terms = floats(rng, 5, width), score_terms(rng, graph, width, heads, score, True)
        expected(graph, x, heads, score, terms).check(calls.attention(graph, x, heads, score, terms))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("heads", "width"), [(1, 5), (4, 64), (2, 200)])
def test_hub_shared_by_tasks(path: str, score: str, heads: int, width: int) -> None:
    """The softmax of a row with more slots than a chunk is put together from its parts, the same for any threads."""
    graph, rng = hub_graph(2 * chunk_of(width) + 17), np.random.default_rng(0)
    x, terms = floats(rng, graph.num_src, width), score_terms(rng, graph, width, heads, score, True)
    rest: dict[str, Any] = {"edge_value": floats(rng, graph.num_slots, width), "after": After(bias=floats(rng, width))}
    alone = calls.attention(graph, x, heads, score, terms, **rest)
    expected(graph, x, heads, score, terms, **rest).check(alone)
    for threads in (2, 3, 7):
        got = calls.attention(graph, x, heads, score, terms, bits=32, threads=threads, **rest)
        assert got.tobytes() == alone.tobytes()


@settings(max_examples=60)
@given(data=st.data())
def test_softmax(path: str, data: st.DataObject) -> None:
    """The exponentials of a row add up to one, head by head, however far the scores lie apart."""
    graph, heads = data.draw(structures()), data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    scores = floats(rng, graph.num_slots, heads) * data.draw(st.sampled_from([0.1, 1, 30, 1e4, 1e30]))
    got = calls.softmax(graph, scores, bits=data.draw(st.sampled_from([32, 64])), threads=2)
    twins.softmax(graph, twins.scores(graph, heads, "given", edge=scores)).check(got)


@pytest.mark.parametrize("heads", [1, 3, 300])
def test_softmax_of_a_hub(path: str, heads: int) -> None:
    """A row that several tasks share is normalised as a whole, the same for any threads."""
    graph = hub_graph(2 * chunk_of(heads) + 17)
    scores = floats(np.random.default_rng(0), graph.num_slots, heads) * 3
    alone = calls.softmax(graph, scores)
    twins.softmax(graph, twins.scores(graph, heads, "given", edge=scores)).check(alone)
    for threads in (2, 3, 7):
        assert calls.softmax(graph, scores, threads=threads, bits=32).tobytes() == alone.tobytes()


def masked(slots: int, hidden: slice) -> tuple[Graph, Array]:
    """Build one row, and scores of which some are minus infinity."""
    scores = floats(np.random.default_rng(0), slots, 1)
    scores[hidden] = -np.inf
    return Graph(np.array([0, slots]), np.zeros(slots, np.int64), 1), scores


@pytest.mark.parametrize("hidden", [slice(0, 16384), slice(5, 9), slice(16384, 40_000), slice(0, 39_999)])
def test_masked_scores_weigh_nothing(path: str, hidden: slice) -> None:
    """A score of minus infinity weighs 0, in a hub whose other parts have scores too."""
    graph, scores = masked(40_000, hidden)
    weights = twins.softmax(graph, twins.scores(graph, 1, "given", edge=scores))
    weights.check(calls.softmax(graph, scores))
    x = np.ones((1, 1), np.float32)
    twins.attention(graph, x, weights, None).check(calls.attention(graph, x, 1, "given", {"edge": scores}))


@pytest.mark.parametrize("slots", [1, 7, 40_000])
@pytest.mark.parametrize("what", [-np.inf, np.nan])
def test_no_score_is_no_number(path: str, slots: int, what: float) -> None:
    """Where all scores are minus infinity, or one is NaN, the softmax is NaN, as PyTorch has it."""
    graph, scores = masked(slots, slice(0, slots))
    scores[0] = what
    assert np.isnan(calls.softmax(graph, scores)).all()
    x = np.ones((1, 1), np.float32)
    assert np.isnan(calls.attention(graph, x, 1, "given", {"edge": scores})).all()
