"""Bring edge tensors into slot order: the CSR's permutation is sunk to where edges are gathered.

`permute(node)` gives the same values with rows in slot order. Elementwise and row-wise ops commute
with the permutation, so it travels up to structure values (permuted once, outside the inference) and
to gathers, whose index is permuted instead of their result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from gnnexport.program.graphs import args_of
from gnnexport.program.program import EXAMPLE_NODES
from gnnexport.program.shapes import DTYPE, like, rank_of, sizes_of

aten = torch.ops.aten
gnn = torch.ops.gnn

_ROW_WISE = {
    aten.relu.default, aten.leaky_relu.default, aten.elu.default, aten.gelu.default, aten.silu.default,
    aten.tanh.default, aten.sigmoid.default, aten.exp.default, aten.log.default, aten.sqrt.default,
    aten.neg.default, aten.abs.default, aten.softplus.default, aten.reciprocal.default, aten.rsqrt.default,
    aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default, aten.dropout.default,
    aten.detach.default, aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor,
    aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.maximum.default, aten.minimum.default,
    aten.linear.default, aten.hardtanh.default, aten.log_sigmoid.default, aten.add.Scalar, aten.mul.Scalar,
}  # fmt: skip
_KEEPS_ROWS_UNLESS_FIRST = {
    aten.sum.dim_IntList, aten.mean.dim, aten.unsqueeze.default, aten.squeeze.dim,
    aten.select.int, aten.slice.Tensor, aten.cat.default, aten.softmax.int, aten.stack.default,
}  # fmt: skip
_RESHAPES = {aten.view.default, aten.reshape.default, aten.expand.default, aten._unsafe_view.default}
_MATMULS = {aten.matmul.default, aten.mm.default}


@dataclass
class Csr:
    """The nodes of one structure inside a graph: all edges by their destination `dst`.

    `num_rows` holds the number of destinations in every run that shapes were recorded in.
    """

    dst: fx.Node
    num_rows: tuple[int, ...] | None
    rowptr: fx.Node
    perm: fx.Node
    row: fx.Node
    columns: dict[fx.Node, fx.Node] = field(default_factory=dict)


class SlotOrder:
    """Rewrite edge tensors of a graph into the slot order of one CSR."""

    def __init__(self, graph: fx.Graph, csr: Csr, structure: set[fx.Node]) -> None:
        self.graph = graph
        self.csr = csr
        self.structure = structure
        self.num_edges = sizes_of(csr.dst, 0)
        self._done: dict[fx.Node, fx.Node] = {}

    def permute(self, node: fx.Node) -> fx.Node:
        """Return `node` with its rows in slot order."""
        if not self._has_edge_rows(node):
            return node
        if node not in self._done:
            self._done[node] = self._permuted(node)
        return self._done[node]

    def _has_edge_rows(self, node: Any) -> bool:
        return sizes_of(node, 0) == self.num_edges

    def _permuted(self, node: fx.Node) -> fx.Node:
        if node in self.structure:
            return self._reindex(node, at=self.csr.perm)
        gathered = self._gather(node)
        if gathered is not None:
            return gathered
        if self.num_edges == EXAMPLE_NODES:
            # A readout: the rows are nodes, which others read in their own order, so that nothing is permuted twice.
            args = (node, self.csr.rowptr, self.csr.perm)
            return self._call(gnn.gather_source.default, args, {}, shaped_as=node, after=node)
        if self._commutes(node):
            args = fx.node.map_arg(args_of(node), self._row_argument(node))
            return self._call(node.target, args, dict(node.kwargs), shaped_as=node, after=node)
        return self._reindex(node, at=node)

    def _row_argument(self, node: fx.Node) -> Any:
        rank = rank_of(node)
        needs_rank = node.target in _ROW_WISE and node.target is not aten.linear.default

        def bring(item: fx.Node) -> fx.Node:
            # A smaller tensor is broadcast along edges: its first dimension is not the edges.
            broadcast = needs_rank and rank_of(item) < rank
            return item if broadcast or item.op == "get_attr" else self.permute(item)

        return bring

    def _gather(self, node: fx.Node) -> fx.Node | None:
        """Turn a gather of node rows into one that delivers slot order."""
        source, index = gather_arguments(node)
        if source is None or index is None or index not in self.structure or not self._has_edge_rows(index):
            return None
        if index is self.csr.dst and sizes_of(source, 0) == self.csr.num_rows:
            args: tuple[Any, ...] = (source, self.csr.rowptr, self.csr.row)
            return self._call(gnn.gather_destination.default, args, {}, shaped_as=node, after=node)
        args = (source, self.csr.rowptr, self.column(index))
        return self._call(gnn.gather_source.default, args, {}, shaped_as=node, after=node)

    def column(self, index: fx.Node) -> fx.Node:
        """Return `index[perm]`, made once for each source index."""
        if index not in self.csr.columns:
            self.csr.columns[index] = self._reindex(index, at=self.csr.perm)
        return self.csr.columns[index]

    def _commutes(self, node: fx.Node) -> bool:
        target: Any = node.target
        if target in _ROW_WISE or target in _MATMULS:
            return True
        if target in _RESHAPES:
            return self._has_edge_rows(args_of(node)[0])
        if target in _KEEPS_ROWS_UNLESS_FIRST:
            rank = rank_of(node)
            given = args_of(node)[1] if len(args_of(node)) > 1 else node.kwargs.get("dim", 0)
            dims = given if isinstance(given, list | tuple) else [given]
            rank_in = rank + (target in (aten.select.int, aten.sum.dim_IntList, aten.mean.dim, aten.squeeze.dim))
            return all(isinstance(dim, int) and dim % max(rank_in, 1) != 0 for dim in dims)
        return False

    def _reindex(self, node: fx.Node, at: fx.Node) -> fx.Node:
        new = self._call(aten.index_select.default, (node, 0, self.csr.perm), {}, shaped_as=node, after=at)
        if node in self.structure:
            self.structure.add(new)
        return new

    def _call(self, target: Any, args: Any, kwargs: dict[str, Any], shaped_as: fx.Node, after: fx.Node) -> fx.Node:
        inputs: list[fx.Node] = [after]
        fx.node.map_arg(args, inputs.append)
        with self.graph.inserting_after(max(inputs)):
            new = self.graph.call_function(target, args, kwargs)
        return like(new, shaped_as)


def gather_arguments(node: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """Return what a node gathers rows of, and the index, if it is a gather along the first dimension.

    A mask is no index, though it may keep as many rows.
    """
    if node.target is aten.index_select.default:
        source, dim, index = args_of(node)
        rank = rank_of(source)
        if isinstance(dim, int) and rank and dim % rank == 0:
            return source, index
    if node.target is aten.index.Tensor:
        source, indices = args_of(node)
        if len(indices) == 1 and rank_of(indices[0]) == 1 and indices[0].meta[DTYPE] is torch.int64:
            return source, indices[0]
    return None, None
