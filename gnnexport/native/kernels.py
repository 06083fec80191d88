"""Call the kernels on memory: structures as the C interface has them, and a function for each kernel.

Pointers are integers, 0 for none, as `tensor.data_ptr()` and `array.ctypes.data` give them. Who calls keeps the memory
alive. What the arguments mean, and what is checked, stands in `kernels/include/gnnexport/kernels.h`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from ctypes import Structure, byref, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any, NoReturn

from gnnexport.errors import KernelError
from gnnexport.native.library import library

TYPES = {"float32": 0, "bfloat16": 1, "float16": 2, "int8": 3, "levels8": 4, "levels4": 5}
REDUCTIONS = {"sum": 0, "mean": 1, "max": 2, "min": 3, "prod": 4}
ACTIVATIONS = {"identity": 0, "relu": 1, "leaky_relu": 2, "elu": 3}
SCORES = {"given": 0, "gat": 1, "gatv2": 2, "dot": 3}
LAYOUTS = {"dense": 0, "sparse": 1, "blocks": 2}

_WHERE, _NO_MEMORY = "native kernels", 5
_MENDS = {
    1: "Pass an address for every part that holds numbers",
    2: "Pass sizes that belong to one structure, none of them negative",
    3: "Pass nodes below the number of nodes, and pointers that rise from 0 to the number of slots",
    4: "Pass a type, a reduction, a score, an activation and a layout that gnnexport.native.kernels names, and "
    "matrices made with one instruction set",
}
"""What helps, for each status of `gnx_status` but that of memory."""


class _Threads(Structure):
    _fields_ = (("run", c_void_p), ("host", c_void_p), ("count", c_int32))


class _Csr(Structure):
    _fields_ = (
        ("rowptr", c_void_p),
        ("col", c_void_p),
        ("num_rows", c_int64),
        ("num_slots", c_int64),
        ("num_src", c_int64),
        ("index_bits", c_int32),
    )


class _Epilogue(Structure):
    _fields_ = (
        ("root", c_void_p),
        ("bias", c_void_p),
        ("activation", c_int32),
        ("slope", c_float),
        ("scale", c_void_p),
    )


class _Narrow(Structure):
    _fields_ = (("step", c_void_p), ("bits", c_int32), ("zero", c_int32), ("out", c_void_p))


class _Aggregate(Structure):
    _fields_ = (
        ("csr", _Csr),
        ("x", c_void_p),
        ("width", c_int64),
        ("type", c_int32),
        ("reduce", c_int32),
        ("row_scale", c_void_p),
        ("column_scale", c_void_p),
        ("weight", c_void_p),
        ("heads", c_int64),
        ("epilogue", _Epilogue),
        ("out", c_void_p),
        ("zero", c_int32),
        ("next", _Narrow),
    )


class _Linear(Structure):
    _fields_ = (
        ("sum", _Aggregate),
        ("matrix", c_void_p),
        ("own", c_void_p),
        ("own_matrix", c_void_p),
        ("epilogue", _Epilogue),
        ("out", c_void_p),
    )


class _Attention(Structure):
    _fields_ = (
        ("csr", _Csr),
        ("x", c_void_p),
        ("width", c_int64),
        ("heads", c_int64),
        ("score", c_int32),
        ("source", c_void_p),
        ("destination", c_void_p),
        ("edge", c_void_p),
        ("edge_value", c_void_p),
        ("att", c_void_p),
        ("slope", c_float),
        ("scale", c_float),
        ("epilogue", _Epilogue),
        ("out", c_void_p),
        ("type", c_int32),
        ("zero", c_int32),
        ("column_scale", c_void_p),
    )


class _Edges(Structure):
    _fields_ = (
        ("src", c_void_p),
        ("dst", c_void_p),
        ("weight", c_void_p),
        ("num_edges", c_int64),
        ("num_nodes", c_int64),
        ("num_slots", c_int64),
        ("loops", c_int32),
        ("fill", c_float),
        ("normalise", c_int32),
    )


@dataclass(frozen=True)
class Csr:
    """A structure by destination; `col` 0 where slot s reads row s."""

    rowptr: int
    col: int
    num_rows: int
    num_slots: int
    num_src: int
    index_bits: int = 64

    def _c(self) -> _Csr:
        return _Csr(self.rowptr, self.col, self.num_rows, self.num_slots, self.num_src, self.index_bits)


@dataclass(frozen=True)
class Epilogue:
    """What follows a reduction: `activation(scale * reduced + root + bias)`."""

    root: int = 0
    bias: int = 0
    activation: str = "identity"
    slope: float = 0.0
    scale: int = 0

    def _c(self) -> _Epilogue:
        return _Epilogue(self.root, self.bias, ACTIVATIONS[self.activation], self.slope, self.scale)


PLAIN = Epilogue()


@dataclass(frozen=True)
class Levels:
    """Columns in levels of 4 or 8 bits, each with its own step; `zero` stands for 0."""

    step: int
    bits: int
    zero: int

    def _c(self, out: int) -> _Narrow:
        return _Narrow(self.step, self.bits, self.zero, out)


def aggregate(
    csr: Csr,
    x: int,
    width: int,
    out: int,
    *,
    dtype: str = "float32",
    reduce: str = "sum",
    weight: int = 0,
    heads: int = 1,
    row_scale: int = 0,
    column_scale: int = 0,
    zero: int = 0,
    epilogue: Epilogue = PLAIN,
    narrow: Levels | None = None,
    threads: int = 0,
) -> None:
    """Reduce the rows that the slots of each row name, into floats or levels; see `gnx_aggregate`.

    Raises:
        KernelError: the arguments do not fit each other, or an index is out of range.
    """
    scales = (row_scale, column_scale, weight, heads)
    to = (0, zero, narrow._c(out)) if narrow else (out, zero, _Narrow())
    work = _Aggregate(csr._c(), x, width, TYPES[dtype], REDUCTIONS[reduce], *scales, epilogue._c(), *to)
    check(library().gnx_run_aggregate(byref(work), threads_of(threads)))


class Matrix:
    """A matrix of weights, laid out for products by the instruction set that is in force, in one of `LAYOUTS`."""

    _pack = "gnx_pack_matrix"

    def __init__(self, values: int, out_width: int, width: int, layout: str | None = "dense") -> None:
        """Lay out numbers [out_width, width] that lie at `values`, float32 unless the class says otherwise.

        Raises:
            KernelError: a size is negative, or there are no numbers.
            MemoryError: there is no room for it.
        """
        made, how = c_void_p(), [] if layout is None else [c_int32(LAYOUTS[layout])]
        check(getattr(library(), self._pack)(c_void_p(values), c_int64(out_width), c_int64(width), *how, byref(made)))
        self.pointer = made.value or 0
        # At exit it stays: threads may still read it.
        weakref.finalize(self, library().gnx_free_matrix, made).atexit = False

    def __reduce__(self) -> NoReturn:
        """Refuse copies and pickles: they would read what the first one frees."""
        raise TypeError("native kernels: a Matrix cannot be copied. Make another of the same values")


@dataclass(frozen=True)
class Reduced:
    """What is reduced before a product: rows [num_src, width] over the slots of each row."""

    csr: Csr
    x: int
    width: int
    dtype: str = "float32"
    reduce: str = "sum"
    weight: int = 0
    heads: int = 1
    row_scale: int = 0
    column_scale: int = 0
    zero: int = 0

    def _c(self) -> _Aggregate:
        scales = (self.row_scale, self.column_scale, self.weight, self.heads)
        terms = (TYPES[self.dtype], REDUCTIONS[self.reduce], *scales)
        return _Aggregate(self.csr._c(), self.x, self.width, *terms, PLAIN._c(), 0, self.zero)


def linear(
    reduced: Reduced | int,
    out: int,
    *,
    matrix: Matrix | None = None,
    own: int = 0,
    own_matrix: Matrix | None = None,
    epilogue: Epilogue = PLAIN,
    threads: int = 0,
) -> None:
    """Multiply reduced rows, and the rows themselves, with matrices of weights; see `gnx_linear`.

    Args:
        reduced: what `matrix` multiplies; without `matrix` the number of rows.
        out: float32 [num_rows, out_width].
        matrix: [out_width, width of what is reduced].
        own: float32 [num_rows, width of own_matrix].
        own_matrix: [out_width, own width].
        epilogue: what follows the products.
        threads: to use; 0 for all.

    Raises:
        KernelError: the arguments do not fit each other, or an index is out of range.
    """
    rows = reduced._c() if isinstance(reduced, Reduced) else _Aggregate(csr=_Csr(num_rows=reduced))
    pointers = (matrix.pointer if matrix else 0, own, own_matrix.pointer if own_matrix else 0)
    work = _Linear(rows, *pointers, epilogue._c(), out)
    check(library().gnx_run_linear(byref(work), threads_of(threads)))


def attention(
    csr: Csr,
    x: int,
    width: int,
    heads: int,
    out: int,
    *,
    score: str,
    source: int = 0,
    destination: int = 0,
    edge: int = 0,
    edge_value: int = 0,
    att: int = 0,
    slope: float = 0.0,
    scale: float = 1.0,
    dtype: str = "float32",
    zero: int = 0,
    column_scale: int = 0,
    epilogue: Epilogue = PLAIN,
    threads: int = 0,
) -> None:
    """Weigh rows by the softmax of their scores; see `gnx_attention`.

    Raises:
        KernelError: the arguments do not fit each other, or an index is out of range.
    """
    terms = (source, destination, edge, edge_value, att, slope, scale)
    levels = (TYPES[dtype], zero, column_scale)
    work = _Attention(csr._c(), x, width, heads, SCORES[score], *terms, epilogue._c(), out, *levels)
    check(library().gnx_run_attention(byref(work), threads_of(threads)))


def softmax(csr: Csr, scores: int, heads: int, out: int, *, threads: int = 0) -> None:
    """Normalise scores [num_slots, heads] over the slots of each row.

    Raises:
        KernelError: the arguments do not fit each other.
    """
    pointers = (c_void_p(scores), c_int64(heads), c_void_p(out))
    check(library().gnx_run_softmax(byref(csr._c()), *pointers, threads_of(threads)))


def spread(csr: Csr, x: int, width: int, out: int, *, threads: int = 0) -> None:
    """Repeat row i of float32 [num_rows, width] for each of its slots; see `gnx_run_spread`.

    Raises:
        KernelError: the arguments do not fit each other.
    """
    check(library().gnx_run_spread(byref(csr._c()), c_void_p(x), c_int64(width), c_void_p(out), threads_of(threads)))


def build_csr(
    dst: int, num_edges: int, num_rows: int, rowptr: int, perm: int, *, index_bits: int = 64, threads: int = 0
) -> None:
    """Sort edges by destination, stable in their order; see `gnx_build_csr`.

    Raises:
        KernelError: a destination is out of range.
    """
    sizes = (c_int64(num_edges), c_int64(num_rows), c_int32(index_bits))
    pointers = (c_void_p(rowptr), c_void_p(perm))
    check(library().gnx_build_csr(c_void_p(dst), *sizes, *pointers, threads_of(threads)))


def prepare_edges(
    src: int,
    dst: int,
    num_edges: int,
    num_nodes: int,
    make: Callable[[int], tuple[int, int, int]],
    *,
    weight: int = 0,
    one_loop: bool = False,
    fill: float = 1.0,
    normalise: bool = False,
    threads: int = 0,
) -> None:
    """Sort edges by destination, put loops in order, and normalise weights; see `gnx_prepare_edges`.

    Args:
        src: int64 [num_edges].
        dst: int64 [num_edges].
        num_edges: edges given.
        num_nodes: of the graph.
        make: gets the number of slots; returns where `rowptr`, `col` and `weight` go, the last one 0 for nowhere.
        weight: float32 [num_edges], or 0 for ones.
        one_loop: give every node exactly one loop, its last slot.
        fill: weight of loops that were not among the edges.
        normalise: divide weights by the roots of the degrees at both ends.
        threads: to use; 0 for all.

    Raises:
        KernelError: a node is out of range.
    """
    edges = _Edges(src, dst, weight, num_edges, num_nodes, 0, one_loop, fill, normalise)
    num_slots = c_int64()
    check(library().gnx_count_slots(byref(edges), byref(num_slots)))
    edges.num_slots = num_slots.value
    outputs = (c_void_p(pointer) for pointer in make(num_slots.value))
    check(library().gnx_prepare_edges(byref(edges), *outputs, threads_of(threads)))


def use_path(name: str | None) -> bool:
    """Use the instruction set of this name, the best one for `None`; tell whether this processor has it."""
    return int(library().gnx_use_path(None if name is None else name.encode())) == 0


def threads_of(threads: int) -> Any:
    """Return how many of the library's own threads work, 0 for all, as an argument."""
    return byref(_Threads(None, None, threads))


def check(status: int) -> None:
    """Raise what a status of `gnx_status` stands for.

    Raises:
        KernelError: the arguments were refused.
        MemoryError: there was no room.
    """
    if status == 0:
        return
    what = bytes(library().gnx_message(c_int32(status))).decode()
    if status == _NO_MEMORY:
        raise MemoryError(f"{_WHERE}: {what}")
    raise KernelError.at(_WHERE, what, _MENDS[status])
