"""Kernels of levels refuse what does not fit, and write nothing beside their outputs."""

from __future__ import annotations

from ctypes import byref, c_int64, c_void_p
from typing import Any

import numpy as np
import pytest

from gnnexport.errors import KernelError
from gnnexport.native import kernels
from gnnexport.native import levels as native
from gnnexport.native.library import library, path_name
from tests.native import calls
from tests.native.calls import address
from tests.native.level_calls import level_product
from tests.native.level_twins import Quantiser
from tests.native.test_refusals import (
    INDEX,
    MOST,
    NULL,
    NUMBERS,
    OK,
    OPTION,
    SHAPE,
    STRUCTURES,
    TOO_LARGE,
    attention,
    changed,
    csr,
    named,
    status,
)

pytestmark = pytest.mark.usefixtures("native")

SIDE = 6
LEVELS = np.zeros(64, np.uint8)
EIGHTS = np.full(64, 8, np.uint8)
NINES = np.full(64, 9, np.uint8)
U8, U4 = 4, 5


def aggregation(out: int) -> Any:
    """Build a valid aggregation of levels of width 6, with weights and scales."""
    terms = (U8, 0, address(NUMBERS), address(NUMBERS), address(NUMBERS), 1)
    after = kernels.PLAIN._c()
    return kernels._Aggregate(csr(), address(LEVELS), SIDE, *terms, after, out, 128, kernels._Narrow())


AGGREGATES = [
    *STRUCTURES,
    ({}, OK),
    ({"x": None}, NULL),
    ({"out": None}, NULL),
    ({"width": -6}, SHAPE),
    ({"width": MOST - 1}, SHAPE),
    ({"width": 0, "x": None, "out": None}, OK),
    ({"heads": 0}, SHAPE),
    ({"heads": 2}, OPTION),
    ({"zero": 1}, OPTION),
    ({"zero": 8}, OPTION),
    ({"zero": 0}, OK),
    ({"type": U4}, OPTION),
    ({"type": U4, "zero": 8}, OK),
    ({"type": 6}, OPTION),
    ({"reduce": 4}, OPTION),
    ({"reduce": 2}, OPTION),
    ({"reduce": 2, "weight": None}, OPTION),
    ({"reduce": 2, "weight": None, "row_scale": None}, OK),
    ({"epilogue.activation": 4}, OPTION),
    ({"next.out": LEVELS}, OPTION),
    ({"next.out": LEVELS, "next.bits": 8}, NULL),
    ({"next.out": LEVELS, "next.bits": 8, "next.step": NUMBERS}, OK),
    ({"next.out": LEVELS, "next.bits": 8, "next.step": NUMBERS, "out": None}, OK),
    ({"next.out": LEVELS, "next.bits": 4, "next.step": NUMBERS, "next.zero": 128}, OPTION),
    ({"next.out": LEVELS, "next.bits": 5, "next.step": NUMBERS}, OPTION),
    # Floats do not leave narrow.
    ({"type": 0, "row_scale": None, "column_scale": None, "next.out": LEVELS, "next.bits": 8}, OPTION),
]


@pytest.mark.parametrize(("changes", "expected"), named(AGGREGATES))
def test_aggregate(changes: dict[str, Any], expected: int) -> None:
    """Each wrong argument has its status, and what is valid has none."""
    assert status(aggregation, "gnx_run_aggregate", changes) == expected


