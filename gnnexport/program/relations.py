"""Layers with a matrix for each type of edges.

A matrix for each edge is captured as a gather, float32 [num_edges, in, out], which takes `in` times the memory of the
messages and hides that rows of nodes are gathered: here every node is multiplied by each matrix, then edges choose, or
rows of nodes are gathered and multiplied for one type of edges after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_geometric.backend
from torch import Tensor, fx

from gnnexport.program.graphs import args_of, calls
from gnnexport.program.inputs import NUM_EDGES, NUM_NODES

aten = torch.ops.aten

_VALUE = "val"
_FLOAT_BYTES = 4

MOST_BYTES = 64 << 20
"""Of the products of all nodes with all matrices, below which edges always choose among them."""

_MANY = 4
"""So many products for each edge are too many."""


@contextmanager
def one_by_one() -> Iterator[None]:
    """Keep PyG from choosing by the numbers of edges whether it multiplies all relations at once or one by one."""
    chosen = torch_geometric.backend.use_segment_matmul
    torch_geometric.backend.use_segment_matmul = False
    try:
        yield
    finally:
        torch_geometric.backend.use_segment_matmul = chosen


def choose_after_product(graph: fx.Graph, sizes: Mapping[str, int]) -> int:
    """Rewrite `bmm(x[src][:, None], weight[type])` as `(x @ weight)[type, src][:, None]`; returns how often.

    Where few edges would read of many products, the rows of each type's edges are multiplied by its matrix instead.

    Args:
        graph: as captured, in functional form.
        sizes: how many nodes and edges there will be, as far as that is known.
    """
    found = 0
    for product in calls(graph, aten.bmm.default):
        rows = _gather_of_rows(args_of(product)[0])
        matrices = _gather(args_of(product)[1], rank=3)
        if rows is None or matrices is None:
            continue
        multiply = _multiply_edges if _is_wasteful(matrices[0], sizes) else _multiply_nodes
        with graph.inserting_before(product):
            made = multiply(_Calls(graph, product), *rows, *matrices)
        product.replace_all_uses_with(made)
        found += 1
    return found


def _is_wasteful(weight: fx.Node, sizes: Mapping[str, int]) -> bool:
    """Tell whether the products of all nodes with all matrices take much memory, and edges read few of them."""
    kinds, _, width = weight.meta[_VALUE].shape
    if not isinstance(kinds, int):
        return False
    products = kinds * sizes.get(NUM_NODES, 0)
    return products * int(width) * _FLOAT_BYTES > MOST_BYTES and products > _MANY * sizes.get(NUM_EDGES, products)


@dataclass(frozen=True)
class _Calls:
    """Make calls that belong to the module of a product."""

    graph: fx.Graph
    product: fx.Node

    def __call__(self, target: Any, *args: Any) -> fx.Node:
        node = self.graph.call_function(target, args)
        node.meta["nn_module_stack"] = self.product.meta.get("nn_module_stack")
        return node


def _multiply_nodes(call: _Calls, x: fx.Node, src: fx.Node, weight: fx.Node, kind: fx.Node) -> fx.Node:
    """Multiply every node by every matrix, and let edges choose."""
    width = int(weight.meta[_VALUE].shape[2])
    table = call(aten.reshape.default, call(aten.matmul.default, x, weight), [-1, width])
    row = call(aten.add.Tensor, call(aten.mul.Tensor, kind, call(aten.sym_size.int, x, 0)), src)
    return call(aten.unsqueeze.default, call(aten.index_select.default, table, 0, row), 1)


def _multiply_edges(call: _Calls, x: fx.Node, src: fx.Node, weight: fx.Node, kind: fx.Node) -> fx.Node:
    """Multiply the rows that the edges of each type gather by its matrix, and bring them into the order of edges."""
    places, products = [], []
    for number in range(int(weight.meta[_VALUE].shape[0])):
        found = call(aten.nonzero.default, call(aten.eq.Scalar, kind, number))
        places.append(call(aten.squeeze.dim, found, 1))
        rows = call(aten.index_select.default, x, 0, call(aten.index_select.default, src, 0, places[-1]))
        products.append(call(aten.mm.default, rows, call(aten.select.int, weight, 0, number)))
    place = call(aten.cat.default, places)
    numbered = call(aten.arange.default, call(aten.sym_size.int, kind, 0))
    product_of = call(aten.scatter.src, call(aten.zeros_like.default, place), 0, place, numbered)
    chosen = call(aten.index_select.default, call(aten.cat.default, products), 0, product_of)
    return call(aten.unsqueeze.default, chosen, 1)


def _gather_of_rows(node: Any) -> tuple[fx.Node, fx.Node] | None:
    """Return what `x[src][:, None]` reads."""
    if not isinstance(node, fx.Node) or node.target is not aten.unsqueeze.default or args_of(node)[1] not in (1, -2):
        return None
    return _gather(args_of(node)[0], rank=2)


def _gather(node: Any, rank: int) -> tuple[fx.Node, fx.Node] | None:
    """Return the tensor of this many dimensions and the numbers of a gather along the first one."""
    if not isinstance(node, fx.Node):
        return None
    source: Any = None
    index: Any = None
    if node.target is aten.index_select.default and args_of(node)[1] == 0:
        source, _, index = args_of(node)
    elif node.target is aten.index.Tensor and len(args_of(node)[1]) == 1:
        source, (index,) = args_of(node)
    if not isinstance(source, fx.Node) or not isinstance(index, fx.Node):
        return None
    read, at = source.meta.get(_VALUE), index.meta.get(_VALUE)
    if not isinstance(read, Tensor) or not isinstance(at, Tensor) or (read.dim(), at.dim()) != (rank, 1):
        return None
    return (source, index) if at.dtype is torch.int64 else None
