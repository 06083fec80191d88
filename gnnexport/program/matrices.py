"""Adjacency matrices while a model is captured: torch.export cannot follow torch's sparse ones.

A matrix of N nodes is written out, with N² cells, and what is stored is told apart from what is not, for a stored zero
is an edge. That suits the models that multiply adjacencies, which coarsen small graphs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch_geometric import utils

from gnnexport.errors import UnsupportedError
from gnnexport.program.graphs import args_of, calls, module_of
from gnnexport.program.program import Program, arguments_of, example_rows, node_counts
from gnnexport.program.shapes import NUMBERS, annotate

aten = torch.ops.aten

MOST_CELLS = 1 << 28
"""Of one matrix, which takes a gigabyte then, in a model file as well where the graph is fixed."""

_EXAMPLES = (100, 500)
"""Nodes of two graphs that tell how a size grows with them; small enough for matrices of edges."""

Size = int | tuple[int | None, int | None] | None


class Matrix:
    """A sparse matrix with its cells written out, called as a sparse tensor is.

    Args:
        cells: float32 [rows, columns], zero where nothing is stored.
        stored: float32 [rows, columns], one where something is stored, else zero.
    """

    def __init__(self, cells: Tensor, stored: Tensor) -> None:
        self._cells, self._stored = cells, stored
        self._edges: tuple[Tensor, Tensor] | None = None

    @property
    def shape(self) -> torch.Size:
        """Rows and columns."""
        return self._cells.shape

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or one of its sizes."""
        return self.shape if dim is None else self.shape[dim]

    def _same(self) -> Matrix:
        """Return the matrix: its layout makes no difference."""
        return self

    to_sparse_csr = to_sparse_csc = to_sparse_coo = coalesce = detach = _same

    def t(self) -> Matrix:
        """Transpose."""
        return Matrix(self._cells.t(), self._stored.t())

    def index_select(self, dim: int, index: Tensor) -> Matrix:
        """Take rows or columns."""
        return Matrix(self._cells.index_select(dim, index), self._stored.index_select(dim, index))

    def __matmul__(self, other: Any) -> Any:
        """Multiply by a matrix, or by the features of nodes."""
        if not isinstance(other, Matrix):
            return self._cells @ other
        return Matrix(self._cells @ other._cells, (self._stored @ other._stored).gt(0.5).to(torch.float32))

    def to_dense(self) -> Tensor:
        """Return the cells."""
        return self._cells

    def edges(self) -> tuple[Tensor, Tensor]:
        """Return what is stored, row by row: int64 [2, stored] and float32 [stored]."""
        if self._edges is None:
            row, col = self._stored.nonzero().unbind(1)
            self._edges = torch.stack([row, col]), self._cells[row, col]
        return self._edges

    def indices(self) -> Tensor:
        """Return where something is stored, int64 [2, stored]."""
        return self.edges()[0]

    def values(self) -> Tensor:
        """Return what is stored, float32 [stored]."""
        return self.edges()[1]


def _written_out(original: Callable[..., Tensor]) -> Callable[..., Any]:
    """Return what stands for a function that makes a sparse matrix of edges."""

    def matrix(
        edge_index: Tensor, edge_attr: Tensor | None = None, size: Size = None, is_coalesced: bool = False
    ) -> Any:
        rows, columns = (size, size) if not isinstance(size, tuple | list) else size
        if rows is None or columns is None or (edge_attr is not None and edge_attr.dim() != 1):
            return original(edge_index, edge_attr, size, is_coalesced)
        place = (edge_index[0], edge_index[1])
        ones = torch.ones(edge_index.size(1))
        empty = torch.zeros(rows, columns)
        stored = empty.index_put(place, ones)
        if edge_attr is None and not is_coalesced:  # PyG makes one edge of several before it gives them ones
            return Matrix(stored, stored)
        cells = empty.index_put(place, ones if edge_attr is None else edge_attr, accumulate=True)
        return Matrix(cells, stored)

    return matrix


def _edges_of(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return what stands for a function that takes a matrix apart."""

    def edges(adj: Any) -> Any:
        return adj.edges() if isinstance(adj, Matrix) else original(adj)

    return edges


MATRICES: dict[Any, Callable[..., Any]] = {
    utils.to_torch_coo_tensor: _written_out(utils.to_torch_coo_tensor),
    utils.to_torch_csr_tensor: _written_out(utils.to_torch_csr_tensor),
    utils.to_edge_index: _edges_of(utils.to_edge_index),
}
"""Functions of PyG, and what stands for each while a model is captured."""


def written_out(graph: fx.Graph) -> list[fx.Node]:
    """Return where a captured graph writes an adjacency matrix out: edges put into zeros."""
    return [node for node in calls(graph, aten.index_put.default) if len(_cells(node)) == 2]


def _cells(put: fx.Node) -> Sequence[Any]:
    """Return the sizes, numbers or nodes, of the zeros that edges are put into; none where it is something else."""
    zeros: Any = args_of(put)[0]
    return args_of(zeros)[0] if isinstance(zeros, fx.Node) and zeros.target is aten.zeros.default else ()


def check_matrices(program: Program, inputs: Mapping[str, Tensor]) -> None:
    """Refuse a Program, as captured, that would write out a matrix with more than `MOST_CELLS` cells.

    How many nodes pooling leaves depends on values; their number is taken to grow as it does on two small graphs.

    Args:
        program: not split yet.
        inputs: the graph that it will be run on.

    Raises:
        UnsupportedError: with the module that needs the matrix.
    """
    if not written_out(program.body.graph):
        return
    program = program.clone().train(False)
    examples = [program.example(num_nodes) for num_nodes in _EXAMPLES]
    annotate(program.body, [arguments_of(example, [item.name for item in program.inputs]) for example in examples])
    first, last, given = (_counts(program, request) for request in (*examples, inputs))
    counts = {(first[name], last[name]): count for name, count in given.items()}
    nodes = max(node_counts(inputs).values())

    def count(size: Any) -> int:
        if not isinstance(size, fx.Node):
            return int(size)
        numbers: tuple[int, int] = size.meta.get(NUMBERS, _EXAMPLES)
        few, many = _EXAMPLES
        return counts.get(numbers, max(0, numbers[1] + (numbers[1] - numbers[0]) * (nodes - many) // (many - few)))

    for node in written_out(program.body.graph):
        rows, columns = map(count, _cells(node))
        if rows * columns > MOST_CELLS:
            gigabytes = rows * columns * 4 / 1e9
            what = (
                f"multiplies adjacency matrices, which are written out: {rows:,} × {columns:,} cells, {gigabytes:.1f} "
                f"GB each, and more than {MOST_CELLS:,} cells are refused"
            )
            most = math.isqrt(nodes * nodes * MOST_CELLS // (rows * columns))
            mend = f"Export it for graphs of at most {most:,} nodes, or pool without such a product"
            raise UnsupportedError.at(module_of(node), what, mend)


def _counts(program: Program, inputs: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the value of every size of the inputs by its name, such as `num_edges`."""
    found = dict(example_rows(inputs))
    for item in program.inputs:
        found |= {size: inputs[item.name].shape[axis] for axis, size in enumerate(item.shape) if isinstance(size, str)}
    return found