LINEARS = [
    ({}, OK),
    *(({f"sum.{name}": value for name, value in changes.items()}, code) for changes, code in STRUCTURES),
    ({"product.matrix": None}, NULL),
    ({"product.matrix": "floats"}, OPTION),
    ({"own.matrix": "floats"}, OPTION),
    ({"product.matrix": (5, 6)}, SHAPE),
    ({"product.matrix": (6, 5)}, SHAPE),
    ({"own.matrix": (5, 6)}, SHAPE),
    ({"own.matrix": (6, 0), "own.rows": None}, OK),
    ({"own.rows": None}, NULL),
    ({"own.matrix": None, "own.rows": None}, OK),
    ({"out": None}, NULL),
    ({"product.step": None}, NULL),
    ({"own.step": None}, NULL),
    ({"product.quantiser.step": None}, NULL),
    ({"own.quantiser.bits": None}, NULL),
    ({"product.quantiser.count": 0}, SHAPE),
    ({"product.quantiser.count": -1}, SHAPE),
    ({"product.quantiser.bits": NINES}, OPTION),
    ({"product.quantiser.bits": LEVELS}, OPTION),
    ({"product.quantiser.nearest": 1}, OK),
    ({"epilogue.activation": 7}, OPTION),
    ({"sum.epilogue.activation": 7}, OPTION),
    ({"next.out": LEVELS, "next.bits": 8}, NULL),
    ({"next.out": LEVELS, "next.bits": 3, "next.step": NUMBERS}, OPTION),
    ({"next.out": LEVELS, "next.bits": 8, "next.step": NUMBERS, "out": None}, OK),
    ({"sum.x": None}, NULL),
    ({"sum.width": 5}, SHAPE),
    ({"sum.zero": 3}, OPTION),
    # What is not reduced is not read.
    ({"product.rows": NUMBERS, "sum.x": None, "sum.width": -1, "sum.csr.rowptr": None, "sum.zero": 3}, OK),
    ({"product.rows": NUMBERS, "sum.csr.num_rows": -1}, SHAPE),
    ({"product.rows": NUMBERS, "sum.csr.num_rows": MOST}, SHAPE),
    ({"product.rows": NUMBERS, "sum.csr.num_rows": 0, "out": None, "product.quantiser.step": None}, OK),
    # These two are not read either.
    ({"sum.out": None}, OK),
    ({"sum.next.bits": 3}, OK),
]


def level_matrix(shape: tuple[int, int]) -> native.LevelMatrix:
    """Lay ones out."""
    return native.LevelMatrix(address(np.ones(shape, np.int8)), *shape)


@pytest.mark.parametrize(("changes", "expected"), named(LINEARS))
def test_level_linear(path: str, changes: dict[str, Any], expected: int) -> None:
    """Each wrong argument has its status, and what is valid has none."""
    square = level_matrix((SIDE, SIDE))
    floats = kernels.Matrix(address(NUMBERS), SIDE, SIDE)
    others = {name: level_matrix(value) for name, value in changes.items() if isinstance(value, tuple)}
    pointers = {name: made.pointer for name, made in others.items()}
    pointers |= {name: floats.pointer for name, value in changes.items() if isinstance(value, str)}

    def build(out: int) -> Any:
        quantiser = native.Quantiser(address(NUMBERS), address(EIGHTS), 3, is_signed=True)
        product = native.LevelProduct(quantiser, square, address(NUMBERS))._c()
        own = native.LevelProduct(quantiser, square, address(NUMBERS), address(NUMBERS))._c()
        return native._LevelLinear(aggregation(0), product, own, kernels.PLAIN._c(), out, kernels._Narrow())

    assert status(build, "gnx_run_level_linear", changes | pointers) == expected


def test_a_linear_layer_of_floats_refuses_levels(path: str) -> None:
    """A matrix of levels has no product of floats."""
    out = np.zeros((3, SIDE), np.float32)
    with pytest.raises(KernelError, match="not known"):
        kernels.linear(3, address(out), own=address(NUMBERS), own_matrix=level_matrix((SIDE, SIDE)))


