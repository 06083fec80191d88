"""Products that leave zeros out, in every layout of a matrix and on every dispatch path, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnexport.native.kernels import LAYOUTS
from tests.native import calls, twins
from tests.native.strategies import REDUCTIONS, chunk_of, floats, graph_of, hub_graph, linears, widths
from tests.native.test_linear import LARGER, rows_only
from tests.native.twins import Array, exactly

SKIPPING = [layout for layout in LAYOUTS if layout != "dense"]
PAIRS = [(one, other) for one in LAYOUTS for other in LAYOUTS if (one, other) != ("dense", "dense")]


def thinned(matrix: Array, share: float, rng: np.random.Generator, pattern: str = "anywhere") -> Array:
    """Put zeros, some of them negative, into a share of a matrix: anywhere, or for sixteen outputs at a time."""
    out_width, width = matrix.shape
    if pattern == "runs":
        zeros = np.repeat(rng.random((-(-out_width // 16), width)) < share, 16, axis=0)[:out_width]
    else:
        zeros = rng.random(matrix.shape) < share
    return np.where(zeros, rng.choice([0.0, -0.0], matrix.shape), matrix).astype(np.float32)


def product(layout: str, own: Array, matrix: Array, threads: int = 1, after: twins.After | None = None) -> Array:
    """Multiply rows as they are with a matrix in one layout."""
    graph, layouts = rows_only(len(own)), ("dense", layout)
    return calls.linear(graph, None, None, own, matrix, threads=threads, layouts=layouts, after=after)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("layouts", PAIRS, ids="-".join)
@settings(max_examples=15)
@given(data=st.data())
def test_linear(path: str, layouts: tuple[str, str], reduce: str, data: st.DataObject) -> None:
    """Whatever is reduced, multiplied and added, by matrices of one layout or of two: it is what numpy has."""
    call = data.draw(linears("float32", reduce))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    share, pattern = data.draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])), data.draw(st.sampled_from(["anywhere", "runs"]))
    rows, parts, terms = call.rows, [], []
    for matrix in (call.matrix, call.own_matrix):
        terms.append(None if matrix is None else thinned(matrix, share, rng, pattern))
    if terms[0] is not None:
        parts.append((twins.aggregate(rows.graph, rows.decoded, reduce=reduce, weight=rows.weight), terms[0]))
    if call.own is not None and terms[1] is not None:
        parts.append((exactly(call.own), terms[1]))
    how = {"reduce": reduce, "weight": rows.weight, "after": call.after, "threads": rows.threads, "layouts": layouts}
    got = calls.linear(rows.graph, rows.x, terms[0], call.own, terms[1], **how)
    twins.linear(parts, path, call.after).check(got)


@pytest.mark.parametrize("layout", SKIPPING)
def test_every_width(path: str, layout: str) -> None:
    """Products are right for each width on either side, however vectors, runs and chunks of inputs fit it."""
    rng = np.random.default_rng(0)
    for size in (*range(1, 70), 127, 128, 129, 159, 160, 161, 257, 320, 321, 481, 700):
        for width, out_width in ((size, 19), (19, size)):
            own, matrix = floats(rng, 13, width), thinned(floats(rng, out_width, width), 0.6, rng)
            twins.linear([(exactly(own), matrix)], path).check(product(layout, own, matrix))


@pytest.mark.parametrize("layout", SKIPPING)
@pytest.mark.parametrize("num_rows", [0, 1, 3, 4, 5, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 97, 191, 257, 700])
def test_every_number_of_rows(path: str, num_rows: int, layout: str) -> None:
    """Rows are turned in strips and dealt out: what is left over at their ends is right."""
    rng = np.random.default_rng(num_rows)
    graph = graph_of(rng.integers(0, 9, 3 * num_rows), rng.integers(0, max(num_rows, 1), 3 * num_rows), num_rows, 9)
    x, own, after = floats(rng, 9, 170), floats(rng, num_rows, 21), twins.After(bias=floats(rng, 33), activation="relu")
    matrix, own_matrix = (thinned(floats(rng, 33, width), 0.7, rng) for width in (170, 21))
    parts = [(twins.aggregate(graph, x, reduce="mean"), matrix), (exactly(own), own_matrix)]
    how = {"reduce": "mean", "after": after, "layouts": (layout, layout)}
    for threads in (1, 3):
        got = calls.linear(graph, x, matrix, own, own_matrix, threads=threads, **how)
        twins.linear(parts, path, after).check(got)
        twins.linear(parts[1:], path, after).check(product(layout, own, own_matrix, threads, after))


@pytest.mark.parametrize("layout", SKIPPING)
@pytest.mark.parametrize("kind", ["all zero", "no zero", "one row", "one column", "one weight"])
def test_zeros_anywhere(path: str, kind: str, layout: str) -> None:
    """Outputs, inputs and whole matrices may be empty, or full."""
    rng = np.random.default_rng(0)
    full, own = floats(rng, 35, 333), floats(rng, 70, 333)
    matrix = full if kind == "no zero" else np.zeros_like(full)
    if kind == "one row":
        matrix[17] = full[17]
    elif kind == "one column":
        matrix[:, 300] = full[:, 300]
    elif kind == "one weight":
        matrix[34, 332] = 2.0
    twins.linear([(exactly(own), matrix)], path).check(product(layout, own, matrix))


@pytest.mark.parametrize(("width", "own_width", "out_width"), [(0, 5, 4), (5, 0, 4), (0, 0, 4), (5, 4, 0), (0, 0, 0)])
@pytest.mark.parametrize("layouts", PAIRS, ids="-".join)
def test_nothing_to_multiply(path: str, layouts: tuple[str, str], width: int, own_width: int, out_width: int) -> None:
    """A product without columns adds nothing, and an output without columns holds nothing."""
    graph, rng = hub_graph(7), np.random.default_rng(0)
    x, own = floats(rng, graph.num_src, width), floats(rng, graph.num_rows, own_width)
    matrix, own_matrix = floats(rng, out_width, width), floats(rng, out_width, own_width)
    after = twins.After(bias=floats(rng, out_width))
    parts = [(twins.aggregate(graph, x), matrix), (exactly(own), own_matrix)]
    got = calls.linear(graph, x, matrix, own, own_matrix, after=after, layouts=layouts)
    twins.linear(parts, path, after).check(got)


@pytest.mark.parametrize("layouts", PAIRS, ids="-".join)
def test_same_bits_for_any_threads(path: str, layouts: tuple[str, str]) -> None:
    """The number of threads changes no bit, also where tasks share a row."""
    rng, width = np.random.default_rng(0), 257
    graph = hub_graph(2 * chunk_of(width, larger=LARGER) + 17)
    x, own = floats(rng, graph.num_src, width), floats(rng, graph.num_rows, 70)
    terms = (thinned(floats(rng, 30, width), 0.8, rng), own, thinned(floats(rng, 30, 70), 0.8, rng))
    alone = calls.linear(graph, x, *terms, layouts=layouts)
    twins.linear([(twins.aggregate(graph, x), terms[0]), (exactly(own), terms[2])], path).check(alone)
    for threads in (2, 3, 7):
        got = calls.linear(graph, x, *terms, threads=threads, layouts=layouts)
        assert got.tobytes() == alone.tobytes()


@pytest.mark.parametrize("layout", SKIPPING)
def test_a_row_by_itself(path: str, layout: str) -> None:
    """A row has the same bits whichever rows it is multiplied with."""
    rng = np.random.default_rng(0)
    own, matrix = floats(rng, 130, 333), thinned(floats(rng, 40, 333), 0.8, rng)
    together = product(layout, own, matrix)
    for row in (0, 15, 16, 63, 64, 129):
        assert product(layout, own[row : row + 1].copy(), matrix).tobytes() == together[row : row + 1].tobytes()


@pytest.mark.parametrize("layouts", PAIRS, ids="-".join)
def test_adds_and_scales_once(path: str, layouts: tuple[str, str]) -> None:
    """Root term, bias and activation count once, whether one product is made of both matrices or two."""
    rng = np.random.default_rng(0)
    graph = hub_graph(40)
    x, own = floats(rng, graph.num_src, 70), floats(rng, graph.num_rows, 30)
    matrix, own_matrix = thinned(floats(rng, 90, 70), 0.8, rng), thinned(floats(rng, 90, 30), 0.8, rng)
    after = twins.After(floats(rng, graph.num_rows, 90), floats(rng, 90), "leaky_relu", 0.25)
    parts = [(twins.aggregate(graph, x), matrix), (exactly(own), own_matrix)]
    got = calls.linear(graph, x, matrix, own, own_matrix, after=after, layouts=layouts)
    twins.linear(parts, path, after).check(got)


@settings(max_examples=40)
@given(data=st.data())
def test_what_meets_a_zero_is_not_read(path: str, data: st.DataObject) -> None:
    """Infinite numbers and NaN of a row count where their weight is not zero; elsewhere a sparse product skips them."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    width, rows = data.draw(widths()), data.draw(st.sampled_from([1, 12, 70]))
    own, matrix = floats(rng, rows, width), thinned(floats(rng, 35, width), 0.7, rng)
    strange = rng.choice([np.inf, -np.inf, np.nan], own.shape)
    own = np.where(rng.random(own.shape) < 1 / width, strange, own).astype(np.float32)
    met = np.einsum("rk,ok->ro", ~np.isfinite(own), matrix != 0) > 0
    got = product("sparse", own, matrix)
    with np.errstate(invalid="ignore"):
        terms = own[:, None, :].astype(np.float64) * matrix
        expected = np.where(matrix != 0, terms, 0.0).sum(axis=2)
    np.testing.assert_array_equal(got[met], expected[met].astype(np.float32))
    assert np.isfinite(got[~met]).all()


@pytest.mark.parametrize("layout", SKIPPING)
def test_weights_that_are_no_numbers(path: str, layout: str) -> None:
    """A weight that is NaN or infinite is not zero."""
    own, matrix = np.ones((20, 40), np.float32), np.zeros((33, 40), np.float32)
    matrix[3, 7], matrix[20, 39] = np.nan, -np.inf
    got = product(layout, own, matrix)
    assert np.isnan(got[:, 3]).all()
    assert (got[:, 20] == -np.inf).all()
    assert not np.delete(got, [3, 20], axis=1).any()
