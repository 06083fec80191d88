"""Aggregation and CSR, on every dispatch path, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnexport.native import kernels, library
from tests.graph_strategies import edge_indices
from tests.native import calls, twins
from tests.native.strategies import (
    DTYPES,
    MOST_WIDTH,
    REDUCTIONS,
    aggregations,
    chunk_of,
    encode,
    factors,
    floats,
    graph_of,
    hub_graph,
    structures,
    widths,
)
from tests.native.twins import Graph

THREADS = [2, 3, 7]

PAST_BYTES = 16 << 20
"""Results larger than this are stored past the caches."""


def test_path_is_used(path: str) -> None:
    """The kernels say which instruction set is in use."""
    assert library.path_name() == path


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25)
@given(data=st.data())
def test_aggregate(path: str, dtype: str, reduce: str, data: st.DataObject) -> None:
    """Every reduction of every type, with all that goes with it, is what numpy computes."""
    call = data.draw(aggregations(dtype, reduce))
    options = {"reduce": reduce, "weight": call.weight, "after": call.after}
    scales = {"row_scale": call.row_scale, "column_scale": call.column_scale}
    got = calls.aggregate(call.graph, call.x, dtype=dtype, bits=call.bits, threads=call.threads, **options, **scales)
    twins.aggregate(call.graph, call.decoded, **options, **scales).check(got)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_width(path: str, dtype: str) -> None:
    """Sums and maxima are right for each width, however the vectors fit it."""
    rng = np.random.default_rng(0)
    graph = graph_of(rng.integers(0, 5, 12), np.array([0, 0, 0, 1, 3, 3, 3, 3, 3, 3, 3, 0]), 5, 5)
    for width in range(1, MOST_WIDTH + 1):
        x, decoded = encode(floats(rng, 5, width), dtype)
        for reduce in ("sum", "max"):
            twins.aggregate(graph, decoded, reduce=reduce).check(calls.aggregate(graph, x, dtype=dtype, reduce=reduce))


@pytest.mark.parametrize("heads", [2, 3, 4, 5, 8, 16])
def test_every_width_of_heads(path: str, heads: int) -> None:
    """Weights by head reach the channels of their head, for each width that the heads share."""
    rng = np.random.default_rng(heads)
    graph = graph_of(rng.integers(0, 5, 12), np.array([0, 0, 0, 1, 3, 3, 3, 3, 3, 3, 3, 0]), 5, 5)
    weight = floats(rng, 12, heads)
    for width in range(heads, MOST_WIDTH + 1, heads):
        x = floats(rng, 5, width)
        twins.aggregate(graph, x, weight=weight).check(calls.aggregate(graph, x, weight=weight))


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [3, 65, 257])
def test_hub_shared_by_tasks(path: str, dtype: str, reduce: str, width: int) -> None:
    """A row with more slots than a chunk is put together from its parts; its neighbours are as ever."""
    graph = hub_graph(2 * chunk_of(width, dtype) + 17)
    values = floats(np.random.default_rng(1), graph.num_src, width)
    if reduce == "prod":
        x, decoded = factors(values / 16, dtype)
    else:
        x, decoded = encode(values, dtype)
    after = twins.After(bias=floats(np.random.default_rng(2), width), activation="relu")
    got = calls.aggregate(graph, x, dtype=dtype, reduce=reduce, after=after, threads=2)
    twins.aggregate(graph, decoded, reduce=reduce, after=after).check(got)


def test_weighted_hub(path: str) -> None:
    """Weights by head and scales of rows reach the right slots of a row that several tasks share."""
    graph, rng = hub_graph(2 * chunk_of(48, "int8") + 17), np.random.default_rng(0)
    x, decoded = encode(floats(rng, graph.num_src, 48), "int8")
    options = {"weight": floats(rng, graph.num_slots, 3), "row_scale": floats(rng, graph.num_src), "reduce": "mean"}
    twins.aggregate(graph, decoded, **options).check(calls.aggregate(graph, x, dtype="int8", threads=2, **options))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("reduce", REDUCTIONS)
@settings(max_examples=20)
@given(data=st.data())
def test_nan_is_handed_on(path: str, dtype: str, reduce: str, data: st.DataObject) -> None:
    """A row with a NaN among its sources is NaN in that column, and no other is."""
    graph, width = data.draw(structures()), data.draw(widths())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    values = floats(rng, graph.num_src, width)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[rng.random(values.shape) < 0.05] = np.inf if reduce == "max" else -np.inf if reduce == "min" else 1
    x, decoded = encode(values, dtype)
    got = calls.aggregate(graph, x, dtype=dtype, reduce=reduce)
    broken = np.zeros(got.shape, bool)
    np.logical_or.at(broken, graph.rows, np.isnan(decoded[graph.sources]))
    np.testing.assert_array_equal(np.isnan(got), broken)
    if reduce in ("max", "min"):
        np.testing.assert_array_equal(got, twins.aggregate(graph, decoded, reduce=reduce).value)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@settings(max_examples=25)
@given(data=st.data())
def test_integer_sums_are_exact(path: str, reduce: str, data: st.DataObject) -> None:
    """Sums of int8 have the bits of integer sums, scaled once."""
    graph, width = data.draw(structures()), data.draw(widths())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    x = rng.integers(-128, 128, (graph.num_src, width), dtype=np.int8)
    scale = floats(rng, width) if data.draw(st.booleans()) else None
    got = calls.aggregate(graph, x, dtype="int8", reduce=reduce, column_scale=scale)
    np.testing.assert_array_equal(got, twins.integer_sums(graph, x, reduce, scale))


@pytest.mark.parametrize("extreme", [-128, 127])
@pytest.mark.parametrize("slots", [254, 255, 256, 257, 511, 16384, 16385, 66_000, 300_000])
def test_integer_sums_do_not_overflow(path: str, slots: int, extreme: int) -> None:
    """Neither 255 extreme numbers nor hundreds of thousands overflow."""
    graph = Graph(np.array([0, 3, slots + 3]), np.zeros(slots + 3, np.int64), 1)
    for width in (1, 5, 40):
        x = np.full((1, width), extreme, np.int8)
        got = calls.aggregate(graph, x, dtype="int8")
        np.testing.assert_array_equal(got, np.array([[3], [slots]]) * extreme * np.ones((1, width), np.float32))


@pytest.mark.parametrize("width", [1, 4, 8, 16, 32])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_half_is_read(path: str, dtype: str, width: int) -> None:
    """All 65,536 numbers of 16 bits are read to the bit: subnormal, infinite and no numbers too."""
    stored = np.arange(1 << 16, dtype=np.uint16).reshape(-1, width)
    graph = Graph(np.arange(len(stored) + 1), None, len(stored))
    if dtype == "float16":
        expected = stored.view(np.float16).astype(np.float32)
    else:
        expected = (stored.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(calls.aggregate(graph, stored, dtype=dtype, reduce="max"), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_same_bits_for_any_threads(path: str, dtype: str, reduce: str) -> None:
    """The number of threads changes no bit, nor does the width of indices."""
    graph = hub_graph(2 * chunk_of(65, dtype) + 17)
    x, _ = (factors if reduce == "prod" else encode)(floats(np.random.default_rng(0), graph.num_src, 65), dtype)
    alone = calls.aggregate(graph, x, dtype=dtype, reduce=reduce)
    for threads in THREADS:
        got = calls.aggregate(graph, x, dtype=dtype, reduce=reduce, threads=threads, bits=32)
        assert got.tobytes() == alone.tobytes()


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize("width", [256, 272, 250])
def test_results_larger_than_the_caches(path: str, width: int, activation: str, offset: int) -> None:
    """Results that are stored past the caches have the same bits, wherever they begin; a hub is among them."""
    rng, num_rows = np.random.default_rng(0), PAST_BYTES // (4 * width) + 1
    degrees = np.append(rng.integers(0, 3, num_rows - 1), 2 * chunk_of(width))
    rowptr = np.concatenate([[0], np.cumsum(degrees)])
    graph, x = Graph(rowptr, rng.integers(0, 9, rowptr[-1]), 9), floats(rng, 9, width)
    structure, epilogue = calls.Structure(graph), kernels.Epilogue(activation=activation)
    block = np.full(num_rows * width + 64, calls.CANARY, np.float32)
    begin = -block.ctypes.data % 64 // 4 + offset
    to = block[begin:].ctypes.data
    kernels.aggregate(structure.csr, calls.address(x), width, to, epilogue=epilogue, threads=2)
    got = block[begin : begin + num_rows * width].reshape(num_rows, width)
    last = Graph(rowptr[-9:] - rowptr[-9], graph.sources[rowptr[-9] :], 9)
    few = calls.aggregate(last, x, after=twins.After(activation=activation))
    assert got[-8:].tobytes() == few.tobytes()
    twins.aggregate(graph, x, after=twins.After(activation=activation)).check(got)
    assert (block[:begin] == calls.CANARY).all()
    assert (block[begin + got.size :] == calls.CANARY).all()


def test_elu_of_anything(path: str) -> None:
    """The exponential of ELU is right to a few units of 1 all the way down."""
    x = np.linspace(-120, 5, 4001, dtype=np.float32)[:, None]
    graph, after = Graph(np.arange(len(x) + 1), None, len(x)), twins.After(activation="elu")
    got = calls.aggregate(graph, x, after=after)
    twins.aggregate(graph, x, after=after).check(got)
    np.testing.assert_array_equal(calls.aggregate(graph, x * np.nan, after=after), x * np.nan)


@settings(max_examples=25)
@given(data=st.data())
def test_build_csr(native: None, data: st.DataObject) -> None:
    """Edges are sorted by destination and keep their order."""
    num_rows = data.draw(st.integers(1, 12))
    dst = data.draw(edge_indices(num_rows))[1].numpy()
    bits, threads = data.draw(st.sampled_from([32, 64])), data.draw(st.sampled_from([1, 2, 7]))
    rowptr, perm = calls.build_csr(dst, num_rows, bits=bits, threads=threads)
    expected = twins.build_csr(dst, num_rows)
    np.testing.assert_array_equal(rowptr, expected[0])
    np.testing.assert_array_equal(perm, expected[1])


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("num_rows", [1, 1000, 2_000_000])
def test_build_csr_by_stretches(native: None, bits: int, num_rows: int) -> None:
    """Many edges are sorted by several threads as by one."""
    dst = np.random.default_rng(0).integers(0, num_rows, 700_001)
    expected = twins.build_csr(dst, num_rows)
    for threads in (1, *THREADS):
        for got, wanted in zip(calls.build_csr(dst, num_rows, bits=bits, threads=threads), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
