"""Call the kernels on numpy arrays: outputs lie between guards, and none of these may change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gnnexport.native import kernels
from tests.native.twins import After, Array, Graph

GUARD = 64
"""Numbers on either side of an output."""

CANARY = 77


def address(array: Array | None) -> int:
    """Return where the numbers lie, 0 for none."""
    return 0 if array is None else int(array.ctypes.data)


def into(shape: tuple[int, ...], dtype: Any, call: Callable[[int], None]) -> Array:
    """Let `call` write an array of this shape; check that it writes nowhere else, whether it succeeds or not."""
    size = int(np.prod(shape))
    block = np.full(size + 2 * GUARD, CANARY, dtype)
    try:
        call(block[GUARD:].ctypes.data)
    finally:
        assert (block[:GUARD] == CANARY).all()
        assert (block[GUARD + size :] == CANARY).all()
    return block[GUARD : GUARD + size].reshape(shape)


class Structure:
    """A graph in the memory that the kernels see."""

    def __init__(self, graph: Graph, bits: int = 64) -> None:
        self.rowptr = graph.rowptr.astype(f"int{bits}")
        self.col = None if graph.col is None else graph.col.astype(f"int{bits}")
        sizes = (graph.num_rows, graph.num_slots, graph.num_src)
        self.csr = kernels.Csr(address(self.rowptr), address(self.col), *sizes, bits)


def aggregate(
    graph: Graph,
    x: Array,
    *,
    dtype: str = "float32",
    reduce: str = "sum",
    weight: Array | None = None,
    row_scale: Array | None = None,
    column_scale: Array | None = None,
    after: After | None = None,
    bits: int = 64,
    threads: int = 1,
) -> Array:
    """Run `gnx_run_aggregate`; 16-bit floats in `x` are uint16."""
    structure, width = Structure(graph, bits), x.shape[1]

    def call(out: int) -> None:
        kernels.aggregate(
            structure.csr,
            address(x),
            width,
            out,
            dtype=dtype,
            reduce=reduce,
            weight=address(weight),
            heads=1 if weight is None else weight.shape[1],
            row_scale=address(row_scale),
            column_scale=address(column_scale),
            epilogue=_epilogue(after),
            threads=threads,
        )

    return into((graph.num_rows, width), np.float32, call)


def matrix_of(values: Array | None, layout: str = "dense") -> kernels.Matrix | None:
    """Lay out a matrix [out_width, width] for products."""
    return None if values is None else kernels.Matrix(address(values), *values.shape, layout)


def linear(
    graph: Graph,
    x: Array | None,
    matrix: Array | None,
    own: Array | None = None,
    own_matrix: Array | None = None,
    *,
    dtype: str = "float32",
    reduce: str = "sum",
    weight: Array | None = None,
    row_scale: Array | None = None,
    column_scale: Array | None = None,
    after: After | None = None,
    bits: int = 64,
    threads: int = 1,
    layouts: tuple[str, str] = ("dense", "dense"),
) -> Array:
    """Run `gnx_run_linear`; 16-bit floats in `x` are uint16, and without `matrix` only the rows of `graph` count."""
    structure, first = Structure(graph, bits), matrix if matrix is not None else own_matrix
    reduced: kernels.Reduced | int = graph.num_rows
    if x is not None and matrix is not None:
        heads = 1 if weight is None else weight.shape[1]
        scales = (address(weight), heads, address(row_scale), address(column_scale))
        reduced = kernels.Reduced(structure.csr, address(x), x.shape[1], dtype, reduce, *scales)
    assert first is not None

    def call(out: int) -> None:
        kernels.linear(
            reduced,
            out,
            matrix=matrix_of(matrix, layouts[0]),
            own=address(own),
            own_matrix=matrix_of(own_matrix, layouts[1]),
            epilogue=_epilogue(after),
            threads=threads,
        )

    return into((graph.num_rows, len(first)), np.float32, call)


def attention(
    graph: Graph,
    x: Array,
    heads: int,
    score: str,
    terms: dict[str, Any],
    *,
    edge_value: Array | None = None,
    after: After | None = None,
    bits: int = 64,
    threads: int = 1,
) -> Array:
    """Run `gnx_run_attention`; `terms` are what `twins.scores` takes."""
    structure, width = Structure(graph, bits), x.shape[1]
    given = {name: term if isinstance(term, float) else address(term) for name, term in terms.items()}

    def call(out: int) -> None:
        kernels.attention(
            structure.csr,
            address(x),
            width,
            heads,
            out,
            score=score,
            edge_value=address(edge_value),
            epilogue=_epilogue(after),
            threads=threads,
            **given,
        )

    return into((graph.num_rows, width), np.float32, call)


def softmax(graph: Graph, scores: Array, *, bits: int = 64, threads: int = 1) -> Array:
    """Run `gnx_run_softmax`."""
    csr = Structure(graph, bits)
    heads = scores.shape[1]
    return into(
        scores.shape, np.float32, lambda out: kernels.softmax(csr.csr, address(scores), heads, out, threads=threads)
    )


def build_csr(dst: Array, num_rows: int, *, bits: int = 64, threads: int = 1) -> tuple[Array, Array]:
    """Run `gnx_build_csr`: `rowptr`, and the edge in each slot."""
    given = dst.astype(f"int{bits}")
    perms = []

    def call(rowptr: int) -> None:
        def fill(perm: int) -> None:
            kernels.build_csr(address(given), len(dst), num_rows, rowptr, perm, index_bits=bits, threads=threads)

        perms.append(into(dst.shape, given.dtype, fill))

    return into((num_rows + 1,), given.dtype, call), perms[0]


def _epilogue(after: After | None) -> kernels.Epilogue:
    if after is None:
        return kernels.PLAIN
    return kernels.Epilogue(address(after.root), address(after.bias), after.activation, after.slope)
