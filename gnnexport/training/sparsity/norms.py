"""Norms of what each input of a weight reads, which its entries count by: an entry that multiplies little does little.

Unifews (ICML 2025) leaves out W[o,i] where |W[o,i]| times the norm of X[:,i] is small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gnnexport.program.program import Program
from gnnexport.program.values import observe
from gnnexport.training.sparsity.weights import Weight, factor_of

_ROWS = 1 << 16
"""Squared in one go."""

Inputs = Mapping[str, Tensor]


def squares_read(program: Program, weights: Sequence[Weight], graphs: Sequence[Inputs]) -> dict[str, Tensor]:
    """Return the squared norm of each column that a weight is multiplied with, float64 [inputs], by label.

    Of a weight that several products read they are summed up, and so they are over graphs.

    Args:
        program: split; runs in evaluation mode, on the edges that its layers have left.
        weights: found in it.
        graphs: inputs by name.
    """
    program = program.clone().train(False)
    nodes = {node.name: node for node in program.body.graph.nodes}
    readers = {name: factor_of(program, nodes[name]) for item in weights for name in item.readers}
    looks = {rows: _squares for rows, _ in readers.values()}
    total = {item.label: torch.zeros(item.shape[1], dtype=torch.float64) for item in weights}
    for inputs in graphs:
        seen = observe(program, inputs, looks)
        for item in weights:
            for rows, several in (readers[name] for name in item.readers):
                squares = seen[rows]
                apart = several and item.place is not None and len(squares) > 1
                total[item.label] += squares[item.place] if apart else squares.sum(0)
    return total


def _squares(value: Tensor) -> Tensor:
    """Return the sum of squares of each column, float64 [1, columns]; of a stack of matrices [matrices, columns]."""
    stack = value if value.dim() == 3 else value.reshape(1, -1, value.shape[-1])
    parts = (part.double().square().sum(1) for part in stack.split(_ROWS, dim=1))
    return sum(parts, torch.zeros(len(stack), value.shape[-1], dtype=torch.float64))
