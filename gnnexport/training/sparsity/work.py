"""What a run of a body does: its products and sums, with the gradients that they have in training."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from gnnexport.program.cost import cost_of
from gnnexport.program.graphs import args_of, parameter_of
from gnnexport.program.program import Program

aten = torch.ops.aten

_EXACT = 1e-9
"""Share of a number that solving may be off by, to be told from what does not follow."""

_OFF = 1e-3
"""What a size may be off by besides."""

_FARTHEST = 1e4
"""Factors above this would make errors large."""

_MOST = 32
"""Measured runs that others are told from."""


@dataclass(frozen=True)
class Product:
    """A product: its multiply-accumulates, which weights it reads, and which gradients it has."""

    macs: int
    weights: tuple[str, ...]
    of_input: bool
    of_weight: bool


@dataclass(frozen=True)
class Work:
    """What a forward run on a part does."""

    products: Sequence[Product]
    sums: int
    sums_backward: int

    @property
    def counts(self) -> list[int]:
        """All numbers, in order."""
        return [*(item.macs for item in self.products), self.sums, self.sums_backward]

    def with_counts(self, counts: Sequence[int]) -> Work:
        """Return the same work with other numbers."""
        *macs, sums, backward = counts
        products = [replace(item, macs=count) for item, count in zip(self.products, macs, strict=True)]
        return Work(products, sums, backward)


class Works:
    """What runs of a body on values of any sizes do.

    Mini-batches differ in size all the time. Work is measured by a run of its own until sizes are a combination of
    measured ones, from where on it follows; the first that follows is measured all the same, and where it is another,
    as with products of all nodes with all nodes, every size is measured.

    Args:
        program: in evaluation mode.
        read_by: labels of the weights that products read, by name of the product.
    """

    def __init__(self, program: Program, read_by: Mapping[str, tuple[str, ...]]) -> None:
        self._program, self._read_by = program, read_by
        self._known: dict[tuple[int, ...], Work] = {}
        self._ranks: tuple[int, ...] | None = None
        self._rows: list[tuple[NDArray[np.float64], Work]] = []
        self._follows: bool | None = None
        self.measured = 0
        """How often a run was made."""

    def of(self, values: Sequence[Any]) -> Work:
        """Return what a run on some values does."""
        shapes = [_sizes(value) for value in values]
        ranks, sizes = tuple(map(len, shapes)), tuple(itertools.chain(*shapes))
        self._ranks = self._ranks or ranks
        if sizes in self._known:
            return self._known[sizes]
        told = None if self._follows is False or ranks != self._ranks else self._told(sizes)
        if told is not None and self._follows:
            return told
        work = self._measured(values)
        if told is not None:
            self._follows = _alike(told.counts, work.counts)
        elif ranks == self._ranks and len(self._rows) < _MOST:
            self._rows.append((_row(sizes), work))
        self._known[sizes] = work
        return work

    def _measured(self, values: Sequence[Any]) -> Work:
        self.measured += 1
        return _work(self._program, values, self._read_by)

    def _told(self, sizes: tuple[int, ...]) -> Work | None:
        """Return what follows for sizes from those that were measured, if it does."""
        if len(self._rows) < 2:
            return None
        matrix, wanted = np.stack([row for row, _ in self._rows], 1), _row(sizes)
        factors = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
        if np.abs(factors).max() > _FARTHEST or not np.allclose(matrix @ factors, wanted, rtol=_EXACT, atol=_OFF):
            return None
        counts = factors @ np.array([work.counts for _, work in self._rows], float)
        return self._rows[0][1].with_counts([round(count) for count in counts])


def _sizes(value: Any) -> tuple[int, ...]:
    """Return the shape of a value, or the value where it is a number of things."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return (value,) if isinstance(value, int) else ()


def _row(sizes: Sequence[int]) -> NDArray[np.float64]:
    """Return sizes with a one in front, for what is the same whatever they are."""
    return np.array([1, *sizes], float)


def _alike(told: Sequence[int], counts: Sequence[int]) -> bool:
    return len(told) == len(counts) and np.allclose(told, counts, rtol=1e-6, atol=1)


def _work(program: Program, values: Sequence[Any], read_by: Mapping[str, tuple[str, ...]]) -> Work:
    """Find out what a run on some values does."""
    named = {node.name: node for node in program.body.graph.nodes}
    learned = _learned(program)
    products, sums, backward = [], 0, 0
    for op in cost_of(program.body, values).ops:
        node = named[op.name]
        read = [item for item in node.all_input_nodes if item in learned]
        if op.kind == "aggregation":
            sums += op.macs
            backward += op.macs * len(read)
        elif op.kind == "linear":
            matrix = _matrix(program, node)
            of_input = any(item in learned for item in _factors(node) if item is not matrix)
            products.append(Product(op.macs, read_by.get(op.name, ()), of_input, matrix in learned))
    return Work(products, sums, backward)


def _factors(node: fx.Node) -> Sequence[fx.Node]:
    """Return the two values that a product multiplies; the third is a bias."""
    given = args_of(node)
    return given[1:3] if node.target is aten.addmm.default else given[:2]


def _matrix(program: Program, node: fx.Node) -> fx.Node | None:
    """Return the weight of a product, where it has one; of two values neither is one."""
    return next((item for item in _factors(node) if _is_constant(program, item)), None)


def _is_constant(program: Program, node: fx.Node) -> bool:
    """Tell what is computed from parameters alone, such as a matrix that is mixed from others."""
    if node.op == "call_function" and node.all_input_nodes:
        return all(_is_constant(program, item) for item in node.all_input_nodes)
    return parameter_of(program.body, node) is not None


def _learned(program: Program) -> set[fx.Node]:
    """Return all values with a gradient: what is learned, and what is computed from it."""
    found: set[fx.Node] = set()
    for node in program.body.graph.nodes:
        if node.target in (aten.sym_size.int, aten.detach.default):
            continue
        value = parameter_of(program.body, node)
        if (value is not None and value.requires_grad) or any(item in found for item in node.all_input_nodes):
            found.add(node)
    return found
