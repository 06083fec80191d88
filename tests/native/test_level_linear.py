"""Linear layers of levels on every dispatch path: the bits are those of numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnexport.native import kernels
from tests.native import level_calls, level_twins
from tests.native.calls import Structure, address
from tests.native.level_twins import After, Quantiser
from tests.native.strategies import MOST_WIDTH, floats, hub_graph, structures, widths
from tests.native.test_levels import FORMS, chunk_of, positive, rows_of_levels
from tests.native.twins import Array, Graph

LARGER = 4
"""As many slots as in an aggregation make a hub."""


def quantiser_of(rng: np.random.Generator, count: int, *, is_signed: bool, nearest: bool = False) -> Quantiser:
    """Draw steps and widths."""
    bits = rng.integers(1, 9, count).astype(np.uint8)
    return Quantiser(positive(rng, count) / 2, bits, is_signed, nearest)


def matrix_of(rng: np.random.Generator, out_width: int, width: int) -> Array:
    """Draw a matrix over all that int8 holds."""
    return rng.integers(-128, 128, (out_width, width)).astype(np.int8)


@settings(max_examples=80)
@given(data=st.data())
def test_rows(path: str, data: st.DataObject) -> None:
    """Rows by step, and beside them others, become levels, are multiplied, finished and leave narrow or not."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    rows, width, out_width = data.draw(st.sampled_from([0, 1, 5, 12, 48, 70])), data.draw(widths()), data.draw(widths())
    parts, products = [], []
    for place in range(data.draw(st.sampled_from([1, 2]))):
        columns = width if place == 0 else data.draw(widths())
        count = data.draw(st.sampled_from([1, 3, max(rows, 1)]))
        quantiser = quantiser_of(rng, count, is_signed=data.draw(st.booleans()), nearest=data.draw(st.booleans()))
        x, matrix, step = floats(rng, rows, columns), matrix_of(rng, out_width, columns), positive(rng, out_width)
        parts.append((x, quantiser, matrix, step))
        products.append(level_calls.level_product(quantiser, matrix, step, x))
    bits, zero = data.draw(st.sampled_from(FORMS))
    after = After(
        scale=positive(rng, rows) if data.draw(st.booleans()) else None,
        root=floats(rng, rows, out_width) if data.draw(st.booleans()) else None,
        bias=floats(rng, out_width) if data.draw(st.booleans()) else None,
        activation=data.draw(st.sampled_from(["identity", "relu", "leaky_relu"])),
        step=positive(rng, out_width) * 50 if data.draw(st.booleans()) else None,
        bits=bits,
        zero=zero,
    )
    value = level_twins.product(*parts[0])
    for part in parts[1:]:
        value = value + level_twins.product(*part)
    own = products[1] if len(products) == 2 else None
    threads = data.draw(st.sampled_from([1, 3]))
    got = level_calls.level_linear(rows, rows, products[0], out_width, own=own, after=after, threads=threads)
    np.testing.assert_array_equal(got, after.of(value))


def test_every_width(path: str) -> None:
    """Products are right for each width on either side, however vectors and tiles fit it."""
    rng = np.random.default_rng(0)
    for size in range(1, MOST_WIDTH + 1):
        for width, out_width in ((size, 19), (19, size)):
            quantiser = quantiser_of(rng, 5, is_signed=True)
            x, matrix, step = floats(rng, 5, width), matrix_of(rng, out_width, width), positive(rng, out_width)
            product = level_calls.level_product(quantiser, matrix, step, x)
            got = level_calls.level_linear(5, 5, product, out_width)
            np.testing.assert_array_equal(got, level_twins.product(x, quantiser, matrix, step))


