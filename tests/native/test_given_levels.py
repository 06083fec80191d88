"""Rows that leave a layer as the levels that the next one multiplies, on every dispatch path."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnexport.native import levels as native
from gnnexport.native.kernels import Levels
from tests.native import level_calls, level_twins
from tests.native.calls import address
from tests.native.level_twins import After, Quantiser
from tests.native.strategies import floats, widths
from tests.native.test_level_linear import matrix_of, quantiser_of
from tests.native.test_levels import FORMS, positive
from tests.native.twins import Array


def levels_of(x: Array, quantiser: Quantiser) -> Array:
    """Return what rows are given as."""
    entry = np.arange(len(x)) % len(quantiser.step)
    step, bits = quantiser.step[entry][:, None], quantiser.bits[entry][:, None].astype(np.int64)
    whole = level_twins.levels(x, step, bits, quantiser.is_signed)
    return (whole + 128 * quantiser.is_signed).astype(np.uint8)


@settings(max_examples=60)
@given(data=st.data())
def test_rows_are_given(path: str, data: st.DataObject) -> None:
    """A result is given as levels alone, beside floats and beside packed rows, by the steps of its rows."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    rows, width, out_width = data.draw(st.sampled_from([0, 1, 12, 50, 70])), data.draw(widths()), data.draw(widths())
    x, matrix, step = floats(rng, rows, width), matrix_of(rng, out_width, width), positive(rng, out_width)
    quantiser = quantiser_of(rng, 3, is_signed=data.draw(st.booleans()))
    next_one = quantiser_of(rng, data.draw(st.sampled_from([1, 4, max(rows, 1)])), is_signed=data.draw(st.booleans()))
    bits, zero = data.draw(st.sampled_from(FORMS))
    how = data.draw(st.sampled_from(["alone", "floats", "packed"]))
    packed = positive(rng, out_width) * 50 if how == "packed" else None
    after = After(bias=floats(rng, out_width), activation="relu", step=packed, bits=bits, zero=zero)
    product = level_calls.level_product(quantiser, matrix, step, x)
    out = np.full((rows, out_width), 77, np.uint8)
    got = level_calls.level_linear(
        rows, rows, product, out_width, after=after, given=(next_one, out), alone=how == "alone"
    )
    value = level_twins.product(x, quantiser, matrix, step)
    np.testing.assert_array_equal(out, levels_of(After(bias=after.bias, activation="relu").of(value), next_one))
    if how != "alone":
        np.testing.assert_array_equal(got, after.of(value))


@settings(max_examples=40)
@given(data=st.data())
def test_levels_are_multiplied(path: str, data: st.DataObject) -> None:
    """Levels that were given have the products of the rows that they were made of, in either place."""
    seed, rows = data.draw(st.integers(0, 2**31)), data.draw(st.sampled_from([0, 1, 50, 70]))
    width, out_width = data.draw(widths()), data.draw(widths())
    found = []
    for kind in ("rows", "levels"):
        rng_of = np.random.default_rng(seed)
        products = []
        for is_signed in (True, False):
            quantiser = quantiser_of(rng_of, 5, is_signed=is_signed)
            x, matrix = floats(rng_of, rows, width), matrix_of(rng_of, out_width, width)
            kept = (quantiser, matrix, positive(rng_of, out_width), x, levels_of(x, quantiser))
            given_so = {"rows": x} if kind == "rows" else {"levels": kept[4]}
            products.append((level_calls.level_product(*kept[:3], **given_so), kept))
        found.append(level_calls.level_linear(rows, rows, products[0][0], out_width, own=products[1][0]))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(("bits", "zero"), FORMS)
@pytest.mark.parametrize("width", [1, 4, 21, 300])
def test_narrow_gives_rows_too(path: str, width: int, bits: int, zero: int) -> None:
    """Rows are packed by column and given by row in one go."""
    rng = np.random.default_rng(0)
    x, step, quantiser = floats(rng, 30, width), positive(rng, width), quantiser_of(rng, 7, is_signed=zero > 0)
    out = np.zeros((30, width), np.uint8)
    got = level_calls.narrow(x, step, bits, zero, threads=2, given=(quantiser, out))
    np.testing.assert_array_equal(got, level_twins.narrow(x, step, bits, zero))
    np.testing.assert_array_equal(out, levels_of(x, quantiser))


ONE = np.ones(1, np.float32)
WIDTHS = {bits: np.array([bits], np.uint8) for bits in (0, 8, 9)}


def quantiser_at(bits: int = 8, count: int = 1, *, nearest: bool = False, step: Array | None = ONE) -> native.Quantiser:
    """Return a quantiser of one entry."""
    return native.Quantiser(address(step), address(WIDTHS[bits]), count, is_signed=False, nearest=nearest)


@pytest.mark.parametrize(
    "quantiser",
    [
        quantiser_at(nearest=True),
        quantiser_at(bits=9),
        quantiser_at(bits=0),
        quantiser_at(count=0),
        quantiser_at(step=None),
    ],
    ids=["groups", "wide", "narrow", "none", "no steps"],
)
def test_refusals(path: str, quantiser: native.Quantiser) -> None:
    """What rows cannot be given by is refused, and what they cannot be read by; nothing is written."""
    x, out, kept = np.ones((2, 4), np.float32), np.zeros((2, 4), np.uint8), np.zeros((2, 4), np.uint8)
    columns, matrix, step = np.ones(4, np.float32), np.ones((4, 4), np.int8), np.ones(4, np.float32)
    to = (quantiser, address(kept))
    with pytest.raises(ValueError, match=r"."):
        native.narrow(address(x), 2, 4, Levels(address(columns), 8, 0), address(out), given=to)
    packed = native.LevelMatrix(address(matrix), 4, 4)
    product = native.LevelProduct(quantiser_at(), packed, address(step), address(x))
    with pytest.raises(ValueError, match=r"."):
        native.level_linear(2, product, 0, given=to)
    reads = native.LevelProduct(quantiser, packed, address(step), levels=address(kept))
    floats_out = np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"."):
        native.level_linear(2, reads, address(floats_out))
    assert not out.any()
    assert not kept.any()
    assert not floats_out.any()
