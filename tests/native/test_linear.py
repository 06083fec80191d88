"""Linear layers over reduced rows, on every dispatch path, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnexport.native import kernels
from tests.native import calls, twins
from tests.native.calls import address
from tests.native.strategies import (
    DTYPES,
    MOST_WIDTH,
    REDUCTIONS,
    chunk_of,
    encode,
    factors,
    floats,
    graph_of,
    hub_graph,
    linears,
    widths,
)
from tests.native.test_kernels import PAST_BYTES
from tests.native.twins import Array, Graph, exactly

LARGER = 4
"""As many slots as in an aggregation make a hub."""


def rows_only(num_rows: int) -> Graph:
    """Build a structure without edges."""
    return Graph(np.zeros(num_rows + 1, np.int64), np.zeros(0, np.int64), 0)


def own_product(path: str, own: Array, matrix: Array, threads: int = 1) -> tuple[Array, twins.Answer]:
    """Multiply rows as they are; return what the kernel and what numpy makes of it."""
    got = calls.linear(rows_only(len(own)), None, None, own, matrix, threads=threads)
    return got, twins.linear([(exactly(own), matrix)], path)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25)
@given(data=st.data())
def test_linear(path: str, dtype: str, reduce: str, data: st.DataObject) -> None:
    """Every reduction of every type, multiplied, with rows beside it and all that goes with it, is what numpy has."""
    call = data.draw(linears(dtype, reduce))
    rows, parts = call.rows, []
    options = {"reduce": reduce, "weight": rows.weight, "row_scale": rows.row_scale, "column_scale": rows.column_scale}
    if call.matrix is not None:
        parts.append((twins.aggregate(rows.graph, rows.decoded, **options), call.matrix))
    if call.own is not None and call.own_matrix is not None:
        parts.append((exactly(call.own), call.own_matrix))
    terms = (call.matrix, call.own, call.own_matrix)
    how = {"dtype": dtype, "after": call.after, "bits": rows.bits, "threads": rows.threads}
    twins.linear(parts, path, call.after).check(calls.linear(rows.graph, rows.x, *terms, **how, **options))


def test_every_width(path: str) -> None:
    """Products are right for each width on either side, however vectors and tiles fit it."""
    rng = np.random.default_rng(0)
    graph = graph_of(rng.integers(0, 5, 12), np.array([0, 0, 0, 1, 3, 3, 3, 3, 3, 3, 3, 0]), 5, 5)
    for size in range(1, MOST_WIDTH + 1):
        for width, out_width in ((size, 19), (19, size)):
            x, own = floats(rng, 5, width), floats(rng, 5, width)
            matrix, own_matrix = floats(rng, out_width, width), floats(rng, out_width, width)
            parts = [(twins.aggregate(graph, x), matrix), (exactly(own), own_matrix)]
            twins.linear(parts, path).check(calls.linear(graph, x, matrix, own, own_matrix))


@pytest.mark.parametrize("num_rows", [0, 1, 11, 12, 13, 47, 48, 49, 63, 64, 65, 97, 191, 192, 193, 256, 257, 700])
def test_every_number_of_rows(path: str, num_rows: int) -> None:
    """Rows are multiplied in tiles, and these dealt out: what is left over at their ends is right."""
    rng = np.random.default_rng(num_rows)
    edges = 3 * num_rows
    graph = graph_of(rng.integers(0, 9, edges), rng.integers(0, max(num_rows, 1), edges), num_rows, 9)
    x, own, after = floats(rng, 9, 40), floats(rng, num_rows, 21), twins.After(bias=floats(rng, 33), activation="relu")
    matrix, own_matrix = floats(rng, 33, 40), floats(rng, 33, 21)
    parts = [(twins.aggregate(graph, x, reduce="mean"), matrix), (exactly(own), own_matrix)]
    for threads in (1, 3):
        got = calls.linear(graph, x, matrix, own, own_matrix, reduce="mean", after=after, threads=threads)
        twins.linear(parts, path, after).check(got)
        got = calls.linear(graph, None, None, own, own_matrix, after=after, threads=threads)
        twins.linear(parts[1:], path, after).check(got)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize(("dtype", "width"), [("float32", 257), ("float32", 65), ("bfloat16", 257), ("int8", 257)])
def test_hub_shared_by_tasks(path: str, dtype: str, width: int, reduce: str) -> None:
    """A row with more slots than a chunk is put together from its parts and multiplied; its neighbours are as ever."""
    graph, rng = hub_graph(2 * chunk_of(width, dtype, LARGER) + 17), np.random.default_rng(1)
    values = floats(rng, graph.num_src, width)
    x, decoded = factors(values / 16, dtype) if reduce == "prod" else encode(values, dtype)
    matrix, after = floats(rng, 33, width), twins.After(bias=floats(rng, 33), activation="relu")
    got = calls.linear(graph, x, matrix, dtype=dtype, reduce=reduce, after=after, threads=2)
    twins.linear([(twins.aggregate(graph, decoded, reduce=reduce), matrix)], path, after).check(got)


def test_hubs_beside_each_other(path: str) -> None:
    """Hubs at both ends, in pairs and among other rows are left out of the tiles, and nothing else is."""
    rng, width = np.random.default_rng(0), 257
    hub = chunk_of(width, larger=LARGER) + 1
    rowptr = np.concatenate([[0], np.cumsum([hub, 3, hub, hub, 0, hub - 1, 5, hub])])
    graph = Graph(rowptr, rng.integers(0, 20, rowptr[-1]), 20)
    x, own, weight = floats(rng, 20, width), floats(rng, 8, 30), floats(rng, graph.num_slots, 1)
    matrix, own_matrix = floats(rng, 40, width), floats(rng, 40, 30)
    parts = [(twins.aggregate(graph, x, weight=weight), matrix), (exactly(own), own_matrix)]
    for threads in (1, 2):
        got = calls.linear(graph, x, matrix, own, own_matrix, weight=weight, threads=threads)
        twins.linear(parts, path).check(got)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_same_bits_for_any_threads(path: str, dtype: str, reduce: str) -> None:
    """The number of threads changes no bit, nor does the width of indices."""
    rng, width = np.random.default_rng(0), 257
    graph = hub_graph(2 * chunk_of(width, dtype, LARGER) + 17)
    x, _ = (factors if reduce == "prod" else encode)(floats(rng, graph.num_src, width), dtype)
    terms = (floats(rng, 30, width), floats(rng, graph.num_rows, 70), floats(rng, 30, 70))
    alone = calls.linear(graph, x, *terms, dtype=dtype, reduce=reduce)
    for threads, bits in ((2, 32), (3, 64), (7, 32)):
        got = calls.linear(graph, x, *terms, dtype=dtype, reduce=reduce, threads=threads, bits=bits)
        assert got.tobytes() == alone.tobytes()


def test_same_bits_of_rows_for_any_threads(path: str) -> None:
    """The number of threads changes no bit where nothing is reduced."""
    rng = np.random.default_rng(0)
    own, matrix = floats(rng, 1500, 70), floats(rng, 40, 70)
    alone, _ = own_product(path, own, matrix)
    for threads in (2, 3, 7):
        assert own_product(path, own, matrix, threads)[0].tobytes() == alone.tobytes()


@pytest.mark.parametrize(("width", "own_width", "out_width"), [(0, 5, 4), (5, 0, 4), (0, 0, 4), (5, 4, 0), (0, 0, 0)])
def test_nothing_to_multiply(path: str, width: int, own_width: int, out_width: int) -> None:
    """A product without columns adds nothing, and an output without columns holds nothing."""
    graph, rng = hub_graph(7), np.random.default_rng(0)
    x, own = floats(rng, graph.num_src, width), floats(rng, graph.num_rows, own_width)
    matrix, own_matrix = floats(rng, out_width, width), floats(rng, out_width, own_width)
    after = twins.After(bias=floats(rng, out_width))
    parts = [(twins.aggregate(graph, x), matrix), (exactly(own), own_matrix)]
    twins.linear(parts, path, after).check(calls.linear(graph, x, matrix, own, own_matrix, after=after))
    twins.linear(parts[1:], path, after).check(calls.linear(graph, None, None, own, own_matrix, after=after))


def test_adds_to_what_is_there(path: str) -> None:
    """What is added to the products may lie where they go, also in the row of a hub."""
    rng, width = np.random.default_rng(0), 257
    graph = hub_graph(chunk_of(width, larger=LARGER) + 1)
    x, matrix, root = floats(rng, graph.num_src, width), floats(rng, 70, width), floats(rng, graph.num_rows, 70)
    structure, made, out = calls.Structure(graph), calls.matrix_of(matrix), root.copy()
    reduced, epilogue = kernels.Reduced(structure.csr, address(x), width), kernels.Epilogue(root=address(out))
    # What another call left in the memory of this thread is read by nobody.
    calls.linear(hub_graph(40), x, matrix)
    kernels.linear(reduced, address(out), matrix=made, epilogue=epilogue, threads=1)
    twins.linear([(twins.aggregate(graph, x), matrix)], path, twins.After(root=root)).check(out)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("out_width", [256, 250])
def test_outputs_larger_than_the_caches(path: str, out_width: int, offset: int) -> None:
    """Results that are stored past the caches have the same bits, wherever the output begins."""
    rng = np.random.default_rng(0)
    num_rows = PAST_BYTES // (4 * out_width) // 512 * 512 + 512
    own, matrix = floats(rng, num_rows, 3), floats(rng, out_width, 3)
    made, block = calls.matrix_of(matrix), np.full(num_rows * out_width + 64, calls.CANARY, np.float32)
    begin = -block.ctypes.data % 64 // 4 + offset
    kernels.linear(num_rows, block[begin:].ctypes.data, own=address(own), own_matrix=made, threads=2)
    got = block[begin : begin + num_rows * out_width].reshape(num_rows, out_width)
    halves = [own_product(path, half, matrix)[0] for half in np.split(own, 2)]
    assert got.tobytes() == np.concatenate(halves).tobytes()
    assert (block[:begin] == calls.CANARY).all()
    assert (block[begin + got.size :] == calls.CANARY).all()


def magnitudes(rng: np.random.Generator, least: float, most: float, *shape: int) -> Array:
    """Draw numbers of either sign whose powers of ten lie evenly between two."""
    sizes = 10 ** rng.uniform(least, most, shape)
    return (rng.choice([-1.0, 1.0], shape) * sizes).astype(np.float32)


@settings(max_examples=60)
@given(data=st.data())
def test_as_accurate_as_float32(path: str, data: st.DataObject) -> None:
    """Numbers of any magnitude and sums that cancel err no more than float32 does: n + 4 roundings of their sizes."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    width, power = data.draw(widths()), data.draw(st.sampled_from([0, 4, 12, 30]))
    own, matrix = magnitudes(rng, -power, power, 17, width), magnitudes(rng, -3, 3, 35, width)
    if data.draw(st.booleans()):
        half = width // 2
        own[:, half : 2 * half], matrix[:, half : 2 * half] = -own[:, :half], matrix[:, :half]
    got, expected = own_product(path, own, matrix)
    expected.check(got)


