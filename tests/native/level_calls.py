"""Call the kernels of levels on numpy arrays, with outputs between guards."""

from __future__ import annotations

import numpy as np

from gnnexport.native import kernels
from gnnexport.native import levels as native
from tests.native.calls import Structure, address, into
from tests.native.level_twins import After, Quantiser
from tests.native.twins import Array, Graph


def _epilogue(after: After) -> kernels.Epilogue:
    terms = (address(after.root), address(after.bias), after.activation, after.slope, address(after.scale))
    return kernels.Epilogue(*terms)


def _outputs(rows: int, width: int, after: After) -> tuple[tuple[int, int], type, kernels.Levels | None]:
    if after.step is None:
        return (rows, width), np.float32, None
    bytes_of_row = (width + 1) // 2 if after.bits == 4 else width
    return (rows, bytes_of_row), np.uint8, kernels.Levels(address(after.step), after.bits, after.zero)


def narrow(
    x: Array, step: Array, bits: int, zero: int, threads: int = 1, given: tuple[Quantiser, Array] | None = None
) -> Array:
    """Run `gnx_run_narrow`; what is given goes into its array."""
    shape, dtype, to = _outputs(*x.shape, After(step=step, bits=bits, zero=zero))
    assert to is not None
    levels = None if given is None else (_quantiser(given[0]), address(given[1]))
    return into(shape, dtype, lambda out: native.narrow(address(x), *x.shape, to, out, given=levels, threads=threads))


def aggregate(
    graph: Graph,
    x: Array,
    width: int,
    bits: int,
    zero: int,
    *,
    reduce: str = "sum",
    step: Array | None = None,
    weight: Array | None = None,
    row_scale: Array | None = None,
    after: After | None = None,
    index_bits: int = 64,
    threads: int = 1,
) -> Array:
    """Run `gnx_run_aggregate` on rows of levels that are stored."""
    after = after or After()
    structure = Structure(graph, index_bits)
    shape, dtype, to = _outputs(graph.num_rows, width, after)

    def call(out: int) -> None:
        kernels.aggregate(
            structure.csr,
            address(x),
            width,
            out,
            dtype=f"levels{bits}",
            zero=zero,
            reduce=reduce,
            weight=address(weight),
            row_scale=address(row_scale),
            column_scale=address(step),
            epilogue=_epilogue(after),
            narrow=to,
            threads=threads,
        )

    return into(shape, dtype, call)


def _quantiser(given: Quantiser) -> native.Quantiser:
    return native.Quantiser(address(given.step), address(given.bits), len(given.step), given.is_signed, given.nearest)


def level_product(
    quantiser: Quantiser, matrix: Array, step: Array, rows: Array | None = None, levels: Array | None = None
) -> native.LevelProduct:
    """Build a product; the arrays have to stay."""
    packed = native.LevelMatrix(address(matrix), *matrix.shape)
    return native.LevelProduct(_quantiser(quantiser), packed, address(step), address(rows), address(levels))


def level_linear(
    reduced: kernels.Reduced | int,
    num_rows: int,
    product: native.LevelProduct,
    width: int,
    *,
    own: native.LevelProduct | None = None,
    sum_after: After | None = None,
    after: After | None = None,
    given: tuple[Quantiser, Array] | None = None,
    alone: bool = False,
    threads: int = 1,
) -> Array:
    """Run `gnx_run_level_linear`; what is given goes into its array, and `alone` nowhere else."""
    after = after or After()
    shape, dtype, to = _outputs(num_rows, width, after)
    levels = None if given is None else (_quantiser(given[0]), address(given[1]))

    def call(out: int) -> None:
        native.level_linear(
            reduced,
            product,
            0 if alone else out,
            own=own,
            sum_epilogue=_epilogue(sum_after or After()),
            epilogue=_epilogue(after),
            narrow=to,
            given=levels,
            threads=threads,
        )

    return into(shape, dtype, call)
