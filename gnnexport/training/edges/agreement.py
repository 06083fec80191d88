"""Tell edges apart by the model's own answers: how likely both ends are of one class."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gnnexport.program.edge_sets import Slots
from gnnexport.program.program import Program
from gnnexport.training.kinds import LossName
from gnnexport.training.task import CLASS_LOSSES

JUDGED: tuple[LossName, ...] = (*CLASS_LOSSES, "bce")
"""Losses of answers that are chances of classes."""

_MOST = 1 << 20
"""Edges that are looked at in one go."""


def chances(program: Program, inputs: Mapping[str, Tensor], loss: LossName) -> Tensor:
    """Return how likely each node is of each class, float32 [nodes, classes], after the model's answers.

    Of several labels, each there or not, both chances of each are columns, scaled such that the product of two rows is
    the mean over the labels of the chance that both nodes agree.

    Args:
        program: answers for each node.
        inputs: the graph, by name.
        loss: one of `JUDGED`.
    """
    program = program.clone().train(False)
    with torch.no_grad():
        answers: Tensor = program(inputs)
    answers = answers.unsqueeze(-1) if answers.dim() == 1 else answers
    if loss in CLASS_LOSSES:
        return answers.softmax(-1)
    of_labels = answers.sigmoid()
    both = torch.cat([of_labels, 1 - of_labels], 1)
    return both / math.sqrt(of_labels.shape[1])


def agreement(of_nodes: Tensor, slots: Slots) -> Tensor:
    """Return the chance that both ends of each edge are of one class, as if they were independent, float32 [slots].

    Args:
        of_nodes: as `chances` gives them.
        slots: between nodes of one kind.
    """
    assert slots.col is not None
    pieces = zip(slots.col.split(_MOST), slots.row.split(_MOST), strict=True)
    found = [(of_nodes.index_select(0, col) * of_nodes.index_select(0, row)).sum(1) for col, row in pieces]
    return torch.cat(found) if found else torch.zeros(0)
