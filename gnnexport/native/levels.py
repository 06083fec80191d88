"""Call the kernels that work on levels: rows turned into them, and linear layers of them.

As in `gnnexport.native.kernels` pointers are integers, and what the arguments mean stands in
`kernels/include/gnnexport/kernels.h`.
"""

from __future__ import annotations

from ctypes import Structure, byref, c_int32, c_int64, c_void_p
from dataclasses import dataclass

from gnnexport.native.kernels import (
    PLAIN,
    Epilogue,
    Levels,
    Matrix,
    Reduced,
    _Aggregate,
    _Csr,
    _Epilogue,
    _Narrow,
    check,
    threads_of,
)
from gnnexport.native.library import library


class _Quantiser(Structure):
    _fields_ = (
        ("step", c_void_p),
        ("bits", c_void_p),
        ("count", c_int64),
        ("is_signed", c_int32),
        ("nearest", c_int32),
    )


class _Product(Structure):
    _fields_ = (
        ("rows", c_void_p),
        ("levels", c_void_p),
        ("quantiser", _Quantiser),
        ("matrix", c_void_p),
        ("step", c_void_p),
    )


class _Given(Structure):
    _fields_ = (("quantiser", _Quantiser), ("out", c_void_p))


class _LevelLinear(Structure):
    _fields_ = (
        ("sum", _Aggregate),
        ("product", _Product),
        ("own", _Product),
        ("epilogue", _Epilogue),
        ("out", c_void_p),
        ("next", _Narrow),
        ("given", _Given),
    )


def narrow(
    x: int,
    num_rows: int,
    width: int,
    to: Levels,
    out: int,
    *,
    given: tuple[Quantiser, int] | None = None,
    threads: int = 0,
) -> None:
    """Turn float32 [num_rows, width] into levels; see `gnx_narrow`.

    Args:
        x: the rows.
        num_rows: how many.
        width: of a row.
        to: what the levels are.
        out: where they go.
        given: as of `level_linear`.
        threads: to use; 0 for all.

    Raises:
        KernelError: the arguments do not fit each other.
    """
    sizes = (c_int64(num_rows), c_int64(width))
    check(library().gnx_run_narrow(c_void_p(x), *sizes, byref(to._c(out)), byref(_given(given)), threads_of(threads)))


class LevelMatrix(Matrix):
    """A matrix of int8 levels, laid out for products by the instruction set that is in force."""

    _pack = "gnx_pack_levels"

    def __init__(self, values: int, out_width: int, width: int) -> None:
        """Lay out int8 numbers [out_width, width] that lie at `values`.

        Raises:
            KernelError: a size is negative, or there are no numbers.
            MemoryError: there is no room for it.
        """
        super().__init__(values, out_width, width, None)


@dataclass(frozen=True)
class Quantiser:
    """How rows turn into levels: row i by entry i % count, or by the entry whose reach is nearest to its largest size.

    Args:
        step: float32 [count].
        bits: uint8 [count].
        count: of entries.
        is_signed: levels have a sign.
        nearest: each row takes the entry that is nearest to it.
    """

    step: int
    bits: int
    count: int
    is_signed: bool
    nearest: bool = False

    def _c(self) -> _Quantiser:
        return _Quantiser(self.step, self.bits, self.count, self.is_signed, self.nearest)


@dataclass(frozen=True)
class LevelProduct:
    """Rows that turn into levels and are multiplied with a matrix of them.

    Args:
        quantiser: of the rows.
        matrix: [out_width, width].
        step: float32 [out_width], of the matrix's rows.
        rows: float32 [num_rows, width]; 0 for what is reduced.
        levels: uint8 [num_rows, width], rows that were given as levels of the same quantiser, instead of `rows`.
    """

    quantiser: Quantiser
    matrix: LevelMatrix
    step: int
    rows: int = 0
    levels: int = 0

    def _c(self) -> _Product:
        return _Product(self.rows, self.levels, self.quantiser._c(), self.matrix.pointer, self.step)


def level_linear(
    reduced: Reduced | int,
    product: LevelProduct,
    out: int,
    *,
    own: LevelProduct | None = None,
    sum_epilogue: Epilogue = PLAIN,
    epilogue: Epilogue = PLAIN,
    narrow: Levels | None = None,
    given: tuple[Quantiser, int] | None = None,
    threads: int = 0,
) -> None:
    """Multiply rows with matrices of levels, into floats or levels; see `gnx_level_linear`.

    Args:
        reduced: what the product without rows multiplies; otherwise the number of rows.
        product: the first product.
        out: float32 [num_rows, out_width], or uint8 where the result leaves narrow; with `given` it may be 0.
        own: the second product, of rows.
        sum_epilogue: what follows the reduction, before the rows turn into levels.
        epilogue: what follows the products.
        narrow: how the result leaves.
        given: a quantiser, and uint8 [num_rows, out_width]: the result as levels that a product of its rows reads.
        threads: to use; 0 for all.

    Raises:
        KernelError: the arguments do not fit each other, or an index is out of range.
    """
    if isinstance(reduced, Reduced):
        rows = reduced._c()
        rows.epilogue = sum_epilogue._c()
    else:
        rows = _Aggregate(csr=_Csr(num_rows=reduced))
    to = (0, narrow._c(out)) if narrow else (out, _Narrow())
    work = _LevelLinear(rows, product._c(), own._c() if own else _Product(), epilogue._c(), *to, _given(given))
    check(library().gnx_run_level_linear(byref(work), threads_of(threads)))


def _given(given: tuple[Quantiser, int] | None) -> _Given:
    return _Given(given[0]._c(), given[1]) if given else _Given()
