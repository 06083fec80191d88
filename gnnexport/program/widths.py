"""What an inference costs when only some of its channels stay, without making the smaller Program."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from gnnexport.program.channels import Channels, Mask
from gnnexport.program.cost import measure_cost
from gnnexport.program.program import Program

aten = torch.ops.aten


class WidthCost:
    """Multiply-accumulates of a Program as a function of the units that stay.

    Args:
        program: unpruned.
        channels: of its body.
        inputs: the graph to count on.
    """

    def __init__(self, program: Program, channels: Channels, inputs: Mapping[str, Tensor]) -> None:
        named = {node.name: node for node in program.body.graph.nodes}
        costs = [(named[op.name], op.macs) for op in measure_cost(program, inputs).ops if op.macs]
        self._ops = [(macs, _factors(channels, node)) for node, macs in costs]
        self.whole = sum(macs for macs, _ in self._ops)

    def __call__(self, keep: Mask) -> float:
        """Return the multiply-accumulates that are left.

        Args:
            keep: for each unit whether it stays.
        """
        return sum(macs * float(np.prod([keep[units].mean() for units in factors])) for macs, factors in self._ops)


def _factors(channels: Channels, node: fx.Node) -> list[NDArray[np.int64]]:
    """Return the units whose shares an op's work is proportional to: of what it makes, and what a linear map reads."""
    made = channels.labels.get(node)
    factors = [] if made is None else [made.reshape(-1)]
    if node in channels.read:
        factors.append(channels.read[node])
    return factors
