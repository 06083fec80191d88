"""Rows of levels, made and aggregated on every dispatch path: the bits are those of numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native import level_calls, level_twins
from tests.native.level_twins import After
from tests.native.strategies import floats, hub_graph, structures, widths
from tests.native.twins import EPS, Array, Graph

FORMS = [(8, 0), (8, 128), (4, 0), (4, 8)]


def positive(rng: np.random.Generator, count: int) -> Array:
    """Draw steps."""
    return (0.01 + rng.random(count)).astype(np.float32)


def rows_of_levels(rng: np.random.Generator, rows: int, width: int, bits: int, zero: int) -> tuple[Array, Array]:
    """Draw levels [rows, width] over all that the bytes hold: what is stored, and what it stands for without steps."""
    whole = rng.integers(-zero, 2**bits - zero, (rows, width))
    return level_twins.stored(whole, bits, zero), whole


def chunk_of(width: int, bits: int) -> int:
    """Count the slots above which several tasks share a row."""
    return min(max((1 << 20) // max((width * bits + 7) // 8, 1), 256), 16384)


@pytest.mark.parametrize(("bits", "zero"), FORMS)
@settings(max_examples=30)
@given(data=st.data())
def test_narrow(path: str, bits: int, zero: int, data: st.DataObject) -> None:
    """Floats turn into the levels of the definition, half of a step upwards and what is too large cut off."""
    rng, width = np.random.default_rng(data.draw(st.integers(0, 2**31))), data.draw(widths())
    step = positive(rng, width)
    x = floats(rng, data.draw(st.integers(0, 5)), width) * np.float32(2.0 ** rng.integers(-4, 10))
    halves = rng.random(x.shape) < 0.5
    x[halves] = ((np.floor(x / step) + 0.5).astype(np.float32) * step)[halves]
    x[rng.random(x.shape) < 0.05] = np.inf
    expected = level_twins.narrow(x, step, bits, zero)
    np.testing.assert_array_equal(level_calls.narrow(x, step, bits, zero), expected)


def test_narrow_by_several_threads(path: str) -> None:
    """Rows dealt out to threads are all there."""
    rng = np.random.default_rng(0)
    x, step = floats(rng, 3001, 257), positive(rng, 257)
    for bits, zero in FORMS:
        expected = level_twins.narrow(x, step, bits, zero)
        np.testing.assert_array_equal(level_calls.narrow(x, step, bits, zero, threads=3), expected)


def test_narrow_takes_anything(path: str) -> None:
    """What is no number turns into some level, the same on every instruction set."""
    x = np.array([[np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e38, -1e38]], np.float32)
    one = np.ones(8, np.float32)
    assert level_calls.narrow(x, one, 8, 0)[0, 2:].tolist() == [255, 0, 0, 0, 255, 0]
    assert level_calls.narrow(x, one, 8, 128)[0, 2:].tolist() == [255, 1, 128, 128, 255, 1]


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize(("bits", "zero"), FORMS)
@settings(max_examples=30)
@given(data=st.data())
def test_aggregate(path: str, bits: int, zero: int, reduce: str, data: st.DataObject) -> None:
    """Every reduction of levels, with all that follows it, has the bits of numpy; rows without slots are 0."""
    graph, width = data.draw(structures()), data.draw(widths())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    x, whole = rows_of_levels(rng, graph.num_src, width, bits, zero)
    step = positive(rng, width) if data.draw(st.booleans()) else None
    next_bits, next_zero = data.draw(st.sampled_from(FORMS))
    after = After(
        scale=positive(rng, graph.num_rows) if data.draw(st.booleans()) else None,
        root=floats(rng, graph.num_rows, width) if data.draw(st.booleans()) else None,
        bias=floats(rng, width) if data.draw(st.booleans()) else None,
        activation=data.draw(st.sampled_from(["identity", "relu", "leaky_relu"])),
        step=positive(rng, width) if data.draw(st.booleans()) else None,
        bits=next_bits,
        zero=next_zero,
    )
    expected = after.of(level_twins.aggregate(graph, whole, step, reduce=reduce))
    options = {"reduce": reduce, "step": step, "after": after}
    index_bits, threads = data.draw(st.sampled_from([(32, 1), (64, 1), (32, 3)]))
    got = level_calls.aggregate(graph, x, width, bits, zero, index_bits=index_bits, threads=threads, **options)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("bits", "zero"), FORMS)
@settings(max_examples=20)
@given(data=st.data())
def test_weighted(path: str, bits: int, zero: int, data: st.DataObject) -> None:
    """Rows with weights of slots and scales of sources are added in float32, in their order."""
    graph, width = data.draw(structures()), data.draw(widths())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    x, whole = rows_of_levels(rng, graph.num_src, width, bits, zero)
    weighted = data.draw(st.booleans())
    options = {
        "weight": floats(rng, graph.num_slots) if weighted else None,
        "row_scale": positive(rng, graph.num_src) if not weighted or data.draw(st.booleans()) else None,
        "step": positive(rng, width),
        "reduce": data.draw(st.sampled_from(["sum", "mean"])),
    }
    after = After(step=positive(rng, width), bits=4, zero=8) if data.draw(st.booleans()) else After()
    expected = after.of(level_twins.aggregate(graph, whole, **options))
    got = level_calls.aggregate(graph, x, width, bits, zero, after=after, **options)
    np.testing.assert_array_equal(got, expected)


def test_every_width(path: str) -> None:
    """Sums and maxima are right for each width, however the vectors fit it."""
    rng, graph = np.random.default_rng(0), hub_graph(40)
    for width in [*range(1, 140), 255, 256, 257, 511, 512, 513, 1030]:
        for bits, zero in FORMS:
            x, whole = rows_of_levels(rng, graph.num_src, width, bits, zero)
            for reduce in ("sum", "max"):
                got = level_calls.aggregate(graph, x, width, bits, zero, reduce=reduce)
                np.testing.assert_array_equal(got, level_twins.aggregate(graph, whole, reduce=reduce))


@pytest.mark.parametrize("slots", [16, 17, 18, 34, 35, 256, 257, 258, 4352, 4353, 4369, 4370, 16384, 16385, 40_000])
def test_sums_do_not_overflow(path: str, slots: int) -> None:
    """As many of the largest and least levels as short sums hold, and one more, add up exactly."""
    graph = Graph(np.array([0, 3, slots + 3]), np.zeros(slots + 3, np.int64), 1)
    for bits, zero in FORMS:
        for width in (1, 5, 40, 257):
            for whole in (-zero, 2**bits - 1 - zero):
                x = level_twins.stored(np.full((1, width), whole), bits, zero)
                got = level_calls.aggregate(graph, x, width, bits, zero)
                np.testing.assert_array_equal(got, np.array([[3], [slots]]) * whole * np.ones((1, width), np.float32))


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("width", [3, 65, 257])
@pytest.mark.parametrize(("bits", "zero"), FORMS)
def test_hub_shared_by_tasks(path: str, bits: int, zero: int, width: int, reduce: str) -> None:
    """A row that several tasks share has the same bits for any number of threads, also where it leaves narrow."""
    rng, graph = np.random.default_rng(0), hub_graph(2 * chunk_of(width, bits) + 17)
    x, whole = rows_of_levels(rng, graph.num_src, width, bits, zero)
    step = positive(rng, width)
    after = After(bias=floats(rng, width), step=positive(rng, width) * 300, bits=4, zero=8)
    value = level_twins.aggregate(graph, whole, step, reduce=reduce)
    for threads in (1, 3):
        options = {"reduce": reduce, "step": step, "threads": threads}
        for each in (after, after.wide()):
            got = level_calls.aggregate(graph, x, width, bits, zero, after=each, **options)
            np.testing.assert_array_equal(got, each.of(value))


@pytest.mark.parametrize(("bits", "zero"), FORMS)
def test_weighted_hub(path: str, bits: int, zero: int) -> None:
    """Weighted rows that several tasks share are put together, with the same bits for any number of threads."""
    width = 65
    rng, graph = np.random.default_rng(0), hub_graph(2 * chunk_of(width, bits) + 17)
    x, whole = rows_of_levels(rng, graph.num_src, width, bits, zero)
    weight = floats(rng, graph.num_slots)
    alone = level_calls.aggregate(graph, x, width, bits, zero, weight=weight)
    again = level_calls.aggregate(graph, x, width, bits, zero, weight=weight, threads=3, index_bits=32)
    assert alone.tobytes() == again.tobytes()
    exact, sizes = np.zeros((2, graph.num_rows, width))
    np.add.at(exact, graph.rows, whole[graph.sources] * weight[:, None].astype(np.float64))
    np.add.at(sizes, graph.rows, np.abs(whole[graph.sources] * weight[:, None]))
    assert (np.abs(alone - exact) <= EPS * (np.diff(graph.rowptr)[:, None] + 4) * sizes).all()


def test_results_larger_than_the_caches(path: str) -> None:
    """Results that are stored past the caches have the same bits."""
    rng, width = np.random.default_rng(0), 256
    num_rows = (16 << 20) // (4 * width) + 1
    rowptr = np.concatenate([[0], np.cumsum(rng.integers(0, 3, num_rows))])
    graph = Graph(rowptr, rng.integers(0, 9, rowptr[-1]), 9)
    x, whole = rows_of_levels(rng, 9, width, 8, 128)
    total = np.zeros((num_rows, width), np.float32)
    np.add.at(total, graph.rows, whole[graph.sources].astype(np.float32))
    np.testing.assert_array_equal(level_calls.aggregate(graph, x, width, 8, 128, threads=2), total)
