"""Weights that stay zero in training, together with what the optimiser remembers of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gnnexport.program.program import Program


class KeptZeros:
    """The zeros of a Program's sparse weights.

    Args:
        program: that is trained; its zeros as they are now stay.
    """

    def __init__(self, program: Program) -> None:
        named = dict(program.body.named_parameters(remove_duplicate=False))
        self._zeros = [(named[name], named[name].detach() == 0) for name in sorted(program.sparse_weights & set(named))]

    def project(self, optimiser: torch.optim.Optimizer) -> None:
        """Bring the weights and their moments back to zero, after a step."""
        for value, zeros in self._zeros:
            clear(value, zeros, optimiser)


def clear(value: Tensor, zeros: Tensor, optimiser: torch.optim.Optimizer) -> None:
    """Put zeros into a parameter and all that an optimiser keeps for each of its entries.

    Args:
        value: the parameter.
        zeros: bool, of its shape.
        optimiser: that trains it, or not.
    """
    with torch.no_grad():
        value.masked_fill_(zeros, 0.0)
        for kept in optimiser.state.get(value, {}).values():
            if isinstance(kept, Tensor) and kept.shape == value.shape:
                kept.masked_fill_(zeros, 0.0)


def apply_masks(program: Program, masks: Mapping[str, Tensor]) -> None:
    """Put zeros where masks leave nothing, and let later training keep them; the Program is changed.

    Args:
        program: split.
        masks: by name of a parameter, bool of its shape, true for what stays.
    """
    with torch.no_grad():
        for name, mask in masks.items():
            program.body.get_parameter(name).masked_fill_(~mask, 0.0)
    program.sparse_weights = frozenset(name for name, mask in masks.items() if not bool(mask.all()))
