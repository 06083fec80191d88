"""Layers with a matrix for each type of edges.

A matrix for each edge is captured as a gather, float32 [num_edges, in, out], which takes `in` times the memory of the
messages and hides that rows of nodes are gathered: here every node is multiplied by each matrix, then edges choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch_geometric.backend
from torch import Tensor, fx

from gnnexport.program.graphs import args_of, calls

aten = torch.ops.aten

_VALUE = "val"


@contextmanager
def one_by_one() -> Iterator[None]:
    """Keep PyG from choosing by the numbers of edges whether it multiplies all relations at once or one by one."""
    chosen = torch_geometric.backend.use_segment_matmul
    torch_geometric.backend.use_segment_matmul = False
    try:
        yield
    finally:
        torch_geometric.backend.use_segment_matmul = chosen


def choose_after_product(graph: fx.Graph) -> int:
    """Rewrite `bmm(x[src][:, None], weight[type])` as `(x @ weight)[type, src][:, None]`; returns how often.

    Args:
        graph: as captured, in functional form.
    """
    found = 0
    for product in calls(graph, aten.bmm.default):
        rows = _gather_of_rows(args_of(product)[0])
        matrices = _gather(args_of(product)[1], rank=3)
        if rows is None or matrices is None:
            continue
        _replace(graph, product, *rows, *matrices)
        found += 1
    return found


def _replace(graph: fx.Graph, product: fx.Node, x: fx.Node, src: fx.Node, weight: fx.Node, kind: fx.Node) -> None:
    width = int(weight.meta[_VALUE].shape[2])
    with graph.inserting_before(product):
        all_products = graph.call_function(aten.matmul.default, (x, weight))
        table = graph.call_function(aten.reshape.default, (all_products, [-1, width]))
        count = graph.call_function(aten.sym_size.int, (x, 0))
        row = graph.call_function(aten.mul.Tensor, (kind, count))
        row = graph.call_function(aten.add.Tensor, (row, src))
        chosen = graph.call_function(aten.index_select.default, (table, 0, row))
        like_before = graph.call_function(aten.unsqueeze.default, (chosen, 1))
    for node in (all_products, table, chosen, like_before):
        node.meta["nn_module_stack"] = product.meta.get("nn_module_stack")
    product.replace_all_uses_with(like_before)


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