@pytest.mark.parametrize("is_signed", [False, True])
def test_sums_do_not_overflow(path: str, is_signed: bool) -> None:
    """The most columns there may be, all of them extreme, add up exactly, neighbours of one sign too."""
    width = 1 << 16
    for sign in (1, -1) if is_signed else (1,):
        x = np.full((2, width), sign * 1000, np.float32)
        matrix = np.stack([np.full(width, -128), np.full(width, 127)]).astype(np.int8)
        quantiser = Quantiser(np.ones(1, np.float32), np.full(1, 8, np.uint8), is_signed)
        step = np.ones(2, np.float32)
        got = level_calls.level_linear(2, 2, level_calls.level_product(quantiser, matrix, step, x), 2)
        np.testing.assert_array_equal(got, level_twins.product(x, quantiser, matrix, step))


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 1000])
def test_nearest(path: str, count: int, is_signed: bool) -> None:
    """A row takes the entry that reaches nearest to its largest size, of two as near the lower, and then the first."""
    rng, width = np.random.default_rng(count), 21
    quantiser = Quantiser(
        np.repeat(positive(rng, (count + 1) // 2), 2)[:count] if count > 1 else positive(rng, 1),
        rng.integers(1, 9, count).astype(np.uint8),
        is_signed,
        nearest=True,
    )
    reach = np.sort(quantiser.step * (2.0 ** (quantiser.bits - 1.0 * is_signed) - 1).astype(np.float32))
    sizes = np.concatenate([reach, (reach[:-1] + reach[1:]) / 2, reach * 1.001, [0, 3 * reach[-1], 1e30]]).astype(
        np.float32
    )
    x = floats(rng, len(sizes), width)
    x = (x / np.abs(x).max(axis=1, keepdims=True) * sizes[:, None]).astype(np.float32)
    x[np.arange(len(x)), rng.integers(0, width, len(x))] = sizes * rng.choice([-1, 1], len(x))
    matrix, step = matrix_of(rng, 5, width), positive(rng, 5)
    got = level_calls.level_linear(len(x), len(x), level_calls.level_product(quantiser, matrix, step, x), 5, threads=2)
    np.testing.assert_array_equal(got, level_twins.product(x, quantiser, matrix, step))


@pytest.mark.parametrize(("bits", "zero"), FORMS)
@settings(max_examples=20)
@given(data=st.data())
def test_reduced(path: str, bits: int, zero: int, data: st.DataObject) -> None:
    """Levels are aggregated, finished, turned into levels by row, multiplied and handed on, with others beside them."""
    graph, width, out_width = data.draw(structures()), data.draw(widths()), data.draw(widths())
    check_reduced(graph, width, out_width, bits, zero, data.draw(st.integers(0, 2**31)), data.draw(st.booleans()))


@pytest.mark.parametrize(("bits", "zero"), FORMS)
def test_hub(path: str, bits: int, zero: int) -> None:
    """A row that several tasks share is put together, multiplied and handed on; its neighbours are as ever."""
    graph = hub_graph(2 * LARGER * chunk_of(257, bits) + 17)
    for threads in (1, 3):
        check_reduced(graph, 257, 33, bits, zero, 0, True, threads)


def check_reduced(
    graph: Graph, width: int, out_width: int, bits: int, zero: int, seed: int, narrow: bool, threads: int = 1
) -> None:
    """Run a layer over aggregated levels, and hold it against numpy."""
    rng = np.random.default_rng(seed)
    x, whole = rows_of_levels(rng, graph.num_src, width, bits, zero)
    step = positive(rng, width)
    sum_after = After(scale=positive(rng, graph.num_rows), bias=floats(rng, width), activation="relu")
    after = After(bias=floats(rng, out_width), step=positive(rng, out_width) * 50 if narrow else None, bits=4, zero=8)
    own = floats(rng, graph.num_rows, 7)
    parts = []
    for columns, is_signed in ((width, False), (7, True)):
        quantiser = quantiser_of(rng, graph.num_rows, is_signed=is_signed)
        parts.append((quantiser, matrix_of(rng, out_width, columns), positive(rng, out_width)))
    structure = Structure(graph, 32)
    reduced = kernels.Reduced(structure.csr, address(x), width, f"levels{bits}", column_scale=address(step), zero=zero)
    products = [level_calls.level_product(*parts[0]), level_calls.level_product(*parts[1], own)]
    got = level_calls.level_linear(
        reduced,
        graph.num_rows,
        products[0],
        out_width,
        own=products[1],
        sum_after=sum_after,
        after=after,
        threads=threads,
    )
    value = sum_after.of(level_twins.aggregate(graph, whole, step))
    expected = level_twins.product(value, *parts[0]) + level_twins.product(own, *parts[1])
    np.testing.assert_array_equal(got, after.of(expected))


def test_floats_of_levels(path: str) -> None:
    """A linear layer of floats reads aggregated levels too."""
    graph, rng = hub_graph(300), np.random.default_rng(0)
    x, whole = rows_of_levels(rng, graph.num_src, 40, 4, 8)
    weights, out = floats(rng, 9, 40), np.zeros((40, 9), np.float32)
    structure = Structure(graph)
    reduced = kernels.Reduced(structure.csr, address(x), 40, "levels4", zero=8)
    kernels.linear(reduced, address(out), matrix=kernels.Matrix(address(weights), 9, 40))
    np.testing.assert_allclose(out, level_twins.aggregate(graph, whole) @ weights.T, rtol=1e-4, atol=1e-3)