def test_matrices_of_different_instruction_sets(path: str) -> None:
    """Two matrices made under different instruction sets do not go together; those of another than is in use do."""
    x, step = np.ones((3, SIDE), np.float32), np.ones(SIDE, np.float32)
    quantiser, matrix = Quantiser(step[:1], EIGHTS[:1], is_signed=True), np.ones((SIDE, SIDE), np.int8)
    here, out = level_product(quantiser, matrix, step, x), np.zeros((3, SIDE), np.float32)
    kernels.use_path("portable" if path != "portable" else None)
    assert path_name() != path
    try:
        native.level_linear(3, here, address(out), own=here)
        np.testing.assert_array_equal(out, np.full((3, SIDE), 2 * SIDE))
        with pytest.raises(KernelError, match="matrices made with one instruction set"):
            native.level_linear(3, here, address(out), own=level_product(quantiser, matrix, step, x))
    finally:
        kernels.use_path(path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, OK),
        ({"step": None}, NULL),
        ({"out": None}, NULL),
        ({"bits": 6}, OPTION),
        ({"zero": 1}, OPTION),
        ({"zero": 8}, OPTION),
        ({"bits": 4, "zero": 8}, OK),
    ],
)
def test_narrow(changes: dict[str, Any], expected: int) -> None:
    """Each wrong argument has its status, and what is valid has none."""
    found = []

    def call(out: int) -> None:
        to = changed(kernels._Narrow(address(NUMBERS), 8, 128, out), changes)
        sizes = (c_int64(3), c_int64(SIDE))
        found.append(library().gnx_run_narrow(c_void_p(address(NUMBERS)), *sizes, byref(to), None, None))

    calls.into((3, SIDE), np.uint8, call)
    assert found == [expected]


def test_sizes_of_what_is_narrowed() -> None:
    """Sizes fit, and numbers are needed where there are any."""
    to = kernels._Narrow(address(NUMBERS), 8, 128, address(LEVELS))
    for x, rows, width, expected in (
        (NUMBERS, -1, 3, SHAPE),
        (NUMBERS, 3, -1, SHAPE),
        (NUMBERS, MOST, 3, SHAPE),
        (None, 3, 3, NULL),
        (None, 0, 3, OK),
        (None, 3, 0, OK),
    ):
        sizes = (c_int64(rows), c_int64(width))
        assert library().gnx_run_narrow(c_void_p(address(x)), *sizes, byref(to), None, None) == expected
    assert library().gnx_run_narrow(c_void_p(address(NUMBERS)), c_int64(1), c_int64(1), None, None, None) == NULL
    assert library().gnx_run_level_linear(None, None) == NULL


@pytest.mark.parametrize(
    ("out_width", "width", "expected"), [(-1, 3, SHAPE), (3, -1, SHAPE), (2**31, 1, SHAPE), (1, 2**16 + 1, SHAPE)]
)
def test_sizes_of_a_matrix(path: str, out_width: int, width: int, expected: int) -> None:
    """A matrix that is negative or has rows too long to be added in 32 bits is refused."""
    made = c_void_p()
    sizes = (c_int64(out_width), c_int64(width))
    assert library().gnx_pack_levels(c_void_p(address(LEVELS)), *sizes, byref(made)) == expected
    assert not made.value


@pytest.mark.parametrize("levels", ["levels8", "levels4"])
def test_columns_out_of_range(path: str, levels: str) -> None:
    """A source that is none is found before anything is read there."""
    out = np.zeros((3, SIDE), np.float32)
    work = changed(aggregation(address(out)), {"type": kernels.TYPES[levels], "zero": 0, "csr.col": TOO_LARGE})
    assert library().gnx_run_aggregate(byref(work), None) == INDEX


ATTENTIONS = [
    ({"type": U8}, OK),
    ({"type": U8, "zero": 128, "column_scale": NUMBERS}, OK),
    ({"type": U8, "zero": 1}, OPTION),
    ({"type": U4}, OPTION),
    ({"type": 1}, OPTION),
    ({"column_scale": NUMBERS}, OPTION),
]


@pytest.mark.parametrize(("changes", "expected"), named(ATTENTIONS))
def test_attention(changes: dict[str, Any], expected: int) -> None:
    """Attention reads floats, or levels of 8 bits."""
    assert status(attention, "gnx_run_attention", changes) == expected
