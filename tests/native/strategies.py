"""Structures, matrices and options for the kernels, drawn by Hypothesis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from tests.graph_strategies import edge_indices
from tests.native.twins import After, Array, Graph, build_csr

DTYPES = ["float32", "bfloat16", "float16", "int8"]
REDUCTIONS = ["sum", "mean", "max", "min", "prod"]
SCORES = ["given", "gat", "gatv2", "dot"]
MOST_WIDTH = 257
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


def graph_of(src: Array, dst: Array, num_rows: int, num_src: int) -> Graph:
    """Sort edges by destination."""
    rowptr, perm = build_csr(dst, num_rows)
    return Graph(rowptr, src[perm], num_src)


def chunk_of(width: int, dtype: str = "float32", larger: int = 1) -> int:
    """Count the slots above which several tasks share a row, as `src/plan.hpp` has it; linear layers have 4 for one."""
    return min(max((1 << 20) // max(width * BYTES[dtype] // larger, 1), 256), 16384)


def hub_graph(slots: int, seed: int = 0) -> Graph:
    """Build 40 rows, of which the second has half the edges; some rows have none."""
    rng = np.random.default_rng(seed)
    dst = np.concatenate([np.full(slots, 1), rng.integers(0, 30, slots)])
    return graph_of(rng.integers(0, 50, len(dst)), rng.permutation(dst), 40, 50)


@st.composite
def structures(draw: st.DrawFn) -> Graph:
    """Draw a structure: a graph, one of two sides, a readout, or one whose first node has half the edges."""
    kind = draw(st.sampled_from(["graph", "sides", "readout", "hub"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    num_rows = draw(st.integers(1, 12))
    if kind == "readout":
        rowptr = np.concatenate([[0], np.cumsum(rng.integers(0, 4, num_rows))])
        return Graph(rowptr, None, int(rowptr[-1]))
    if kind == "hub":
        slots = draw(st.integers(1, 300))
        dst = np.concatenate([np.zeros(slots, np.int64), rng.integers(0, num_rows, slots)])
        return graph_of(rng.integers(0, num_rows, len(dst)), rng.permutation(dst), num_rows, num_rows)
    src, dst = draw(edge_indices(num_rows)).numpy()
    num_src = num_rows if kind == "graph" else draw(st.integers(1, 20))
    return graph_of(src if kind == "graph" else rng.integers(0, num_src, len(dst)), dst, num_rows, num_src)


def widths(heads: int = 1) -> st.SearchStrategy[int]:
    """Draw a width that `heads` share evenly; those beside a multiple of a vector come often."""
    beside = [w + d for w in (4, 8, 16, 32, 64, 128, 192, 256) for d in (-1, 0, 1)]
    channels = st.one_of(st.integers(1, MOST_WIDTH // heads), st.sampled_from(beside))
    return channels.map(lambda count: min(count, MOST_WIDTH // heads) * heads)


@dataclass(frozen=True)
class Call:
    """Everything that an aggregation takes."""

    graph: Graph
    x: Array
    decoded: Array
    weight: Array | None
    row_scale: Array | None
    column_scale: Array | None
    after: After
    bits: int
    threads: int


def encode(values: Array, dtype: str) -> tuple[Array, Array]:
    """Return what is stored, 16-bit floats as uint16, and what it stands for."""
    if dtype == "bfloat16":
        stored = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return stored, (stored.astype(np.uint32) << 16).view(np.float32)
    if dtype == "float16":
        half = values.astype(np.float16)
        return half.view(np.uint16), half.astype(np.float32)
    if dtype == "int8":
        whole = np.clip(np.round(values * 50), -128, 127).astype(np.int8)
        return whole, whole.astype(np.float32)
    return values.astype(np.float32), values.astype(np.float32)


def factors(values: Array, dtype: str) -> tuple[Array, Array]:
    """Turn numbers into some of which hundreds can be multiplied: ones, or close to one."""
    near = np.sign(values) if dtype == "int8" else np.sign(values) * (1 + np.abs(values) / 128)
    stored, decoded = encode(near / 50 if dtype == "int8" else near, dtype)
    return stored, decoded


def floats(rng: np.random.Generator, *shape: int) -> Array:
    """Draw float32 of either sign."""
    return rng.standard_normal(shape).astype(np.float32)


def after(draw: st.DrawFn, rng: np.random.Generator, num_rows: int, width: int) -> After:
    """Draw what follows the reduction."""
    activation = draw(st.sampled_from(["identity", "relu", "leaky_relu", "elu"]))
    root = floats(rng, num_rows, width) if draw(st.booleans()) else None
    return After(root, floats(rng, width) if draw(st.booleans()) else None, activation, slope=0.25)


@st.composite
def aggregations(draw: st.DrawFn, dtype: str, reduce: str) -> Call:
    """Draw an aggregation with every combination of options that the kernel takes."""
    graph = draw(structures())
    adds = reduce in ("sum", "mean")
    heads = draw(st.sampled_from([1, 2, 3, 4, 8])) if adds else 1
    width = draw(widths(heads))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    x, decoded = (factors if reduce == "prod" else encode)(floats(rng, graph.num_src, width), dtype)
    scales = adds and dtype == "int8"
    return Call(
        graph,
        x,
        decoded,
        weight=floats(rng, graph.num_slots, heads) if heads > 1 or (adds and draw(st.booleans())) else None,
        row_scale=floats(rng, graph.num_src) if scales and draw(st.booleans()) else None,
        column_scale=floats(rng, width) if scales and draw(st.booleans()) else None,
        after=after(draw, rng, graph.num_rows, width),
        bits=draw(st.sampled_from([32, 64])),
        threads=draw(st.sampled_from([1, 2, 3])),
    )


def score_terms(rng: np.random.Generator, graph: Graph, width: int, heads: int, score: str, edges: bool) -> dict:
    """Draw what the scores are made of; `edges` adds values of edges where they are not asked for."""
    numbers = heads if score in ("given", "gat") else width
    terms: dict[str, Array | float] = {}
    if score != "given":
        terms = {"source": floats(rng, graph.num_src, numbers), "destination": floats(rng, graph.num_rows, numbers)}
    if score == "given" or edges:
        terms["edge"] = floats(rng, graph.num_slots, numbers)
    if score == "gatv2":
        terms["att"] = floats(rng, numbers)
    if score in ("gat", "gatv2"):
        terms["slope"] = 0.2
    if score == "dot":
        terms["scale"] = 0.125
    return terms


@dataclass(frozen=True)
class LinearCall:
    """Everything that a linear layer takes; what is reduced is in `rows`, whose epilogue does not count."""

    rows: Call
    matrix: Array | None
    own: Array | None
    own_matrix: Array | None
    after: After


@st.composite
def linears(draw: st.DrawFn, dtype: str, reduce: str) -> LinearCall:
    """Draw a linear layer over a reduction, beside it rows as they are, or these alone."""
    rows = draw(aggregations(dtype, reduce))
    out_width, own_width = draw(widths()), draw(widths())
    has_matrix, has_own = draw(st.sampled_from([(True, False), (True, True), (False, True)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    return LinearCall(
        rows,
        matrix=floats(rng, out_width, rows.x.shape[1]) if has_matrix else None,
        own=floats(rng, rows.graph.num_rows, own_width) if has_own else None,
        own_matrix=floats(rng, out_width, own_width) if has_own else None,
        after=after(draw, rng, rows.graph.num_rows, out_width),
    )