@settings(max_examples=60)
@given(data=st.data())
def test_small_numbers(path: str, data: st.DataObject) -> None:
    """Around the least normal number AMX errs by what the header says, and the others by subnormal roundings."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    width, power = data.draw(widths()), data.draw(st.sampled_from([-45, -40, -20, 0, 20]))
    own, matrix = magnitudes(rng, -45, -30, 17, width), magnitudes(rng, power - 3, power + 3, 35, width)
    own[rng.random(own.shape) < 0.1] = -0.0
    for left, right in ((own, matrix), (matrix, own)):
        got, expected = own_product(path, left, right)
        expected.check(got)


@pytest.mark.parametrize("side", ["rows", "matrix", "both"])
@settings(max_examples=40)
@given(data=st.data())
def test_what_is_no_number(path: str, side: str, data: st.DataObject) -> None:
    """Infinite numbers and NaN give what IEEE arithmetic makes of them, where they are read and nowhere else."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    width, rows = data.draw(widths()), data.draw(st.sampled_from([1, 12, 70]))
    own, matrix = floats(rng, rows, width), floats(rng, 35, width)
    for name, array in (("rows", own), ("matrix", matrix)):
        if side in (name, "both"):
            strange = rng.choice([np.inf, -np.inf, np.nan, 1e18, -1e18, 0.0, -0.0, 1e-40], array.shape)
            array[...] = np.where(rng.random(array.shape) < 1 / width, strange, array)
    with np.errstate(invalid="ignore"):
        got, expected = own_product(path, own, matrix)
    expected.check(got)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_overflows_is_infinite(path: str, sign: int) -> None:
    """Products beyond the largest number are infinite with their sign, never NaN; those close below it are not."""
    rng = np.random.default_rng(0)
    most, below_two = np.float32(2.0**127 * (1 - 2.0**-24)), np.nextafter(np.float32(2), np.float32(0))
    own = np.abs(magnitudes(rng, 25, 38, 60, 9))
    matrix = sign * np.abs(magnitudes(rng, 25, 38, 40, 9))
    got, _ = own_product(path, own, matrix)
    np.testing.assert_array_equal(got, np.full((60, 40), sign * np.inf))
    got, expected = own_product(path, np.array([[most]]), np.array([[sign * below_two]]))
    expected.check(got)
    got, expected = own_product(path, np.array([[most, -most]]), np.array([[below_two, sign * below_two]]) / 4)
    expected.check(got)


@pytest.mark.parametrize("where", ["rows", "matrix"])
def test_the_largest_numbers(path: str, where: str) -> None:
    """Numbers up to the largest there is, times small ones, stay numbers."""
    rng = np.random.default_rng(0)
    large, small = magnitudes(rng, 37, 38.5, 50, 40), magnitudes(rng, -6, -3, 50, 40)
    large[0, :3] = np.finfo(np.float32).max, -np.finfo(np.float32).max, 2.0**127
    got, expected = own_product(path, *((large, small) if where == "rows" else (small, large)))
    expected.check(got)
