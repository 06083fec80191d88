"""Forget what a Program has learned: every parameter as before training, by what reads it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from gnnexport.program.graphs import args_of, calls, parameter_of
from gnnexport.program.program import Program

aten = torch.ops.aten

_NORMS = {aten.batch_norm.default: 1, aten.layer_norm.default: 2, aten.group_norm.default: 2}
"""Place of the scale among a normalisation's arguments."""

_STATISTICS = (3, 4)


def reset(program: Program, seed: int) -> None:
    """Draw all parameters that are learned anew; the Program is changed.

    Matrices are drawn as by Glorot, scales of norms are one, vectors zero; a single number, such as a slope or a
    temperature, stays as it is, for nothing tells what it means.
    """
    generator = torch.Generator().manual_seed(seed)
    ones, statistics = _of_norms(program)
    embeddings = {
        id(parameter_of(program.body, args_of(node)[0])) for node in calls(program.body.graph, aten.embedding.default)
    }
    with torch.no_grad():
        for value in program.body.parameters():
            if not value.requires_grad or value.numel() <= 1:
                continue
            if id(value) in ones:
                value.fill_(1.0)
            elif id(value) in embeddings:
                value.normal_(generator=generator)
            elif value.dim() == 1:
                value.zero_()
            else:
                bound = math.sqrt(6 / (value.shape[-1] + value.shape[-2]))
                value.uniform_(-bound, bound, generator=generator)
        for statistic, start in statistics:
            statistic.fill_(start)


def _of_norms(program: Program) -> tuple[set[int], list[tuple[Tensor, float]]]:
    """Return the ids of scales, and running means and variances with where they start."""
    ones: set[int] = set()
    statistics: list[tuple[Tensor, float]] = []
    for node in calls(program.body.graph, *_NORMS):
        target: Any = node.target
        scale = parameter_of(program.body, _at(node, _NORMS[target]))
        if scale is not None:
            ones.add(id(scale))
        if target is aten.batch_norm.default:
            for place, start in zip(_STATISTICS, (0.0, 1.0), strict=True):
                value = parameter_of(program.body, _at(node, place))
                if value is not None:
                    statistics.append((value, start))
    return ones, statistics


def _at(node: fx.Node, place: int) -> Any:
    given = args_of(node)
    return given[place] if len(given) > place else None
