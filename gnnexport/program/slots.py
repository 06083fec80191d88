"""Bring edge tensors into slot order: the CSR's permutation is sunk to where edges are gathered.

`permute(node)` gives the same values with rows in slot order. Ops that treat rows alike commute
with the permutation, so it travels up to structure values (permuted once, outside the inference) and
to gathers, whose index is permuted instead of their result.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from gnnexport.program.graphs import args_of
from gnnexport.program.program import EXAMPLE_NODES
from gnnexport.program.rowwise import commuting_arguments
from gnnexport.program.shapes import DTYPE, like, rank_of, sizes_of

aten = torch.ops.aten
gnn = torch.ops.gnn

_DROPOUTS = {aten.dropout.default}
"""Random ops that treat elements alike; which of them they hit is chance in any order."""


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
        chosen = frozenset(args_of(node)[:1]) if node.target in _DROPOUTS else commuting_arguments(node, self.num_edges)
        return self._reindex(node, at=node) if chosen is None else self._repeated(node, chosen)

    def _repeated(self, node: fx.Node, chosen: frozenset[fx.Node]) -> fx.Node:
        """Call again what made a node, with some of its arguments in slot order."""
        call: fx.Node = args_of(node)[0] if node.target is operator.getitem else node
        args, kwargs = fx.node.map_arg(
            (call.args, dict(call.kwargs)), lambda item: self.permute(item) if item in chosen else item
        )
        new = self._call(call.target, args, kwargs, shaped_as=call, after=node)
        return new if call is node else self._call(node.target, (new, args_of(node)[1]), {}, node, after=new)

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

    def _reindex(self, node: fx.Node, at: fx.Node) -> fx.Node:
        new = self._call(aten.index_select.default, (node, 0, self.csr.perm), {}, shaped_as=node, after=at)
        if node in self.structure:
            self.structure.add(new)
        return new

    def _call(self, target: Any, args: Any, kwargs: dict[str, Any], shaped_as: fx.Node, after: fx.Node) -> fx.Node:
        inputs: list[fx.Node] = [after]
        fx.node.map_arg((args, kwargs), inputs.append)
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
